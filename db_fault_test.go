package litestream_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// breakLedger are the ways in which a page ledger gets lost while it is used.
var breakLedger = map[string]func(tb testing.TB, path string){
	"removed": func(tb testing.TB, path string) {
		tb.Helper()
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
	},
	"cut": func(tb testing.TB, path string) {
		tb.Helper()
		if err := os.Truncate(path, 20); err != nil {
			tb.Fatal(err)
		}
	},
	"another file": func(tb testing.TB, path string) {
		tb.Helper()
		if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			tb.Fatal(err)
		}
	},
}

// A ledger that is lost while it is used costs a full copy, nothing else.
func TestDB_LedgerLostWhileRunning(t *testing.T) {
	for name, damage := range breakLedger {
		for what, use := range map[string]func(*litestream.DB) error{
			"diff": func(db *litestream.DB) error { return db.Sync(context.Background()) },
			"snapshot": func(db *litestream.DB) error {
				s, err := db.StageSnapshot(context.Background())
				if err != nil {
					return err
				}
				return s.Close()
			},
			"close": func(db *litestream.DB) error { return db.Close(context.Background()) },
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "db")
				client := testutil.NewMemClient()
				app := openApp(t, path, "_journal_mode=wal")
				mustExec(t, app, "CREATE TABLE t (x)")
				db := inMemory(t, path, client)
				syncAll(t, db)
				mustExec(t, app, "INSERT INTO t VALUES (1)")
				syncAll(t, db)
				damage(t, db.LedgerPath())
				if what == "diff" {
					db.ForgetPin()
					app.Close() // the last connection: the log is gone
					mustExec(t, openApp(t, path, ""), "INSERT INTO t VALUES (2)")
				}
				if err := use(db); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// A database at rest whose ledger cannot be written is let go all the same.
func TestDB_RestWithoutLedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	insert := appWith(t, path, 3)
	client := testutil.NewMemClient()
	db := inMemory(t, path, client)
	syncAll(t, db)
	insert(1)
	syncAll(t, db)
	if err := os.RemoveAll(db.MetaPath()); err != nil {
		t.Fatal(err)
	}
	db.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
	mustSync(t, db)
	mustSync(t, db)
	if s := db.Status(); s.Pinned || s.Connected || s.State != litestream.SyncStateOK {
		t.Fatalf("status %+v, want ok and let go", s)
	}
	insert(1)
	syncAll(t, db)
	wantRows(t, client, 5)
}

// A staged file that cannot be read just now is neither lost nor a reason to
// ask the storage again and again.
func TestReplica_StagedFileUnreadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	insert := appWith(t, path, 1)
	client := testutil.NewMemClient()
	db := inMemory(t, path, client)
	syncAll(t, db)
	insert(1)
	mustSync(t, db)
	staged := filepath.Join(db.L0Dir(), ltx.FormatFilename(2, 2))
	if err := errors.Join(os.Rename(staged, staged+".moved"), os.Symlink(staged, staged)); err != nil {
		t.Fatal(err)
	}
	client.ResetCounts()
	if err := db.Replica.Sync(context.Background()); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got error %v, want the cause", err)
	}
	if n := client.Count(testutil.OpList); n > 0 {
		t.Errorf("%d lists, want none", n)
	}
	if err := os.Rename(staged+".moved", staged); err != nil {
		t.Fatal(err)
	}
	insert(1)
	syncAll(t, db)
	wantRows(t, client, 3)
	if got := len(client.Files(0)); got != 3 {
		t.Errorf("%d files, want 3 and no full copy", got)
	}
}

// What cannot be captured is an error that names the database, and heals.
func TestDB_BadInput(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(path string) error
		want string // part of the error; none if empty
	}{
		{"directory", func(p string) error { return os.Mkdir(p, 0o700) }, "not a regular file"},
		{"text", func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("text", 1000)), 0o600) }, "not a SQLite database"},
		{"cut header", func(p string) error { return os.WriteFile(p, []byte("SQLite format 3\x00"), 0o600) }, "not a SQLite database"},
		{"empty", func(p string) error { return os.WriteFile(p, nil, 0o600) }, ""},
		{"missing", func(string) error { return nil }, ""},
		{"link to itself", func(p string) error { return os.Symlink(p, p) }, "too many levels"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			client := testutil.NewMemClient()
			db := inMemory(t, path, client)
			mustUpload(t, db)
			err := db.Sync(context.Background())
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path)):
				t.Fatalf("got %v, want %q and the path", err, tt.want)
			}
			if n := db.OpenFiles(); n != 0 {
				t.Errorf("%d descriptors are held", n)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			appWith(t, path, 4)
			syncAll(t, db)
			wantRows(t, client, 4)
		})
	}
}

