package wal_test

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/benbjohnson/litestream/internal/wal"
)

// synth writes logs byte by byte: either byte order, any salts, any order of
// writing. Its checksum is written from the file format's text, apart from the
// one under test.
type synth struct {
	b        []byte
	pageSize int
	big      bool
	s1, s2   uint32
	sum      [2]uint32
	off      int
}

func newSynth(pageSize int, big bool) *synth {
	s := &synth{pageSize: pageSize, big: big}
	s.header(0, 100, 200)
	return s
}

// header begins a lineage: what lies behind the header stays.
func (s *synth) header(seq, s1, s2 uint32) {
	h := make([]byte, 32)
	magic := uint32(0x377f0682)
	if s.big {
		magic++
	}
	for i, v := range []uint32{magic, 3007000, uint32(s.pageSize), seq, s1, s2} {
		binary.BigEndian.PutUint32(h[4*i:], v)
	}
	s.s1, s.s2, s.sum, s.off = s1, s2, s.chain([2]uint32{}, h[:24]), 32
	binary.BigEndian.PutUint32(h[24:], s.sum[0])
	binary.BigEndian.PutUint32(h[28:], s.sum[1])
	s.put(0, h)
}

func (s *synth) chain(sum [2]uint32, b []byte) [2]uint32 {
	order := binary.ByteOrder(binary.LittleEndian)
	if s.big {
		order = binary.BigEndian
	}
	for i := 0; i < len(b); i += 8 {
		sum[0] += order.Uint32(b[i:]) + sum[1]
		sum[1] += order.Uint32(b[i+4:]) + sum[0]
	}
	return sum
}

func (s *synth) put(off int, p []byte) {
	if n := off + len(p); n > len(s.b) {
		s.b = append(s.b, make([]byte, n-len(s.b))...)
	}
	copy(s.b[off:], p)
}

// frame writes the next frame of the chain. commit is 0 inside a transaction.
func (s *synth) frame(pgno, commit uint32, page []byte) *synth {
	f := make([]byte, 24, 24+s.pageSize)
	binary.BigEndian.PutUint32(f[0:], pgno)
	binary.BigEndian.PutUint32(f[4:], commit)
	binary.BigEndian.PutUint32(f[8:], s.s1)
	binary.BigEndian.PutUint32(f[12:], s.s2)
	s.sum = s.chain(s.chain(s.sum, f[:8]), page)
	binary.BigEndian.PutUint32(f[16:], s.sum[0])
	binary.BigEndian.PutUint32(f[20:], s.sum[1])
	s.put(s.off, append(f, page...))
	s.off += 24 + s.pageSize
	return s
}

// page is a page's content, told apart by its number and a version.
func (s *synth) page(pgno uint32, v byte) []byte {
	p := make([]byte, s.pageSize)
	for i := range p {
		p[i] = byte(i)*7 ^ v ^ byte(pgno)<<3
	}
	return p
}

// spill writes the frames of pages in version v, without a commit.
func (s *synth) spill(v byte, pages ...uint32) *synth {
	for _, n := range pages {
		s.frame(n, 0, s.page(n, v))
	}
	return s
}

// tx writes a transaction of pages in version v that leaves size pages.
func (s *synth) tx(size uint32, v byte, pages ...uint32) *synth {
	last := len(pages) - 1
	s.spill(v, pages[:last]...)
	return s.frame(pages[last], size, s.page(pages[last], v))
}

// mark and back let a writer overwrite what it wrote: mark is a place in the
// chain, back goes on from there.
func (s *synth) mark() synth { return synth{sum: s.sum, off: s.off, s1: s.s1, s2: s.s2} }

func (s *synth) back(m synth) { s.sum, s.off, s.s1, s.s2 = m.sum, m.off, m.s1, m.s2 }

// frameAt is the offset of the nth frame from the log's beginning.
func (s *synth) frameAt(n int) int { return 32 + n*(24+s.pageSize) }

// world is a database made of a synthetic log and a main file in memory.
type world struct {
	t    testing.TB
	log  *synth
	path string
	main []byte
	src  wal.Source
	opt  wal.Options
}

const worldPages = 10

// newWorld begins with a main file of ten pages of version 0 and a log of
// three transactions. The last of them has two frames; the cursor of a copy
// stands behind it.
func newWorld(tb testing.TB, big bool) *world {
	tb.Helper()
	w := &world{t: tb, log: newSynth(512, big), path: filepath.Join(tb.TempDir(), "db-wal")}
	for n := uint32(1); n <= worldPages; n++ {
		w.main = append(w.main, w.log.page(n, 0)...)
	}
	w.log.tx(10, 1, 1, 2).tx(10, 1, 3).tx(10, 1, 4, 5)
	w.src = wal.Source{
		Path: w.path, BootID: [16]byte{1}, Pages: w,
		Main: wal.Print{ID: wal.FileID{Dev: 1, Ino: 2}, Size: int64(len(w.main)), Mtime: 1, Ctime: 1},
	}
	return w
}

// ReadAt reads the main file.
func (w *world) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(w.main)) {
		return 0, io.EOF
	}
	n := copy(p, w.main[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// checkpoint puts pages of version v into the main file.
func (w *world) checkpoint(v byte, pages ...uint32) {
	for _, n := range pages {
		copy(w.main[int(n-1)*w.log.pageSize:], w.log.page(n, v))
	}
}

func (w *world) save() {
	w.t.Helper()
	if err := os.WriteFile(w.path, w.log.b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// cursor saves the log and returns the cursor behind it.
func (w *world) cursor() wal.Cursor {
	w.t.Helper()
	w.save()
	c, err := wal.CopyLog(w.path, uint32(w.log.pageSize), w.opt)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Frames.Close()
	size := c.Frames.Commit
	if size == 0 {
		size = worldPages
	}
	return c.Cursor(w.src.BootID, w.src.Main, true, size)
}

// tail saves the log and looks at it from the cursor.
func (w *world) tail(cur wal.Cursor) wal.Result {
	w.t.Helper()
	w.save()
	return w.look(cur)
}

// look looks at what lies there from the cursor.
func (w *world) look(cur wal.Cursor) wal.Result {
	w.t.Helper()
	res, err := wal.Tail(cur, w.src, w.opt)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { res.Frames.Close() })
	return res
}
