package wal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/wal"
)

func TestParseHeader(t *testing.T) {
	for _, big := range []bool{false, true} {
		for size := 512; size <= 65536; size *= 2 {
			s := newSynth(size, big)
			s.header(7, 0xFFFFFFFE, 3)
			h, err := wal.ParseHeader(s.b)
			if err != nil {
				t.Fatalf("size=%d big=%v: %v", size, big, err)
			}
			want := wal.Header{
				Raw: [32]byte(s.b), BigEndian: big, PageSize: uint32(size),
				Seq: 7, Salt1: 0xFFFFFFFE, Salt2: 3, Sum: s.sum,
			}
			if h != want {
				t.Errorf("size=%d big=%v:\n%s", size, big, cmp.Diff(want, h))
			}
			if h.IsZero() || h.FrameSize() != int64(size)+24 {
				t.Errorf("IsZero=%v FrameSize=%d", h.IsZero(), h.FrameSize())
			}
		}
	}
}

func TestParseHeader_Invalid(t *testing.T) {
	fix := func(b []byte) { // make the checksum hold, so that only one thing is wrong
		sum := (&synth{}).chain([2]uint32{}, b[:24])
		binary.BigEndian.PutUint32(b[24:], sum[0])
		binary.BigEndian.PutUint32(b[28:], sum[1])
	}
	pageSize := func(n uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[8:], n)
			fix(b)
			return b
		}
	}
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"short", func(b []byte) []byte { return b[:31] }},
		{"zeros", func([]byte) []byte { return make([]byte, 32) }},
		{"magic", func(b []byte) []byte { b[0]++; fix(b); return b }},
		{"other byte order", func(b []byte) []byte { b[3] ^= 1; return b }},
		{"version", func(b []byte) []byte { b[7]++; fix(b); return b }},
		{"page size 0", pageSize(0)},
		{"page size 1", pageSize(1)},
		{"page size 256", pageSize(256)},
		{"page size 513", pageSize(513)},
		{"page size 131072", pageSize(131072)},
		{"sequence", func(b []byte) []byte { b[15]++; return b }},
		{"salt", func(b []byte) []byte { b[16]++; return b }},
		{"checksum 1", func(b []byte) []byte { b[27]++; return b }},
		{"checksum 2", func(b []byte) []byte { b[31]++; return b }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.change(bytes.Clone(newSynth(4096, false).b))
			if _, err := wal.ParseHeader(b); !errors.Is(err, wal.ErrNoHeader) {
				t.Errorf("err=%v, want ErrNoHeader", err)
			}
		})
	}
}

func TestParseFrameHeader(t *testing.T) {
	s := newSynth(512, false)
	s.header(0, 11, 12)
	s.tx(9, 1, 5)
	got := wal.ParseFrameHeader(s.b[32:])
	want := wal.FrameHeader{Pgno: 5, Commit: 9, Salt1: 11, Salt2: 12, Sum: s.sum}
	if got != want {
		t.Error(cmp.Diff(want, got))
	}
}

func TestCopyLog(t *testing.T) {
	for _, big := range []bool{false, true} {
		t.Run(fmt.Sprintf("big=%v", big), func(t *testing.T) {
			w := newWorld(t, big)
			w.log.tx(12, 2, 11, 12, 3).tx(9, 3, 1).tx(11, 4, 10, 11).spill(5, 1, 2)
			w.save()
			c, err := wal.CopyLog(w.path, 512, w.opt)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Frames.Close()
			f := c.Frames
			if got, want := describe(w, f), "1=3 2=1 3=2 4=1 5=1 10=4 11=4"; got != want {
				t.Errorf("pages=%q, want %q", got, want)
			}
			type numbers struct {
				Commit, MinCommit, LastPgno uint32
				CommitN, Len                int
				FrameN, First, Last         int64
				End, ChainEnd, FileSize     int64
				Stop                        wal.Stop
			}
			got := numbers{
				f.Commit, f.MinCommit, f.LastPgno, f.CommitN, f.Len(), f.FrameN, f.First.Offset, f.Last.Offset,
				f.End, f.ChainEnd, c.FileSize, f.Stop,
			}
			want := numbers{
				11, 9, 11, 6, 7, 11, frame(9, 512), frame(10, 512),
				frame(11, 512), frame(13, 512), frame(13, 512), wal.StopEOF,
			}
			if got != want {
				t.Error(cmp.Diff(want, got))
			}
			if f.Has(12) || !f.Has(11) {
				t.Errorf("Has(12)=%v Has(11)=%v, want false and true", f.Has(12), f.Has(11))
			}
			if ok, err := f.ReadPage(12, make([]byte, 512)); ok || err != nil {
				t.Errorf("ReadPage(12)=%v, %v, want false", ok, err)
			}
		})
	}
}

