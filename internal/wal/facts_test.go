package wal_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// The tests of this file hold what docs/ARCHITECTURE.md states about SQLite's
// logs, each with SQLite itself.

func (d *database) logBytes() []byte {
	d.tb.Helper()
	b, err := os.ReadFile(sqlitefile.WALPath(d.path))
	if err != nil {
		d.tb.Fatal(err)
	}
	return b
}

func (d *database) header() wal.Header {
	d.tb.Helper()
	h, err := wal.ParseHeader(d.logBytes())
	if err != nil {
		d.tb.Fatal(err)
	}
	return h
}

// phantom appends a commit frame to the log, behind SQLite's back, as a writer
// leaves it that died before its commit counted. It continues at off, where
// the chain's checksum is sum, and changes one page.
func (d *database) phantom(off int64, sum wal.Checksum, pgno, size uint32, page []byte) {
	d.tb.Helper()
	b := d.logBytes()
	h := d.header()
	s := &synth{b: b, pageSize: len(page), big: h.BigEndian, s1: h.Salt1, s2: h.Salt2, sum: sum, off: int(off)}
	s.frame(pgno, size, page)
	f, err := os.OpenFile(sqlitefile.WALPath(d.path), os.O_WRONLY, 0)
	if err != nil {
		d.tb.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(s.b[off:s.off], off); err != nil {
		d.tb.Fatal(err)
	}
}

const rows = 40

// factBase is a database of page size 512 with one transaction per row in its
// log, so that no two transactions share all their pages.
func factBase(t *testing.T) (*database, *conn) {
	t.Helper()
	d := newDatabase(t)
	c := d.open(walMode(512)...)
	c.exec("CREATE TABLE t(id INTEGER PRIMARY KEY, b)", "PRAGMA cache_size=5")
	for range rows {
		c.exec("INSERT INTO t(b) VALUES(zeroblob(400))")
	}
	return d, c
}

// update changes the page of one row, in place: a transaction of one frame.
func update(id int) string {
	return fmt.Sprintf("UPDATE t SET b=randomblob(400) WHERE id=%d", id)
}

const spillAll = "UPDATE t SET b=randomblob(400)"

// checkpointAll wants a checkpoint to be complete and returns the number of
// frames that SQLite counts in the log.
func checkpointAll(c *conn, mode string) int64 {
	c.tb.Helper()
	r := c.row("PRAGMA wal_checkpoint(" + mode + ")")
	if r[0] != int64(0) || r[1] != r[2] {
		c.tb.Fatalf("checkpoint: %v, want a complete one", r)
	}
	return r[1].(int64)
}

func wantReason(t *testing.T, d *database, p *picture, opt wal.Options, want ...wal.Reason) {
	t.Helper()
	if got := d.tail(p, opt); !slices.Contains(want, got) {
		t.Fatalf("reason=%q, want %q", got, want)
	}
}

// TestFact_Restart: a complete checkpoint, then a commit: salt 1 counts up,
// the file keeps its size, old frames stay.
func TestFact_Restart(t *testing.T) {
	d, c := factBase(t)
	before, size := d.header(), len(d.logBytes())
	c.exec(update(1))
	checkpointAll(c, "PASSIVE")
	grown := len(d.logBytes())
	p := d.take(wal.Options{})
	c.exec(update(2))
	after := d.header()
	if after.Salt1 != before.Salt1+1 || after.Salt2 == before.Salt2 || len(d.logBytes()) != grown || grown <= size {
		t.Fatalf("header %+v then %+v; size %d, %d, %d", before, after, size, grown, len(d.logBytes()))
	}
	wantReason(t, d, p, wal.Options{}, "")
	p.check(c)
	for i := range 200 { // and again, now over stale frames
		c.exec(update(1 + i%rows))
		if i%9 == 0 {
			checkpointAll(c, "PASSIVE")
		}
		wantReason(t, d, p, wal.Options{}, "", wal.ReasonGrewOver)
		if reason := d.tail(p, wal.Options{}); reason != "" {
			p = d.take(wal.Options{})
		}
		p.check(c)
	}
}

// otherCounter opens a connection that has restarted the log three times. One
// that never did draws new salts where others repeat them.
func otherCounter(d *database) *conn {
	c := d.open("PRAGMA wal_autocheckpoint=0", "PRAGMA synchronous=off")
	for range 3 {
		checkpointAll(c, "PASSIVE")
		c.exec(update(1))
	}
	return c
}

// TestFact_FreshConnection: a connection that never restarted a log draws new
// salts where a rolled back restart left the log empty.
func TestFact_FreshConnection(t *testing.T) {
	d, a := factBase(t)
	b := d.open("PRAGMA wal_autocheckpoint=0", "SELECT count(*) FROM t")
	p := d.take(wal.Options{})
	checkpointAll(a, "PASSIVE")
	a.exec("BEGIN", "UPDATE t SET b=randomblob(400) WHERE id<12", "ROLLBACK")
	spilled := d.header()
	wantReason(t, d, p, wal.Options{}, "")
	b.exec(update(1))
	if again := d.header(); again.Salt1 == spilled.Salt1 {
		t.Fatalf("header %+v then %+v, want other salts", spilled, again)
	}
	wantReason(t, d, p, wal.Options{}, wal.ReasonRestarted)
}

// TestFact_HeaderRewritten: a spilled transaction restarts the log and is
// rolled back. Another connection writes the header again, with the same
// salts and the sequence that it counts itself.
func TestFact_HeaderRewritten(t *testing.T) {
	d, a := factBase(t)
	b := otherCounter(d)
	for range 3 { // raises a's counter
		checkpointAll(a, "PASSIVE")
		a.exec(spillAll)
	}
	p := d.take(wal.Options{})
	checkpointAll(a, "PASSIVE")
	a.exec("BEGIN", spillAll, "ROLLBACK")
	spilled := d.header()
	q := d.take(wal.Options{}) // sees no commit: the main file alone
	q.check(a)
	wantReason(t, d, p, wal.Options{}, "", wal.ReasonOverwritten, wal.ReasonGrewOver)
	b.exec(update(1))
	again := d.header()
	if again.Salt1 != spilled.Salt1 || again.Salt2 != spilled.Salt2 || again.Seq == spilled.Seq {
		t.Fatalf("header %+v then %+v, want the same salts and another sequence", spilled, again)
	}
	wantReason(t, d, q, wal.Options{}, wal.ReasonLogAppeared)
	if d.tail(p, wal.Options{}) == "" {
		p.check(b)
	}

	t.Run("short spill", func(t *testing.T) {
		a.exec(spillAll, spillAll)
		p := d.take(wal.Options{})
		checkpointAll(a, "PASSIVE")
		a.exec("BEGIN", "UPDATE t SET b=randomblob(400) WHERE id<12", "ROLLBACK")
		spilled := d.header()
		wantReason(t, d, p, wal.Options{}, "")
		p.check(b)
		b.exec(update(1))
		if again := d.header(); again.Salt1 != spilled.Salt1 || again.Seq == spilled.Seq {
			t.Fatalf("header %+v then %+v, want the same salts and another sequence", spilled, again)
		}
		wantReason(t, d, p, wal.Options{}, "")
		p.check(b)
	})
}

// TestFact_Phantom: a commit frame that SQLite's index does not count is
// captured, because the bytes cannot tell. What comes later must.
func TestFact_Phantom(t *testing.T) {
	setup := func(t *testing.T) (*database, *conn, *picture) {
		t.Helper()
		d, c := factBase(t)
		p := d.take(wal.Options{})
		page := bytes.Clone(p.pages[9])
		page[511]++
		d.phantom(p.cur.End(), p.cur.Last.Sum, 9, p.size, page)
		wantReason(t, d, p, wal.Options{}, "")
		if !bytes.Equal(p.pages[9], page) {
			t.Fatal("the phantom was not captured")
		}
		return d, c, p
	}
	t.Run("overwritten", func(t *testing.T) {
		d, c, p := setup(t)
		h := d.header()
		c.exec(update(20))
		if d.header() != h {
			t.Fatal("header changed")
		}
		wantReason(t, d, p, wal.Options{}, wal.ReasonOverwritten)
	})
	t.Run("overwritten by more", func(t *testing.T) {
		d, c, p := setup(t)
		c.exec(spillAll, spillAll)
		wantReason(t, d, p, wal.Options{}, wal.ReasonOverwritten)
	})
	t.Run("overwritten by an uncommitted spill", func(t *testing.T) {
		d, c, p := setup(t)
		c.exec("BEGIN", spillAll)
		wantReason(t, d, p, wal.Options{}, wal.ReasonOverwritten)
	})
	t.Run("restart", func(t *testing.T) {
		d, c, p := setup(t)
		if got := checkpointAll(c, "PASSIVE"); frame(int(got), 512) >= p.cur.End() {
			t.Fatalf("SQLite counts %d frames, the phantom included", got)
		}
		c.exec(update(20))
		wantReason(t, d, p, wal.Options{}, wal.ReasonPhantom)
	})
	t.Run("restart and rolled back", func(t *testing.T) {
		d, c, p := setup(t)
		checkpointAll(c, "PASSIVE")
		c.exec("BEGIN", "UPDATE t SET b=randomblob(400) WHERE id<12", "ROLLBACK")
		wantReason(t, d, p, wal.Options{}, wal.ReasonPhantom)
	})
	t.Run("restart that writes its page", func(t *testing.T) {
		d, c, p := setup(t)
		checkpointAll(c, "PASSIVE")
		c.exec("UPDATE t SET b=randomblob(400) WHERE id<12")
		wantReason(t, d, p, wal.Options{}, "")
		p.check(c)
	})
	t.Run("first of a rolled back restart", func(t *testing.T) {
		d, a := factBase(t)
		b := otherCounter(d)
		checkpointAll(a, "PASSIVE")
		a.exec("BEGIN", spillAll, "ROLLBACK")
		h := d.header()
		p := d.take(wal.Options{})
		d.phantom(wal.HeaderSize, h.Sum, 9, p.size, make([]byte, 512))
		p = d.take(wal.Options{})
		if !p.cur.HasFrames() {
			t.Fatal("the phantom was not captured")
		}
		b.exec(update(20))
		if again := d.header(); again.Salt1 != h.Salt1 || again == h {
			t.Fatalf("header %+v then %+v, want the same salts and another sequence", h, again)
		}
		wantReason(t, d, p, wal.Options{}, wal.ReasonRewritten)
	})
	t.Run("shrank", func(t *testing.T) {
		d := newDatabase(t)
		c := d.open(walMode(512)...)
		c.exec("PRAGMA auto_vacuum=incremental", "VACUUM", "CREATE TABLE t(id INTEGER PRIMARY KEY, b)")
		c.exec("INSERT INTO t(b) VALUES(zeroblob(5000))", "DELETE FROM t", "INSERT INTO t(b) VALUES(zeroblob(100))")
		for range 20 {
			c.exec(update(1))
		}
		p := d.take(wal.Options{})
		page := bytes.Clone(p.pages[1])
		page[100]++
		d.phantom(p.cur.End(), p.cur.Last.Sum, 1, p.size-1, page)
		wantReason(t, d, p, wal.Options{}, "")
		checkpointAll(c, "PASSIVE")
		c.exec("PRAGMA user_version=7") // writes page 1 alone
		wantReason(t, d, p, wal.Options{}, wal.ReasonPhantom)
	})
}

// TestFact_Cut: the file is cut at a restart, so that the old chain ends
// without any trace of what followed.
func TestFact_Cut(t *testing.T) {
	const keep = 30 // frames
	limit := fmt.Sprintf("PRAGMA journal_size_limit=%d", frame(keep, 512))
	size := func(d *database) int64 { return int64(len(d.logBytes())) }
	for _, tt := range []struct {
		name  string
		start int // frames in the log when the cursor is taken
		old   bool
	}{
		{"chain runs into the cut", 20, false},
		{"file of that size already", 20, true},
		{"cursor behind the cut", 31, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, c := factBase(t)
			c.exec(limit, spillAll)
			checkpointAll(c, "TRUNCATE")
			if tt.old { // a file that the limit cut before
				c.exec(spillAll)
				checkpointAll(c, "PASSIVE")
				c.exec(update(1))
				if got := size(d); got != frame(keep, 512) {
					t.Fatalf("size=%d, want %d", got, frame(keep, 512))
				}
			}
			p := d.take(wal.Options{})
			for n := 1; !p.cur.HasFrames() || p.cur.End() < frame(tt.start, 512); n++ {
				c.exec(update(n%3 + 1))
				p = d.take(wal.Options{})
			}
			for n := range 35 {
				c.exec(update(rows - n))
			}
			checkpointAll(c, "PASSIVE")
			c.exec(update(2))
			if got := size(d); got != frame(keep, 512) {
				t.Fatalf("size=%d, want %d", got, frame(keep, 512))
			}
			wantReason(t, d, p, wal.Options{}, wal.ReasonCut, wal.ReasonOverwritten)
		})
	}
	t.Run("truncated", func(t *testing.T) {
		d, c := factBase(t)
		p := d.take(wal.Options{})
		checkpointAll(c, "TRUNCATE")
		wantReason(t, d, p, wal.Options{}, wal.ReasonLogGone)
		c.exec(update(1))
		wantReason(t, d, p, wal.Options{}, wal.ReasonOverwritten, wal.ReasonGrewOver)
		for range 3 {
			c.exec(spillAll) // longer than it was
		}
		wantReason(t, d, p, wal.Options{}, wal.ReasonGrewOver)
	})
	t.Run("limit 0", func(t *testing.T) {
		d, c := factBase(t)
		c.exec("PRAGMA journal_size_limit=0")
		p := d.take(wal.Options{})
		checkpointAll(c, "PASSIVE")
		c.exec(update(1))
		wantReason(t, d, p, wal.Options{}, wal.ReasonOverwritten)
	})
}

