package sftp

import (
	"context"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var _ litestream.ReplicaLister = (*ReplicaClient)(nil)

// Replicas finds the folders below the client's that hold LTX files, by listing
// every one of them: three requests for a database. Symbolic links are not
// followed. A missing folder is empty.
func (c *ReplicaClient) Replicas(ctx context.Context, fn func(path string) error) error {
	w := blob.Walk{Workers: maxParallel, ReadDir: func(ctx context.Context, dir string) (folders, files []string, err error) {
		entries, err := c.readDir(ctx, dir)
		for _, e := range entries {
			switch name := e.Name(); {
			case name == "." || name == "..":
			case e.IsDir():
				folders = append(folders, name)
			case e.Mode().IsRegular():
				files = append(files, name)
			}
		}
		return folders, files, err
	}}
	return w.Replicas(ctx, fn)
}
