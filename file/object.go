package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/benbjohnson/litestream"
)

// ReadObject returns a named object: the file of that name below the path.
func (c *ReplicaClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	if err := checkObjectName(ctx, name); err != nil {
		return nil, c.fail("get", name, err)
	}
	data, err := readObject(c.objectPath(name))
	if err != nil {
		return nil, c.fail("get", name, err)
	}
	return data, nil
}

func readObject(path string) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, litestream.MaxObjectSize+1))
	if err == nil && len(data) > litestream.MaxObjectSize {
		err = fmt.Errorf("object has more than %d bytes", litestream.MaxObjectSize)
	}
	return data, err
}

// WriteObject stores a named object as WriteLTXFile and WriteLTXFileExclusive
// store files.
func (c *ReplicaClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	if err := checkObjectName(ctx, name); err != nil {
		return c.fail("put", name, err)
	}
	if len(data) > litestream.MaxObjectSize {
		return c.fail("put", name, fmt.Errorf("object has %d bytes, at most %d can be stored", len(data), litestream.MaxObjectSize))
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
	if err := checkObjectName(ctx, name); err != nil {
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

func checkObjectName(ctx context.Context, name string) error {
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("invalid object name: %q", name)
	}
	return ctx.Err()
}