func TestCopyLog_NoContent(t *testing.T) {
	for _, tt := range []struct {
		name   string
		log    []byte
		header bool
	}{
		{"empty", nil, false},
		{"short", make([]byte, 31), false},
		{"zeros", make([]byte, 4096), false},
		{"header only", newSynth(512, false).b, true},
		{"uncommitted", newSynth(512, false).spill(1, 1, 2).b, true},
		{"torn", newSynth(512, false).tx(1, 1, 1).b[:567], true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db-wal")
			if err := os.WriteFile(path, tt.log, 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := wal.CopyLog(path, 512, wal.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if c.Frames.CommitN != 0 || c.Frames.Len() != 0 || c.Header.IsZero() == tt.header {
				t.Errorf("commits=%d pages=%d header=%v", c.Frames.CommitN, c.Frames.Len(), !c.Header.IsZero())
			}
			main := wal.Print{ID: wal.FileID{Ino: 3}, Mtime: 5}
			want := wal.Cursor{BootID: [16]byte{9}, Main: main.ID, PageSize: 512, Commit: 4, MainPrint: main, MainTrusted: true}
			cur := c.Cursor([16]byte{9}, main, true, 4)
			if cur != want || cur.HasFrames() || cur.IsZero() || cur.End() != 0 {
				t.Error(cmp.Diff(want, cur))
			}
			if err := errors.Join(c.Frames.Close(), c.Frames.Close()); err != nil {
				t.Errorf("close twice: %v", err)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		c, err := wal.CopyLog(filepath.Join(t.TempDir(), "db-wal"), 512, wal.Options{})
		if err != nil || c.Frames == nil || c.Frames.CommitN != 0 {
			t.Errorf("copy=%+v err=%v, want an empty one", c, err)
		}
	})
}

func TestCopyLog_Errors(t *testing.T) {
	t.Run("page size", func(t *testing.T) {
		w := newWorld(t, false)
		w.save()
		if _, err := wal.CopyLog(w.path, 1024, w.opt); !errors.Is(err, wal.ErrMoved) {
			t.Errorf("err=%v, want ErrMoved", err)
		}
	})
	t.Run("restarted", func(t *testing.T) {
		w := newWorld(t, false)
		w.save()
		opt := w.opt.WithHook(func(string) {
			w.log.header(1, 7, 8)
			w.save()
		})
		if _, err := wal.CopyLog(w.path, 512, opt); !errors.Is(err, wal.ErrMoved) {
			t.Errorf("err=%v, want ErrMoved", err)
		}
	})
	t.Run("emptied", func(t *testing.T) {
		w := newWorld(t, false)
		w.save()
		opt := w.opt.WithHook(func(string) {
			if err := os.Truncate(w.path, 0); err != nil {
				t.Error(err)
			}
		})
		if _, err := wal.CopyLog(w.path, 512, opt); !errors.Is(err, wal.ErrMoved) {
			t.Errorf("err=%v, want ErrMoved", err)
		}
	})
	t.Run("no folder for the spool", func(t *testing.T) {
		w := newWorld(t, false)
		w.save()
		opt := wal.Options{SpoolMemory: 512, SpoolDir: filepath.Join(t.TempDir(), "gone")}
		if _, err := wal.CopyLog(w.path, 512, opt); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("err=%v, want not-exist", err)
		}
		if _, err := wal.Tail(wal.Cursor{}, w.src, opt); err != nil {
			t.Errorf("tail without a cursor: %v", err)
		}
		w2 := newWorld(t, false)
		cur := w2.cursor()
		w2.log.tx(10, 2, 3, 4)
		w2.save()
		if res, err := wal.Tail(cur, w2.src, opt); !errors.Is(err, os.ErrNotExist) || res.Frames != nil {
			t.Errorf("tail: err=%v, want not-exist", err)
		}
	})
}

// TestCopyLog_Spool moves pages from memory to a file at every possible
// place. The uncommitted frames behind the last commit are dropped from
// either, and what a later lineage adds lands in the right slots.
func TestCopyLog_Spool(t *testing.T) {
	for pages := 1; pages <= 14; pages++ {
		for uncommitted := range 6 {
			w := newWorld(t, false)
			w.log.tx(10, 2, 6, 7, 8)
			for i := range uncommitted {
				w.log.spill(3, uint32(i+1))
			}
			w.opt = wal.Options{SpoolMemory: pages * 512, SpoolDir: t.TempDir()}
			w.save()
			c, err := wal.CopyLog(w.path, 512, w.opt)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := describe(w, c.Frames), "1=1 2=1 3=1 4=1 5=1 6=2 7=2 8=2"; got != want {
				t.Errorf("memory for %d pages, %d uncommitted: pages=%q, want %q", pages, uncommitted, got, want)
			}
			if got, want := c.Frames.SpoolFile(), 8+uncommitted > pages; got != want {
				t.Errorf("memory for %d pages, %d uncommitted: file=%v, want %v", pages, uncommitted, got, want)
			}
			if names, err := os.ReadDir(w.opt.SpoolDir); err != nil || len(names) != 0 {
				t.Errorf("spool folder holds %v, err=%v, want nothing", names, err)
			}
			if err := c.Frames.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestTail_Spool is the same for a copy of two lineages.
func TestTail_Spool(t *testing.T) {
	for pages := 1; pages <= 12; pages++ {
		w := newWorld(t, false)
		w.log.tx(10, 1, 6, 7, 8, 9)
		stale(w)
		cur := w.cursor()
		w.log.tx(10, 2, 7, 8).spill(3, 1, 2, 3)
		w.checkpoint(1, 6, 7, 8, 9)
		w.checkpoint(2, 7, 8)
		restart(w)
		w.log.tx(10, 4, 8).spill(5, 1)
		w.opt = wal.Options{SpoolMemory: pages * 512, SpoolDir: t.TempDir()}
		res := w.tail(cur)
		if got, want := describe(w, res.Frames), "7=2 8=4"; res.Reason != "" || got != want {
			t.Errorf("memory for %d pages: reason=%q pages=%q, want %q", pages, res.Reason, got, want)
		}
	}
}

// TestTail_Limit walks a log in looks of every size: no transaction is split,
// and all of them together are what one look sees.
func TestTail_Limit(t *testing.T) {
	for limit := int64(134); limit <= frame(12, 512); limit += 134 {
		w := newWorld(t, false)
		cur := w.cursor()
		w.log.tx(10, 2, 1).tx(10, 3, 2, 3, 4).tx(10, 4, 5, 6).tx(10, 5, 7).tx(10, 6, 8, 9).spill(7, 10)
		w.opt.Limit = limit
		var commits int
		for {
			start := cur.End()
			res := w.tail(cur)
			if res.Reason != "" {
				t.Fatalf("limit=%d: reason=%q", limit, res.Reason)
			}
			if res.Frames == nil {
				break
			}
			fh := wal.ParseFrameHeader(w.log.b[res.Cursor.Last.Offset:])
			if fh.Commit == 0 || res.Cursor.End() != res.Frames.End {
				t.Errorf("limit=%d: cursor is not behind a commit", limit)
			}
			// The last transaction alone may pass the limit.
			if over := res.Cursor.First.Offset - start; over >= limit {
				t.Errorf("limit=%d: %d bytes were captured before the last transaction", limit, over)
			}
			if got := res.Cursor.End() - start; res.More && got < limit {
				t.Errorf("limit=%d: stopped after %d bytes", limit, got)
			}
			if got := res.Cursor.End() - start; got < limit && res.Cursor.End() != frame(14, 512) {
				t.Errorf("limit=%d: stopped early, after %d bytes", limit, got)
			}
			if before := res.Cursor.First.Offset - start; before == limit {
				t.Errorf("limit=%d: went on past a commit at the limit", limit)
			}
			if last := res.Cursor.End() == frame(14, 512); last && !res.More && res.Uncommitted != frame(1, 512)-32 {
				t.Errorf("limit=%d: uncommitted=%d", limit, res.Uncommitted)
			}
			commits += res.Frames.CommitN
			cur = res.Cursor
		}
		if commits != 5 || cur.End() != frame(14, 512) {
			t.Errorf("limit=%d: %d commits up to %d, want 5 up to %d", limit, commits, cur.End(), frame(14, 512))
		}
	}
}

// TestTail_LimitAtRestart has no limit: one look takes both lineages.
func TestTail_LimitAtRestart(t *testing.T) {
	w := newWorld(t, false)
	stale(w)
	cur := w.cursor()
	w.log.tx(10, 2, 7).tx(10, 2, 8)
	w.checkpoint(2, 7, 8)
	restart(w)
	w.log.tx(10, 3, 6).tx(10, 3, 9)
	w.opt.Limit = 1
	res := w.tail(cur)
	if got, want := describe(w, res.Frames), "6=3 7=2 8=2 9=3"; got != want || res.More {
		t.Errorf("reason=%q pages=%q more=%v, want %q", res.Reason, got, res.More, want)
	}
}

func TestEndAt(t *testing.T) {
	w := newWorld(t, false)
	w.save()
	for n := range 6 {
		for _, extra := range []int64{0, 1} {
			end := frame(n, 512) + extra
			c, err := wal.CopyLog(w.path, 512, wal.Options{EndAt: end})
			if err != nil {
				t.Fatal(err)
			}
			// Frames that begin in front of the end are looked at; of those
			// only whole transactions count.
			frames := int64(n) + extra
			want := map[int64]int64{0: 0, 1: 0, 2: 2, 3: 3, 4: 3, 5: 5, 6: 5}[frames]
			if c.Frames.FrameN != want {
				t.Errorf("end=%d: %d frames, want %d", end, c.Frames.FrameN, want)
			}
			if stop := c.Frames.Stop; frames < 5 && stop != wal.StopLimit {
				t.Errorf("end=%d: stop=%v, want StopLimit", end, stop)
			}
		}
	}
}

// TestStop tells apart the ways in which a chain ends.
func TestStop(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(s *synth)
		want   wal.Stop
	}{
		{"end of file", func(*synth) {}, wal.StopEOF},
		{"inside a frame header", func(s *synth) { s.put(len(s.b), make([]byte, 23)) }, wal.StopShort},
		{"inside a page", func(s *synth) { s.put(len(s.b), make([]byte, 535)) }, wal.StopShort},
		{"zeros", func(s *synth) { s.put(len(s.b), make([]byte, 536)) }, wal.StopMismatch},
		{"cut", func(s *synth) { s.b = s.b[:len(s.b)-536] }, wal.StopEOF},
		{"many frames", func(s *synth) {
			for range 1000 {
				s.tx(10, 3, 4)
			}
		}, wal.StopEOF},
		{"many frames and a part", func(s *synth) {
			for range 1000 {
				s.tx(10, 3, 4)
			}
			s.put(len(s.b), []byte{1})
		}, wal.StopShort},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, false)
			tt.change(w.log)
			w.save()
			c, err := wal.CopyLog(w.path, 512, w.opt)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Frames.Close()
			if c.Frames.Stop != tt.want {
				t.Errorf("stop=%v, want %v", c.Frames.Stop, tt.want)
			}
		})
	}
}

// TestCopyLog_SQLite compares copies with what SQLite itself reads, at each
// page size, with spilled and rolled back transactions in the log.
func TestCopyLog_SQLite(t *testing.T) {
	for size := 512; size <= 65536; size *= 2 {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			d := newDatabase(t)
			c := d.open(walMode(size)...)
			c.exec("PRAGMA auto_vacuum=incremental", "VACUUM", "CREATE TABLE t(id INTEGER PRIMARY KEY, b)", "PRAGMA cache_size=2")
			fill := fmt.Sprintf("INSERT INTO t(b) SELECT randomblob(%d) FROM generate", size/3)
			with := "WITH RECURSIVE generate(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM generate WHERE n<40) "
			for _, opt := range []wal.Options{{}, {SpoolMemory: 3 * size, SpoolDir: t.TempDir()}} {
				c.exec(with+fill, "BEGIN", with+fill, "ROLLBACK", "DELETE FROM t WHERE id%3=0")
				d.take(opt).check(c)
				c.exec("PRAGMA incremental_vacuum(5)")
				d.take(opt).check(c)
				c.exec(with+fill, "PRAGMA wal_checkpoint(PASSIVE)", with+fill)
				d.take(opt).check(c)
				c.exec("PRAGMA wal_checkpoint(TRUNCATE)")
				d.take(opt).check(c)
			}
		})
	}
}

// TestCopyLog_CLI reads what another build of SQLite wrote and left behind.
func TestCopyLog_CLI(t *testing.T) {
	cli, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("no sqlite3 command")
	}
	d := newDatabase(t)
	c := d.open(walMode(1024)...) // keeps the log when the command exits
	c.exec("CREATE TABLE t(b)")
	p := d.take(wal.Options{})
	for i := range 3 {
		script := fmt.Sprintf("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(randomblob(5000)); UPDATE t SET b=randomblob(%d);", 4000+i)
		if out, err := exec.Command(cli, d.path, script).CombinedOutput(); err != nil {
			t.Fatalf("sqlite3: %v: %s", err, out)
		}
		if reason := d.tail(p, wal.Options{}); reason != "" {
			t.Fatalf("reason=%q", reason)
		}
		p.check(c)
		d.take(wal.Options{}).check(c)
	}
}
