package nats

import (
	"bytes"
	"context"
	"io"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReadObject returns a named object.
func (c *ReplicaClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	key, err := c.objectKey("get", name, 0)
	if err != nil {
		return nil, err
	}
	r, err := c.open(ctx, key, 0, 0)
	if err != nil {
		return nil, err
	}
	data, err := blob.ReadObject(r, litestream.MaxObjectSize)
	if err != nil {
		return nil, c.wrap("get", key, err)
	}
	return data, nil
}

// WriteObject stores a named object; an exclusive one as WriteLTXFileExclusive
// does.
func (c *ReplicaClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	key, err := c.objectKey("put", name, len(data))
	if err != nil {
		return err
	}
	src := blob.Source{Section: io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))}
	_, err = c.store(ctx, key, src, nil, exclusive)
	return err
}

// DeleteObject deletes a named object.
func (c *ReplicaClient) DeleteObject(ctx context.Context, name string) error {
	key, err := c.objectKey("delete", name, 0)
	if err != nil {
		return err
	}
	return c.deleteObject(ctx, key)
}

func (c *ReplicaClient) objectKey(op, name string, size int) (string, error) {
	key := c.root().Objects() + name
	if err := blob.CheckObject(name, size, litestream.MaxObjectSize); err != nil {
		return "", c.fail(op, key, err)
	}
	return key, nil
}
