package litestream_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// While the staging disk is full nothing is staged half, the database is let
// go so that the application's own checkpoints work, and all is captured once
// there is room again.
func TestDB_StagingDiskFull(t *testing.T) {
	disk, dir := testutil.SmallDisk(t, "2m"), t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := replicated(t, path, replica)
	db.SetMetaPath(filepath.Join(disk, "meta"))
	syncAll(t, db)

	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		mustExec(t, app, "INSERT INTO t VALUES (randomblob(100000))")
	}
	if err := db.Sync(context.Background()); !errors.Is(err, litestream.ErrDiskFull) {
		t.Fatalf("got %v, want an error that says the disk is full", err)
	}
	if s := db.Status(); s.Pinned {
		t.Error("the database is still pinned")
	}
	var busy, log, moved int
	if err := app.QueryRow("PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &moved); err != nil || busy != 0 {
		t.Errorf("the application's checkpoint: busy=%d, %v", busy, err)
	}
	temp, err := filepath.Glob(filepath.Join(disk, "meta", "ltx", "0", "*.tmp"))
	if err != nil || len(temp) > 0 {
		t.Errorf("left %v, %v", temp, err)
	}

	mustExec(t, app, "DELETE FROM t")
	mustExec(t, app, "VACUUM")
	mustExec(t, app, "INSERT INTO t VALUES ('after')")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := db.SyncFully(context.Background()); err != nil {
		t.Fatal(err)
	}
	syncAll(t, db)
	if got := count(t, restored(t, replica), "SELECT count(*) FROM t WHERE x = 'after'"); got != 1 {
		t.Errorf("restored %d rows, want 1", got)
	}
}

// A large database at rest on a file system that cannot be written to is
// captured without a connection, which would need a log and its index there.
func TestDB_ReadOnlyFileSystem(t *testing.T) {
	disk, dir := testutil.SmallDisk(t, "2m"), t.TempDir()
	path, replica := filepath.Join(disk, "db"), filepath.Join(dir, "replica")
	makeRested(t, path)
	testutil.LockDisk(t, disk)
	db := replicated(t, path, replica)
	db.SetMetaPath(filepath.Join(dir, "meta"))
	db.Tune(knob.DB{Now: func() time.Time { return time.Now().Add(time.Hour) }, RestBytes: 1})
	syncAll(t, db)
	if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != 0 {
		t.Errorf("restored %d rows, want 0", got)
	}
	if got := db.Replica.Pos().TXID; got != 1 {
		t.Errorf("at %s, want 1", got)
	}
}