// TestFact_SpillGrowsOver: between two reads of one look, a transaction that
// is not committed yet runs over the frames that the proof rests on.
func TestFact_SpillGrowsOver(t *testing.T) {
	for _, step := range []string{"header", "old frames", "new frames", "conditions"} {
		t.Run(step, func(t *testing.T) {
			d, c := factBase(t)
			p := d.take(wal.Options{})
			checkpointAll(c, "PASSIVE")
			c.exec(update(1))
			opt := wal.Options{}.WithHook(func(at string) {
				if at == step {
					c.exec("BEGIN", fmt.Sprintf(generate, 200)+"INSERT INTO t(b) SELECT zeroblob(400) FROM g")
				}
			})
			if step == "conditions" { // all was proven by then
				wantReason(t, d, p, opt, "")
				p.check(d.open())
				return
			}
			// A spill rewrites its own frames in place, which breaks its
			// chain until it commits: then only the frames it ran over tell.
			wantReason(t, d, p, opt, wal.ReasonGrewOver, wal.ReasonOverwritten)
		})
	}
}

// TestFact_LastClose: the last connection deletes the log. The next one begins
// with other salts, possibly on the same inode number.
func TestFact_LastClose(t *testing.T) {
	d, c := factBase(t)
	reused := false
	for range 5 {
		p := d.take(wal.Options{})
		before, err := sqlitefile.Stat(sqlitefile.WALPath(d.path))
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		wantReason(t, d, p, wal.Options{}, wal.ReasonLogGone)
		c = d.open("PRAGMA wal_autocheckpoint=0", update(3))
		after, err := sqlitefile.Stat(sqlitefile.WALPath(d.path))
		if err != nil {
			t.Fatal(err)
		}
		reused = reused || after.ID == before.ID
		wantReason(t, d, p, wal.Options{}, wal.ReasonRestarted)
	}
	t.Logf("inode number reused: %v", reused)
}

