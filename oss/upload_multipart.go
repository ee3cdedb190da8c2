package oss

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/benbjohnson/litestream/internal/blob"
)

// abortTimeout bounds the request that frees the parts of a failed upload.
const abortTimeout = 30 * time.Second

// storedPart is a part that the service has.
type storedPart struct {
	PartNumber int
	ETag       string

	size int64
	crc  uint64
}

// multipart stores an object in parts, several at a time. A failed upload
// frees the parts that were stored.
func (u *upload) multipart(ctx context.Context, parts blob.Parts) error {
	id, err := u.create(ctx)
	if err != nil {
		return err
	}
	stored, err := u.sendParts(ctx, id, parts)
	if err == nil {
		err = u.complete(ctx, id, stored)
	}
	if err != nil {
		u.abort(ctx, id)
	}
	return err
}

func (u *upload) create(ctx context.Context) (id string, err error) {
	r := &request{method: http.MethodPost, bucket: u.Bucket, key: u.key, query: url.Values{"uploads": {""}}, header: u.header()}
	var out struct {
		XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
		UploadID string   `xml:"UploadId"`
	}
	if _, err := u.conn.call(ctx, r, &out); err != nil {
		return "", err
	}
	if out.UploadID == "" {
		return "", errors.New("server's answer has no upload id")
	}
	return out.UploadID, nil
}

// sendParts sends up to Concurrency parts at a time and returns them in order.
func (u *upload) sendParts(ctx context.Context, id string, parts blob.Parts) ([]storedPart, error) {
	var (
		mu     sync.Mutex // guards stored
		stored []storedPart
	)
	err := blob.SendParts(ctx, parts, u.Concurrency, func(ctx context.Context, number int, part io.ReadSeeker) error {
		p, err := u.sendPart(ctx, id, number, part)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		stored = append(stored, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(stored, func(a, b storedPart) int { return a.PartNumber - b.PartNumber })
	return stored, nil
}

// sendPart stores one part. One that has arrived as something else is sent again:
// the later one counts.
func (u *upload) sendPart(ctx context.Context, id string, number int, part io.ReadSeeker) (storedPart, error) {
	data, ok := part.(content)
	if !ok {
		return storedPart{}, fmt.Errorf("part of type %T cannot be sent again", part)
	}
	crc := crc64.New(crcTable)
	size, err := io.Copy(crc, data)
	if err != nil {
		return storedPart{}, fmt.Errorf("read file: %w", err)
	}
	p := storedPart{PartNumber: number, size: size, crc: crc.Sum64()}
	r := &request{
		method: http.MethodPut, bucket: u.Bucket, key: u.key, size: size,
		query: url.Values{"partNumber": {strconv.Itoa(number)}, "uploadId": {id}},
		body:  func() io.Reader { return io.NewSectionReader(data, 0, size) },
	}
	for attempt := 1; ; attempt++ {
		header, err := u.conn.call(ctx, r, nil)
		if err != nil {
			return storedPart{}, err
		}
		p.ETag = header.Get("Etag")
		if err = checkStored(header, p.crc); err == nil || attempt == blob.MaxAttempts {
			return p, err
		}
		if err := blob.Pause(ctx, attempt, 0, err); err != nil {
			return storedPart{}, err
		}
	}
}

func (u *upload) complete(ctx context.Context, id string, parts []storedPart) error {
	doc := struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Part    []storedPart
	}{Part: parts}
	b, err := xml.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode parts: %w", err)
	}
	var crc uint64
	for _, p := range parts {
		crc = combineCRC(crc, p.crc, p.size)
	}
	r := &request{
		method: http.MethodPost, bucket: u.Bucket, key: u.key, query: url.Values{"uploadId": {id}},
		header: http.Header{"Content-Type": {"application/xml"}, "Content-Md5": {contentMD5(b)}},
		size:   int64(len(b)), body: func() io.Reader { return bytes.NewReader(b) },
	}
	return u.conditionally(ctx, r, func() error {
		var out struct {
			XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
			ETag    string
		}
		header, err := u.conn.call(ctx, r, &out)
		if err != nil {
			return u.completed(ctx, err, crc)
		}
		if out.ETag == "" {
			return errors.New("server's answer names no object")
		}
		u.noteVersions(header)
		return checkCRC(header, crc)
	})
}

// completed looks at an upload that is gone: an answer was lost that said it was
// done, if the object is there and has the checksum. Of an exclusive upload the
// object may be somebody else's.
func (u *upload) completed(ctx context.Context, cause error, crc uint64) error {
	if api, ok := errors.AsType[*apiError](cause); !ok || api.code != codeUploadGone {
		return cause
	}
	header, err := u.conn.call(ctx, &request{method: http.MethodHead, bucket: u.Bucket, key: u.key}, nil)
	switch {
	case err != nil:
		return cause
	case u.exclusive:
		return fmt.Errorf("%w: %w", fs.ErrExist, cause)
	case header.Get("X-Oss-Hash-Crc64ecma") != strconv.FormatUint(crc, 10):
		return cause
	}
	return nil
}

// abort frees the parts of an upload, also when ctx is the reason that it
// failed. If it cannot, a lifecycle rule of the bucket has to.
func (u *upload) abort(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	_, err := u.conn.call(ctx, &request{method: http.MethodDelete, bucket: u.Bucket, key: u.key, query: url.Values{"uploadId": {id}}}, nil)
	if api, ok := errors.AsType[*apiError](err); err != nil && (!ok || api.code != codeUploadGone) {
		u.logger.Load().Warn("parts of a failed upload are left in the bucket",
			"bucket", u.Bucket, "key", u.key, "error", err)
	}
}
