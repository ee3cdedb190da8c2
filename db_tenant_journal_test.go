package litestream_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// impatient lets an application whose busy timeout is 0 commit without a pause
// until stop is closed, trying again at once what was refused. It returns how
// many commits there were, how many of them were refused, and the longest time
// from a refusal to its success.
func impatient(app *child, stop <-chan struct{}) (commits, refused int, longest time.Duration) {
	var since time.Time
	for n := 0; ; {
		select {
		case <-stop:
			return commits, refused, longest
		default:
		}
		switch got := app.do(fmt.Sprintf("INSERT INTO t VALUES (%d)", n)); {
		case got == "ok":
			n, commits = n+1, commits+1
			if !since.IsZero() {
				longest = max(longest, time.Since(since))
				since = time.Time{}
			}
		case strings.Contains(got, "locked"):
			if since.IsZero() {
				since = time.Now()
				refused++
			}
		default:
			app.tb.Errorf("commit %d: %s", n, got)
			return commits, refused, longest
		}
	}
}

// Databases with a rollback journal are replicated while they are written all
// the time, and no commit waits for long.
func TestTenant_RollbackJournal(t *testing.T) {
	for _, tt := range []struct {
		mode  string
		pages int
		each  time.Duration
	}{
		{"delete", 0, time.Second / 2},
		{"truncate", 0, time.Second / 2},
		{"persist", 0, time.Second / 2},
		{"delete", 1000, time.Second},
	} {
		t.Run(fmt.Sprintf("%s/%d", tt.mode, tt.pages), func(t *testing.T) {
			f := newFleet(t)
			app := startChild(t, "app", f.path)
			app.exec("PRAGMA journal_mode="+tt.mode, "CREATE TABLE t (x)", "CREATE TABLE big (x)")
			for range tt.pages / 250 {
				app.exec("INSERT INTO big VALUES (randomblob(1000000))")
			}
			pool := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{})
			db := f.live(pool)
			stop := make(chan struct{})
			timer := time.AfterFunc(tt.each, func() { close(stop) })
			defer timer.Stop()
			done := make(chan struct{})
			looks := 0
			go func() {
				defer close(done)
				for open := true; open; looks++ {
					select {
					case <-stop:
						open = false
					default:
					}
					if err := db.Sync(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}()
			commits, refused, longest := impatient(app, stop)
			<-done
			t.Logf("%d commits, %d refused, longest wait %s; %d looks, at %s", commits, refused, longest, looks, db.Pos().TXID)
			if longest > 100*time.Millisecond {
				t.Errorf("a commit waited for %s, want 100ms at most", longest)
			}
			if db.Pos().TXID == 0 && tt.pages == 0 {
				t.Error("nothing was captured while the application wrote")
			}
			f.ok(db.SyncFully(t.Context()))
			f.ok(db.Replica.Sync(t.Context()))
			f.ok(db.SyncFully(t.Context()))
			f.ok(db.Replica.Sync(t.Context()))
			if got := pool.Stats().Opened; got != 0 {
				t.Errorf("%d connections were opened, want none", got)
			}
			f.wantRestored()
			if out := restoredFrom(t, f.client); journalVersion(t, out) != 1 {
				t.Error("the restored file has a write-ahead log, want a rollback journal")
			}
			if tt.mode != "persist" {
				app.close()
				if got := listDir(t, filepath.Dir(f.path)); tt.mode == "delete" && len(got) != 1 {
					t.Errorf("%v lie there, want the database alone", got)
				}
			}
		})
	}
}

// journalVersion returns the read version of a database's header: 1 is a
// rollback journal, 2 a write-ahead log.
func journalVersion(tb testing.TB, path string) byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil || len(b) < sqlitefile.HeaderSize {
		tb.Fatalf("read %s: %d bytes, %v", path, len(b), err)
	}
	return b[19]
}

// A journal that has to be rolled back means wait: what lies in the main file
// was never committed.
func TestTenant_HotJournal(t *testing.T) {
	f := newFleet(t)
	app := startChild(t, "app", f.path)
	app.exec("CREATE TABLE t (x)", "INSERT INTO t VALUES (zeroblob(100000))",
		"PRAGMA cache_size=2", "BEGIN", "UPDATE t SET x = randomblob(100000)")
	app.cmd.Process.Kill()
	app.cmd.Wait()
	db := f.open() // everything on disk counts as old
	f.ok(db.SeedEmpty())
	for range 6 {
		f.sync()
	}
	if err := db.SyncFully(t.Context()); err == nil || !strings.Contains(err.Error(), "rolled back") {
		t.Errorf("err=%v, want one that tells why the database waits", err)
	}
	if got := db.Pos().TXID; got != 0 {
		t.Fatalf("at %s with a hot journal, want nothing captured", got)
	}
	names := listDir(t, filepath.Dir(f.path))
	if len(names) != 2 {
		t.Fatalf("%v lie there, want the database and its journal", names)
	}
	startChild(t, "app", f.path).exec("SELECT count(*) FROM t") // rolls it back
	f.sync()
	if got := db.Pos().TXID; got != 1 {
		t.Fatalf("at %s after the rollback, want 1", got)
	}
	f.wantRestored()
}

// A transaction under way that has not touched the main file is no reason to
// wait; the SHARED lock keeps it from doing so while the file is read.
func TestTenant_TransactionUnderWay(t *testing.T) {
	f := newFleet(t)
	app := startChild(t, "app", f.path)
	app.exec("CREATE TABLE t (x)", "INSERT INTO t VALUES (1)", "BEGIN IMMEDIATE", "INSERT INTO t VALUES (2)")
	db := f.open()
	f.ok(db.SeedEmpty())
	f.ok(db.SyncFully(t.Context()))
	f.ok(db.Replica.Sync(t.Context()))
	if got := db.Pos().TXID; got != 1 {
		t.Fatalf("at %s, want 1", got)
	}
	app.exec("COMMIT")
	f.sync()
	f.wantRestored()
}

// A database that its application keeps to itself is reported, and captured
// when it lets go.
func TestTenant_ExclusiveApplication(t *testing.T) {
	for _, mode := range []string{"delete", "wal"} {
		t.Run(mode, func(t *testing.T) {
			f := newFleet(t)
			app := startChild(t, "app", f.path)
			app.exec("PRAGMA locking_mode=exclusive", "PRAGMA journal_mode="+mode, "CREATE TABLE t (x)")
			before := listDir(t, filepath.Dir(f.path))
			db := f.open()
			db.BusyTimeout = 10 * time.Millisecond
			now := time.Now().Add(time.Hour)
			db.SetClock(func() time.Time { return now })
			f.ok(db.SeedEmpty())
			var err error
			for range 8 {
				if err = db.Sync(t.Context()); err != nil {
					break
				}
				now = now.Add(time.Second)
			}
			if !strings.Contains(fmt.Sprint(err), litestream.ErrDatabaseLocked.Error()) {
				t.Errorf("err=%v, want ErrDatabaseLocked", err)
			}
			if got := db.Status().State; got != litestream.SyncStateFailed {
				t.Errorf("state %s, want failed", got)
			}
			if after := listDir(t, filepath.Dir(f.path)); !slices.Equal(before, after) {
				t.Errorf("the folder holds %v, want %v", after, before)
			}
			app.close()
			f.ok(db.SyncFully(t.Context()))
			f.ok(db.Replica.Sync(t.Context()))
			f.wantRestored()
		})
	}
}
