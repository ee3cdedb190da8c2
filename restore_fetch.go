package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/superfly/ltx"
)

// errStalled means that a download delivered nothing for too long.
var errStalled = errors.New("no data received")

// fetchKnobs are the sizes and times of downloading.
type fetchKnobs struct {
	chunkBytes  int64           // bytes of one request
	parallelism int             // requests in flight
	retryDelays []time.Duration // before each attempt in a row that brings nothing new
	stall       time.Duration   // longest time without data
}

// fetchFile is a file that a fetcher downloads.
type fetchFile struct {
	size int64 // bytes
	open func(ctx context.Context, offset, size int64) (io.ReadCloser, error)
	fail func(err error) error // names the file in an error
}

// fetchLTX returns a file of a replica for a fetcher.
func fetchLTX(client ReplicaClient, info *ltx.FileInfo) *fetchFile {
	return &fetchFile{
		size: info.Size,
		open: func(ctx context.Context, offset, size int64) (io.ReadCloser, error) {
			return client.OpenLTXFile(ctx, info.Level, info.MinTXID, info.MaxTXID, offset, size)
		},
		fail: func(err error) error {
			return &LTXError{Op: "read", Level: info.Level, MinTXID: info.MinTXID, MaxTXID: info.MaxTXID, Err: err}
		},
	}
}

// chunk is a part of a file that one request fetches.
type chunk struct {
	file   *fetchFile
	offset int64
	buf    []byte        // filled before done is closed, unless err is set
	n      int64         // bytes wanted
	err    error         // valid once done is closed
	done   chan struct{} // closed by the fetching goroutine
}

// fetcher downloads files in chunks, several at a time, and hands them out in
// order. What it holds in memory is bounded by parallelism and chunkBytes,
// whatever the number and size of the files: large ones are fetched in
// parallel ranges, small ones many at a time.
type fetcher struct {
	knobs fetchKnobs
	order chan *chunk // in the order of reading; its capacity is the read-ahead
	jobs  chan *chunk
	pool  sync.Pool // of *[]byte with chunkBytes bytes
}

// startFetcher starts downloading files in the given order. Its goroutines
// belong to wg and end with ctx.
func startFetcher(ctx context.Context, wg *sync.WaitGroup, files []*fetchFile, knobs fetchKnobs) *fetcher {
	f := &fetcher{
		knobs: knobs,
		order: make(chan *chunk, knobs.parallelism),
		jobs:  make(chan *chunk),
	}
	wg.Go(func() { f.plan(ctx, files) })
	for range knobs.parallelism {
		wg.Go(func() {
			for c := range f.jobs {
				c.err = f.fetch(ctx, c)
				close(c.done)
			}
		})
	}
	return f
}

// plan cuts the files into chunks as fast as the reader takes them.
func (f *fetcher) plan(ctx context.Context, files []*fetchFile) {
	defer close(f.jobs)
	for _, file := range files {
		for offset := int64(0); offset < file.size; offset += f.knobs.chunkBytes {
			c := &chunk{
				file:   file,
				offset: offset,
				n:      min(f.knobs.chunkBytes, file.size-offset),
				done:   make(chan struct{}),
			}
			for _, ch := range []chan *chunk{f.order, f.jobs} {
				select {
				case ch <- c:
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

// fetch fills a chunk. A broken or stalled download goes on at the byte it
// reached; only attempts in a row that bring nothing count against the limit.
func (f *fetcher) fetch(ctx context.Context, c *chunk) error {
	c.buf = f.buffer(c.n)
	for got, failed := 0, 0; ; {
		n, err := f.read(ctx, c, got)
		if got += n; got == len(c.buf) {
			return nil
		}
		if n > 0 {
			failed = 0
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist), IsPermanent(err), failed == len(f.knobs.retryDelays):
			return c.file.fail(fmt.Errorf("at byte %d of %d: %w", c.offset+int64(got), c.file.size, err))
		}
		if err := wait(ctx, f.knobs.retryDelays[failed]); err != nil {
			return err
		}
		failed++
	}
}

// read makes one request for what a chunk still lacks.
func (f *fetcher) read(ctx context.Context, c *chunk, got int) (n int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(f.knobs.stall, func() {
		cancel(fmt.Errorf("%w for %s", errStalled, f.knobs.stall))
	})
	defer stall.Stop()

	p := c.buf[got:]
	rc, err := c.file.open(ctx, c.offset+int64(got), int64(len(p)))
	if err != nil {
		return 0, stallCause(ctx, err)
	}
	// A reader that waits without looking at ctx is woken by closing it.
	unblock := context.AfterFunc(ctx, func() { _ = rc.Close() })
	defer func() {
		if unblock() {
			err = errors.Join(err, rc.Close())
		}
	}()
	for n < len(p) {
		m, err := rc.Read(p[n:])
		n += m
		if m > 0 {
			stall.Reset(f.knobs.stall)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && n < len(p) {
			return n, stallCause(ctx, err)
		}
	}
	return n, nil
}

// stallCause returns why ctx was canceled, or err if it was not.
func stallCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// buffer returns n bytes; those near a whole chunk come from the pool.
func (f *fetcher) buffer(n int64) []byte {
	if n < f.knobs.chunkBytes/8 {
		return make([]byte, n)
	}
	if p, ok := f.pool.Get().(*[]byte); ok {
		return (*p)[:n]
	}
	return make([]byte, n, f.knobs.chunkBytes)
}

// release gives a chunk's buffer back. Nothing may refer to it any more.
func (f *fetcher) release(c *chunk) {
	if int64(cap(c.buf)) == f.knobs.chunkBytes {
		f.pool.Put(&c.buf)
	}
}

// wait returns after d, or earlier with the cause if ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// inputReader reads one file from the chunks that a fetcher hands out.
type inputReader struct {
	ctx    context.Context // of the run; an inputReader lives inside one call
	f      *fetcher
	size   int64 // of the file
	cur    *chunk
	rest   []byte // of cur, not read yet
	offset int64  // bytes handed out
	p      *progress
}

// fill makes rest non-empty, or returns io.EOF at the end of the file.
func (r *inputReader) fill() error {
	for len(r.rest) == 0 {
		r.close()
		if r.offset == r.size {
			return io.EOF
		}
		var c *chunk
		select {
		case c = <-r.f.order:
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
		select {
		case <-c.done:
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		}
		if c.err != nil {
			return c.err
		}
		r.cur, r.rest = c, c.buf
		r.p.bytes.Add(c.n)
	}
	return nil
}

// close gives the current chunk's buffer back.
func (r *inputReader) close() {
	if r.cur != nil {
		r.f.release(r.cur)
		r.cur, r.rest = nil, nil
	}
}

// Read implements io.Reader for the decoder of legacy frames.
func (r *inputReader) Read(p []byte) (int, error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	r.offset += int64(n)
	return n, nil
}

// ReadByte implements io.ByteReader for the page index.
func (r *inputReader) ReadByte() (byte, error) {
	if len(r.rest) == 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	r.offset++
	return b, nil
}

// readFull fills p. The end of the file is io.ErrUnexpectedEOF: a caller asks
// only for what must be there.
func (r *inputReader) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := r.Read(p)
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}
