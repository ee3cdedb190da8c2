package oss

import (
	"bytes"
	"context"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReadObject returns a named object.
func (c *ReplicaClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	s, key, err := c.object("get", name, 0)
	if err != nil {
		return nil, err
	}
	r, err := s.open(ctx, key, 0, 0)
	if err != nil {
		return nil, err
	}
	data, err := blob.ReadObject(r, litestream.MaxObjectSize)
	if err != nil {
		return nil, s.wrap("get", key, err)
	}
	return data, nil
}

// WriteObject stores a named object with one request; an exclusive one as
// WriteLTXFileExclusive does.
func (c *ReplicaClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	s, key, err := c.object("put", name, len(data))
	if err != nil {
		return err
	}
	began := time.Now()
	u := upload{session: s, key: key, exclusive: exclusive}
	if err := u.put(ctx, bytes.NewReader(data)); err != nil {
		s.observe("PUT", 0, began, err)
		return s.wrap("put", key, err)
	}
	s.observe("PUT", int64(len(data)), began, nil)
	return nil
}

// DeleteObject deletes a named object.
func (c *ReplicaClient) DeleteObject(ctx context.Context, name string) error {
	s, key, err := c.object("delete", name, 0)
	if err != nil {
		return err
	}
	return s.deleteBatch(ctx, []string{key})
}

// object returns what an operation on a named object of size bytes needs.
func (c *ReplicaClient) object(op, name string, size int) (s *session, key string, err error) {
	key = c.prefix().Objects() + name
	if err := blob.CheckObject(name, size, litestream.MaxObjectSize); err != nil {
		return nil, "", c.fail(op, key, err)
	}
	s, err = c.session()
	return s, key, err
}
