package abs

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var _ litestream.ReplicaLister = (*ReplicaClient)(nil)

// Replicas finds the databases below the client's path that have LTX files, with
// one request per 5,000 blobs.
func (c *ReplicaClient) Replicas(ctx context.Context, fn func(path string) error) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	found := blob.Replicas{Of: s.root().Replica, Func: fn}
	err = s.eachBlob(ctx, s.root().Objects(), 0, func(item *container.BlobItem) bool { return found.Add(*item.Name) })
	if found.Err() != nil {
		return found.Err()
	}
	return err
}
