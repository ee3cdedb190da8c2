package webdav

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/blob"
)

// maxBuffered is the size in bytes up to which a file is read when it is
// opened. A larger one holds a connection until it is closed.
const maxBuffered = 256 << 10

// OpenLTXFile reads size bytes of a file from offset on, or all that follow if
// size is 0. From the end of the file on there is nothing to read. A reader
// whose connection breaks goes on over another one.
func (c *ReplicaClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	key := fileKey(level, minTXID, maxTXID)
	if offset < 0 || size < 0 {
		return nil, c.fail("get", key, fmt.Errorf("invalid range: offset %d, size %d", offset, size))
	}
	return c.open(ctx, key, offset, size)
}

func (c *ReplicaClient) open(ctx context.Context, key string, offset, size int64) (io.ReadCloser, error) {
	r := &reader{client: c, ctx: ctx, key: key, began: time.Now(), offset: offset, size: size}
	if err := r.connect(); err != nil {
		r.err = c.wrap("get", key, err)
		return nil, errors.Join(r.err, r.Close())
	}
	if r.left > maxBuffered {
		return r, nil
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// reader reads a file, over one connection after another if need be.
type reader struct {
	client *ReplicaClient
	ctx    context.Context //nolint:containedctx // of the call that opened it
	key    string
	began  time.Time

	mu sync.Mutex // guards the rest; held while a server is read

	offset, size int64 // of what was asked for
	n            int64 // bytes read
	left         int64 // bytes that must come; known once connected
	known        bool
	etag         string // of the file that the first bytes are of
	failures     int    // since the last byte
	body         io.ReadCloser
	err          error
	closed       bool
}

// connect asks for what is left to read.
func (r *reader) connect() error {
	first := r.offset + r.n
	rng := fmt.Sprintf("bytes=%d-", first)
	switch {
	case r.known:
		rng += strconv.FormatInt(first+r.left-1, 10)
	case r.size > 0:
		rng += strconv.FormatInt(first+r.size-1, 10)
	}
	resp, err := r.client.send(r.ctx, request{
		method: http.MethodGet, target: r.client.target(r.key), header: map[string]string{"Range": rng},
	})
	if statusOf(err) == http.StatusRequestedRangeNotSatisfiable && !r.known {
		r.known, r.body = true, http.NoBody
		return nil // offset lies at or behind the end
	} else if err != nil {
		return err
	}
	left, err := skipTo(resp, first, r.size)
	if err == nil && r.known && (left < r.left || r.etag != resp.Header.Get("Etag")) {
		err = errors.New("file was replaced while it was read")
	}
	if err != nil {
		return errors.Join(err, resp.Body.Close())
	}
	if !r.known {
		r.known, r.left, r.etag = true, left, resp.Header.Get("Etag")
	}
	r.body = resp.Body
	return nil
}

// skipTo brings an answer to the wanted offset, and returns how many wanted
// bytes follow. A server may ignore the range and send everything.
func skipTo(resp *http.Response, offset, size int64) (left int64, err error) {
	d, err := blob.NewDownload(resp.Body, blob.ContentRange(resp), resp.ContentLength, offset, size)
	if err != nil || d.Size == 0 {
		return 0, err
	}
	if _, err := io.CopyN(io.Discard, d.Body, d.Skip); err != nil {
		return 0, fmt.Errorf("skip to offset %d: %w", offset, err)
	}
	return d.Size, nil
}

// Read reads what follows.
func (r *reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case r.err != nil:
			return 0, r.err
		case r.closed:
			return 0, os.ErrClosed
		case r.left == 0:
			return 0, io.EOF
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
		r.n, r.left = r.n+int64(n), r.left-int64(n)
		if n > 0 {
			r.failures = 0
			return n, nil // what is behind an error comes with the next call
		}
		if err == nil {
			continue
		}
		if r.failures++; r.failures < maxAttempts && r.ctx.Err() == nil {
			_ = r.body.Close() // it broke
			if err = r.connect(); err == nil {
				continue
			}
			r.body = http.NoBody
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.err = r.client.wrap("get", r.key, err)
	}
}

// Close gives the file up, and reports what was read. It waits for a Read that
// goes on, which ends with the context of the call that opened the file.
func (r *reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	r.client.observe("GET", r.n, r.began, r.err)
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
