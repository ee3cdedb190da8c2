package litestream_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/knob"
)

// dear makes a database whose diffs count as dear, and its clock.
func (f *fleet) dear(pool *litestream.ConnectionPool) (db *litestream.DB, forward func(time.Duration)) {
	f.tb.Helper()
	f.ok(litestream.SweepStaging(f.state))
	db = f.open()
	now := time.Now().Add(time.Minute)
	db.Tune(knob.DB{RestBytes: 1, Now: func() time.Time { return now }})
	db.SetConnections(pool)
	f.ok(db.SeedEmpty())
	return db, func(d time.Duration) { now = now.Add(d) }
}

// An application that opens and closes a large database all the time gets
// company: then its log goes on, and is tailed. When it calms down everything
// is as it was.
func TestTenant_HeldConnection(t *testing.T) {
	f := newFleet(t)
	pool := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{})
	app := startChild(t, "app", f.path)
	app.exec("PRAGMA journal_mode=wal", "CREATE TABLE t (x)", "CREATE TABLE big AS SELECT zeroblob(2000000)", "PRAGMA wal_checkpoint")
	db, forward := f.dear(pool)
	f.sync()
	opened := func(n int) {
		t.Helper()
		app.close()
		app = startChild(t, "app", f.path)
		app.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", n))
		forward(time.Second)
		f.sync()
	}
	for i := range 2 {
		opened(i)
	}
	if s := pool.Stats(); s.Held != 1 || s.Open != 1 || s.InUse != 0 {
		t.Fatalf("%+v after two discontinuities, want a connection held", s)
	}
	diffs := pool.Stats().Opened
	for i := range 5 {
		opened(i)
	}
	if s := pool.Stats(); s.Opened != diffs || s.Pinned != 0 || s.Evictions != 0 {
		t.Errorf("%+v, want the log to go on under the held connection", s)
	}
	app.close()
	forward(2 * time.Minute)
	f.sync()
	if s := pool.Stats(); s.Open != 0 || s.Leftovers != 0 {
		t.Errorf("%+v after a while without a discontinuity, want nothing held", s)
	}
	if n := db.OpenFiles(); n != 0 {
		t.Errorf("%d files are open, want none", n)
	}
	if got := listDir(t, filepath.Dir(f.path)); len(got) != 1 {
		t.Errorf("%v lie there, want the database alone", got)
	}
	f.wantRestored()
}

// One that cuts its log all the time is pinned, for a while at a time.
func TestTenant_Pinned(t *testing.T) {
	f := newFleet(t)
	pool := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{})
	app := startChild(t, "app", f.path)
	app.exec("PRAGMA journal_mode=wal", "CREATE TABLE t (x)", "CREATE TABLE big AS SELECT zeroblob(2000000)", "PRAGMA wal_checkpoint")
	db, forward := f.dear(pool)
	f.sync()
	n := 0
	cut := func() {
		t.Helper()
		n++
		app.exec("PRAGMA wal_checkpoint(TRUNCATE)", fmt.Sprintf("INSERT INTO t VALUES (%d)", n))
		forward(time.Second)
		f.sync()
	}
	for range 4 {
		cut()
	}
	if s := pool.Stats(); s.Held != 1 || s.Pinned != 1 || s.InUse != 1 {
		t.Fatalf("%+v after four discontinuities, want the database pinned", s)
	}
	size := func() int64 {
		st, err := os.Stat(f.path + "-wal")
		f.ok(err)
		return st.Size()
	}
	for range 8 {
		before := size()
		cut()
		if size() <= before {
			t.Fatal("the log was cut under the pin")
		}
	}
	forward(10 * time.Second)
	f.sync()
	if s := pool.Stats(); s.InUse != 0 || s.Open != 1 {
		t.Fatalf("%+v, want the pin to end", s)
	}
	f.detach()
	if s := pool.Stats(); s.Open != 0 {
		t.Errorf("%+v, want nothing open of a database that was let go", s)
	}
	if n := db.OpenFiles() + openDescriptors(t, f.path); n != 0 {
		t.Errorf("%d descriptors are open, want none", n)
	}
	f.wantRestored()
}

// With checkpoints asked for, the log of an application that never checkpoints
// stays short, and everything is tailed all the same.
func TestTenant_PassiveCheckpoint(t *testing.T) {
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			f := newFleet(t)
			pool := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{})
			app := startChild(t, "app", f.path)
			app.exec("PRAGMA journal_mode=wal", "PRAGMA wal_autocheckpoint=0", "CREATE TABLE t (x)")
			db := f.live(pool)
			db.MinCheckpointPageN = 10
			if on {
				db.SetPassiveCheckpoint()
			}
			f.first()
			const commits = 100
			for i := range commits {
				app.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
				f.sync()
			}
			st, err := os.Stat(f.path + "-wal")
			f.ok(err)
			s := pool.Stats()
			if short := st.Size() < 20*4200; short != on || (s.Checkpoints > 0) != on {
				t.Errorf("log of %d bytes, %+v", st.Size(), s)
			}
			if got := db.Pos().TXID; got != commits+1 {
				t.Errorf("at %s, want %d", got, commits+1)
			}
			if s.Open != 0 || s.Opened != s.Checkpoints {
				t.Errorf("%+v, want one connection for each checkpoint", s)
			}
			f.wantRestored()
		})
	}
}
