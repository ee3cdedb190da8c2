package wal

import (
	"errors"
	"fmt"
	"io"
)

// A Stream reads a log from its beginning, without seeking, and hands out its
// transactions one after the other: each when its commit frame has been
// verified. What lies behind the last commit is never handed out. It is not
// safe for concurrent use.
type Stream struct {
	r      io.Reader
	header Header
	sum    Checksum
	frame  []byte
	spool  spool    // pages of the transaction
	pgnos  []uint32 // their numbers, in the order of the spool
	commit uint32
	end    int64
	chain  int64
	stop   Stop
	done   bool
}

// NewStream reads the log's header. An invalid one is an error that wraps
// ErrNoHeader. Of the options only those of the spool count. r must return
// io.EOF, not wrapped, at the end of the log and nowhere else.
func NewStream(r io.Reader, opt Options) (*Stream, error) {
	b := make([]byte, HeaderSize)
	n, err := readUp(r, b)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h, err := ParseHeader(b[:n])
	if err != nil {
		return nil, err
	}
	return &Stream{
		r: r, header: h, sum: h.Sum, frame: make([]byte, h.FrameSize()),
		spool: spool{dir: opt.SpoolDir, memory: opt.SpoolMemory},
		end:   HeaderSize, chain: HeaderSize,
	}, nil
}

// readUp fills p unless the end or an error comes first.
func readUp(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	if n == len(p) {
		return n, nil // an error comes again
	}
	return n, err
}

// Header returns the log's header.
func (s *Stream) Header() Header { return s.header }

// Next reads the next transaction and returns the size of the database behind
// it, in pages. It returns io.EOF behind the last one; Stop, End and ChainEnd
// then tell what the log holds behind it.
func (s *Stream) Next() (commit uint32, err error) {
	s.spool.truncate(0)
	s.pgnos, s.commit = s.pgnos[:0], 0
	for !s.done {
		n, err := readUp(s.r, s.frame)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		fh := FrameHeader{}
		if n == len(s.frame) {
			fh = ParseFrameHeader(s.frame)
		}
		switch {
		case n == 0:
			s.done, s.stop = true, StopEOF
		case n < len(s.frame):
			s.done, s.stop = true, StopShort
		case !s.header.continues(s.sum, fh, s.frame):
			s.done, s.stop = true, StopMismatch
		}
		if s.done {
			break
		}
		if err := s.spool.append(s.frame[FrameHeaderSize:]); err != nil {
			return 0, fmt.Errorf("copy wal frame: %w", err)
		}
		s.pgnos = append(s.pgnos, fh.Pgno)
		s.sum = fh.Sum
		s.chain += int64(n)
		if fh.Commit != 0 {
			s.commit, s.end = fh.Commit, s.chain
			return fh.Commit, nil
		}
	}
	s.pgnos = s.pgnos[:0]
	return 0, io.EOF
}

// Pages calls fn for each page of the transaction that Next returned, in the
// order of its frames: a page that was written twice comes twice, and the
// later one counts. The page is valid during the call.
func (s *Stream) Pages(fn func(pgno uint32, page []byte) error) error {
	page := s.frame[FrameHeaderSize:]
	for i, pgno := range s.pgnos {
		if err := s.spool.readAt(page, int64(i)*int64(len(page))); err != nil {
			return err
		}
		if err := fn(pgno, page); err != nil {
			return err
		}
	}
	return nil
}

// Stop tells why there is no further transaction.
func (s *Stream) Stop() Stop { return s.stop }

// End returns the offset behind the last commit frame.
func (s *Stream) End() int64 { return s.end }

// ChainEnd returns the offset behind the last frame that continues the chain,
// committed or not.
func (s *Stream) ChainEnd() int64 { return s.chain }

// Close frees what holds the transaction. It may be called twice.
func (s *Stream) Close() error { return s.spool.close() }
