package wal

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
)

// A FramePos is where a frame lies in the log and the cumulative checksum
// stored in it.
type FramePos struct {
	Offset int64
	Sum    Checksum
}

// Stop tells why a chain of frames ended.
type Stop int

// The reasons, from the harmless to the doubtful.
const (
	StopLimit    Stop = iota // enough was read; more may follow
	StopMismatch             // a complete frame lies there and does not continue the chain
	StopEOF                  // the file ends exactly behind a frame
	StopShort                // the file ends inside a frame
)

// Options bound what a scan of the log may use.
type Options struct {
	// Limit ends a scan at the first commit at or past this many bytes of
	// frames; 0 is no limit. A transaction is never split.
	Limit int64
	// EndAt ends a scan in front of frames that begin at or behind this
	// offset; 0 is no end.
	EndAt int64
	// SpoolMemory is how many bytes of pages are held in memory before they
	// are moved to a temporary file in SpoolDir. The default is 1 MiB.
	SpoolMemory int
	// SpoolDir is the folder of that file; it is unlinked when created.
	SpoolDir string

	hook func(step string) // called between the reads of a look, by tests
}

// did tells tests that a step of a look is done.
func (opt *Options) did(step string) {
	if opt.hook != nil {
		opt.hook(step)
	}
}

// Frames is a verified copy of the committed frames of one or two stretches of
// a log: for each page the newest one. It is not safe for concurrent use.
type Frames struct {
	PageSize  uint32
	Commit    uint32   // database size in pages after the last commit; 0 if there is none
	MinCommit uint32   // smallest database size after any commit in it
	CommitN   int      // number of commits
	FrameN    int64    // number of committed frames
	First     FramePos // first frame of the last transaction
	Last      FramePos // its commit frame
	LastPgno  uint32   // page of that commit frame
	End       int64    // offset behind that commit frame
	ChainEnd  int64    // offset behind the last frame that continues the chain, committed or not
	Stop      Stop     // why the chain ended there

	index map[uint32]int64 // page → slot of its newest committed copy
	spool spool
}

// Len returns the number of distinct pages.
func (f *Frames) Len() int { return len(f.index) }

// Has reports whether the page is among the committed frames.
func (f *Frames) Has(pgno uint32) bool {
	_, ok := f.index[pgno]
	return ok
}

// grewFrom reports whether the frames hold all pages that a database of size
// pages needs to become theirs. SQLite writes every page that it adds, but the
// one that locks lie on.
func (f *Frames) grewFrom(size uint32) bool {
	lockPage := lockByte/f.PageSize + 1
	for pgno := uint64(size) + 1; pgno <= uint64(f.Commit); pgno++ {
		if uint32(pgno) != lockPage && !f.Has(uint32(pgno)) {
			return false
		}
	}
	return true
}

// lockByte is where SQLite's locks lie; the page that holds it is never
// written (SQLite file format, section 1.3).
const lockByte = 1 << 30

// Pages returns the page numbers in ascending order.
func (f *Frames) Pages() []uint32 { return slices.Sorted(maps.Keys(f.index)) }

// ReadPage copies the newest committed copy of a page into buf, which holds
// exactly one page. It reports false if there is none.
func (f *Frames) ReadPage(pgno uint32, buf []byte) (bool, error) {
	slot, ok := f.index[pgno]
	if !ok {
		return false, nil
	}
	return true, f.spool.readAt(buf, slot*int64(f.PageSize))
}

// Close frees the copy. It may be called twice, and on nil.
func (f *Frames) Close() error {
	if f == nil {
		return nil
	}
	return f.spool.close()
}

// newFrames returns an empty copy that frames can be scanned into.
func newFrames(pageSize uint32, opt Options) *Frames {
	return &Frames{
		PageSize: pageSize,
		index:    make(map[uint32]int64),
		spool:    spool{dir: opt.SpoolDir, memory: opt.SpoolMemory},
	}
}

