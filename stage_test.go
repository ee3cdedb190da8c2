package litestream_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// switchable returns a client whose uploads fail while the switch is on.
func switchable() (*testutil.MemClient, *atomic.Bool) {
	var away atomic.Bool
	client := testutil.NewMemClient()
	client.Fail = func(op string, _ int, _, _ ltx.TXID) error {
		if away.Load() && op != testutil.OpList && op != testutil.OpInit {
			return errors.New("away")
		}
		return nil
	}
	return client, &away
}

// A capture that staging stops half way is gone on with, even if nobody
// writes again.
func TestDB_SuspendMidCapture(t *testing.T) {
	t.Run("several files", func(t *testing.T) { suspendMidCapture(t, 64<<10) })
	t.Run("one file", func(t *testing.T) { suspendMidCapture(t, 512<<10) })
}

func suspendMidCapture(t *testing.T, maxSyncBytes int64) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	client, away := switchable()
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "PRAGMA wal_autocheckpoint=0")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := inMemory(t, path, client)
	db.MaxSyncWALBytes = maxSyncBytes
	litestream.BoundStaging(256<<10, db)
	syncAll(t, db)
	for range 100 {
		mustExec(t, app, "INSERT INTO t VALUES (randomblob(20000))")
	}
	away.Store(true)
	db.SetClock(func() time.Time { return time.Now().Add(30 * time.Second) }) // the log is no longer young
	mustSync(t, db)
	if !db.Status().Suspended {
		t.Fatal("want a suspended database: more is staged than the bound allows")
	}
	if s := db.Status(); s.Pinned {
		t.Error("want no pin while suspended")
	}
	_ = db.Replica.Sync(context.Background())
	away.Store(false)
	for range 100 {
		mustUpload(t, db)
		mustSync(t, db)
	}
	if db.Status().Suspended {
		t.Fatal("want a database that was resumed")
	}
	wantRows(t, client, 100)
}

// One database whose replica is down for good holds more than the bound, in
// one file that must not be dropped. The others go on.
func TestDB_SuspendLeavesOthers(t *testing.T) {
	dir := t.TempDir()
	bad, away := switchable()
	away.Store(true)
	appA := openApp(t, filepath.Join(dir, "a"), "_journal_mode=wal")
	mustExec(t, appA, "CREATE TABLE t (x)")
	mustExec(t, appA, "INSERT INTO t VALUES (randomblob(300000))")
	a := inMemory(t, filepath.Join(dir, "a"), bad)

	good := testutil.NewMemClient()
	insert := appWith(t, filepath.Join(dir, "b"), 1)
	b := inMemory(t, filepath.Join(dir, "b"), good)
	litestream.BoundStaging(200<<10, a, b)
	_ = a.Replica.Sync(context.Background())
	mustSync(t, a)
	for range 20 {
		insert(1)
		_ = a.Replica.Sync(context.Background())
		mustSync(t, a)
		mustUpload(t, b)
		mustSync(t, b)
	}
	mustUpload(t, b)
	wantRows(t, good, 21)
}

// The bound of the store counts what its databases stage.
func TestStore_MaxStagedBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	client, away := switchable()
	away.Store(true)
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	db := litestream.NewDB(path)
	db.MonitorInterval = 5 * time.Millisecond
	db.Replica = litestream.NewReplicaWithClient(db, client)
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	store.MaxStagedBytes = 100 << 10
	store.ShutdownSyncTimeout = 10 * time.Second
	if err := store.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; n < 100 && !db.Status().Suspended; n++ {
		pos := db.Pos().TXID
		mustExec(t, app, "INSERT INTO t VALUES (randomblob(20000))")
		waitFor(t, "a capture", func() bool { return db.Pos().TXID > pos || db.Status().Suspended })
	}
	if n == 100 {
		t.Error("2 MB were staged with a bound of 100 kB")
	}
	away.Store(false)
	mustExec(t, app, "INSERT INTO t VALUES (1)")
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantRows(t, client, n+1)
}
