package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

func TestDecideTakeover(t *testing.T) {
	const send, adopt, restart = litestream.TakeoverSend, litestream.TakeoverAdopt, litestream.TakeoverRestart
	for _, tt := range []struct {
		name                                 string
		captured, localMin, localMax, remote ltx.TXID
		same                                 bool
		want                                 litestream.Takeover
	}{
		{name: "nothing anywhere", want: send},
		{name: "first files, empty replica", captured: 3, localMin: 1, localMax: 3, want: send},
		{name: "wiped replica, pruned files", captured: 9, localMin: 5, localMax: 9, want: restart},
		{name: "wiped replica, files gone", captured: 9, want: restart},
		{name: "wiped replica, newest file gone", captured: 9, localMin: 1, localMax: 8, want: restart},
		{name: "in step", captured: 9, localMin: 5, localMax: 9, remote: 9, same: true, want: send},
		{name: "ahead of the replica", captured: 9, localMin: 5, localMax: 9, remote: 7, same: true, want: send},
		{name: "lost local state", remote: 9, want: adopt},
		{name: "behind the replica", captured: 5, localMin: 1, localMax: 5, remote: 9, want: adopt},
		{name: "another file at the replica's position", captured: 9, localMin: 1, localMax: 9, remote: 7, want: adopt},
		{name: "gap behind the replica's position", captured: 9, localMin: 8, localMax: 9, remote: 6, same: true, want: adopt},
		{name: "file behind the replica's position", captured: 9, localMin: 7, localMax: 9, remote: 6, same: true, want: send},
		{name: "newest file gone", captured: 9, localMin: 5, localMax: 8, remote: 8, same: true, want: adopt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := litestream.DecideTakeover(tt.captured, tt.localMin, tt.localMax, tt.remote, tt.same)
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// inMemory returns a database with a replica in memory.
func inMemory(tb testing.TB, path string, client litestream.ReplicaClient) *litestream.DB {
	tb.Helper()
	db := litestream.NewDB(path)
	db.Replica = litestream.NewReplicaWithClient(db, client)
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

// restoredFrom restores the newest position and returns the path.
func restoredFrom(tb testing.TB, client litestream.ReplicaClient) string {
	tb.Helper()
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = filepath.Join(tb.TempDir(), "restored.db")
	opt.IntegrityCheck = litestream.IntegrityCheckFull
	if _, err := litestream.Restore(context.Background(), client, opt); err != nil {
		tb.Fatal(err)
	}
	return opt.OutputPath
}

func mustSync(tb testing.TB, db *litestream.DB) {
	tb.Helper()
	if err := db.Sync(context.Background()); err != nil {
		tb.Fatal(err)
	}
}

func mustUpload(tb testing.TB, db *litestream.DB) {
	tb.Helper()
	if err := db.Replica.Sync(context.Background()); err != nil {
		tb.Fatal(err)
	}
}

// wantRows restores and counts the rows of table t.
func wantRows(tb testing.TB, client litestream.ReplicaClient, want int) {
	tb.Helper()
	if got := count(tb, restoredFrom(tb, client), "SELECT count(*) FROM t"); got != want {
		tb.Errorf("restored %d rows, want %d", got, want)
	}
}

// appWith makes a database in write-ahead log mode with n rows.
func appWith(tb testing.TB, path string, n int) func(rows int) {
	tb.Helper()
	app := openApp(tb, path, "_journal_mode=wal")
	mustExec(tb, app, "CREATE TABLE t (x)")
	insert := func(rows int) {
		tb.Helper()
		for i := range rows {
			mustExec(tb, app, "INSERT INTO t VALUES (?)", fmt.Sprintf("row %d", i))
		}
	}
	insert(n)
	return insert
}

// A page ledger without local files says what some replica held once. If the
// replica is empty, nothing of it counts.
func TestReplica_LedgerWithoutFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	client := testutil.NewMemClient()
	insert := appWith(t, path, 10)

	first := inMemory(t, path, client)
	syncAll(t, first)
	insert(1)
	syncAll(t, first)
	if err := first.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(first.L0Dir())); err != nil { // what reset of Litestream v0.5 removes
		t.Fatal(err)
	}
	if _, err := os.Stat(first.LedgerPath()); err != nil {
		t.Fatal(err)
	}
	if err := client.DeleteAll(context.Background()); err != nil {
		t.Fatal(err)
	}

	syncAll(t, inMemory(t, path, client))
	wantRows(t, client, 11)
}

// While the replica is away nothing says that the ledger fits what it holds.
func TestReplica_LedgerWithoutFilesReplicaAway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	client := testutil.NewMemClient()
	insert := appWith(t, path, 10)
	first := inMemory(t, path, client)
	syncAll(t, first)
	if err := first.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(first.L0Dir())); err != nil {
		t.Fatal(err)
	}
	if err := client.DeleteAll(context.Background()); err != nil {
		t.Fatal(err)
	}
	insert(1)

	away := true
	client.Fail = func(string, int, ltx.TXID, ltx.TXID) error {
		if away {
			return errors.New("away")
		}
		return nil
	}
	db := inMemory(t, path, client)
	if err := db.Replica.Sync(context.Background()); err == nil {
		t.Fatal("replica is away, want an error")
	}
	mustSync(t, db)
	if got := db.Pos().TXID; got != 1 {
		t.Fatalf("position %s, want 1: capture does not wait for the replica", got)
	}
	away = false
	syncAll(t, db)
	wantRows(t, client, 11)
}