// scan copies the frames that continue the chain from (off, sum) on, up to the
// last commit. Frames behind the last commit are forgotten; ChainEnd and Stop
// tell where and why the chain ended.
func (f *Frames) scan(r io.ReaderAt, h *Header, off int64, sum Checksum, opt Options) error {
	rd := newFrameReader(r, h, off, sum)
	defer rd.release()
	tx := make(map[uint32]int64)
	var first FramePos
	var txN int64
	start, committed := off, f.spool.size
	f.ChainEnd, f.End = off, off
	for {
		if opt.EndAt > 0 && rd.off >= opt.EndAt {
			f.Stop = StopLimit
			break
		}
		fh, page, stop, err := rd.next()
		if err != nil {
			return err
		}
		if page == nil {
			f.Stop = stop
			break
		}
		slot := f.spool.size / int64(f.PageSize)
		if err := f.spool.append(page); err != nil {
			return fmt.Errorf("copy wal frame: %w", err)
		}
		at := rd.off - h.FrameSize()
		if txN == 0 {
			first = FramePos{Offset: at, Sum: fh.Sum}
		}
		tx[fh.Pgno] = slot
		txN++
		f.ChainEnd = rd.off
		if fh.Commit == 0 {
			continue
		}
		f.commit(tx, fh.Commit)
		f.FrameN += txN
		f.First, f.Last = first, FramePos{Offset: at, Sum: fh.Sum}
		f.LastPgno, f.End, txN = fh.Pgno, rd.off, 0
		committed = f.spool.size
		clear(tx)
		if opt.Limit > 0 && f.End-start >= opt.Limit {
			f.Stop = StopLimit
			break
		}
	}
	f.spool.truncate(committed)
	return nil
}

// commit merges a transaction. Pages above the new size are gone, whoever
// wrote them.
func (f *Frames) commit(tx map[uint32]int64, size uint32) {
	for pgno, slot := range tx {
		if pgno <= size {
			f.index[pgno] = slot
		}
	}
	if f.CommitN == 0 || size < f.MinCommit {
		f.MinCommit = size
	}
	if size < f.Commit {
		maps.DeleteFunc(f.index, func(pgno uint32, _ int64) bool { return pgno > size })
	}
	f.Commit = size
	f.CommitN++
}

// frameReader reads the frames that continue a chain, many at a time.
type frameReader struct {
	r      io.ReaderAt
	h      *Header
	off    int64 // behind the last frame that next returned
	sum    Checksum
	buf    []byte
	have   []byte // unread part of buf
	borrow *[]byte
	reads  int
	eof    bool
}

const readChunk = 128 << 10

// readBuffers are the buffers of readers that were released.
var readBuffers = sync.Pool{New: func() any { b := make([]byte, readChunk); return &b }}

func newFrameReader(r io.ReaderAt, h *Header, off int64, sum Checksum) *frameReader {
	rd := &frameReader{r: r, h: h, off: off, sum: sum}
	rd.borrow, _ = readBuffers.Get().(*[]byte)
	rd.buf = (*rd.borrow)[:0]
	return rd
}

// release gives the buffer back. No page of next is valid any more.
func (rd *frameReader) release() {
	readBuffers.Put(rd.borrow)
	rd.buf, rd.have, rd.borrow = nil, nil, nil
}

// next returns the next frame of the chain. The page is valid until the
// following call; nil means that the chain ended, and why.
func (rd *frameReader) next() (FrameHeader, []byte, Stop, error) {
	size := int(rd.h.FrameSize())
	if len(rd.have) < size && !rd.eof {
		if err := rd.fill(size); err != nil {
			return FrameHeader{}, nil, 0, err
		}
	}
	if len(rd.have) == 0 {
		return FrameHeader{}, nil, StopEOF, nil
	}
	if len(rd.have) < size {
		return FrameHeader{}, nil, StopShort, nil
	}
	b := rd.have[:size]
	fh := ParseFrameHeader(b)
	if !rd.h.continues(rd.sum, fh, b) {
		return FrameHeader{}, nil, StopMismatch, nil
	}
	rd.have, rd.sum, rd.off = rd.have[size:], fh.Sum, rd.off+int64(size)
	return fh, b[FrameHeaderSize:], 0, nil
}

// fill reads on behind what is unread. The first read is a single frame,
// because most looks at a log find nothing new, the next is short, because most
// commits are.
func (rd *frameReader) fill(frame int) error {
	want := frame
	switch rd.reads++; rd.reads {
	case 1:
	case 2:
		want = max(frame, readChunk/8/frame*frame)
	default:
		want = readChunk / frame * frame
	}
	rd.buf = rd.buf[:copy(rd.buf[:cap(rd.buf)], rd.have)]
	n := len(rd.buf)
	rd.buf = rd.buf[:want]
	m, err := rd.r.ReadAt(rd.buf[n:], rd.off+int64(n))
	if errors.Is(err, io.EOF) {
		rd.eof, err = true, nil
	}
	if err != nil {
		return fmt.Errorf("read wal: %w", err)
	}
	rd.buf = rd.buf[:n+m]
	rd.have = rd.buf
	return nil
}
