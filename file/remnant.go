package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

var _ litestream.RemnantClient = (*ReplicaClient)(nil)

// Remnants lists the temporary files of writes and what lies below the folder
// of a backup of Litestream v0.3.
func (c *ReplicaClient) Remnants(ctx context.Context) ([]litestream.Remnant, error) {
	var remnants []litestream.Remnant
	for level := range litestream.SnapshotLevel + 1 {
		entries, err := os.ReadDir(c.levelDir(level))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, c.fail("list", levelKey(level), err)
		}
		for _, entry := range entries {
			if _, ok := blob.ParseTempName(entry.Name()); !ok || entry.IsDir() {
				continue
			}
			r := litestream.Remnant{Kind: litestream.RemnantUpload, Name: levelKey(level) + "/" + entry.Name()}
			if fi, err := entry.Info(); err == nil { // else it is gone since
				r.Size = fi.Size()
			}
			remnants = append(remnants, r)
		}
	}
	objects, err := c.V03Objects(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		remnants = append(remnants, litestream.Remnant{Kind: litestream.RemnantV03, Name: o.Name, Size: o.Size})
	}
	return remnants, nil
}

// DeleteRemnants unlinks files and the folders that are empty then, that of the
// database too.
func (c *ReplicaClient) DeleteRemnants(ctx context.Context, remnants []litestream.Remnant) error {
	var errs []error
	for _, r := range remnants {
		if err := checkObject(ctx, r.Name, 0); err != nil {
			return errors.Join(append(errs, c.fail("delete", r.Name, err))...)
		}
		if err := os.Remove(c.objectPath(r.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, c.fail("delete", r.Name, err))
		}
		for dir := path.Dir(r.Name); dir != "."; dir = path.Dir(dir) {
			c.removeEmptyDir(c.objectPath(dir))
		}
	}
	c.removeEmptyDir(filepath.Clean(c.path))
	return errors.Join(errs...)
}