// TestFact_PowerCut: after a power cut the machine is another boot, and what
// lies there may be any mixture of old and new blocks.
func TestFact_PowerCut(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(d *database, old, oldMain []byte)
	}{
		{"log cut below the cursor", func(d *database, _, _ []byte) {
			if err := os.Truncate(sqlitefile.WALPath(d.path), frame(10, 512)); err != nil {
				d.tb.Fatal(err)
			}
		}},
		{"block missing in front of the cursor", func(d *database, _, _ []byte) {
			b := d.logBytes()
			clear(b[4096:8192])
			d.restore(b, nil)
		}},
		{"older log and main file", func(d *database, old, oldMain []byte) { d.restore(old, oldMain) }},
		{"older main file only", func(d *database, _, oldMain []byte) { d.restore(nil, oldMain) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, c := factBase(t)
			old := d.logBytes()
			oldMain := make([]byte, 1<<20)
			n, _ := d.raw.ReadAt(oldMain, 0)
			c.exec(update(1), "PRAGMA wal_checkpoint(PASSIVE)", spillAll)
			p := d.take(wal.Options{})
			tt.harm(d, old, oldMain[:n])
			d.boot[0]++
			wantReason(t, d, p, wal.Options{}, wal.ReasonBoot)
			d.boot[0]--
			res, err := wal.Tail(p.cur, d.source(), wal.Options{})
			if err != nil {
				t.Fatal(err)
			}
			res.Frames.Close()
			t.Logf("without the boot id: %q", res.Reason)
		})
	}
}

