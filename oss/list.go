package oss

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

// pageSize is the number of objects in one answer, the most there can be.
const pageSize = 1000

// maxParallelHeads bounds the metadata requests of one listing.
const maxParallelHeads = 50

// object is what a listing tells of an object.
type object struct {
	Key          string
	Size         int64
	LastModified time.Time
}

// page is one answer to a listing. Its keys are URL-encoded, because XML cannot
// hold all of them.
type page struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string
	EncodingType          string
	Contents              []object
}

// LTXFiles lists one level with one request per 1,000 files. Without
// useMetadata, CreatedAt is the time of upload; with it, every object costs a
// request of its own.
func (c *ReplicaClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	prefix := s.prefix().Level(level)
	query := url.Values{"prefix": {prefix}}
	if seek > 0 {
		// Every name that begins with this TXID is longer, hence behind it.
		query.Set("start-after", prefix+seek.String())
	}
	l := blob.Listing{Root: s.prefix(), Seek: seek}
	err = s.eachObject(ctx, query, func(obj *object) { l.Add(obj.entry()) })
	if err == nil && useMetadata {
		err = l.ReadTimes(ctx, maxParallelHeads, s.timestamp)
	}
	if err != nil {
		return nil, s.wrap("list", prefix, err)
	}
	return ltx.NewFileInfoSliceIterator(l.Sorted()), nil
}

// LTXTree lists all levels with one request per 1,000 files. CreatedAt is the
// time of upload.
func (c *ReplicaClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	l := blob.Listing{Root: s.prefix()}
	err = s.eachObject(ctx, url.Values{"prefix": {s.prefix().Tree()}}, func(obj *object) { l.Add(obj.entry()) })
	if err != nil {
		return nil, err
	}
	return l.Sorted(), nil
}

func (obj *object) entry() blob.Entry {
	return blob.Entry{Key: obj.Key, Size: obj.Size, Stored: obj.LastModified}
}

// timestamp returns the time of a file's LTX header: from the metadata, or from
// the header itself where a copy of the bucket has lost the metadata.
func (s *session) timestamp(ctx context.Context, key string) (time.Time, error) {
	began := time.Now()
	header, err := s.conn.call(ctx, &request{method: http.MethodHead, bucket: s.Bucket, key: key}, nil)
	s.observe("GET", 0, began, err)
	if err != nil {
		return time.Time{}, s.fail("get", key, err)
	}
	if t, err := time.Parse(time.RFC3339Nano, header.Get(metadataPrefix+MetadataTimestampKey)); err == nil {
		return t.UTC(), nil
	}
	t, err := blob.HeaderTime(ctx, s.open, key)
	if err != nil {
		return time.Time{}, s.wrap("get", key, err)
	}
	return t, nil
}

// eachObject reads all pages of a listing. A listing is whole or an error: a
// part of it would look like missing transactions. The object that fn is given
// is valid during the call.
func (s *session) eachObject(ctx context.Context, query url.Values, fn func(obj *object)) error {
	for {
		p, err := s.listPage(ctx, query, pageSize)
		if err != nil {
			return err
		}
		for i := range p.Contents {
			fn(&p.Contents[i])
		}
		if !p.IsTruncated {
			return nil
		}
		switch p.NextContinuationToken {
		case "":
			return s.fail("list", query.Get("prefix"), errors.New("listing is cut off: no continuation token"))
		case query.Get("continuation-token"):
			return s.fail("list", query.Get("prefix"), errors.New("listing does not advance: same continuation token again"))
		}
		query.Set("continuation-token", p.NextContinuationToken)
	}
}

func (s *session) listPage(ctx context.Context, query url.Values, size int) (*page, error) {
	query.Set("list-type", "2")
	query.Set("encoding-type", "url")
	query.Set("max-keys", fmt.Sprint(size))
	began := time.Now()
	p := &page{}
	_, err := s.conn.call(ctx, &request{method: http.MethodGet, bucket: s.Bucket, query: query}, p)
	if err == nil {
		err = p.decode()
	}
	s.observe("LIST", 0, began, err)
	if err != nil {
		return nil, s.fail("list", query.Get("prefix"), err)
	}
	return p, nil
}

// decode undoes the encoding of names.
func (p *page) decode() (err error) {
	if p.EncodingType != "url" {
		return nil
	}
	if p.NextContinuationToken, err = url.QueryUnescape(p.NextContinuationToken); err != nil {
		return fmt.Errorf("decode continuation token: %w", err)
	}
	for i := range p.Contents {
		if p.Contents[i].Key, err = url.QueryUnescape(p.Contents[i].Key); err != nil {
			return fmt.Errorf("decode key: %w", err)
		}
	}
	return nil
}

// Empty asks for the first key below the path.
func (c *ReplicaClient) Empty(ctx context.Context) (bool, error) {
	s, err := c.session()
	if err != nil {
		return false, err
	}
	p, err := s.listPage(ctx, url.Values{"prefix": {s.prefix().Objects()}}, 1)
	if err != nil {
		return false, err
	}
	// A page may be without keys although there are more behind it.
	return len(p.Contents) == 0 && !p.IsTruncated, nil
}
