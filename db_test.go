package litestream_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// openApp opens a database as an application would.
func openApp(tb testing.TB, path, params string) *sql.DB {
	tb.Helper()
	app, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=5000&"+params)
	if err != nil {
		tb.Fatal(err)
	}
	app.SetMaxOpenConns(1)
	tb.Cleanup(func() { app.Close() })
	return app
}

func mustExec(tb testing.TB, app *sql.DB, query string, args ...any) {
	tb.Helper()
	if _, err := app.Exec(query, args...); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
}

// replicated returns a database with a replica in a folder.
func replicated(tb testing.TB, path, replica string) *litestream.DB {
	tb.Helper()
	db := litestream.NewDB(path)
	db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(replica))
	if err := db.Open(context.Background()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return db
}

func syncAll(tb testing.TB, db *litestream.DB) {
	tb.Helper()
	for _, err := range []error{
		db.Sync(context.Background()), db.Replica.Sync(context.Background()),
		db.Sync(context.Background()), db.Replica.Sync(context.Background()),
	} {
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// restored restores the newest position and returns the path.
func restored(tb testing.TB, replica string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), "restored.db")
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = out
	opt.IntegrityCheck = litestream.IntegrityCheckFull
	if _, err := litestream.Restore(context.Background(), file.NewReplicaClient(replica), opt); err != nil {
		tb.Fatal(err)
	}
	return out
}

func count(tb testing.TB, path, query string) int {
	tb.Helper()
	var n int
	if err := openApp(tb, path, "mode=ro").QueryRow(query).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestDB_Sync(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := replicated(t, path, replica)
	syncAll(t, db)
	for i := range 20 {
		mustExec(t, app, "INSERT INTO t VALUES (?)", fmt.Sprintf("row %d", i))
		if err := db.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	syncAll(t, db)
	if got, want := db.Pos().TXID, db.Replica.Pos().TXID; got != want || got != 21 {
		t.Fatalf("local %s, replica %s, want 21", got, want)
	}
	if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != 20 {
		t.Fatalf("restored %d rows, want 20", got)
	}
	if s := db.Status(); !s.Pinned || s.State != litestream.SyncStateOK {
		t.Fatalf("status %+v, want pinned and ok", s)
	}
	if _, err := os.Stat(db.LedgerPath()); err != nil {
		t.Fatal(err)
	}
}

func TestDB_Checkpoint(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := replicated(t, path, replica)
	db.MinCheckpointPageN = 10
	for i := range 100 {
		mustExec(t, app, "INSERT INTO t VALUES (randomblob(3000))")
		if err := db.Sync(context.Background()); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if err := db.Replica.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	syncAll(t, db)
	st, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 200_000 {
		t.Fatalf("log grew to %d bytes, want the checkpoints to keep it small", st.Size())
	}
	if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != 100 {
		t.Fatalf("restored %d rows, want 100", got)
	}
	snap, err := db.StageSnapshot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if snap.MaxTXID != db.Pos().TXID {
		t.Fatalf("snapshot at %s, want %s", snap.MaxTXID, db.Pos().TXID)
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
}

// makeRested makes a small database, for a DB whose clock is set ahead so that
// nobody has touched it for an hour.
func makeRested(tb testing.TB, path string) {
	tb.Helper()
	app := openApp(tb, path, "_journal_mode=wal")
	mustExec(tb, app, "CREATE TABLE t (x)")
	if err := app.Close(); err != nil {
		tb.Fatal(err)
	}
}

// A database that was made and closed a moment ago is captured by the second
// look where the file system stamps each write with a fine clock.
func TestDB_JustClosed(t *testing.T) {
	dir := t.TempDir()
	if fine, err := sqlitefile.FineClock(dir); err != nil || !fine {
		t.Skipf("the file system's clock is coarse: %v", err)
	}
	path := filepath.Join(dir, "db")
	db := replicated(t, path, filepath.Join(dir, "replica"))
	if err := db.Replica.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	makeRested(t, path)
	now := time.Now()
	db.SetClock(func() time.Time { return now })
	for look := range 2 {
		if err := db.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got, want := db.Pos().TXID, ltx.TXID(look); got != want {
			t.Errorf("at %s after look %d, want %s", got, look+1, want)
		}
		now = now.Add(time.Second)
	}
}

// A file whose times lie in the future never settles, and is captured all the
// same.
func TestDB_TimesInTheFuture(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	makeRested(t, path)
	future := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(path, future, future); err != nil {
		t.Fatal(err)
	}
	db := replicated(t, path, filepath.Join(dir, "replica"))
	now := time.Now()
	db.SetClock(func() time.Time { return now })
	if err := db.Replica.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := db.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	if got := db.Pos().TXID; got != 1 {
		t.Fatalf("at %s after ten looks, want 1", got)
	}
}
