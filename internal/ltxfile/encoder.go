package ltxfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/crc64iso"
)

// maxIndexBytes is how much of the page index is held in memory. What goes
// beyond, from some hundred thousand pages on, waits in a temporary file.
const maxIndexBytes = 1 << 20

// errEncoderDone is the answer of an Encoder after Close or Release.
var errEncoderDone = errors.New("ltx encoder is finished")

// An Encoder writes one LTX file, byte for byte as that of package ltx does
// (TestEncoder_LikeLTX). That one takes 150 KB of new memory for each file,
// which is most of what a small database costs; this one borrows it.
// It is not safe for concurrent use.
type Encoder struct {
	w        io.Writer
	hdr      ltx.Header
	lockPgno uint32
	prev     uint32 // page written last
	n        int64  // bytes written
	crc      uint64
	spillDir string
	inMemory int      // bytes of the index that are
	spill    *os.File // index entries before those in memory; has no name
	b        *encoderBuffers
}

// encoderBuffers are the memory that encoders borrow.
type encoderBuffers struct {
	frame []byte // page header, length and compressed page
	index []byte // page index, as the file holds it
}

var encoderBorrows = sync.Pool{New: func() any { return new(encoderBuffers) }}

// NewEncoder writes the header of a file. The page index of a large one goes
// to a file in spillDir on the way. The caller ends it with Release.
func NewEncoder(w io.Writer, hdr ltx.Header, spillDir string) (*Encoder, error) {
	if err := hdr.Validate(); err != nil {
		return nil, err
	}
	head, err := hdr.MarshalBinary()
	if err != nil {
		return nil, err
	}
	e := &Encoder{w: w, hdr: hdr, lockPgno: ltx.LockPgno(hdr.PageSize), spillDir: spillDir, inMemory: maxIndexBytes}
	if err := e.write(head); err != nil {
		return nil, err
	}
	e.b, _ = encoderBorrows.Get().(*encoderBuffers)
	e.b.index = e.b.index[:0]
	if need := frameHeaderBytes + lz4.CompressBlockBound(int(hdr.PageSize)); cap(e.b.frame) < need {
		e.b.frame = make([]byte, need)
	}
	return e, nil
}

// Page writes one page. Pages ascend; those of a file that begins at TXID 1 are
// all pages from 1 on, the lock page left out.
func (e *Encoder) Page(pgno uint32, data []byte) error {
	if e.b == nil {
		return errEncoderDone
	}
	if err := e.checkPage(pgno, data); err != nil {
		return err
	}
	frame := e.b.frame[:cap(e.b.frame)]
	n, err := lz4.CompressBlock(data, frame[frameHeaderBytes:frameHeaderBytes+lz4.CompressBlockBound(len(data))], nil)
	if err != nil {
		return fmt.Errorf("compress page: %w", err)
	} else if n == 0 {
		return errors.New("compress page: no room")
	}
	binary.BigEndian.PutUint32(frame, pgno)
	binary.BigEndian.PutUint16(frame[4:], ltx.PageHeaderFlagSize)
	binary.BigEndian.PutUint32(frame[ltx.PageHeaderSize:], uint32(n))
	e.crc = crc64iso.Update(e.crc, frame[:frameHeaderBytes])
	e.crc = crc64iso.Update(e.crc, data) // of the page as it is
	frame = frame[:frameHeaderBytes+n]
	if err := e.writeRaw(frame); err != nil {
		return err
	}
	b := binary.AppendUvarint(e.b.index, uint64(pgno))
	b = binary.AppendUvarint(b, uint64(e.n-int64(len(frame))))
	e.b.index = binary.AppendUvarint(b, uint64(len(frame)))
	e.prev = pgno
	if len(e.b.index) >= e.inMemory {
		return e.spillIndex()
	}
	return nil
}

