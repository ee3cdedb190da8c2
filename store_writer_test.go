package litestream_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

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
