package litestream_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// While a snapshot waits for its position to be sent, staging runs full and
// that position is dropped. The next files use its TXID for something else, so
// the snapshot must not be uploaded.
func TestStore_SnapshotOfDroppedPosition(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	client := testutil.NewMemClient()
	db := litestream.NewDB(path)
	db.Replica = litestream.NewReplicaWithClient(db, client)
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	store.MaxStagedBytes = 100_000
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(store.Prepare(ctx))
	insert := func(n int) {
		t.Helper()
		mustExec(t, app, "INSERT INTO t VALUES (randomblob(?))", n)
		must(db.Sync(ctx))
	}
	must(db.Replica.Sync(ctx))
	must(db.Sync(ctx))
	must(db.Replica.Sync(ctx))
	insert(10_000)
	mustExec(t, app, "INSERT INTO t VALUES (randomblob(10000))")
	full := false
	client.Fail = func(op string, level int, minTXID, _ ltx.TXID) error {
		if op == testutil.OpWriteExclusive && level == 0 && minTXID == 2 && !full {
			full = true
			insert(300_000)
			insert(10)
		}
		return nil
	}
	if err := store.Snapshot(ctx, db); err == nil {
		t.Error("snapshot of a dropped position succeeded")
	}
	if !full {
		t.Fatal("staging was never full")
	}
	for _, info := range client.Files(litestream.SnapshotLevel) {
		t.Errorf("uploaded snapshot %s", ltx.FormatFilename(info.MinTXID, info.MaxTXID))
	}
	must(store.Close(ctx))
}

// The first snapshot of a database that rests, and was written to a moment ago,
// waits until its files' times prove something. That is no error.
func TestStore_SnapshotOfYoungFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	log, client := &lineLog{}, testutil.NewMemClient()
	db := litestream.NewDB(path)
	db.Logger = slog.New(slog.NewTextHandler(log, nil))
	db.Replica = litestream.NewReplicaWithClient(db, client)
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	store.Logger = db.Logger
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a snapshot", func() bool { return len(client.Files(litestream.SnapshotLevel)) > 0 })
	if err := store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if log.count("level=ERROR")+log.count("level=WARN") > 0 {
		t.Errorf("log:\n%s", log.buf.String())
	}
}
