package litestream_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// Two databases with one replica path: the later one fails, and names the other,
// for as long as that is there. A start with both is refused.
func TestMultiDBManager_SameReplicaPath(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.Patterns = []string{f.dir + "/*.{db,sqlite}"}
	makeRestedRows(t, f.path("a.db"), 1)
	f.open()
	f.awaitState("a.db", "clean")
	makeRestedRows(t, f.path("a.sqlite"), 2)
	f.awaitFailed("a.sqlite", "same-replica-path")
	if _, reason := f.m.TenantState(f.path("a.sqlite")); !strings.Contains(reason.Error(), f.path("a.db")) {
		t.Errorf("the reason is %v, want the other path in it", reason)
	}
	f.advance(2 * time.Hour)
	f.scans(2)
	f.awaitState("a.sqlite", "failed")
	f.rows("a", 1)
	f.close()
	err := f.manager().Open(context.Background())
	if err == nil || !strings.Contains(err.Error(), f.path("a.db")) || !strings.Contains(err.Error(), f.path("a.sqlite")) {
		t.Fatalf("start: %v, want an error that names both", err)
	}
	removeDB(t, f.path("a.sqlite"))
	f.open()
	f.scans(1)
	f.awaitState("a.db", "clean")
	f.close()
	f.rows("a", 1)
}

// Where one of two databases with one replica path was removed after a start
// that was refused, the next one is not.
func TestMultiDBManager_SameReplicaPathRemoved(t *testing.T) {
	t.Parallel()
	for _, removed := range []string{"a.db", "a.sqlite"} {
		f := newMemFleet(t)
		f.cfg.Patterns = []string{f.dir + "/*.{db,sqlite}"}
		rows := map[string]int{"a.db": 1, "a.sqlite": 2}
		for name, n := range rows {
			makeRestedRows(t, f.path(name), n)
		}
		if err := f.manager().Open(context.Background()); err == nil {
			t.Fatal("started with two databases that have one replica path")
		}
		removeDB(t, f.path(removed))
		f.open()
		delete(rows, removed)
		for name, n := range rows {
			f.advance(time.Hour) // it may have been found before the other was missed
			f.awaitState(name, "clean")
			f.rows("a", n)
		}
		f.close()
	}
}

// A file that is named in the configuration and reached by a pattern through a
// link belongs to the first.
func TestMultiDBManager_NamedAndMatched(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	outside := filepath.Join(filepath.Dir(f.dir), "named.db")
	insert := appWith(t, outside, 1)
	db := litestream.NewDB(outside)
	db.MonitorInterval = 20 * time.Millisecond
	client := testutil.NewMemClient()
	db.Replica = litestream.NewReplicaWithClient(db, client)
	f.named = []*litestream.DB{db}
	makeRestedRows(t, f.path("other.db"), 1)
	f.open()
	waitFor(t, "the named one", func() bool { return len(client.Files(0)) > 0 })
	if err := os.Symlink(outside, f.path("link.db")); err != nil {
		t.Fatal(err)
	}
	f.awaitFailed("link.db", "second-path")
	if _, reason := f.m.TenantState(f.path("link.db")); !strings.Contains(reason.Error(), outside) {
		t.Errorf("the reason is %v, want the named path in it", reason)
	}
	f.awaitState("other.db", "clean")
	insert(2)
	f.close()
	wantRows(t, client, 3)
	if n := len(f.client("link").Files(0)); n > 0 {
		t.Errorf("%d files of the link", n)
	}
}