// A replica that turns out to be ahead is followed, and nothing is lost.
func TestReplica_AheadAfterAway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	client := testutil.NewMemClient()
	insert := appWith(t, path, 10)
	first := inMemory(t, path, client)
	for range 5 {
		insert(1)
		syncAll(t, first)
	}
	if err := first.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(first.MetaPath()); err != nil {
		t.Fatal(err)
	}
	away := true
	client.Fail = func(string, int, ltx.TXID, ltx.TXID) error {
		if away {
			return errors.New("away")
		}
		return nil
	}
	db := inMemory(t, path, client)
	for range 3 {
		insert(1)
		_ = db.Replica.Sync(context.Background())
		mustSync(t, db)
	}
	away = false
	syncAll(t, db)
	if got := db.Replica.Pos().TXID; got != 6 {
		t.Errorf("replica at %s, want 6", got)
	}
	wantRows(t, client, 18)
}

// The metadata directory is deleted while files wait in it.
func TestReplica_MetadataDeleted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before int // uploads before
		after  bool
	}{
		{"nothing uploaded", 0, false},
		{"something uploaded", 2, false},
		{"something uploaded, then captured on", 2, true},
		{"nothing uploaded, then captured on", 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			client := testutil.NewMemClient()
			insert := appWith(t, path, 1)
			db := inMemory(t, path, client)
			for range tt.before {
				insert(1)
				syncAll(t, db)
			}
			away := true
			client.Fail = func(op string, _ int, _, _ ltx.TXID) error {
				if away && op != testutil.OpList {
					return errors.New("away")
				}
				return nil
			}
			for range 3 {
				insert(1)
				_ = db.Replica.Sync(context.Background())
				mustSync(t, db)
			}
			if err := os.RemoveAll(db.MetaPath()); err != nil {
				t.Fatal(err)
			}
			if tt.after {
				insert(1)
				mustSync(t, db)
			}
			away = false
			for range 3 {
				_ = db.Replica.Sync(context.Background())
				mustSync(t, db)
			}
			insert(1)
			syncAll(t, db)
			rows := 1 + tt.before + 3 + 1
			if tt.after {
				rows++
			}
			wantRows(t, client, rows)
		})
	}
}

// levelLister hides what a client can do beyond litestream.ReplicaClient.
type levelLister struct{ litestream.ReplicaClient }

// The first contact costs one listing where the storage lists all levels at
// once; elsewhere, one if level 0 holds anything, and one per level if not.
func TestReplica_FirstContact(t *testing.T) {
	type file struct {
		level    int
		min, max ltx.TXID
	}
	for _, tt := range []struct {
		name      string
		files     []file
		want      ltx.TXID
		wantLists int // of a client that lists single levels
	}{
		{"empty", nil, 0, 10},
		{"level 0", []file{{0, 1, 1}, {0, 2, 2}}, 2, 1},
		{"level 0 counts first", []file{{0, 3, 3}, {1, 1, 7}, {9, 1, 9}}, 3, 1},
		{"other levels", []file{{1, 1, 4}, {2, 1, 6}, {2, 5, 5}, {9, 1, 3}}, 6, 10},
		{"snapshots", []file{{9, 1, 3}, {9, 1, 8}}, 8, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mem := testutil.NewMemClient()
			for _, f := range tt.files {
				mem.Put(f.level, f.min, f.max, []byte("x"), time.Now())
			}
			for name, c := range map[string]struct {
				client litestream.ReplicaClient
				lists  int
			}{
				"tree": {mem, 1}, "levels": {levelLister{mem}, tt.wantLists},
			} {
				path := filepath.Join(t.TempDir(), "db")
				appWith(t, path, 1)
				mem.ResetCounts()
				db := inMemory(t, path, c.client)
				mem.Fail = func(op string, _ int, _, _ ltx.TXID) error {
					if op == testutil.OpWrite || op == testutil.OpWriteExclusive {
						return errors.New("away")
					}
					return nil
				}
				_ = db.Replica.Sync(context.Background())
				if got := db.Replica.Pos().TXID; got != tt.want {
					t.Errorf("%s: position %s, want %s", name, got, tt.want)
				}
				if got := mem.Count(testutil.OpList); got != c.lists {
					t.Errorf("%s: %d lists, want %d", name, got, c.lists)
				}
			}
		})
	}
}
