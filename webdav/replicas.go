package webdav

import (
	"context"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var _ litestream.ReplicaLister = (*ReplicaClient)(nil)

// Replicas finds the folders below the client's that hold LTX files, by listing
// every one of them: three requests for a database. A missing folder is empty.
func (c *ReplicaClient) Replicas(ctx context.Context, fn func(path string) error) error {
	w := blob.Walk{Workers: maxParallel, ReadDir: func(ctx context.Context, dir string) (folders, files []string, err error) {
		err = c.readDir(ctx, dir, func(e entry) {
			if e.dir {
				folders = append(folders, e.name)
			} else {
				files = append(files, e.name)
			}
		})
		return folders, files, err
	}}
	return w.Replicas(ctx, fn)
}
