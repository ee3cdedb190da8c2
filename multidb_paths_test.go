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
