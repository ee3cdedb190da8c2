package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/benbjohnson/litestream"
)

// ReadObject returns a named object.
func (c *ReplicaClient) ReadObject(ctx context.Context, name string) (data []byte, err error) {
	key, err := c.objectKey("get", name)
	if err != nil {
		return nil, err
	}
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	r, err := s.open(ctx, key, 0, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data, err = io.ReadAll(io.LimitReader(r, litestream.MaxObjectSize+1))
	if err == nil && len(data) > litestream.MaxObjectSize {
		err = fmt.Errorf("object has more than %d bytes", litestream.MaxObjectSize)
	}
	if err != nil {
		return nil, s.wrap("get", key, err)
	}
	return data, nil
}

// WriteObject stores a named object with one request; an exclusive one as
// WriteLTXFileExclusive does.
func (c *ReplicaClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	key, err := c.objectKey("put", name)
	if err != nil {
		return err
	}
	if len(data) > litestream.MaxObjectSize {
		return c.fail("put", key, fmt.Errorf("object has %d bytes, at most %d can be stored", len(data), litestream.MaxObjectSize))
	}
	s, err := c.session(ctx)
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
	key, err := c.objectKey("delete", name)
	if err != nil {
		return err
	}
	s, err := c.session(ctx)
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

func (c *ReplicaClient) objectKey(op, name string) (string, error) {
	key := c.prefix().Objects() + name
	if !fs.ValidPath(name) || name == "." {
		return "", c.fail(op, key, fmt.Errorf("invalid object name: %q", name))
	}
	return key, nil
}
