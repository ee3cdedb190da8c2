package litestream_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// A database of dbs whose replica somebody else went on with stops, over a
// restart too, until a takeover. A first contact adopts what lies there.
func TestStore_SecondWriter(t *testing.T) {
	ctx := context.Background()
	client := testutil.NewMemClient()
	path := [2]string{filepath.Join(t.TempDir(), "db"), filepath.Join(t.TempDir(), "db")}
	makeRestedRows(t, path[0], 1)
	copyResting(t, path[1], path[0])
	start := func(i int) (*litestream.DB, *litestream.Store) {
		t.Helper()
		db := litestream.NewDB(path[i])
		db.Replica = litestream.NewReplicaWithClient(db, client)
		store := litestream.NewStore([]*litestream.DB{db}, nil)
		if err := store.Prepare(ctx); err != nil {
			t.Fatal(err)
		}
		return db, store
	}
	sync := func(s *litestream.Store, i int) error {
		t.Helper()
		_, err := s.SyncDB(ctx, path[i], true)
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, storeA := start(0)
	must(sync(storeA, 0))
	b, storeB := start(1)
	insertClosed(t, path[1])
	must(sync(storeB, 1))
	insertClosed(t, path[0])
	err := sync(storeA, 0)
	if !errors.Is(err, litestream.ErrSecondWriter) {
		t.Fatalf("upload of the one that slept: %v, want ErrSecondWriter", err)
	}
	t.Log(err)
	must(a.Close(ctx))
	a, storeA = start(0)
	client.ResetCounts()
	if err := sync(storeA, 0); !errors.Is(err, litestream.ErrSecondWriter) || a.Status().State != litestream.SyncStateFailed {
		t.Errorf("after a restart: %v, %+v", err, a.Status())
	}
	if n := client.Requests(); n != 0 {
		t.Errorf("%d requests for a replica that is another's", n)
	}
	insertClosed(t, path[1])
	must(sync(storeB, 1))
	res, err := storeA.TakeOverDB(ctx, path[0])
	must(err)
	if res.TXID != a.Status().Acked || res.Snapshot != res.TXID || !errors.Is(res.Was, litestream.ErrSecondWriter) {
		t.Errorf("takeover: %+v", res)
	}
	insertClosed(t, path[1])
	if err := sync(storeB, 1); !errors.Is(err, litestream.ErrSecondWriter) {
		t.Errorf("upload after the takeover: %v, want ErrSecondWriter", err)
	}
	insertClosed(t, path[0])
	must(sync(storeA, 0))
	if got := count(t, restoredFrom(t, client), "SELECT count(*) FROM t"); got != 3 {
		t.Errorf("restored %d rows, want 3", got)
	}
	must(b.Close(ctx))
	must(litestream.TakeOverOffline(b.MetaPath()))
	b, storeB = start(1)
	must(sync(storeB, 1))
	if got := count(t, restoredFrom(t, client), "SELECT count(*) FROM t"); got != 4 {
		t.Errorf("restored %d rows after the takeover by a restart, want 4", got)
	}
	must(a.Close(ctx))
	must(b.Close(ctx))
}

// plainClient is a storage that cannot refuse to overwrite.
type plainClient struct{ litestream.ReplicaClient }

// Where the storage does not refuse, both of two writers at the same moment are
// accepted, and the later one's file stays. The other one finds out with its next
// upload, and what can be restored is the state of one of them at any time.
func TestStore_SecondWriterUnconditional(t *testing.T) {
	ctx := context.Background()
	client := testutil.NewMemClient()
	path := [2]string{filepath.Join(t.TempDir(), "db"), filepath.Join(t.TempDir(), "db")}
	makeRestedRows(t, path[0], 1)
	copyResting(t, path[1], path[0])
	var stores [2]*litestream.Store
	var dbs [2]*litestream.DB
	sync := func(i int) error {
		t.Helper()
		_, err := stores[i].SyncDB(ctx, path[i], true)
		return err
	}
	for i := range stores {
		dbs[i] = litestream.NewDB(path[i])
		dbs[i].Replica = litestream.NewReplicaWithClient(dbs[i], plainClient{client})
		stores[i] = litestream.NewStore([]*litestream.DB{dbs[i]}, nil)
		if err := stores[i].Prepare(ctx); err != nil {
			t.Fatal(err)
		}
	}
	insertClosed(t, path[1])
	dbs[1].SetClock(func() time.Time { return time.Now().Add(time.Second) }) // the files do not begin alike
	raced := false
	client.Fail = func(op string, level int, _, _ ltx.TXID) error {
		if op != testutil.OpWrite || level != 0 || raced {
			return nil
		}
		raced = true // the first one has looked and is about to write
		if err := sync(1); err != nil {
			t.Errorf("upload of the second: %v", err)
		}
		return nil
	}
	if err := sync(0); err != nil {
		t.Fatalf("upload of the first: %v", err)
	}
	if got := count(t, restoredFrom(t, client), "SELECT count(*) FROM t"); !raced || got != 1 {
		t.Errorf("raced %v, restored %d rows, want those of the first", raced, got)
	}
	insertClosed(t, path[1])
	if err := sync(1); !errors.Is(err, litestream.ErrSecondWriter) {
		t.Errorf("upload of the one whose file was written over: %v, want ErrSecondWriter", err)
	}
	insertClosed(t, path[0])
	if err := sync(0); err != nil {
		t.Errorf("upload of the other one: %v", err)
	}
	if got := count(t, restoredFrom(t, client), "SELECT count(*) FROM t"); got != 2 {
		t.Errorf("restored %d rows, want 2", got)
	}
	for _, db := range dbs {
		if err := db.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// How long an upload proves that nobody else is there follows a reload.
func TestStore_ProofAfterReload(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "db")
	makeRestedRows(t, path, 1)
	db := litestream.NewDB(path)
	db.Replica = litestream.NewReplicaWithClient(db, testutil.NewMemClient())
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	if err := store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	defer store.Close(ctx)
	if got, want := db.Replica.ProofFor(), litestream.DefaultL0Retention/2; got != want {
		t.Errorf("at first %s, want %s", got, want)
	}
	set := *store.Settings()
	set.L0Retention = time.Minute
	if err := store.Reconfigure(set); err != nil {
		t.Fatal(err)
	}
	if got, want := db.Replica.ProofFor(), 30*time.Second; got != want {
		t.Errorf("after a reload %s, want %s", got, want)
	}
}
