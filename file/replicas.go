package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

var _ litestream.ReplicaLister = (*ReplicaClient)(nil)

// Replicas finds the folders below the client's that hold LTX files. Symbolic
// links are not followed. A missing folder is empty.
func (c *ReplicaClient) Replicas(ctx context.Context, fn func(path string) error) error {
	err := filepath.WalkDir(c.path, func(name string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil // it was deleted meanwhile, or there is none
		case err != nil:
			return err
		case !d.IsDir() || d.Name() != ltxDir || !holdsLTX(name):
			return nil
		}
		rel, err := filepath.Rel(c.path, filepath.Dir(name))
		if err != nil {
			return err
		}
		if err := fn(filepath.ToSlash(rel)); err != nil {
			return err
		}
		return fs.SkipDir
	})
	if err != nil {
		return c.fail("list", ".", err)
	}
	return nil
}

// holdsLTX reports whether one of the levels in a folder has a file.
func holdsLTX(dir string) bool {
	for level := litestream.SnapshotLevel; level >= 0; level-- {
		entries, err := os.ReadDir(filepath.Join(dir, strconv.Itoa(level)))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if _, _, err := ltx.ParseFilename(e.Name()); err == nil {
				return true
			}
		}
	}
	return false
}
