package s3

import (
	"bytes"
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReadObject returns a named object.
func (c *ReplicaClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	s, key, err := c.object(ctx, "get", name, 0)
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
	s, key, err := c.object(ctx, "put", name, len(data))
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
	s, key, err := c.object(ctx, "delete", name, 0)
	if err != nil {
		return err
	}
	return s.deleteBatch(ctx, []string{key}) // the one call that a daemon deletes with
}

// Empty asks for the first key below the path.
func (c *ReplicaClient) Empty(ctx context.Context) (bool, error) {
	s, err := c.session(ctx)
	if err != nil {
		return false, err
	}
	began := time.Now()
	prefix := c.prefix().Objects()
	out, err := s.api.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
		Bucket: aws.String(s.Bucket), Prefix: aws.String(prefix), MaxKeys: aws.Int32(1),
	})
	s.observe("LIST", 0, began, err)
	if err != nil {
		return false, s.fail("list", prefix, err)
	}
	// A page may be without keys although there are more behind it.
	return len(out.Contents) == 0 && !aws.ToBool(out.IsTruncated), nil
}

// object returns what an operation on a named object of size bytes needs.
func (c *ReplicaClient) object(ctx context.Context, op, name string, size int) (s *session, key string, err error) {
	key = c.prefix().Objects() + name
	if err := blob.CheckObject(name, size, litestream.MaxObjectSize); err != nil {
		return nil, "", c.fail(op, key, err)
	}
	s, err = c.session(ctx)
	return s, key, err
}
