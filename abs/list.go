package abs

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

// LTXFiles lists one level with one request per 5,000 files. CreatedAt is the
// time of the LTX header, which the listing holds. Where a copy of the
// container has lost it, it is the time of upload, or with useMetadata read
// from the file.
func (c *ReplicaClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	l := blob.Listing{Root: s.root(), Seek: seek}
	err = s.eachBlob(ctx, s.root().Level(level), 0, func(item *container.BlobItem) bool {
		l.Add(entry(item))
		return true
	})
	if err == nil && useMetadata {
		err = l.ReadHeaders(ctx, s.open)
	}
	if err != nil {
		return nil, s.wrap("list", s.root().Level(level), err)
	}
	return ltx.NewFileInfoSliceIterator(l.Sorted()), nil
}

// LTXTree lists all levels with one request per 5,000 files.
func (c *ReplicaClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	l := blob.Listing{Root: s.root()}
	err = s.eachBlob(ctx, s.root().Tree(), 0, func(item *container.BlobItem) bool {
		l.Add(entry(item))
		return true
	})
	if err != nil {
		return nil, err
	}
	return l.Sorted(), nil
}

// Empty asks for the first key below the path.
func (c *ReplicaClient) Empty(ctx context.Context) (bool, error) {
	s, err := c.session(ctx)
	if err != nil {
		return false, err
	}
	empty := true
	err = s.eachBlob(ctx, s.root().Objects(), 1, func(*container.BlobItem) bool {
		empty = false
		return false
	})
	return empty, err
}

// entry returns what a listing tells of a blob.
func entry(item *container.BlobItem) blob.Entry {
	e := blob.Entry{Key: *item.Name}
	if p := item.Properties; p != nil {
		if p.ContentLength != nil {
			e.Size = *p.ContentLength
		}
		if p.CreationTime != nil {
			e.Stored = *p.CreationTime
		} else if p.LastModified != nil {
			e.Stored = *p.LastModified
		}
	}
	for name, value := range item.Metadata {
		// The service keeps the case of the header that set it, and that is
		// another one with every client.
		if value != nil && strings.EqualFold(name, MetadataTimestampKey) {
			e.Timestamp = *value
		}
	}
	return e
}

// eachBlob calls fn for each blob, until it has enough.
func (s *session) eachBlob(ctx context.Context, prefix string, pageSize int32, fn func(item *container.BlobItem) bool) error {
	opts := &container.ListBlobsFlatOptions{Prefix: &prefix, Include: container.ListBlobsInclude{Metadata: true}}
	if pageSize > 0 {
		opts.MaxResults = &pageSize
	}
	return s.eachItem(ctx, opts, fn)
}

// eachItem reads all pages of a listing, until fn has enough. A listing is whole
// or an error: a part of it would look like missing transactions.
func (s *session) eachItem(ctx context.Context, opts *container.ListBlobsFlatOptions, fn func(item *container.BlobItem) bool) error {
	pager := s.container.NewListBlobsFlatPager(opts)
	for marker := ""; pager.More(); {
		began := time.Now()
		page, err := pager.NextPage(ctx)
		s.observe("LIST", 0, began, err)
		if err != nil {
			return s.fail("list", *opts.Prefix, err)
		}
		if page.Segment == nil {
			return s.fail("list", *opts.Prefix, errors.New("server's answer is no listing"))
		}
		for _, item := range page.Segment.BlobItems {
			if item.Name != nil && !fn(item) {
				return nil
			}
		}
		if page.NextMarker != nil && *page.NextMarker != "" {
			if *page.NextMarker == marker {
				return s.fail("list", *opts.Prefix, errors.New("listing does not advance: same marker again"))
			}
			marker = *page.NextMarker
		}
	}
	return nil
}
