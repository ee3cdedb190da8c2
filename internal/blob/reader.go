package blob

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// maxBuffered is the size in bytes up to which a download is read when it is
// opened. A larger one holds a connection until it is closed.
const maxBuffered = 256 << 10

// Download is the body of an answer on its way to the caller.
type Download struct {
	Body io.ReadCloser
	Skip int64 // bytes at the beginning of the body that were not asked for
	Size int64 // bytes that must follow; what comes behind them is left

	// Whole says that the server has sent all of the object, and that all of it
	// is wanted.
	Whole bool

	// Hash and Sum check the content of a whole object, if Hash is set.
	Hash hash.Hash
	Sum  []byte

	// Fail turns an error of reading into one that names the object.
	Fail func(err error) error

	// Done is told once of the bytes read and of the error, which may be nil.
	Done func(n int64, err error)
}

// NewDownload makes sure that a body is the part of an object that was asked
// for: size bytes from offset on, or all that follow if size is 0. The header
// Content-Range is nil where a server ignored the range and sent all, of a length
// that is -1 if it does not say.
func NewDownload(body io.ReadCloser, contentRange *string, length, offset, size int64) (*Download, error) {
	d := &Download{Body: body}
	if contentRange != nil {
		var first, last int64
		if _, err := fmt.Sscanf(*contentRange, "bytes %d-%d", &first, &last); err != nil {
			return nil, fmt.Errorf("read content range %q: %w", *contentRange, err)
		}
		d.Size = last - first + 1
		if first != offset || d.Size < 0 || (size > 0 && d.Size > size) {
			return nil, fmt.Errorf("server sent range %q, asked for offset %d, size %d", *contentRange, offset, size)
		}
		return d, nil
	}
	if length < 0 {
		return nil, errors.New("server sent an object without its length")
	}
	d.Skip = min(offset, length)
	d.Size = length - d.Skip
	if size > 0 {
		d.Size = min(d.Size, size)
	}
	d.Whole = d.Size == length
	return d, nil
}

// ContentRange returns the header of that name from an answer that is a part, nil
// from any other.
func ContentRange(resp *http.Response) *string {
	if resp.StatusCode != http.StatusPartialContent {
		return nil
	}
	return new(resp.Header.Get("Content-Range"))
}

// Open returns a reader that ends where the download does, and fails if the
// body ends before. A small download is read at once: the connection is free
// again before the caller opens the next file. Who merges hundreds of small
// files opens all of them first, and would wait for the connections that its
// own open files hold.
func (d *Download) Open() (io.ReadCloser, error) {
	r := &reader{Download: *d, left: d.Size}
	if d.Skip > 0 {
		if _, err := io.CopyN(io.Discard, d.Body, d.Skip); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			r.err = d.Fail(fmt.Errorf("skip to offset %d: %w", d.Skip, err))
			return nil, errors.Join(r.err, r.Close())
		}
	}
	if d.Size > maxBuffered {
		return r, nil
	}
	buf := make([]byte, d.Size)
	_, err := io.ReadFull(r, buf)
	if err == nil {
		if _, err = r.Read(nil); errors.Is(err, io.EOF) { // compares the checksum
			err = nil
		}
	}
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(buf)), nil
}

// reader reads a download. It may be closed while it is read.
type reader struct {
	Download

	mu      sync.Mutex // guards the rest, and Hash; held while the body is read
	n, left int64
	err     error // of reading; io.EOF at the good end

	closed atomic.Bool
}

// Read reads on. At the end it compares the checksum.
func (r *reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		r.err = io.EOF
		if r.Hash != nil && !bytes.Equal(r.Hash.Sum(nil), r.Sum) {
			r.err = r.Fail(fmt.Errorf("checksum of the object is %x, what was received has %x", r.Sum, r.Hash.Sum(nil)))
		}
		return 0, r.err
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.Body.Read(p)
	r.n += int64(n)
	r.left -= int64(n)
	if r.Hash != nil {
		_, _ = r.Hash.Write(p[:n]) // a hash never fails
	}
	switch {
	case err == nil, errors.Is(err, io.EOF) && r.left == 0:
	case errors.Is(err, io.EOF):
		r.err = r.Fail(io.ErrUnexpectedEOF)
	default:
		r.err = r.Fail(err)
	}
	return n, r.err
}

// Close ends the download and reports it.
func (r *reader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	err := r.Body.Close() // wakes a read that waits
	r.mu.Lock()
	defer r.mu.Unlock()
	failure := r.err
	if errors.Is(failure, io.EOF) {
		failure = nil
	}
	r.Done(r.n, failure)
	return err
}
