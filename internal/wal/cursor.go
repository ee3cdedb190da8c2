package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// FileID identifies a file while it exists (device and inode). A number may be
// reused after deletion, so equality proves nothing by itself.
type FileID struct {
	Dev, Ino uint64
}

// Print is what stat tells of a file. Two prints that differ in any field mean
// that the file was touched in between; equal prints mean that it was not, if
// both were older than the clock margin when they were taken.
type Print struct {
	ID    FileID
	Size  int64
	Mtime int64 // nanoseconds since the epoch
	Ctime int64
}

// A Cursor is the place up to which a log has been captured, with all that is
// needed to prove later that nothing in between was missed (docs/ARCHITECTURE.md,
// "Tail"). The zero Cursor continues nothing.
type Cursor struct {
	BootID   [16]byte // of the machine's boot in which it was taken
	Main     FileID   // of the main file
	PageSize uint32
	Commit   uint32 // database size in pages

	// The log, if it had committed frames. Header is zero otherwise.
	Header   [HeaderSize]byte
	First    FramePos // first frame of the last captured transaction
	Last     FramePos // its commit frame
	LastPgno uint32   // page of that commit frame
	FileSize int64    // of the log when the cursor was taken

	// Without committed frames the main file alone is the database.
	MainPrint   Print
	MainTrusted bool // MainPrint was older than the clock margin when taken
}

// HasFrames reports whether the cursor stands behind a commit in a log.
func (c *Cursor) HasFrames() bool { return c.Header != [HeaderSize]byte{} }

// IsZero reports whether the cursor stands nowhere.
func (c *Cursor) IsZero() bool { return c.PageSize == 0 }

// End returns the offset behind the last captured frame, or 0.
func (c *Cursor) End() int64 {
	if !c.HasFrames() {
		return 0
	}
	return c.Last.Offset + FrameHeaderSize + int64(c.PageSize)
}

// Salts returns the salts of the captured lineage, or zeros.
func (c *Cursor) Salts() (salt1, salt2 uint32) {
	return binary.BigEndian.Uint32(c.Header[16:]), binary.BigEndian.Uint32(c.Header[20:])
}

// cursorSize is the length of an encoded cursor: a version byte and the fields
// in order, big-endian.
const (
	cursorVersion = 1
	cursorSize    = 1 + 16 + 16 + 4 + 4 + HeaderSize + 16 + 16 + 4 + 8 + 40 + 1
)

// ErrBadCursor means that an encoded cursor is of another version or damaged.
var ErrBadCursor = errors.New("invalid wal cursor")

// MarshalBinary encodes the cursor for the page ledger (docs/formats/ledger.md).
func (c *Cursor) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, cursorSize)
	b = append(b, cursorVersion)
	b = append(b, c.BootID[:]...)
	b = appendID(b, c.Main)
	b = binary.BigEndian.AppendUint32(b, c.PageSize)
	b = binary.BigEndian.AppendUint32(b, c.Commit)
	b = append(b, c.Header[:]...)
	b = appendPos(b, c.First)
	b = appendPos(b, c.Last)
	b = binary.BigEndian.AppendUint32(b, c.LastPgno)
	b = binary.BigEndian.AppendUint64(b, uint64(c.FileSize))
	b = appendID(b, c.MainPrint.ID)
	b = binary.BigEndian.AppendUint64(b, uint64(c.MainPrint.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(c.MainPrint.Mtime))
	b = binary.BigEndian.AppendUint64(b, uint64(c.MainPrint.Ctime))
	if c.MainTrusted {
		return append(b, 1), nil
	}
	return append(b, 0), nil
}

// UnmarshalBinary decodes a cursor. Errors wrap ErrBadCursor.
func (c *Cursor) UnmarshalBinary(b []byte) error {
	if len(b) != cursorSize || b[0] != cursorVersion || b[cursorSize-1] > 1 {
		return fmt.Errorf("%w: %d bytes", ErrBadCursor, len(b))
	}
	d := decoder{b: b[1:]}
	copy(c.BootID[:], d.take(16))
	c.Main = d.id()
	c.PageSize, c.Commit = d.u32(), d.u32()
	copy(c.Header[:], d.take(HeaderSize))
	c.First, c.Last = d.pos(), d.pos()
	c.LastPgno, c.FileSize = d.u32(), int64(d.u64())
	c.MainPrint = Print{ID: d.id(), Size: int64(d.u64()), Mtime: int64(d.u64()), Ctime: int64(d.u64())}
	c.MainTrusted = d.take(1)[0] == 1
	return nil
}

func appendID(b []byte, id FileID) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, id.Dev), id.Ino)
}

func appendPos(b []byte, p FramePos) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(p.Offset))
	b = binary.BigEndian.AppendUint32(b, p.Sum[0])
	return binary.BigEndian.AppendUint32(b, p.Sum[1])
}

// decoder takes fixed-size fields from a slice whose length was checked.
type decoder struct{ b []byte }

func (d *decoder) take(n int) []byte {
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}
func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) id() FileID  { return FileID{Dev: d.u64(), Ino: d.u64()} }
func (d *decoder) pos() FramePos {
	return FramePos{Offset: int64(d.u64()), Sum: Checksum{d.u32(), d.u32()}}
}

// readHeader reads and checks the log's header.
func readHeader(r io.ReaderAt) (Header, error) {
	var b [HeaderSize]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, fmt.Errorf("read wal header: %w", err)
	}
	return ParseHeader(b[:n])
}

// liesAt reports whether a frame of the lineage lies where it was captured:
// same salts, same stored checksum.
func liesAt(r io.ReaderAt, salt1, salt2 uint32, p FramePos) (bool, error) {
	var b [FrameHeaderSize]byte
	if n, err := r.ReadAt(b[:], p.Offset); err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read wal frame: %w", err)
	} else if n < len(b) {
		return false, nil
	}
	fh := ParseFrameHeader(b[:])
	return fh.Salt1 == salt1 && fh.Salt2 == salt2 && fh.Sum == p.Sum, nil
}
