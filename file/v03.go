package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/benbjohnson/litestream"
)

// v03Dir is the folder of a backup of Litestream v0.3 below a replica's path.
const v03Dir = "generations"

// V03Objects lists the files of a backup of Litestream v0.3, whose modification
// times are those of the backup.
func (c *ReplicaClient) V03Objects(ctx context.Context) (objects []litestream.ObjectInfo, err error) {
	err = filepath.WalkDir(filepath.Join(c.path, v03Dir), func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // no such folder, or deleted since it was listed
		} else if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		rel, err := filepath.Rel(c.path, path)
		if err != nil {
			return err
		}
		objects = append(objects, litestream.ObjectInfo{
			Name: filepath.ToSlash(rel), Size: fi.Size(), ModifiedAt: fi.ModTime().UTC(),
		})
		return nil
	})
	if err != nil {
		return nil, c.fail("list", v03Dir, err)
	}
	return objects, nil
}

// OpenV03Object reads a part of a file that V03Objects listed.
func (c *ReplicaClient) OpenV03Object(ctx context.Context, name string, offset, size int64) (io.ReadCloser, error) {
	if err := checkObject(ctx, name, 0); err != nil {
		return nil, c.fail("get", name, err)
	}
	if offset < 0 || size < 0 {
		return nil, c.fail("get", name, fmt.Errorf("invalid range: offset %d, size %d", offset, size))
	}
	return c.open(name, c.objectPath(name), offset, size)
}
