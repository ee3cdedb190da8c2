package sftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"github.com/superfly/ltx"
)

const (
	// packetSize is what a server must take in one packet, in bytes
	// (draft-ietf-secsh-filexfer-02 section 3).
	packetSize = 32 << 10

	// partSize is the most that is read or written with one call, in bytes. Its
	// packets are sent at once.
	partSize = 512 << 10

	// maxBuffered is the size in bytes up to which a file is read when it is
	// opened. A larger one is held open on the server until it is closed.
	maxBuffered = 256 << 10
)

// OpenLTXFile reads size bytes of a file from offset on, or all that follow if
// size is 0. From the end of the file on there is nothing to read. A reader
// whose connection is lost goes on over another one.
func (c *ReplicaClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	key := fileKey(level, minTXID, maxTXID)
	if err := checkRange(offset, size); err != nil {
		return nil, c.fail("get", key, err)
	}
	return c.open(ctx, key, offset, size)
}

func (c *ReplicaClient) open(ctx context.Context, key string, offset, size int64) (io.ReadCloser, error) {
	r := &reader{client: c, ctx: ctx, key: key, began: time.Now(), offset: offset, left: size, whole: size == 0}
	// The first parts are read at once, so that most files cost one open handle
	// for a moment only.
	for !r.done() && r.n < maxBuffered {
		if err := r.fill(); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	if !r.done() {
		return r, nil
	}
	part := r.part
	if err := r.Close(); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(part)), nil
}

// reader reads a file part by part.
type reader struct {
	client *ReplicaClient
	ctx    context.Context //nolint:containedctx // of the call that opened it
	key    string
	began  time.Time

	mu sync.Mutex // guards the rest; held while a server is read

	offset int64 // of what is read next from the server
	left   int64 // bytes wanted from there; unless whole
	whole  bool
	end    bool   // nothing is left on the server
	part   []byte // read, and not handed out
	n      int64  // bytes read
	err    error  // of reading, but for its end
	closed bool

	held    *handle // nil: not open at the moment
	version string  // what the file was when it was opened first
}

// handle is a file that is open on the server.
type handle struct {
	session *session
	file    *sftp.File
	size    int64  // when it was opened
	version string // size and time; a file that is replaced has others
}

// close closes the file without waiting for the answer.
func (h *handle) close() {
	closing := h.session.link.spawn(func() {
		_ = h.file.Close() // nothing was written
		h.session.release()
	})
	if !closing {
		h.session.release()
	}
}

// Read reads what follows.
func (r *reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return 0, os.ErrClosed
	}
	for len(r.part) == 0 {
		switch {
		case r.err != nil:
			return 0, r.err
		case r.done():
			return 0, io.EOF
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.part)
	r.part = r.part[n:]
	return n, nil
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
	r.drop()
	r.client.observe("GET", r.n, r.began, r.err)
	return nil
}

func (r *reader) drop() {
	if r.held != nil {
		r.held.close()
		r.held = nil
	}
}

// done reports whether all that is wanted was read from the server.
func (r *reader) done() bool { return r.end || !r.whole && r.left == 0 }

// chunk is what one call read.
type chunk struct {
	data []byte
	end  bool
	held *handle // what it was read from, if that is to stay open
}

// fill reads the next part and appends it.
func (r *reader) fill() error {
	err := r.client.do(r.ctx, r.read)
	if err != nil {
		r.err = r.client.wrap("get", r.key, err)
	}
	return r.err
}

func (r *reader) read(ctx context.Context, s *session) error {
	want := int64(packetSize) // most files are small
	switch {
	case r.n >= maxBuffered:
		want = partSize
	case r.n > 0:
		want = maxBuffered
	}
	if !r.whole {
		want = min(want, r.left)
	}
	if r.held != nil && r.held.session.link.isLost() {
		r.drop()
	}
	held, offset := r.held, r.offset
	if held != nil {
		s = held.session
	}
	last := !r.whole && want == r.left
	got, err := take(ctx, s, func(client *sftp.Client) (chunk, error) {
		if held != nil {
			return held.readChunk(offset, want)
		}
		return openChunk(client, r.client.join(r.key), offset, want, last)
	}, func(c chunk) {
		if c.held != nil {
			_ = c.held.file.Close() // nobody waits for it any more
		}
	})
	if err != nil {
		return err
	}
	if got.held != nil {
		got.held.session = s.hold()
		r.held = got.held
		if r.version == "" {
			r.version = got.held.version
		}
		if r.version != got.held.version {
			return errors.New("file was replaced while it was read")
		}
	}
	r.part = append(r.part, got.data...)
	r.n += int64(len(got.data))
	r.offset += int64(len(got.data))
	r.left -= int64(len(got.data))
	r.end = got.end
	return nil
}

// openChunk opens a file and reads from it. It leaves it open if more is
// wanted and there may be more. That the server answers to what follows the read
// shows that an end is the file's, and not the connection's.
func openChunk(client *sftp.Client, name string, offset, want int64, last bool) (chunk, error) {
	f, err := client.Open(name)
	if err != nil {
		return chunk{}, err
	}
	c, err := readChunk(f, offset, want)
	if err == nil && !c.end && !last {
		var fi os.FileInfo
		if fi, err = f.Stat(); err == nil {
			c.held = &handle{file: f, size: fi.Size(), version: fmt.Sprintf("%d bytes of %s", fi.Size(), fi.ModTime())}
			return c, nil
		}
	}
	return c, errors.Join(err, f.Close())
}

// readChunk reads want bytes, or less at the end of the file. A file that ends
// before its size is a connection that was lost: the library reports the end of
// both in the same way.
func (h *handle) readChunk(offset, want int64) (chunk, error) {
	c, err := readChunk(h.file, offset, want)
	if end := offset + int64(len(c.data)); err == nil && c.end && end < h.size {
		return chunk{}, fmt.Errorf("file ends at %d of %d bytes: %w", end, h.size, io.ErrUnexpectedEOF)
	}
	return c, err
}

// readChunk reads want bytes, or less at the end of the file or of the
// connection.
func readChunk(f *sftp.File, offset, want int64) (chunk, error) {
	buf := make([]byte, want)
	n, err := f.ReadAt(buf, offset)
	if errors.Is(err, io.EOF) {
		return chunk{data: buf[:n], end: true}, nil
	}
	return chunk{data: buf[:n]}, err
}
