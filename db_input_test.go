package litestream_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	litestream "github.com/benbjohnson/litestream"
)

// crashed returns a copy of a database and its log as a crash of the machine
// leaves them, with n rows, each committed by itself, in the log.
func crashed(tb testing.TB, n int) string {
	tb.Helper()
	dir := tb.TempDir()
	app := openApp(tb, filepath.Join(dir, "live"), "_journal_mode=wal")
	mustExec(tb, app, "CREATE TABLE t (x)")
	for i := range n {
		mustExec(tb, app, "INSERT INTO t VALUES (?)", i)
	}
	path := filepath.Join(dir, "crashed")
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(filepath.Join(dir, "live") + suffix)
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path+suffix, b, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return path
}

// A torn end of the log is no error: what SQLite counts is captured, and
// nothing else.
func TestDB_DamagedLog(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(log []byte) []byte
		rows   int
	}{
		{"Whole", func(b []byte) []byte { return b }, 10},
		{"CutInsidePage", func(b []byte) []byte { return b[:len(b)-100] }, 9},
		{"CutInsideFrameHeader", func(b []byte) []byte { return b[:len(b)-4096-10] }, 9},
		{"BadChecksum", func(b []byte) []byte { b[len(b)-1]++; return b }, 9},
		{"BadChecksumBefore", func(b []byte) []byte { b[len(b)-1-3*4120]++; return b }, 6},
		{"Garbage", func(b []byte) []byte { return append(b, make([]byte, 5000)...) }, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := crashed(t, 10)
			log, err := os.ReadFile(path + "-wal")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path+"-wal", tt.damage(log), 0o600); err != nil {
				t.Fatal(err)
			}
			replica := path + ".replica"
			db := replicated(t, path, replica)
			db.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
			syncAll(t, db)
			if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != tt.rows {
				t.Errorf("restored %d rows, want %d", got, tt.rows)
			}
			if got := count(t, path, "SELECT count(*) FROM t"); got != tt.rows {
				t.Errorf("sqlite sees %d rows, want %d", got, tt.rows)
			}
		})
	}
}

// An application that locks its database for itself is reported as such, and
// captured when it lets go.
func TestDB_ExclusiveApplication(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app := openApp(t, path, "_locking_mode=exclusive&_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := replicated(t, path, replica)
	db.BusyTimeout = 10 * time.Millisecond
	if err := db.Replica.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := db.SyncFully(context.Background()); !errors.Is(err, litestream.ErrDatabaseLocked) {
		t.Fatalf("got %v, want an error that says the database is locked", err)
	}
	mustExec(t, app, "INSERT INTO t VALUES (1)")
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.SyncFully(context.Background()); err != nil {
		t.Fatal(err)
	}
	syncAll(t, db)
	if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != 1 {
		t.Fatalf("restored %d rows, want 1", got)
	}
}

// An application whose busy timeout is 0 is refused at most while one of our
// checkpoints runs, never while we stage, and loses nothing.
func TestDB_ImpatientApplication(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app, err := sql.Open("sqlite3", "file:"+path+"?_journal_mode=wal&_busy_timeout=0")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	app.SetMaxOpenConns(1)
	mustExec(t, app, "CREATE TABLE t (x)")
	db := replicated(t, path, replica)
	db.MinCheckpointPageN = 20
	done := make(chan error, 1)
	var stop atomic.Bool
	go func() {
		var err error
		for err == nil && !stop.Load() {
			err = errors.Join(db.Sync(context.Background()), db.Replica.Sync(context.Background()))
		}
		done <- err
	}()
	rows, refused := 0, 0
	for i := range 3000 {
		_, err := app.Exec("INSERT INTO t VALUES (randomblob(1000))")
		var se sqlite3.Error
		switch {
		case err == nil:
			rows++
		case errors.As(err, &se) && se.Code == sqlite3.ErrBusy:
			refused++
		default:
			t.Fatalf("insert %d: %v", i, err)
		}
	}
	stop.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	syncAll(t, db)
	t.Logf("%d rows, %d refused while %d checkpoints could run", rows, refused, rows/20)
	if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != rows {
		t.Fatalf("restored %d rows, want %d", got, rows)
	}
}

// The application may leave write-ahead logging while the database rests; it
// is converted again at the next change, as Litestream v0.5 does.
func TestDB_JournalModeSwitched(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	makeRested(t, path)
	db := replicated(t, path, replica)
	db.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
	syncAll(t, db)
	for i, mode := range []string{"delete", "truncate", "persist", "wal"} {
		app := openApp(t, path, "_journal_mode="+mode)
		mustExec(t, app, "INSERT INTO t VALUES (?)", i)
		if err := app.Close(); err != nil {
			t.Fatal(err)
		}
		syncAll(t, db)
		if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != i+1 {
			t.Fatalf("%s: restored %d rows, want %d", mode, got, i+1)
		}
	}
}

// A folder that was deleted with its database is not made again for what was
// captured before; metadata that lies elsewhere has its folders made.
func TestDB_FolderDeleted(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "folder")
	db := litestream.NewDB(filepath.Join(folder, "db"))
	if err := db.EnsureMeta(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want that the folder is missing", err)
	}
	if _, err := os.Lstat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there again: %v", err)
	}
	elsewhere := filepath.Join(t.TempDir(), "a", "b")
	db.SetMetaPath(elsewhere)
	for range 2 {
		if err := db.EnsureMeta(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
}
