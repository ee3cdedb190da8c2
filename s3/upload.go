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
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

const contentType = "application/octet-stream"

// WriteLTXFile stores a file, replacing one of the same name. What can be read
// at any place (a file) is sent from there; of what cannot, up to part-size ×
// concurrency bytes are held in memory.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, false)
}

// WriteLTXFileExclusive stores a file unless one of that name exists (PUT with
// If-None-Match). Of any number of writers exactly one succeeds, on servers
// that know that header; on others the key is looked up first.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, true)
}

func (c *ReplicaClient) write(ctx context.Context, info *ltx.FileInfo, r io.Reader, exclusive bool) (*ltx.FileInfo, error) {
	key := c.prefix().File(info.Level, info.MinTXID, info.MaxTXID)
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	src, hdr, err := blob.NewSource(r)
	if err != nil {
		return nil, s.fail("put", key, err)
	}
	info.CreatedAt = time.UnixMilli(hdr.Timestamp).UTC()

	began := time.Now()
	u := upload{
		session: s, key: key, exclusive: exclusive,
		metadata: map[string]string{MetadataTimestampKey: info.CreatedAt.Format(time.RFC3339Nano)},
	}
	info.Size, err = u.send(ctx, src)
	if err != nil {
		s.observe("PUT", 0, began, err)
		return nil, s.wrap("put", key, err)
	}
	s.observe("PUT", info.Size, began, nil)
	return info, nil
}

// upload is one object on its way.
type upload struct {
	*session
	key       string
	exclusive bool
	metadata  map[string]string
}

// send stores the source as one object and returns its size.
func (u *upload) send(ctx context.Context, src blob.Source) (int64, error) {
	if src.Section != nil {
		if size := src.Section.Size(); size >= u.PartSize {
			return size, u.multipart(ctx, blob.NewSectionParts(src.Section, u.PartSize))
		}
		return src.Section.Size(), u.put(ctx, io.NewSectionReader(src.Section, 0, src.Section.Size()))
	}

	var first bytes.Buffer
	n, err := io.CopyN(&first, src.Stream, u.PartSize)
	if errors.Is(err, io.EOF) {
		return n, u.put(ctx, bytes.NewReader(first.Bytes()))
	} else if err != nil {
		return 0, fmt.Errorf("read file: %w", err)
	}
	parts := &blob.StreamParts{
		Reader: src.Stream, First: first.Bytes(), PartSize: u.PartSize,
		Equal: detectProvider(u.Endpoint).equalParts,
	}
	err = u.multipart(ctx, parts)
	return parts.N, err
}

// put stores an object with a single request.
func (u *upload) put(ctx context.Context, body io.ReadSeeker) error {
	size, err := body.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("find size: %w", err)
	}
	return u.conditionally(ctx, func(ifNoneMatch *string) error {
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("rewind file: %w", err)
		}
		in := &s3.PutObjectInput{
			Bucket:        aws.String(u.Bucket),
			Key:           aws.String(u.key),
			Body:          body,
			ContentLength: aws.Int64(size),
			ContentType:   aws.String(contentType),
			Metadata:      u.metadata,
			StorageClass:  types.StorageClass(u.StorageClass),
			IfNoneMatch:   ifNoneMatch,
		}
		in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = u.customerKey()
		if u.SSEKMSKeyID != "" {
			in.ServerSideEncryption = types.ServerSideEncryptionAwsKms
			in.SSEKMSKeyId = aws.String(u.SSEKMSKeyID)
		}
		out, err := u.api.PutObject(ctx, in, u.bodyOptions()...)
		if err != nil {
			return err
		}
		return checkETag(out.ETag)
	})
}

// bodyOptions protects a body that is sent. Without a signed hash a server
// cannot tell that a body was cut, so its MD5 is sent then.
func (u *upload) bodyOptions() []func(*s3.Options) {
	if u.PutObjectContentMD5 || !u.SignPayload {
		return []func(*s3.Options){withContentMD5}
	}
	return nil
}

// checkETag makes sure that an answer comes from an object store. A proxy that
// answers 200 by itself sends none.
func checkETag(etag *string) error {
	if aws.ToString(etag) == "" {
		return errors.New("server's answer has no ETag")
	}
	return nil
}

// conditionally runs the request that makes the object appear, such that an
// exclusive upload replaces nothing.
func (u *upload) conditionally(ctx context.Context, request func(ifNoneMatch *string) error) error {
	if !u.exclusive {
		return request(nil)
	}
	if !u.conn.unconditional.Load() {
		err := request(aws.String("*"))
		if !isConditionUnsupported(err) {
			return err
		}
		if u.conn.unconditional.CompareAndSwap(false, true) {
			u.logger.Load().Warn("s3 server knows no conditional writes, a second writer of this replica may go unnoticed",
				"endpoint", publicEndpoint(u.Endpoint), "bucket", u.Bucket)
		}
	}
	exists, err := u.exists(ctx)
	if err != nil {
		return err
	}
	if exists {
		return fs.ErrExist
	}
	return request(nil)
}

func (u *upload) exists(ctx context.Context) (bool, error) {
	in := &s3.HeadObjectInput{Bucket: aws.String(u.Bucket), Key: aws.String(u.key)}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = u.customerKey()
	_, err := u.api.HeadObject(ctx, in)
	if err == nil {
		return true, nil
	}
	if err := u.fail("put", u.key, err); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return false, nil
}
