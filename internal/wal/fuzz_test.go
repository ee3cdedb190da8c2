package wal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/benbjohnson/litestream/internal/wal"
)

func FuzzParseHeader(f *testing.F) {
	f.Add(newSynth(512, false).b)
	f.Add(newSynth(65536, true).b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := wal.ParseHeader(b)
		if err != nil {
			if !errors.Is(err, wal.ErrNoHeader) {
				t.Errorf("err=%v, want ErrNoHeader", err)
			}
			return
		}
		if h.PageSize < 512 || h.PageSize > 65536 || !bytes.Equal(h.Raw[:], b[:wal.HeaderSize]) {
			t.Errorf("header=%+v", h)
		}
	})
}

func FuzzCursor(f *testing.F) {
	w := newWorld(f, true)
	cur := w.cursor()
	b, err := cur.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c wal.Cursor
		if err := c.UnmarshalBinary(b); err != nil {
			if !errors.Is(err, wal.ErrBadCursor) {
				t.Errorf("err=%v, want ErrBadCursor", err)
			}
			return
		}
		again, err := c.MarshalBinary()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("err=%v: %x became %x", err, b, again)
		}
		c.End()
		c.Salts()
	})
}

// FuzzScan reads logs that a program of one byte per step wrote, whole and
// from two cursors: one taken half way through the program, and the same with
// a byte changed. (Raw logs of some kilobytes would keep the fuzzer minimizing.)
func FuzzScan(f *testing.F) {
	f.Add([]byte{9, 17, 10, 25, 33, 26, 3, 9, 18}, uint16(0x0155), uint16(0), false)
	f.Add([]byte{8, 10, 8, 10, 4, 10, 3, 11, 10, 70, 6}, uint16(0x8060), uint16(600), true)
	f.Add([]byte{}, uint16(0), uint16(0), false)
	path := filepath.Join(f.TempDir(), "db-wal")
	f.Fuzz(func(t *testing.T, program []byte, harm, limit uint16, big bool) {
		program = program[:min(len(program), 40)]
		log := newSynth(512, big)
		opt := wal.Options{Limit: int64(limit), SpoolMemory: 1024, SpoolDir: filepath.Dir(path)}
		half := len(program) / 2
		for _, op := range program[:half] {
			log.step(op)
		}
		cursors := []wal.Cursor{readLog(t, path, log, opt), {}}
		encoded, err := cursors[0].MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		encoded[int(harm&0xff)%len(encoded)] ^= byte(harm >> 8)
		for _, op := range program[half:] {
			log.step(op)
		}
		readLog(t, path, log, opt)
		if cursors[1].UnmarshalBinary(encoded) != nil {
			cursors = cursors[:1]
		}
		for _, cur := range cursors {
			for _, pinned := range []bool{false, true} {
				src := wal.Source{
					Path: path, BootID: cur.BootID, Main: cur.MainPrint,
					Pages: bytes.NewReader(make([]byte, 4096)), Pinned: pinned,
				}
				src.Main.ID = cur.Main
				res, err := wal.Tail(cur, src, opt)
				if (err != nil || res.Reason != "") && res.Frames != nil {
					t.Error("frames beside a reason or an error")
				}
				if res.Frames != nil {
					checkFrames(t, res.Frames)
				}
			}
		}
	})
}

// step does what one byte says to a log.
func (s *synth) step(op byte) {
	arg := int(op >> 3)
	at := min(s.frameAt(arg%12), len(s.b))
	switch op & 7 {
	case 0:
		s.spill(op, uint32(1+arg%12))
	case 1:
		s.tx(uint32(1+arg%16), op, uint32(1+arg%12))
	case 2:
		s.tx(uint32(4+arg%9), op, uint32(1+arg%3), uint32(1+arg%12))
	case 3:
		s.header(uint32(arg), s.s1+uint32(1-arg/8), s.s2+uint32(arg%8))
	case 4: // write again from an earlier frame on, in the chain
		if at > 32 && at+24 <= len(s.b) {
			s.sum, s.off = [2]uint32(wal.ParseFrameHeader(s.b[at-536:]).Sum), at
		}
	case 5:
		if len(s.b) > 0 {
			s.b[(arg*397+arg)%len(s.b)]++
		}
	case 6:
		s.b = s.b[:max(0, at-arg/12*11)]
	case 7:
		clear(s.b[at:min(at+100, len(s.b))])
	}
}

// readLog saves a log, copies it and returns the cursor behind it.
func readLog(t *testing.T, path string, log *synth, opt wal.Options) wal.Cursor {
	t.Helper()
	if err := os.WriteFile(path, log.b, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := wal.CopyLog(path, 512, opt)
	if err != nil {
		t.Fatal(err)
	}
	checkFrames(t, c.Frames)
	return c.Cursor([16]byte{1}, wal.Print{ID: wal.FileID{Ino: 1}}, true, max(1, c.Frames.Commit))
}

// checkFrames wants every page that a copy names to be readable and inside
// the database, and closes it.
func checkFrames(t *testing.T, f *wal.Frames) {
	t.Helper()
	buf := make([]byte, f.PageSize)
	for _, n := range f.Pages() {
		if ok, err := f.ReadPage(n, buf); !ok || err != nil || n == 0 || n > f.Commit {
			t.Errorf("page %d of %d: ok=%v err=%v", n, f.Commit, ok, err)
		}
	}
	if f.MinCommit > f.Commit || f.End > f.ChainEnd || int64(f.Len()) > f.FrameN {
		t.Errorf("frames=%+v", f)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
