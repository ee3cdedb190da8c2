package litestream_test

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// A database that is added while the store runs is replicated like the others,
// and one that is removed is synced a last time and then left alone.
func TestStore_AddAndRemoveDB(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	newDB := func(name string) (*litestream.DB, *testutil.MemClient, func(int)) {
		path := filepath.Join(dir, name)
		insert := appWith(t, path, 1)
		db, client := litestream.NewDB(path), testutil.NewMemClient()
		db.MonitorInterval = 10 * time.Millisecond
		db.Replica = litestream.NewReplicaWithClient(db, client)
		db.Replica.SyncInterval = 10 * time.Millisecond
		return db, client, insert
	}
	first, firstClient, insertFirst := newDB("first")
	second, secondClient, insertSecond := newDB("second")
	store := litestream.NewStore([]*litestream.DB{first}, nil)
	if err := store.AddDB(ctx, second); err == nil {
		t.Error("added to a store that is not open")
	}
	if err := store.Open(ctx); err != nil {
		t.Fatal(err)
	}
	if err := store.AddDB(ctx, second); err != nil {
		t.Fatal(err)
	}
	if err := store.AddDB(ctx, litestream.NewDB(second.Path())); err == nil {
		t.Error("added one path twice")
	}
	waitFor(t, "both to be replicated", func() bool {
		return len(firstClient.Files(0)) > 0 && len(secondClient.Files(0)) > 0
	})
	if store.FindDB(second.Path()) != second {
		t.Error("the added database is not found by its path")
	}
	insertFirst(3)
	if err := store.RemoveDB(ctx, first.Path()); err != nil {
		t.Fatal(err)
	}
	wantRows(t, firstClient, 4)
	if st := first.Status(); st.State != litestream.SyncStateClosed {
		t.Errorf("the removed database is %s", st.State)
	}
	if err := store.RemoveDB(ctx, first.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	insertFirst(1)
	insertSecond(2)
	if err := store.Close(ctx); err != nil {
		t.Fatal(err)
	}
	wantRows(t, firstClient, 4)
	wantRows(t, secondClient, 3)
}
