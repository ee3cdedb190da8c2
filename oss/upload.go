package oss

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the checksum that the service compares
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

const contentType = "application/octet-stream"

// WriteLTXFile stores a file, replacing one of the same name. What can be read
// at any place (a file) is sent from there; of what cannot, up to PartSize ×
// Concurrency bytes are held in memory.
func (c *ReplicaClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, false)
}

// WriteLTXFileExclusive stores a file unless one of that name exists
// (x-oss-forbid-overwrite). Of any number of writers exactly one succeeds,
// except in a bucket that keeps versions: there the service ignores the header,
// and the key is looked up first.
func (c *ReplicaClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID}, r, true)
}

func (c *ReplicaClient) write(ctx context.Context, info *ltx.FileInfo, r io.Reader, exclusive bool) (*ltx.FileInfo, error) {
	key := c.prefix().File(info.Level, info.MinTXID, info.MaxTXID)
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	src, hdr, err := blob.NewSource(r)
	if err != nil {
		return nil, s.fail("put", key, err)
	}
	info.CreatedAt = time.UnixMilli(hdr.Timestamp).UTC()

	began := time.Now()
	u := upload{session: s, key: key, exclusive: exclusive, timestamp: info.CreatedAt.Format(time.RFC3339Nano)}
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
	timestamp string // of the LTX header; empty: the object is no LTX file
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
	parts := &blob.StreamParts{Reader: src.Stream, First: first.Bytes(), PartSize: u.PartSize}
	err = u.multipart(ctx, parts)
	return parts.N, err
}

// header returns what makes the object. Of a multipart upload it belongs to the
// first request.
func (u *upload) header() http.Header {
	h := http.Header{"Content-Type": {contentType}}
	if u.timestamp != "" {
		h.Set(metadataPrefix+MetadataTimestampKey, u.timestamp)
	}
	return h
}

// content is a body that can be sent any number of times.
type content interface {
	io.ReadSeeker
	io.ReaderAt
}

// put stores an object with a single request. The service compares the MD5
// before it stores, and tells the CRC of what it has stored.
func (u *upload) put(ctx context.Context, data content) error {
	sum, crc := md5.New(), crc64.New(crcTable) //nolint:gosec // against accidents
	size, err := io.Copy(io.MultiWriter(sum, crc), data)
	if err != nil {
		return fmt.Errorf("read file: %w", err)
	}
	r := &request{
		method: http.MethodPut, bucket: u.Bucket, key: u.key, header: u.header(), size: size,
		body: func() io.Reader { return io.NewSectionReader(data, 0, size) },
	}
	r.header.Set("Content-Md5", base64.StdEncoding.EncodeToString(sum.Sum(nil)))
	return u.conditionally(ctx, r, func() error {
		header, err := u.conn.call(ctx, r, nil)
		if err != nil {
			return err
		}
		u.noteVersions(header)
		return checkStored(header, crc.Sum64())
	})
}

// conditionally makes the request that stores the object, such that an exclusive
// upload replaces nothing.
func (u *upload) conditionally(ctx context.Context, r *request, send func() error) error {
	if u.exclusive {
		r.header.Set("X-Oss-Forbid-Overwrite", "true")
		if _, versioned := u.conn.versioned.Load(u.Bucket); versioned {
			if exists, err := u.exists(ctx); err != nil {
				return err
			} else if exists {
				return fs.ErrExist
			}
		}
	}
	return send()
}

// noteVersions remembers a bucket that keeps versions, or did once: every answer
// of such a one to a write names a version.
func (u *upload) noteVersions(header http.Header) {
	if !u.exclusive || header.Get("X-Oss-Version-Id") == "" {
		return
	}
	if _, known := u.conn.versioned.LoadOrStore(u.Bucket, true); !known {
		u.logger.Load().Warn("oss bucket keeps versions, where the service refuses no overwrite: a second writer of this replica may go unnoticed",
			"bucket", u.Bucket)
	}
}

func (u *upload) exists(ctx context.Context) (bool, error) {
	_, err := u.conn.call(ctx, &request{method: http.MethodHead, bucket: u.Bucket, key: u.key}, nil)
	if err == nil {
		return true, nil
	}
	if api, ok := errors.AsType[*apiError](err); ok && api.isMissing() {
		return false, nil
	}
	return false, err
}

// checkStored makes sure that an answer comes from an object store, and that
// what that stored is what was sent. A proxy that answers 200 by itself names no
// ETag. A service that computes no CRC has compared the MD5.
func checkStored(header http.Header, crc uint64) error {
	if header.Get("Etag") == "" {
		return errors.New("server's answer has no ETag")
	}
	return checkCRC(header, crc)
}

func checkCRC(header http.Header, crc uint64) error {
	text := header.Get("X-Oss-Hash-Crc64ecma")
	if stored, err := strconv.ParseUint(text, 10, 64); text != "" && (err != nil || stored != crc) {
		return fmt.Errorf("server stored content with checksum %s, sent was %d", text, crc)
	}
	return nil
}
