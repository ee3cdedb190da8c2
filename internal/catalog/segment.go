// Package catalog is the format of the list of all databases that a multi-db
// replica keeps beside them (docs/formats/catalog.md): segments of entries in
// the order of their paths, and a head that names the segments in force. It
// does no I/O.
package catalog

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Version is that of heads and segments that this package writes, and the
// newest that it reads.
const Version = 1

// Limits of what is written, and of what is accepted.
const (
	MaxPathBytes    = 1 << 13 // of a database, and of a replica
	maxSegmentBytes = 900 << 10
	maxSegmentRaw   = 8 << 20
	maxOwners       = 1 << 12 // of a segment
	flushRaw        = 64 << 10
)

// Errors of reading.
var (
	// ErrDamaged means that an object is not what was written.
	ErrDamaged = errors.New("catalog is damaged")
	// ErrVersion means that a newer program wrote it.
	ErrVersion = errors.New("catalog is of a newer version")
)

// segmentMagic begins a segment. The version follows it.
const segmentMagic = "LSCATSEG"

// Entry is what is known of one database. Times are in seconds since 1970, 0
// for none.
type Entry struct {
	Path    []byte // of the database, the bytes as the file system had them
	Replica []byte // relative to the folder of all replicas

	TXID     uint64 // newest acknowledged; 0: not known
	SyncedAt int64  // when it was acknowledged
	Earliest int64  // oldest restorable time
	Deleted  int64  // when the file was found deleted
	Proven   int64  // when a drill last proved it
	Size     int64  // of the main file in bytes

	Owner    Owner
	HasOwner bool

	// Removed says that there is no such replica any more. It stands in a layer
	// over others, and has nothing but a path.
	Removed bool
}

// Owner is to whom a file belonged, and who could use it.
type Owner struct {
	Mode     uint32 // as in st_mode, without the type
	UID, GID uint32
}

// Flags of an entry.
const (
	flagRemoved = 1 << iota
	flagEarliest
	flagDeleted
	flagProven
	flagOwner
	flagBlocks // the size counts blocks of 512 bytes
	flagEnd    // there is no entry, but their number
	flagKnown  = 1<<iota - 1
)

const blockBits = 9

// Writer encodes a segment.
type Writer struct {
	out      bytes.Buffer
	deflate  *flate.Writer
	buf      []byte
	raw      int // bytes before compression
	flushed  int // of raw, when out was complete
	n        int
	path     []byte
	replica  []byte
	syncedAt int64
	owners   map[Owner]uint64
}

// NewWriter returns a writer of a segment.
func NewWriter() *Writer {
	w := &Writer{}
	w.deflate, _ = flate.NewWriter(&w.out, flate.DefaultCompression) // fails for other levels only
	w.Reset()
	return w
}

// Reset begins another segment. What Bytes returned is overwritten.
func (w *Writer) Reset() {
	w.out.Reset()
	w.out.WriteString(segmentMagic)
	w.out.WriteByte(Version)
	w.deflate.Reset(&w.out)
	w.raw, w.flushed, w.n, w.syncedAt = 0, 0, 0, 0
	w.path, w.replica = w.path[:0], w.replica[:0]
	w.owners = make(map[Owner]uint64)
}

// Len returns how many entries there are.
func (w *Writer) Len() int { return w.n }

// Full reports whether the segment should be finished: one more entry may not
// fit into an object.
func (w *Writer) Full() bool {
	if w.raw-w.flushed >= flushRaw {
		_ = w.deflate.Flush() // a bytes.Buffer takes everything
		w.flushed = w.raw
	}
	return w.out.Len() >= maxSegmentBytes || w.raw >= maxSegmentRaw-4*MaxPathBytes || len(w.owners) >= maxOwners
}