func (e *Encoder) checkPage(pgno uint32, data []byte) error {
	switch {
	case len(data) != int(e.hdr.PageSize):
		return fmt.Errorf("page %d has %d bytes, want %d", pgno, len(data), e.hdr.PageSize)
	case pgno == 0, pgno > e.hdr.Commit, pgno == e.lockPgno:
		return fmt.Errorf("page %d cannot be in a file of %d pages", pgno, e.hdr.Commit)
	case pgno <= e.prev:
		return fmt.Errorf("page %d follows page %d", pgno, e.prev)
	}
	next := e.prev + 1
	if next == e.lockPgno {
		next++
	}
	if e.hdr.IsSnapshot() && pgno != next {
		return fmt.Errorf("page %d follows page %d in a whole database", pgno, e.prev)
	}
	return nil
}

// spillIndex moves the index from memory to a file.
func (e *Encoder) spillIndex() error {
	if e.spill == nil {
		f, err := os.CreateTemp(e.spillDir, ".ltx-page-index-*"+TempSuffix)
		if err != nil {
			return fmt.Errorf("spill page index: %w", classify(err))
		}
		e.spill = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("spill page index: %w", err)
		}
	}
	if _, err := e.spill.Write(e.b.index); err != nil {
		return fmt.Errorf("spill page index: %w", classify(err))
	}
	e.b.index = e.b.index[:0]
	return nil
}

// Close ends the file with the database's checksum, or 0 where it carries none.
func (e *Encoder) Close(post ltx.Checksum) error {
	if e.b == nil {
		return errEncoderDone
	}
	if err := e.write(make([]byte, ltx.PageHeaderSize)); err != nil {
		return err
	}
	start := e.n
	if e.spill != nil {
		if err := e.unspillIndex(); err != nil {
			return err
		}
	}
	if err := e.write(append(e.b.index, 0)); err != nil {
		return err
	}
	if err := e.write(binary.BigEndian.AppendUint64(nil, uint64(e.n-start))); err != nil {
		return err
	}
	t := ltx.Trailer{PostApplyChecksum: post}
	var tail [ltx.TrailerSize]byte
	binary.BigEndian.PutUint64(tail[:], uint64(post))
	t.FileChecksum = ltx.ChecksumFlag | ltx.Checksum(crc64iso.Update(e.crc, tail[:ltx.TrailerChecksumOffset]))
	if err := t.Validate(e.hdr); err != nil {
		return err
	}
	binary.BigEndian.PutUint64(tail[ltx.TrailerChecksumOffset:], uint64(t.FileChecksum))
	if err := e.writeRaw(tail[:]); err != nil {
		return err
	}
	e.Release()
	return nil
}

// unspillIndex writes the part of the index that waits in a file.
func (e *Encoder) unspillIndex() error {
	if _, err := e.spill.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read page index: %w", err)
	}
	buf := make([]byte, bufferBytes)
	for {
		n, err := e.spill.Read(buf)
		if err := e.write(buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read page index: %w", err)
		}
	}
}

// Release gives back what the encoder holds. It may follow Close, and be called
// again.
func (e *Encoder) Release() {
	if e.b == nil {
		return
	}
	encoderBorrows.Put(e.b)
	e.b = nil
	if e.spill != nil {
		// It has no name any more, and nobody needs what is in it.
		_ = e.spill.Close()
		e.spill = nil
	}
}

// PageChecksum returns LTX's checksum of a page, the same as ltx.ChecksumPage.
func PageChecksum(pgno uint32, page []byte) ltx.Checksum {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], pgno)
	return ltx.ChecksumFlag | ltx.Checksum(crc64iso.Update(crc64iso.Update(0, b[:]), page))
}

// write writes bytes that the file's checksum covers.
func (e *Encoder) write(p []byte) error {
	e.crc = crc64iso.Update(e.crc, p)
	return e.writeRaw(p)
}

func (e *Encoder) writeRaw(p []byte) error {
	n, err := e.w.Write(p)
	e.n += int64(n)
	return err
}
