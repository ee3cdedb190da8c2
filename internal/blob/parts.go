package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// MaxParts is the most parts that an object may have.
const MaxParts = 10000

// growEvery is the number of parts after which the parts of a stream grow by
// another part size: 5 MiB parts lead to 525 GB instead of 50.
const growEvery = 500

// Parts cuts a source into the parts of an upload. Next is called by one
// goroutine, Release by any.
type Parts interface {
	// Next returns the next part, or io.EOF after the last. Parts that were
	// released may be overwritten.
	Next() (part io.ReadSeeker, err error)
	// Release gives a part back that was sent.
	Release(part io.ReadSeeker)
}

// SectionParts are parts of what can be read at any place.
type SectionParts struct {
	section       *io.SectionReader
	off, partSize int64
}

// NewSectionParts cuts a section into parts of partSize bytes, or larger ones
// where there would be too many.
func NewSectionParts(section *io.SectionReader, partSize int64) *SectionParts {
	if least := (section.Size() + MaxParts - 1) / MaxParts; partSize < least {
		partSize = least
	}
	return &SectionParts{section: section, partSize: partSize}
}

// Next returns a section of its own for each part.
func (sp *SectionParts) Next() (io.ReadSeeker, error) {
	n := min(sp.partSize, sp.section.Size()-sp.off)
	if n <= 0 {
		return nil, io.EOF
	}
	part := io.NewSectionReader(sp.section, sp.off, n)
	sp.off += n
	return part, nil
}

// Release does nothing: no part is held in memory.
func (sp *SectionParts) Release(io.ReadSeeker) {}

// StreamParts are parts of a stream, each in a buffer of its own. The buffers
// go round, so that there are as many as parts in flight.
type StreamParts struct {
	Reader   io.Reader
	First    []byte // the part that was read already; nil once it was sent
	PartSize int64  // bytes
	Equal    bool   // the service wants parts of equal size

	N int64 // bytes read so far

	count int // parts made

	mu   sync.Mutex // guards free
	free []*streamPart
}

type streamPart struct {
	bytes.Reader
	buf []byte
}

// Next reads a part of the stream.
func (sp *StreamParts) Next() (io.ReadSeeker, error) {
	sp.count++
	if sp.First != nil {
		part := &streamPart{buf: sp.First}
		part.Reset(part.buf)
		sp.First, sp.N = nil, int64(len(part.buf))
		return part, nil
	}
	size := sp.PartSize
	if !sp.Equal {
		size *= int64(1 + (sp.count-1)/growEvery)
	}
	part := sp.buffer(size)
	n, err := io.ReadFull(sp.Reader, part.buf)
	sp.N += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("read file: %w", err)
	}
	part.Reset(part.buf[:n])
	return part, nil
}

func (sp *StreamParts) buffer(size int64) *streamPart {
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

// Release keeps the part's buffer for a later one.
func (sp *StreamParts) Release(part io.ReadSeeker) {
	if p, ok := part.(*streamPart); ok {
		sp.mu.Lock()
		sp.free = append(sp.free, p)
		sp.mu.Unlock()
	}
}

// SendParts reads parts in order and calls send for up to concurrency of them
// at a time; the first has number 1. It returns the first error, when all that
// it started have ended.
func SendParts(ctx context.Context, parts Parts, concurrency int, send func(ctx context.Context, number int, part io.ReadSeeker) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	var wg sync.WaitGroup
	slots := make(chan struct{}, concurrency)
	for number := 1; ; number++ {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		part, err := parts.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && number > MaxParts {
			err = fmt.Errorf("object has more than %d parts: raise part-size", MaxParts)
		}
		if err != nil {
			cancel(err)
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := send(ctx, number, part); err != nil {
				cancel(err)
				return
			}
			parts.Release(part)
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
