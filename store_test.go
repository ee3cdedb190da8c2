package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// waitFor polls until cond holds; the test fails after a minute.
func waitFor(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("waited a minute for %s", what)
		}
	}
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	path, replica := filepath.Join(dir, "db"), filepath.Join(dir, "replica")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")

	db := litestream.NewDB(path)
	db.MonitorInterval = 20 * time.Millisecond
	db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(replica))
	db.Replica.SyncInterval = 10 * time.Millisecond
	store := litestream.NewStore([]*litestream.DB{db}, litestream.CompactionLevels{
		{Level: 0}, {Level: 1, Interval: 100 * time.Millisecond}, {Level: 2, Interval: 300 * time.Millisecond},
	})
	if err := store.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		pos := db.Pos().TXID
		mustExec(t, app, "INSERT INTO t VALUES (?)", i)
		waitFor(t, "the capture of a commit", func() bool { return db.Pos().TXID > pos })
	}
	level := func(n int) int {
		matches, err := filepath.Glob(filepath.Join(replica, "ltx", fmt.Sprint(n), "*.ltx"))
		if err != nil {
			t.Fatal(err)
		}
		return len(matches)
	}
	for _, n := range []int{1, 2, litestream.SnapshotLevel} {
		waitFor(t, fmt.Sprintf("a file on level %d", n), func() bool { return level(n) > 0 })
	}
	mustExec(t, app, "INSERT INTO t VALUES ('last')")
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := count(t, restored(t, replica), "SELECT count(*) FROM t"); got != 21 {
		t.Fatalf("restored %d rows, want 21", got)
	}
}

// Two thousand databases run in as many goroutines as one, and one at rest
// holds no descriptor.
func TestStore_ManyAtRest(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 2,000 databases")
	}
	const n = 2000
	dir := t.TempDir()
	dbs := make([]*litestream.DB, n)
	for i := range dbs {
		path := filepath.Join(dir, fmt.Sprintf("%04d.db", i))
		dbs[i] = litestream.NewDB(path)
		dbs[i].Replica = litestream.NewReplicaWithClient(dbs[i], file.NewReplicaClient(path+".replica"))
		dbs[i].SetClock(func() time.Time { return time.Now().Add(time.Hour) })
		makeRested(t, path)
	}
	before := runtime.NumGoroutine()
	store := litestream.NewStore(dbs, nil)
	if err := store.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	most := 0
	waitFor(t, "all first backups", func() bool {
		most = max(most, runtime.NumGoroutine()-before)
		for _, db := range dbs {
			if db.Replica.Pos().TXID == 0 {
				return false
			}
		}
		return true
	})
	if most > 400 {
		t.Errorf("%d goroutines, want at most 400", most)
	}
	for _, db := range dbs {
		if s := db.Status(); s.Connected || s.TXID != 1 {
			t.Fatalf("%s: %+v, want TXID 1 and no connection", db.Path(), s)
		}
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// A single pass over a database that does not exist is an error, and keeps no
// other from being synced. A file without pages waits for its first commit.
func TestStore_SyncOnceMissing(t *testing.T) {
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "missing", "db"), filepath.Join(dir, "empty"), filepath.Join(dir, "good")}
	if err := os.WriteFile(paths[1], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	makeRested(t, paths[2])
	var dbs []*litestream.DB
	for i, path := range paths {
		db := litestream.NewDB(path)
		db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(filepath.Join(dir, fmt.Sprint("replica", i))))
		dbs = append(dbs, db)
	}
	store := litestream.NewStore(dbs, nil)
	err := store.SyncOnce(context.Background(), litestream.SyncOnceOptions{})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), paths[0]) || strings.Contains(err.Error(), paths[1]) {
		t.Errorf("got %v, want that %s does not exist", err, paths[0])
	}
	if got := dbs[2].Replica.Pos().TXID; got != 1 {
		t.Errorf("the good database is at %s, want 1", got)
	}
	if _, err := os.Stat(filepath.Dir(paths[0])); err == nil {
		t.Error("the missing folder was made")
	}
	if err := store.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
