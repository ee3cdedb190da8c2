package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/benbjohnson/litestream/internal/blob"
)

// The SDK's own uploader is not used: it is deprecated, ends streams at 10,000
// parts of one size, and gives up the parts of a cancelled upload to whoever
// pays for the bucket, because it aborts with the context that is cancelled.

// abortTimeout bounds the request that frees the parts of a failed upload.
const abortTimeout = 30 * time.Second

// multipart stores an object in parts, several at a time. A failed upload
// frees the parts that were stored.
func (u *upload) multipart(ctx context.Context, parts blob.Parts) error {
	id, err := u.create(ctx)
	if err != nil {
		return err
	}
	etags, err := u.sendParts(ctx, id, parts)
	if err == nil {
		err = u.complete(ctx, id, etags)
	}
	if err != nil {
		u.abort(ctx, id)
	}
	return err
}

func (u *upload) create(ctx context.Context) (id *string, err error) {
	in := &s3.CreateMultipartUploadInput{
		Bucket:       aws.String(u.Bucket),
		Key:          aws.String(u.key),
		ContentType:  aws.String(contentType),
		Metadata:     u.metadata,
		StorageClass: types.StorageClass(u.StorageClass),
	}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = u.customerKey()
	if u.SSEKMSKeyID != "" {
		in.ServerSideEncryption = types.ServerSideEncryptionAwsKms
		in.SSEKMSKeyId = aws.String(u.SSEKMSKeyID)
	}
	out, err := u.api.CreateMultipartUpload(ctx, in)
	if err != nil {
		return nil, err
	}
	if aws.ToString(out.UploadId) == "" {
		return nil, errors.New("server's answer has no upload id")
	}
	return out.UploadId, nil
}

// sendParts sends up to Concurrency parts at a time.
func (u *upload) sendParts(ctx context.Context, id *string, parts blob.Parts) ([]types.CompletedPart, error) {
	var (
		mu   sync.Mutex // guards done
		done []types.CompletedPart
	)
	err := blob.SendParts(ctx, parts, u.Concurrency, func(ctx context.Context, n int, part io.ReadSeeker) error {
		number := int32(n) //nolint:gosec // at most blob.MaxParts
		etag, err := u.sendPart(ctx, id, number, part)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		done = append(done, types.CompletedPart{ETag: etag, PartNumber: aws.Int32(number)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(done, func(a, b types.CompletedPart) int { return int(*a.PartNumber - *b.PartNumber) })
	return done, nil
}

func (u *upload) sendPart(ctx context.Context, id *string, number int32, part io.ReadSeeker) (*string, error) {
	size, err := part.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("find size of part: %w", err)
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("rewind part: %w", err)
	}
	in := &s3.UploadPartInput{
		Bucket:        aws.String(u.Bucket),
		Key:           aws.String(u.key),
		UploadId:      id,
		PartNumber:    aws.Int32(number),
		Body:          part,
		ContentLength: aws.Int64(size),
	}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = u.customerKey()
	out, err := u.api.UploadPart(ctx, in, u.bodyOptions()...)
	if err != nil {
		return nil, err
	}
	return out.ETag, checkETag(out.ETag)
}

func (u *upload) complete(ctx context.Context, id *string, parts []types.CompletedPart) error {
	if u.exclusive {
		// Ceph 16 ignores If-None-Match here, though not for a single PUT. A
		// look before leaves it a small window only.
		if exists, err := u.exists(ctx); err != nil {
			return err
		} else if exists {
			return fs.ErrExist
		}
	}
	return u.conditionally(ctx, func(ifNoneMatch *string) error {
		out, err := u.api.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket:          aws.String(u.Bucket),
			Key:             aws.String(u.key),
			UploadId:        id,
			IfNoneMatch:     ifNoneMatch,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		})
		if err != nil {
			return err
		}
		// Ceph 16 leaves the ETag of this answer empty.
		if aws.ToString(out.ETag) == "" && aws.ToString(out.Key) == "" {
			return errors.New("server's answer names no object")
		}
		return nil
	})
}

// abort frees the parts of an upload, also when ctx is the reason that it
// failed. If it cannot, a lifecycle rule of the bucket has to.
func (u *upload) abort(ctx context.Context, id *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	_, err := u.api.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket:   aws.String(u.Bucket),
		Key:      aws.String(u.key),
		UploadId: id,
	})
	if err != nil && errorCode(err) != "NoSuchUpload" {
		u.logger.Load().Warn("parts of a failed upload are left in the bucket",
			"bucket", u.Bucket, "key", u.key, "error", err)
	}
}
