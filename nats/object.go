package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReadObject returns a named object.
func (c *ReplicaClient) ReadObject(ctx context.Context, name string) (data []byte, err error) {
	key, err := c.objectKey("get", name)
	if err != nil {
		return nil, err
	}
	r, err := c.open(ctx, key, 0, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err = io.ReadAll(io.LimitReader(r, litestream.MaxObjectSize+1))
	if err == nil && len(data) > litestream.MaxObjectSize {
		err = fmt.Errorf("object has more than %d bytes", litestream.MaxObjectSize)
	}
	if err != nil {
		return nil, c.wrap("get", key, err)
	}
	return data, nil
}

// WriteObject stores a named object; an exclusive one as WriteLTXFileExclusive
// does.
func (c *ReplicaClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	key, err := c.objectKey("put", name)
	if err != nil {
		return err
	}
	if len(data) > litestream.MaxObjectSize {
		return c.fail("put", key, fmt.Errorf("object has %d bytes, at most %d can be stored", len(data), litestream.MaxObjectSize))
	}
	src := blob.Source{Section: io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))}
	_, err = c.store(ctx, key, src, nil, exclusive)
	return err
}

// DeleteObject deletes a named object.
func (c *ReplicaClient) DeleteObject(ctx context.Context, name string) error {
	key, err := c.objectKey("delete", name)
	if err != nil {
		return err
	}
	return c.deleteObject(ctx, key)
}

func (c *ReplicaClient) objectKey(op, name string) (string, error) {
	key := c.root().Objects() + name
	if !fs.ValidPath(name) || name == "." {
		return "", c.fail(op, key, fmt.Errorf("invalid object name: %q", name))
	}
	return key, nil
}