// Add appends an entry. Its path must come behind that of the entry before it.
func (w *Writer) Add(e *Entry) error {
	if len(e.Path) > MaxPathBytes || len(e.Replica) > MaxPathBytes || len(e.Path) == 0 {
		return fmt.Errorf("add to catalog: paths of %d and %d bytes", len(e.Path), len(e.Replica))
	}
	if w.n > 0 && bytes.Compare(w.path, e.Path) >= 0 {
		return fmt.Errorf("add to catalog: %q does not come behind %q", e.Path, w.path)
	}
	w.buf = w.append(w.buf[:0], e)
	w.path = append(w.path[:0], e.Path...)
	if !e.Removed {
		w.replica = append(w.replica[:0], e.Replica...)
		w.syncedAt = e.SyncedAt
	}
	w.n++
	w.raw += len(w.buf)
	_, err := w.deflate.Write(w.buf)
	return err
}

func (w *Writer) append(b []byte, e *Entry) []byte {
	b = appendShared(append(b, e.flags()), w.path, e.Path)
	if e.Removed {
		return b
	}
	b = appendShared(b, w.replica, e.Replica)
	b = binary.AppendUvarint(b, e.TXID)
	b = binary.AppendVarint(b, e.SyncedAt-w.syncedAt)
	size := uint64(max(e.Size, 0))
	if size&(1<<blockBits-1) == 0 {
		size >>= blockBits
	}
	b = binary.AppendUvarint(b, size)
	for _, at := range [...]int64{e.Earliest, e.Deleted, e.Proven} {
		if at != 0 {
			b = binary.AppendVarint(b, e.SyncedAt-at)
		}
	}
	if !e.HasOwner {
		return b
	}
	i, known := w.owners[e.Owner]
	if known {
		return binary.AppendUvarint(b, i)
	}
	i = uint64(len(w.owners))
	w.owners[e.Owner] = i
	b = binary.AppendUvarint(b, i)
	for _, v := range [...]uint32{e.Owner.Mode, e.Owner.UID, e.Owner.GID} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

func (e *Entry) flags() (f byte) {
	if e.Removed {
		return flagRemoved
	}
	set := func(flag byte, on bool) {
		if on {
			f |= flag
		}
	}
	set(flagEarliest, e.Earliest != 0)
	set(flagDeleted, e.Deleted != 0)
	set(flagProven, e.Proven != 0)
	set(flagOwner, e.HasOwner)
	set(flagBlocks, max(e.Size, 0)&(1<<blockBits-1) == 0)
	return f
}

// appendShared appends s as what it shares with the one before it, and the rest.
func appendShared(b, before, s []byte) []byte {
	n := 0
	for n < len(s) && n < len(before) && s[n] == before[n] {
		n++
	}
	b = binary.AppendUvarint(b, uint64(n))
	b = binary.AppendUvarint(b, uint64(len(s)-n))
	return append(b, s[n:]...)
}

// Bytes finishes the segment and returns it. It is valid until Reset.
func (w *Writer) Bytes() ([]byte, error) {
	b := binary.AppendUvarint([]byte{flagEnd}, uint64(w.n))
	if _, err := w.deflate.Write(b); err != nil {
		return nil, err
	}
	if err := w.deflate.Close(); err != nil {
		return nil, err
	}
	return w.out.Bytes(), nil
}

// Reader decodes a segment. What it holds of it in memory is bounded.
type Reader struct {
	r      *bufio.Reader
	entry  Entry
	n      uint64
	owners []Owner
	done   bool
}

// NewReader returns a reader of a segment that Writer.Bytes returned.
func NewReader(segment []byte) (*Reader, error) {
	rest, ok := bytes.CutPrefix(segment, []byte(segmentMagic))
	if !ok || len(rest) == 0 {
		return nil, fmt.Errorf("%w: it is no segment", ErrDamaged)
	}
	if rest[0] > Version {
		return nil, fmt.Errorf("%w: segment of version %d, up to %d can be read", ErrVersion, rest[0], Version)
	} else if rest[0] == 0 {
		return nil, fmt.Errorf("%w: version 0", ErrDamaged)
	}
	raw := io.LimitReader(flate.NewReader(bytes.NewReader(rest[1:])), maxSegmentRaw)
	return &Reader{r: bufio.NewReader(raw)}, nil
}

// Next returns the next entry, which is valid until the next call, or io.EOF.
// Other errors are ErrDamaged.
func (r *Reader) Next() (*Entry, error) {
	if r.done {
		return nil, io.EOF
	}
	end, err := r.next()
	if err == nil && end {
		r.done = true
		return nil, io.EOF
	}
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it ends too early")
		}
		return nil, fmt.Errorf("%w: entry %d: %w", ErrDamaged, r.n, err)
	}
	r.n++
	return &r.entry, nil
}

