// Package sqlitebtree reads the b-trees of a SQLite database without SQLite:
// to which table, index or list each page belongs, and which rows two states of
// a database do not share (SQLite documentation, "Database File Format").
//
// What it reads may be damaged. It never panics, never loops and allocates
// nothing that the file does not hold: what does not fit is told as a problem.
package sqlitebtree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	headerSize = 100     // of a database, in front of the first page's own
	lockByte   = 1 << 30 // the page that holds it has no content
	minUsable  = 480     // bytes of a page, as SQLite demands
	maxDepth   = 20      // of a b-tree (SQLite, BTCURSOR_MAX_DEPTH)
	magic      = "SQLite format 3\x00"
)

// ErrFormat means that a file is no SQLite database.
var ErrFormat = errors.New("file is not a SQLite database")

// damage is an error about the content of a database.
type damage string

// Error says what is wrong.
func (d damage) Error() string { return string(d) }

func damagef(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// A File is one state of a database, which nobody changes meanwhile.
type File struct {
	r          io.ReaderAt
	pageSize   int
	usable     int // bytes of a page that hold something
	pageN      uint32
	lock       uint32 // number of the lock page, which may be behind the end
	autoVacuum bool
	utf16      binary.ByteOrder // of text; nil: UTF-8
	freeTrunk  uint32           // first page of the freelist
}

// Open reads the header of a database of size bytes.
func Open(r io.ReaderAt, size int64) (*File, error) {
	var h [headerSize]byte
	if _, err := r.ReadAt(h[:], 0); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: only %d bytes", ErrFormat, size)
	} else if err != nil {
		return nil, fmt.Errorf("read database header: %w", err)
	}
	if string(h[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: no header string (encrypted, or another format)", ErrFormat)
	}
	f := &File{r: r, pageSize: int(binary.BigEndian.Uint16(h[16:]))}
	if f.pageSize == 1 {
		f.pageSize = 65536
	}
	f.usable = f.pageSize - int(h[20])
	if f.pageSize < 512 || f.pageSize&(f.pageSize-1) != 0 || f.usable < minUsable {
		return nil, fmt.Errorf("%w: page size %d with %d reserved", ErrFormat, f.pageSize, h[20])
	}
	n := size / int64(f.pageSize)
	if n < 1 || n > 0xfffffffe || size%int64(f.pageSize) != 0 {
		return nil, fmt.Errorf("%w: %d bytes in pages of %d", ErrFormat, size, f.pageSize)
	}
	f.pageN, f.lock = uint32(n), uint32(lockByte/f.pageSize)+1
	f.freeTrunk = binary.BigEndian.Uint32(h[32:])
	f.autoVacuum = binary.BigEndian.Uint32(h[52:]) != 0
	switch binary.BigEndian.Uint32(h[56:]) {
	case 2:
		f.utf16 = binary.LittleEndian
	case 3:
		f.utf16 = binary.BigEndian
	}
	return f, nil
}

// PageSize returns the bytes of a page.
func (f *File) PageSize() int { return f.pageSize }

// PageN returns how many pages there are.
func (f *File) PageN() uint32 { return f.pageN }

// readAt reads a part of a page.
func (f *File) readAt(b []byte, pgno uint32, offset int) error {
	if _, err := f.r.ReadAt(b, int64(pgno-1)*int64(f.pageSize)+int64(offset)); err != nil {
		return fmt.Errorf("read page %d: %w", pgno, err)
	}
	return nil
}

// isPtrMap reports whether a page maps pages to their parents, as those of a
// database with auto_vacuum do (file format, section 1.8; SQLite,
// ptrmapPageno).
func (f *File) isPtrMap(pgno uint32) bool {
	if !f.autoVacuum || pgno < 2 {
		return false
	}
	perMap := uint32(f.usable/5) + 1
	first := (pgno-2)/perMap*perMap + 2
	if first == f.lock {
		first++
	}
	return pgno == first
}

// Types of b-tree pages.
const (
	indexInterior = 2
	tableInterior = 5
	indexLeaf     = 10
	tableLeaf     = 13
)

// node is a page of a b-tree.
type node struct {
	file  *File
	pgno  uint32
	data  []byte // the usable bytes
	kind  byte
	n     int // cells
	ptrs  int // offset of the cell pointers
	right uint32
}

// node reads a page of a b-tree into buf, which holds a page.
func (f *File) node(pgno uint32, buf []byte) (node, error) {
	if err := f.readAt(buf, pgno, 0); err != nil {
		return node{}, err
	}
	nd := node{file: f, pgno: pgno, data: buf[:f.usable]}
	at := 0
	if pgno == 1 {
		at = headerSize
	}
	nd.kind = buf[at]
	switch nd.kind {
	case indexLeaf, tableLeaf:
		nd.ptrs = at + 8
	case indexInterior, tableInterior:
		nd.ptrs = at + 12
		nd.right = binary.BigEndian.Uint32(buf[at+8:])
	default:
		return node{}, damagef("page %d is no b-tree page: type %d", pgno, nd.kind)
	}
	nd.n = int(binary.BigEndian.Uint16(buf[at+3:]))
	if nd.ptrs+2*nd.n > f.usable {
		return node{}, damagef("page %d has %d cells, which do not fit", pgno, nd.n)
	}
	return nd, nil
}

func (nd *node) isLeaf() bool  { return nd.kind == indexLeaf || nd.kind == tableLeaf }
func (nd *node) isIndex() bool { return nd.kind == indexLeaf || nd.kind == indexInterior }

// child returns the number of the i-th child of an interior page; the n-th is
// the rightmost.
func (nd *node) child(i int) (uint32, error) {
	if i == nd.n {
		return nd.right, nil
	}
	b, err := nd.cellBytes(i)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

// cellBytes returns what lies from the i-th cell on, at least 4 bytes.
func (nd *node) cellBytes(i int) ([]byte, error) {
	at := int(binary.BigEndian.Uint16(nd.data[nd.ptrs+2*i:]))
	if at < nd.ptrs+2*nd.n || at+4 > len(nd.data) {
		return nil, damagef("cell %d of page %d is at byte %d", i, nd.pgno, at)
	}
	return nd.data[at:], nil
}

// cell is an entry of a b-tree page. local is a part of the page.
type cell struct {
	rowid    int64 // of tables with rowids
	size     int64 // bytes of the payload
	local    []byte
	overflow uint32 // first page of the rest; 0: there is none
}

// cell decodes the i-th cell of a page, which is a leaf or of an index.
func (nd *node) cell(i int) (cell, error) {
	b, err := nd.cellBytes(i)
	if err != nil {
		return cell{}, err
	}
	if nd.kind == indexInterior {
		b = b[4:]
	}
	var c cell
	size, n := varint(b)
	if n == 0 || size > uint64(nd.file.pageN)*uint64(nd.file.usable) {
		return cell{}, damagef("cell %d of page %d has %d bytes", i, nd.pgno, size)
	}
	b, c.size = b[n:], int64(size)
	if nd.kind == tableLeaf {
		rowid, n := varint(b)
		if n == 0 {
			return cell{}, damagef("cell %d of page %d is cut off", i, nd.pgno)
		}
		b, c.rowid = b[n:], int64(rowid)
	}
	local := nd.file.localBytes(c.size, nd.kind == tableLeaf)
	rest := 0
	if int64(local) < c.size {
		rest = 4
	}
	if len(b) < local+rest {
		return cell{}, damagef("cell %d of page %d is cut off", i, nd.pgno)
	}
	c.local = b[:local]
	if rest > 0 {
		c.overflow = binary.BigEndian.Uint32(b[local:])
	}
	return c, nil
}

// localBytes returns how many bytes of a payload lie in the b-tree page (file
// format, section 1.6).
func (f *File) localBytes(size int64, table bool) int {
	most := (f.usable-12)*64/255 - 23
	if table {
		most = f.usable - 35
	}
	if size <= int64(most) {
		return int(size)
	}
	least := (f.usable-12)*32/255 - 23
	if n := least + int((size-int64(least))%int64(f.usable-4)); n <= most {
		return n
	}
	return least
}

// eachOverflow calls fn with the pages of a cell that holds only a part of its
// payload, until fn returns an error.
func (f *File) eachOverflow(c cell, fn func(pgno uint32) error) error {
	pgno := c.overflow
	for left := c.size - int64(len(c.local)); left > 0; left -= int64(f.usable - 4) {
		if err := f.checkPgno(pgno); err != nil {
			return err
		}
		if err := fn(pgno); err != nil {
			return err
		}
		var b [4]byte
		if err := f.readAt(b[:], pgno, 0); err != nil {
			return err
		}
		pgno = binary.BigEndian.Uint32(b[:])
	}
	return nil
}

func (f *File) checkPgno(pgno uint32) error {
	if pgno == 0 || pgno > f.pageN {
		return damagef("there is no page %d, the last is %d", pgno, f.pageN)
	}
	return nil
}

// payloadReader reads the payload of a cell.
type payloadReader struct {
	f     *File
	local []byte
	left  int64  // behind local
	next  uint32 // overflow page
	at    int    // byte in it
}

func (f *File) payload(c cell) *payloadReader {
	return &payloadReader{f: f, local: c.local, left: c.size - int64(len(c.local)), next: c.overflow, at: 4}
}

// Read implements io.Reader.
func (p *payloadReader) Read(b []byte) (int, error) {
	switch {
	case len(b) == 0:
		return 0, nil
	case len(p.local) > 0:
		n := copy(b, p.local)
		p.local = p.local[n:]
		return n, nil
	case p.left == 0:
		return 0, io.EOF
	}
	if err := p.f.checkPgno(p.next); err != nil {
		return 0, err
	}
	n := int(min(int64(len(b)), p.left, int64(p.f.usable-p.at)))
	if err := p.f.readAt(b[:n], p.next, p.at); err != nil {
		return 0, err
	}
	p.left -= int64(n)
	if p.at += n; p.at == p.f.usable {
		var next [4]byte
		if err := p.f.readAt(next[:], p.next, 0); err != nil {
			return n, err
		}
		p.next, p.at = binary.BigEndian.Uint32(next[:]), 4
	}
	return n, nil
}

// varint decodes a number of SQLite's; n is 0 if it is cut off.
func varint(b []byte) (v uint64, n int) {
	for i := range 8 {
		if i == len(b) {
			return 0, 0
		}
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	if len(b) < 9 {
		return 0, 0
	}
	return v<<8 | uint64(b[8]), 9
}
