package webdav

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReadObject returns a named object: the file of that name below the path.
func (c *ReplicaClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	if err := blob.CheckObject(name, 0, litestream.MaxObjectSize); err != nil {
		return nil, c.fail("get", name, err)
	}
	r, err := c.open(ctx, name, 0, litestream.MaxObjectSize+1)
	if err != nil {
		return nil, err
	}
	data, err := blob.ReadObject(r, litestream.MaxObjectSize)
	if err != nil {
		return nil, c.wrap("get", name, err)
	}
	return data, nil
}

// WriteObject stores a named object as WriteLTXFile and WriteLTXFileExclusive
// store files.
func (c *ReplicaClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	if err := blob.CheckObject(name, len(data), litestream.MaxObjectSize); err != nil {
		return c.fail("put", name, err)
	}
	if err := ctx.Err(); err != nil {
		return c.fail("put", name, err)
	}
	return c.store(ctx, name, io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), exclusive)
}

// DeleteObject deletes the file of a named object. Folders stay, as with
// DeleteAll. A name that is a folder's deletes that with all that is in it.
func (c *ReplicaClient) DeleteObject(ctx context.Context, name string) error {
	if err := blob.CheckObject(name, 0, litestream.MaxObjectSize); err != nil {
		return c.fail("delete", name, err)
	}
	return c.deleteKeys(ctx, []string{name})
}

// Empty reports whether there is no file below the path. Folders may be left of
// what was deleted.
func (c *ReplicaClient) Empty(ctx context.Context) (bool, error) {
	return c.emptyDir(ctx, "")
}

func (c *ReplicaClient) emptyDir(ctx context.Context, key string) (bool, error) {
	file := false
	var dirs []string
	err := c.readDir(ctx, key, func(e entry) {
		if e.dir {
			dirs = append(dirs, key+"/"+e.name)
		} else {
			file = true
		}
	})
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	for _, dir := range dirs {
		if file {
			break
		}
		empty, err := c.emptyDir(ctx, dir)
		if err != nil {
			return false, err
		}
		file = !empty
	}
	return !file, nil
}