func (r *Reader) next() (end bool, err error) {
	flags, err := r.r.ReadByte()
	if err != nil {
		return false, err
	}
	if flags == flagEnd {
		n, err := binary.ReadUvarint(r.r)
		if err == nil && n != r.n {
			err = fmt.Errorf("there should be %d", n)
		}
		if err != nil {
			return true, err
		}
		if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return true, errors.New("it does not end where it should")
		}
		return true, nil
	}
	if flags&^flagKnown != 0 || flags&flagEnd != 0 || flags&flagRemoved != 0 && flags != flagRemoved {
		return false, fmt.Errorf("flags %#x", flags)
	}
	e := &r.entry
	if ascends, err := r.shared(&e.Path); err != nil {
		return false, err
	} else if !ascends {
		return false, errors.New("paths do not ascend")
	}
	e.Removed = flags&flagRemoved != 0
	if e.Removed {
		return false, nil
	}
	return false, r.fields(e, flags)
}

// fields reads what follows the path.
func (r *Reader) fields(e *Entry, flags byte) (err error) {
	if _, err = r.shared(&e.Replica); err != nil {
		return err
	}
	if e.TXID, err = binary.ReadUvarint(r.r); err != nil {
		return err
	}
	d, err := binary.ReadVarint(r.r)
	if err != nil {
		return err
	}
	e.SyncedAt += d
	size, err := binary.ReadUvarint(r.r)
	if err != nil {
		return err
	}
	if flags&flagBlocks != 0 {
		size <<= blockBits
	}
	if e.Size = int64(size); e.Size < 0 {
		return errors.New("size is out of range")
	}
	for _, f := range [...]struct {
		flag byte
		at   *int64
	}{{flagEarliest, &e.Earliest}, {flagDeleted, &e.Deleted}, {flagProven, &e.Proven}} {
		*f.at = 0
		if flags&f.flag != 0 {
			if d, err = binary.ReadVarint(r.r); err != nil {
				return err
			}
			*f.at = e.SyncedAt - d
		}
	}
	e.HasOwner = flags&flagOwner != 0
	e.Owner = Owner{}
	if e.HasOwner {
		e.Owner, err = r.owner()
	}
	return err
}

func (r *Reader) owner() (o Owner, err error) {
	i, err := binary.ReadUvarint(r.r)
	if err != nil {
		return o, err
	}
	if i < uint64(len(r.owners)) {
		return r.owners[i], nil
	}
	if i > uint64(len(r.owners)) || i >= maxOwners {
		return o, fmt.Errorf("owner %d of %d", i, len(r.owners))
	}
	for _, v := range [...]*uint32{&o.Mode, &o.UID, &o.GID} {
		n, err := binary.ReadUvarint(r.r)
		if err != nil {
			return o, err
		}
		if *v = uint32(n); uint64(*v) != n {
			return o, errors.New("owner is out of range")
		}
	}
	r.owners = append(r.owners, o)
	return o, nil
}

// shared replaces s, which is that of the entry before, and reports whether it
// comes behind that.
func (r *Reader) shared(s *[]byte) (ascends bool, err error) {
	n, err := binary.ReadUvarint(r.r)
	if err != nil {
		return false, err
	}
	m, err := binary.ReadUvarint(r.r)
	if err != nil {
		return false, err
	}
	old := uint64(len(*s))
	if n > old || m > MaxPathBytes || n+m > MaxPathBytes {
		return false, fmt.Errorf("path shares %d bytes of %d, and has %d more", n, old, m)
	}
	var replaced byte
	if n < old {
		replaced = (*s)[n]
	}
	*s = slices.Grow((*s)[:n], int(m))[:n+m]
	if _, err := io.ReadFull(r.r, (*s)[n:]); err != nil {
		return false, err
	}
	return m > 0 && (n == old || (*s)[n] > replaced), nil
}
