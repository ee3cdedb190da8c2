package litestream_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// Databases in use beyond those that may stay pinned are pinned for each look
// only, and nothing is missed.
func TestStore_PinnedDatabases(t *testing.T) {
	const n, pinned = 8, 3
	dir := t.TempDir()
	var (
		dbs     []*litestream.DB
		clients []*testutil.MemClient
		inserts []func(int)
	)
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("%d.db", i))
		inserts = append(inserts, appWith(t, path, 1)) // stays open
		db, client := litestream.NewDB(path), testutil.NewMemClient()
		db.MonitorInterval = 0 // looks are made here
		db.Replica = litestream.NewReplicaWithClient(db, client)
		dbs, clients = append(dbs, db), append(clients, client)
	}
	store := litestream.NewStore(dbs, nil)
	store.PinnedDatabases = pinned
	if err := store.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	for round := range 3 {
		for i, db := range dbs {
			syncAll(t, db)
			inserts[i](1)
			syncAll(t, db)
		}
		// The application is this process: closing a database would drop its
		// locks, so that one descriptor of each is kept.
		if got, want := openFiles(t)-before, 4*pinned+(n-pinned)+2; got > want {
			t.Errorf("round %d: %d descriptors for %d pinned databases, want at most %d", round, got, pinned, want)
		}
	}
	if got := openFiles(t) - before; got < pinned {
		t.Errorf("%d descriptors: nothing stays pinned", got)
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, client := range clients {
		wantRows(t, client, 4)
	}
}

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
