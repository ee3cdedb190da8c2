package file

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReadObject returns a named object: the file of that name below the path.
func (c *ReplicaClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	if err := checkObject(ctx, name, 0); err != nil {
		return nil, c.fail("get", name, err)
	}
	data, err := readObject(c.objectPath(name))
	if err != nil {
		return nil, c.fail("get", name, err)
	}
	return data, nil
}

func readObject(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return blob.ReadObject(f, litestream.MaxObjectSize)
}

// WriteObject stores a named object as WriteLTXFile and WriteLTXFileExclusive
// store files.
func (c *ReplicaClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	if err := checkObject(ctx, name, len(data)); err != nil {
		return c.fail("put", name, err)
	}
	publish := os.Rename
	if exclusive {
		publish = publishExclusive
	}
	n := newFile{dst: c.objectPath(name), r: bytes.NewReader(data), modTime: time.Now(), publish: publish}
	if _, err := c.store(n); err != nil {
		return c.fail("put", name, err)
	}
	return nil
}

// DeleteObject unlinks the file of a named object, and then the folders between
// it and the path that are empty.
func (c *ReplicaClient) DeleteObject(ctx context.Context, name string) error {
	if err := checkObject(ctx, name, 0); err != nil {
		return c.fail("delete", name, err)
	}
	if err := os.Remove(c.objectPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c.fail("delete", name, err)
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		c.removeEmptyDir(c.objectPath(dir))
	}
	return nil
}

// Empty reports whether the folder is missing or has no entry.
func (c *ReplicaClient) Empty(ctx context.Context) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, c.fail("list", "", err)
	}
	empty, err := isEmptyDir(c.path)
	if err != nil {
		return false, c.fail("list", "", err)
	}
	return empty, nil
}

func isEmptyDir(path string) (empty bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

func (c *ReplicaClient) objectPath(name string) string {
	return filepath.Join(c.path, filepath.FromSlash(name))
}

func checkObject(ctx context.Context, name string, size int) error {
	if err := blob.CheckObject(name, size, litestream.MaxObjectSize); err != nil {
		return err
	}
	return ctx.Err()
}
