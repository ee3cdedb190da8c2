package sftp

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
	"time"

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
	src, err := newSource(bytes.NewReader(data))
	if err != nil {
		return c.fail("put", name, err)
	}
	_, err = c.store(ctx, name, src, time.Now(), exclusive)
	return err
}

// DeleteObject deletes the file of a named object, and then the folders between
// it and the path that are empty.
func (c *ReplicaClient) DeleteObject(ctx context.Context, name string) error {
	if err := blob.CheckObject(name, 0, litestream.MaxObjectSize); err != nil {
		return c.fail("delete", name, err)
	}
	if err := c.deleteKeys(ctx, []string{name}); err != nil {
		return err
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if err := c.removeDir(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// Empty reports whether the folder is missing or has no entry.
func (c *ReplicaClient) Empty(ctx context.Context) (bool, error) {
	entries, err := c.readDir(ctx, "")
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	return len(entries) == 0, nil
}
