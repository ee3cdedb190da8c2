package gs

import (
	"context"
	"net/url"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var _ litestream.ReplicaLister = (*ReplicaClient)(nil)

// Replicas finds the databases below the client's path that have LTX files, with
// one request per 1,000 objects.
func (c *ReplicaClient) Replicas(ctx context.Context, fn func(path string) error) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	found := blob.Replicas{Of: s.root().Replica, Func: fn}
	err = s.eachObject(ctx, url.Values{"prefix": {s.root().Objects()}}, func(obj *object) {
		if !found.Add(obj.Name) {
			stop() // before the next page
		}
	})
	if found.Err() != nil {
		return found.Err()
	}
	return err
}