// A database named in the configuration and one found by pattern never share a
// replica: an error at the start that names both. Of those that meet later, the
// one found by pattern is not replicated as long as the other one is there.
func TestMultiDBManager_NamedReplica(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	outside := filepath.Join(filepath.Dir(f.dir), "named.db")
	makeRestedRows(t, outside, 3)
	f.remote = func(path string) litestream.ReplicaClient {
		if path == "" {
			return f.root
		}
		return placedClient{f.client(path), path}
	}
	name := func() *litestream.DB {
		db := litestream.NewDB(outside)
		db.MonitorInterval = 20 * time.Millisecond
		db.Replica = litestream.NewReplicaWithClient(db, f.remote("t000"))
		return db
	}
	f.named = []*litestream.DB{name()}
	names := f.rested(3)
	err := f.manager().Open(context.Background())
	if err == nil || !strings.Contains(err.Error(), outside) || !strings.Contains(err.Error(), f.path(names[0])) {
		t.Fatalf("got error %v, want one that names both", err)
	}

	// Found while it runs.
	if err := os.Rename(f.path(names[0]), f.path("x")); err != nil {
		t.Fatal(err)
	}
	f.named = []*litestream.DB{name()}
	f.open()
	f.awaitCounts(map[string]int{"clean": 2})
	waitFor(t, "the named one", func() bool { return len(f.client("t000").Files(0)) > 0 })
	if err := os.Rename(f.path("x"), f.path(names[0])); err != nil {
		t.Fatal(err)
	}
	f.awaitFailed(names[0], "same-replica-path")
	if _, reason := f.m.TenantState(f.path(names[0])); !strings.Contains(reason.Error(), outside) {
		t.Errorf("the reason is %v, want the named path in it", reason)
	}
	f.close()
	wantRows(t, f.client("t000"), 3)

	// Registered while it runs, and taken away again.
	f.named = nil
	f.emptyBucket()
	f.open()
	f.awaitCounts(map[string]int{"clean": 3})
	db := name()
	if err := f.m.Named().RegisterDB(context.Background(), db); err != nil {
		t.Fatal(err)
	}
	makeRestedRows(t, f.path(names[0]), 1)
	f.awaitFailed(names[0], "same-replica-path")
	if _, err := f.m.Named().UnregisterDB(context.Background(), outside); err != nil {
		t.Fatal(err)
	}
	f.advance(time.Minute)
	f.awaitState(names[0], "clean")
	f.close()
	f.rows("t000", 2)
}

// placedClient is a replica in memory that has a place.
type placedClient struct {
	*testutil.MemClient
	path string
}

// Location implements litestream.Locator.
func (c placedClient) Location() string { return "mem://" + c.path }

// A single pass replicates what changed, takes the snapshots and deletes what
// it is asked to.
func TestMultiDBManager_Once(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	names := f.rested(5)
	once := func(opt litestream.SyncOnceOptions) error {
		m := f.manager()
		err := m.SyncOnce(context.Background(), opt)
		if cerr := f.tryClose(10 * time.Second); cerr != nil {
			t.Error(cerr)
		}
		return err
	}
	must := func(opt litestream.SyncOnceOptions) {
		t.Helper()
		if err := once(opt); err != nil {
			t.Fatal(err)
		}
	}
	must(litestream.SyncOnceOptions{})
	for _, name := range names {
		f.rows(name[:4], 1)
	}
	makeRestedRows(t, f.path(names[0]), 2)
	must(litestream.SyncOnceOptions{})
	f.rows("t000", 3)

	must(litestream.SyncOnceOptions{ForceSnapshot: true})
	for _, name := range names {
		if n := len(f.client(name[:4]).Files(litestream.SnapshotLevel)); n != 1 {
			t.Errorf("%d snapshots of %s, want 1", n, name)
		}
	}
	f.rows("t000", 3)

	for _, name := range names[:2] {
		makeRestedRows(t, f.path(name), 1)
	}
	f.setup = func(m *litestream.MultiDBManager) { m.SnapshotRetention, m.L0Retention = time.Minute, time.Minute }
	f.advance(48 * time.Hour)
	must(litestream.SyncOnceOptions{ForceSnapshot: true, EnforceRetention: true})
	f.advance(48 * time.Hour) // what was just replaced stays for a while
	must(litestream.SyncOnceOptions{EnforceRetention: true})
	for i, name := range names {
		f.rows(name[:4], []int{4, 2, 1, 1, 1}[i])
		if n := len(f.client(name[:4]).Files(litestream.SnapshotLevel)); n != 1 {
			t.Errorf("%d snapshots of %s after retention, want 1", n, name)
		}
	}

	writeFile(t, f.path("bad.db"), noise(5000))
	writeFile(t, f.path("empty.db"), nil)
	makeRestedRows(t, f.path(names[4]), 1)
	err := once(litestream.SyncOnceOptions{})
	if err == nil || !strings.Contains(err.Error(), "bad.db") || strings.Contains(err.Error(), "empty.db") {
		t.Errorf("got error %v, want one of bad.db alone", err)
	}
	f.rows(names[4][:4], 2)
}
