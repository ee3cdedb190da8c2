package abs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/benbjohnson/litestream"
	v03 "github.com/benbjohnson/litestream/internal/v03"
)

var (
	_ litestream.VersionKeeper = (*ReplicaClient)(nil)
	_ litestream.RemnantClient = (*ReplicaClient)(nil)
)

// Remnants lists blobs of which only blocks were stored, and those of a backup
// of Litestream v0.3, with one request per 5,000 of each.
func (c *ReplicaClient) Remnants(ctx context.Context) (remnants []litestream.Remnant, err error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	root := s.root().Objects()
	stored := make(map[string]bool)
	err = s.eachBlob(ctx, s.root().Tree(), 0, func(item *container.BlobItem) bool {
		stored[*item.Name] = true
		return true
	})
	if err != nil {
		return nil, err
	}
	// A listing does not say which of its blobs are only blocks.
	tree := s.root().Tree()
	all := &container.ListBlobsFlatOptions{Prefix: &tree, Include: container.ListBlobsInclude{UncommittedBlobs: true}}
	err = s.eachItem(ctx, all, func(item *container.BlobItem) bool {
		if name, ok := strings.CutPrefix(*item.Name, root); ok && s.root().IsFile(*item.Name) && !stored[*item.Name] {
			remnants = append(remnants, litestream.Remnant{Kind: litestream.RemnantUpload, Name: name})
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	err = s.eachBlob(ctx, root+v03.Dir+"/", 0, func(item *container.BlobItem) bool {
		if name, ok := strings.CutPrefix(*item.Name, root); ok {
			remnants = append(remnants, litestream.Remnant{Kind: litestream.RemnantV03, Name: name, Size: entry(item).Size})
		}
		return true
	})
	return remnants, err
}

// DeleteRemnants deletes blobs with one request each, and two for one of which
// there are only blocks: it is made, empty, and deleted.
func (c *ReplicaClient) DeleteRemnants(ctx context.Context, remnants []litestream.Remnant) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range remnants {
		key := s.root().Objects() + r.Name
		if r.Kind == litestream.RemnantUpload {
			etag := azcore.ETagAny
			_, err := s.blob(key).CommitBlockList(ctx, nil, &blockblob.CommitBlockListOptions{
				AccessConditions: &azblob.AccessConditions{ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfNoneMatch: &etag}},
			})
			if err != nil {
				errs = append(errs, s.fail("delete", key, err)) // it is a blob by now, perhaps
				continue
			}
		}
		errs = append(errs, s.deleteBlob(ctx, key))
	}
	return errors.Join(errs...)
}

// KeptVersions lists the versions and snapshots of the database's blobs that the
// container keeps, and what it can undelete, with one request per 5,000. An
// account without versions may refuse to be asked for them: then the rest is.
func (c *ReplicaClient) KeptVersions(ctx context.Context) (*litestream.KeptVersions, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	all := container.ListBlobsInclude{Versions: true, Snapshots: true, Deleted: true, LegalHold: true, ImmutabilityPolicy: true}
	k := &litestream.KeptVersions{}
	err = s.countKept(ctx, k, all)
	if refused(err) {
		*k = litestream.KeptVersions{Untold: []string{fmt.Sprintf("versions: %v", err)}}
		err = s.countKept(ctx, k, container.ListBlobsInclude{Snapshots: true, Deleted: true})
	}
	if ctx.Err() != nil {
		return nil, s.fail("list", s.Path, ctx.Err())
	} else if err != nil {
		k.Untold = append(k.Untold, fmt.Sprintf("snapshots and deleted blobs: %v", err))
	}
	return k, nil
}

// refused reports whether the service does not know what it was asked for.
func refused(err error) bool {
	answer, ok := errors.AsType[*answerError](err)
	return ok && (answer.status == http.StatusBadRequest || answer.status == http.StatusConflict || answer.status == http.StatusNotImplemented)
}

func (s *session) countKept(ctx context.Context, k *litestream.KeptVersions, include container.ListBlobsInclude) error {
	for _, prefix := range []string{s.root().Tree(), s.root().Objects() + v03.Dir + "/"} {
		err := s.eachItem(ctx, &container.ListBlobsFlatOptions{Prefix: &prefix, Include: include}, func(item *container.BlobItem) bool {
			if s.ours(*item.Name) {
				noteKept(k, item, time.Now())
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func noteKept(k *litestream.KeptVersions, item *container.BlobItem, now time.Time) {
	p := item.Properties
	if p == nil {
		p = &container.BlobProperties{}
	}
	k.Bytes += entry(item).Size
	if item.Deleted != nil && *item.Deleted {
		k.Undeletable++
		if p.RemainingRetentionDays != nil {
			// The service tells whole days that are left.
			if until := now.AddDate(0, 0, int(*p.RemainingRetentionDays)+1).UTC().Truncate(time.Second); until.After(k.UndeletableUntil) {
				k.UndeletableUntil = until
			}
		}
		return
	}
	k.Versions++
	k.Asked++
	if p.ImmutabilityPolicyExpiresOn != nil && p.ImmutabilityPolicyExpiresOn.After(now) {
		k.Locked++
		if p.ImmutabilityPolicyExpiresOn.After(k.LockedUntil) {
			k.LockedUntil = p.ImmutabilityPolicyExpiresOn.UTC()
		}
	}
	if p.LegalHold != nil && *p.LegalHold {
		k.Held++
	}
}

// ours reports whether a key is that of the database, and of no other below its
// path.
func (s *session) ours(key string) bool {
	if s.root().IsFile(key) {
		return true
	}
	rel, ok := strings.CutPrefix(key, s.root().Objects())
	_, backup := v03.ParseName(rel)
	return ok && backup
}
