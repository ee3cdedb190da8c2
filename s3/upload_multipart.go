package s3

import (
	"bytes"
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
)

// The SDK's own uploader is not used: it is deprecated, ends streams at 10,000
// parts of one size, and gives up the parts of a cancelled upload to whoever
// pays for the bucket, because it aborts with the context that is cancelled.

// maxParts is the most parts an object may have.
const maxParts = 10000

// growEvery is the number of parts after which the parts of a stream grow by
// another part size: 5 MiB parts lead to 525 GB instead of 50.
const growEvery = 500

// abortTimeout bounds the request that frees the parts of a failed upload.
const abortTimeout = 30 * time.Second

// partReader cuts a source into parts.
type partReader interface {
	// next returns the next part, or io.EOF after the last. Parts that were
	// released may be overwritten.
	next() (part io.ReadSeeker, err error)
	// release gives a part back that was sent.
	release(part io.ReadSeeker)
}

// sectionParts are parts of what can be read at any place.
type sectionParts struct {
	section       *io.SectionReader
	off, partSize int64
}

func newSectionParts(section *io.SectionReader, partSize int64) *sectionParts {
	if least := (section.Size() + maxParts - 1) / maxParts; partSize < least {
		partSize = least
	}
	return &sectionParts{section: section, partSize: partSize}
}

func (sp *sectionParts) next() (io.ReadSeeker, error) {
	n := min(sp.partSize, sp.section.Size()-sp.off)
	if n <= 0 {
		return nil, io.EOF
	}
	part := io.NewSectionReader(sp.section, sp.off, n)
	sp.off += n
	return part, nil
}

func (sp *sectionParts) release(io.ReadSeeker) {}

// streamParts are parts of a stream, each in a buffer of its own. The buffers
// go round, so that there are as many as parts in flight.
type streamParts struct {
	r        io.Reader
	first    []byte // the part that was read already; nil once it was sent
	partSize int64
	equal    bool // the service wants parts of equal size

	n     int64 // bytes read
	count int   // parts made

	mu   sync.Mutex // guards free
	free []*streamPart
}

type streamPart struct {
	bytes.Reader
	buf []byte
}

func (sp *streamParts) next() (io.ReadSeeker, error) {
	sp.count++
	if sp.first != nil {
		part := &streamPart{buf: sp.first}
		part.Reset(part.buf)
		sp.first, sp.n = nil, int64(len(part.buf))
		return part, nil
	}
	size := sp.partSize
	if !sp.equal {
		size *= int64(1 + (sp.count-1)/growEvery)
	}
	part := sp.buffer(size)
	n, err := io.ReadFull(sp.r, part.buf)
	sp.n += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("read file: %w", err)
	}
	part.Reset(part.buf[:n])
	return part, nil
}

func (sp *streamParts) buffer(size int64) *streamPart {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for len(sp.free) > 0 {
		part := sp.free[len(sp.free)-1]
		sp.free = sp.free[:len(sp.free)-1]
		if int64(cap(part.buf)) >= size {
			part.buf = part.buf[:size]
			return part
		}
	}
	return &streamPart{buf: make([]byte, size)}
}

func (sp *streamParts) release(part io.ReadSeeker) {
	if p, ok := part.(*streamPart); ok {
		sp.mu.Lock()
		sp.free = append(sp.free, p)
		sp.mu.Unlock()
	}
}

// multipart stores an object in parts, several at a time. A failed upload
// frees the parts that were stored.
func (u *upload) multipart(ctx context.Context, parts partReader) error {
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

// sendParts reads parts in order and sends up to Concurrency of them at a time.
// It returns when all that it started have ended.
func (u *upload) sendParts(ctx context.Context, id *string, parts partReader) ([]types.CompletedPart, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards done
		done []types.CompletedPart
	)
	slots := make(chan struct{}, u.Concurrency)
	for number := int32(1); ; number++ {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		part, err := parts.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && number > maxParts {
			err = fmt.Errorf("object has more than %d parts: raise part-size", maxParts)
		}
		if err != nil {
			cancel(err)
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			etag, err := u.sendPart(ctx, id, number, part)
			if err != nil {
				cancel(err)
				return
			}
			parts.release(part)
			mu.Lock()
			done = append(done, types.CompletedPart{ETag: etag, PartNumber: aws.Int32(number)})
			mu.Unlock()
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
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