// A database that is deleted, replaced, cut or swapped while it is pinned is
// followed, and our connection does not delete the new one's log.
func TestDB_FileSwapped(t *testing.T) {
	for _, rename := range []bool{true, false} {
		dir := t.TempDir()
		path := filepath.Join(dir, "db")
		client := testutil.NewMemClient()
		old := openApp(t, path, "_journal_mode=wal")
		mustExec(t, old, "CREATE TABLE t (x)")
		db := inMemory(t, path, client)
		syncAll(t, db)
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		at := path
		if rename {
			at = filepath.Join(dir, "new")
		} else {
			mustSync(t, db)
			if s := db.Status(); s.State != litestream.SyncStateMissing || s.Connected {
				t.Fatalf("status %+v, want missing and let go", s)
			}
		}
		app := openApp(t, at, "_journal_mode=wal")
		mustExec(t, app, "CREATE TABLE t (x)")
		if rename {
			app.Close()
			if err := os.Rename(at, path); err != nil {
				t.Fatal(err)
			}
			app = openApp(t, path, "_journal_mode=wal")
		}
		mustExec(t, app, "PRAGMA wal_autocheckpoint=0")
		for range 9 {
			mustExec(t, app, "INSERT INTO t VALUES (1)")
		}
		before, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		syncAll(t, db)
		after, err := os.Stat(path + "-wal")
		if err != nil || !os.SameFile(before, after) {
			t.Fatalf("the new database's log was replaced or removed: %v", err)
		}
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		syncAll(t, db)
		wantRows(t, client, 10)
	}
}

// A capture that cannot be staged does not hold the application's log.
func TestDB_FailureReleasesPin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	insert := appWith(t, path, 1)
	client := testutil.NewMemClient()
	db := inMemory(t, path, client)
	syncAll(t, db)
	if !db.Status().Pinned {
		t.Fatal("want a pinned database")
	}
	meta := db.MetaPath()
	if err := errors.Join(os.Rename(meta, meta+".moved"), os.WriteFile(meta, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	insert(1)
	if err := db.Sync(context.Background()); err == nil {
		t.Fatal("a file lies where the metadata directory was, want an error")
	}
	if db.Status().Pinned {
		t.Error("the pin is held while nothing can be staged")
	}
	if err := errors.Join(os.Remove(meta), os.Rename(meta+".moved", meta)); err != nil {
		t.Fatal(err)
	}
	insert(1)
	syncAll(t, db)
	wantRows(t, client, 3)
}

// A large transaction that is not committed is not read again at every look,
// and its commit is captured.
func TestDB_LargeUncommitted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	client := testutil.NewMemClient()
	app := openApp(t, path, "_journal_mode=wal&_cache_size=10")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := inMemory(t, path, client)
	syncAll(t, db)
	mustExec(t, app, "BEGIN")
	for range 250 {
		mustExec(t, app, "INSERT INTO t VALUES (randomblob(100000))")
	}
	mustSync(t, db)
	if !db.LookWaits() {
		t.Error("want the next look to wait")
	}
	mustExec(t, app, "COMMIT")
	mustSync(t, db)
	if err := db.SyncFully(context.Background()); err != nil {
		t.Fatal(err)
	}
	mustUpload(t, db)
	wantRows(t, client, 250)
}

// A pass over a large database ends with its context.
func TestDB_SnapshotCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	mustExec(t, app, "INSERT INTO t VALUES (zeroblob(8000000))")
	db := inMemory(t, path, testutil.NewMemClient())
	syncAll(t, db)
	ctx := &countedContext{Context: context.Background(), left: 4}
	if _, err := db.StageSnapshot(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got error %v, want %v", err, context.Canceled)
	}
	if _, err := os.Stat(filepath.Join(db.MetaPath(), "snapshot", ltx.FormatFilename(1, 1))); err == nil {
		t.Error("an unfinished snapshot has its name")
	}
	snap, err := db.StageSnapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
}

// countedContext is done after it was asked so often.
type countedContext struct {
	context.Context
	left int
}

func (c *countedContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}
