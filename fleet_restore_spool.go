package litestream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/superfly/ltx"
)

// fleetSpool holds the entries of a fleet restore in a temporary file without a
// name, one record after the other: its length and its fields.
type fleetSpool struct {
	f    *os.File
	w    *bufio.Writer
	size int64
	buf  []byte
}

func newFleetSpool() (*fleetSpool, error) {
	f, err := os.CreateTemp("", "litestream-restore-*")
	if err != nil {
		return nil, fmt.Errorf("create list of databases: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("create list of databases: %w", err), f.Close())
	}
	return &fleetSpool{f: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

// append adds an entry and returns its place. It can be read after a flush.
func (s *fleetSpool) append(e *FleetRestoreEntry) (int64, error) {
	s.buf = appendFleetEntry(append(s.buf[:0], 0, 0, 0, 0), e)
	binary.BigEndian.PutUint32(s.buf, uint32(len(s.buf)-4))
	off := s.size
	if _, err := s.w.Write(s.buf); err != nil {
		return 0, fmt.Errorf("write list of databases: %w", err)
	}
	s.size += int64(len(s.buf))
	return off, nil
}

func (s *fleetSpool) flush() error {
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("write list of databases: %w", err)
	}
	return nil
}

// read returns the entry at a place. It is safe for concurrent use.
func (s *fleetSpool) read(off int64) (*FleetRestoreEntry, error) {
	head := make([]byte, 512)
	n, err := s.f.ReadAt(head, off)
	if n < 4 {
		return nil, fmt.Errorf("read list of databases: %w", err)
	}
	size := int(binary.BigEndian.Uint32(head))
	data := head[4:n]
	if size > len(data) {
		data = make([]byte, size)
		if _, err := s.f.ReadAt(data, off+4); err != nil {
			return nil, fmt.Errorf("read list of databases: %w", err)
		}
	}
	e, err := readFleetEntry(data[:size])
	if err != nil {
		return nil, fmt.Errorf("read list of databases: %w", err)
	}
	return e, nil
}

// Close ends the file.
func (s *fleetSpool) Close() error { return s.f.Close() }

const (
	fleetEntryHasOwner = 1 << iota
	fleetEntryForeign
)

func appendFleetEntry(b []byte, e *FleetRestoreEntry) []byte {
	var flags byte
	if e.HasOwner {
		flags |= fleetEntryHasOwner
	}
	if e.Foreign {
		flags |= fleetEntryForeign
	}
	b = append(b, flags)
	for _, s := range []string{e.Path, e.Replica, e.Problem} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, v := range []int64{
		int64(e.TXID), fleetMillis(e.SyncedAt), fleetMillis(e.DeletedAt), e.Size, int64(e.Mode), int64(e.UID), int64(e.GID),
	} {
		b = binary.AppendVarint(b, v)
	}
	return b
}

func readFleetEntry(b []byte) (*FleetRestoreEntry, error) {
	if len(b) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	e := &FleetRestoreEntry{HasOwner: b[0]&fleetEntryHasOwner != 0, Foreign: b[0]&fleetEntryForeign != 0}
	b = b[1:]
	for _, s := range []*string{&e.Path, &e.Replica, &e.Problem} {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > uint64(len(b)-k) {
			return nil, io.ErrUnexpectedEOF
		}
		*s, b = string(b[k:k+int(n)]), b[k+int(n):]
	}
	var v [7]int64
	for i := range v {
		n, k := binary.Varint(b)
		if k <= 0 {
			return nil, io.ErrUnexpectedEOF
		}
		v[i], b = n, b[k:]
	}
	e.TXID, e.SyncedAt, e.DeletedAt, e.Size = ltx.TXID(v[0]), fleetTime(v[1]), fleetTime(v[2]), v[3]
	e.Mode, e.UID, e.GID = fs.FileMode(v[4]), int(v[5]), int(v[6])
	return e, nil
}

// fleetMillis and fleetTime keep a time to the millisecond, as LTX files do.
func fleetMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fleetTime(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