// restore brings back older bytes of the files, in place.
func (d *database) restore(log, main []byte) {
	d.tb.Helper()
	if log != nil {
		if err := os.WriteFile(sqlitefile.WALPath(d.path), log, 0o600); err != nil {
			d.tb.Fatal(err)
		}
	}
	if main != nil {
		if err := d.raw.Truncate(int64(len(main))); err != nil {
			d.tb.Fatal(err)
		}
		if _, err := d.raw.WriteAt(main, 0); err != nil {
			d.tb.Fatal(err)
		}
	}
}

// TestFact_Pin: a read transaction that begins behind a complete checkpoint
// lets the log restart once, and no second time while it is held.
func TestFact_Pin(t *testing.T) {
	d, c := factBase(t)
	p := d.take(wal.Options{})
	lock, pin, checkpointer := d.open(), d.open(), d.open()
	lock.exec("BEGIN IMMEDIATE")
	wantReason(t, d, p, wal.Options{}, "")
	if got := checkpointAll(checkpointer, "PASSIVE"); frame(int(got), 512) != p.cur.End() {
		t.Fatalf("SQLite counts %d frames, captured up to %d", got, p.cur.End())
	}
	pin.exec("BEGIN")
	pin.row("SELECT count(*) FROM t")
	lock.exec("ROLLBACK")
	before := d.header()
	for range 5 {
		c.exec(spillAll)
		checkpointer.row("PRAGMA wal_checkpoint(PASSIVE)")
		if got := d.header(); got.Salt1 != before.Salt1+1 {
			t.Fatalf("salt 1 is %d, want %d", got.Salt1, before.Salt1+1)
		}
	}
	src := d.source()
	if res, err := wal.Tail(p.cur, src, wal.Options{}); err != nil || res.Reason == "" {
		t.Fatalf("reason=%q err=%v, want none proven without the pin", res.Reason, err)
	}
	src.Pinned = true
	res, err := wal.Tail(p.cur, src, wal.Options{})
	if err != nil || res.Reason != "" || res.Frames == nil {
		t.Fatalf("reason=%q err=%v, want frames", res.Reason, err)
	}
	p.apply(t, res)
	p.check(c)
}

// TestFact_RollbackJournal: without a log the main file's print is the proof.
func TestFact_RollbackJournal(t *testing.T) {
	d, c := factBase(t)
	c.exec("PRAGMA journal_mode=delete")
	p := d.take(wal.Options{})
	p.check(c)
	p.cur.MainTrusted = true
	wantReason(t, d, p, wal.Options{}, "")
	p.cur.MainTrusted = false
	wantReason(t, d, p, wal.Options{}, wal.ReasonMainChanged)
	p.cur.MainTrusted = true
	c.exec("PRAGMA journal_mode=wal", "PRAGMA wal_autocheckpoint=0", update(1))
	wantReason(t, d, p, wal.Options{}, wal.ReasonLogAppeared)
}
