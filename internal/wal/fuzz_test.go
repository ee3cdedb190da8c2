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

// FuzzScan reads arbitrary logs from their beginning and from arbitrary
// cursors. fix makes the input's header valid, so that the scan goes on.
func FuzzScan(f *testing.F) {
	w := newWorld(f, false)
	stale(w)
	old := w.cursor()
	restart(w)
	w.log.tx(10, 2, 6)
	cur, err := old.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	empty, err := (&wal.Cursor{PageSize: 512, MainTrusted: true}).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(w.log.b, cur, false, uint16(0))
	f.Add(w.log.b, empty, false, uint16(600))
	f.Add(newSynth(512, true).tx(3, 1, 1, 2, 3).tx(1, 1, 1).b, cur, true, uint16(1))
	f.Add([]byte{}, []byte{}, true, uint16(0))
	path := filepath.Join(f.TempDir(), "db-wal")
	f.Fuzz(func(t *testing.T, log, cursor []byte, fix bool, limit uint16) {
		if fix && len(log) >= wal.HeaderSize {
			s := newSynth(512, log[3]&1 == 1)
			s.b = bytes.Clone(log)
			s.header(uint32(log[15]), uint32(log[19]), uint32(log[23]))
			log = s.b
		}
		if err := os.WriteFile(path, log, 0o600); err != nil {
			t.Fatal(err)
		}
		opt := wal.Options{Limit: int64(limit), SpoolMemory: 1024, SpoolDir: filepath.Dir(path)}
		c, err := wal.CopyLog(path, 512, opt)
		if err == nil {
			checkFrames(t, c.Frames)
		}
		var cur wal.Cursor
		if cur.UnmarshalBinary(cursor) != nil {
			if c == nil {
				return
			}
			cur = c.Cursor([16]byte{1}, wal.Print{}, true, 10)
		}
		for _, pinned := range []bool{false, true} {
			src := wal.Source{
				Path: path, BootID: cur.BootID, Main: cur.MainPrint,
				Pages: bytes.NewReader(log), Pinned: pinned,
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
	})
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
