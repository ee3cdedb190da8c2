package litestream_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// purge asks the manager for it.
func (f *memFleet) purge(name string, force bool) (*litestream.PurgeResult, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return f.m.PurgeTenant(ctx, f.path(name), force)
}

// TestMultiDBManager_Purge deletes replicas while the daemon runs: the files,
// the record, and the entry of the catalog.
func TestMultiDBManager_Purge(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	for _, name := range []string{"a.db", "ab.db", "c.db"} {
		makeRestedRows(t, f.path(name), 2)
	}
	f.open()
	f.awaitCounts(map[string]int{"clean": 3})
	if _, err := f.purge("a.db", false); !errors.Is(err, litestream.ErrNotPurgeable) {
		t.Errorf("one that is there: %v", err)
	}
	if _, err := f.purge("a.db", true); !errors.Is(err, litestream.ErrNotPurgeable) {
		t.Errorf("one that is replicated, with force: %v", err)
	}
	if _, err := f.m.PurgeTenant(t.Context(), "/elsewhere/a.db", true); !errors.Is(err, litestream.ErrDatabaseNotFound) {
		t.Errorf("one of no pattern: %v", err)
	}
	f.rows("a", 2)
	removeDB(t, f.path("a.db"))
	res, err := f.purge("a.db", false) // no scan has seen it
	if err != nil || res.Files == 0 {
		t.Fatalf("got %+v, %v", res, err)
	}
	if n := len(f.client("a").Files(0)) + len(f.client("a").Files(9)); n != 0 {
		t.Errorf("%d files are left", n)
	}
	if state, _ := f.m.TenantState(f.path("a.db")); state != "" {
		t.Errorf("the database is %s", state)
	}
	// With force: one that is there and was stopped begins anew.
	if _, _, err := f.m.StopTenant(t.Context(), f.path("ab.db")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.purge("ab.db", false); !errors.Is(err, litestream.ErrNotPurgeable) {
		t.Errorf("one that was stopped, without force: %v", err)
	}
	if _, err := f.purge("ab.db", true); err != nil {
		t.Fatal(err)
	}
	f.replicated()
	f.rows("ab", 2)
	f.close()
	left := catalogOf(t, f.root)
	if _, ok := left[f.path("a.db")]; ok || len(left) != 2 {
		t.Errorf("catalog: %v", left)
	}
}

// A volume that is not mounted is no deletion, unless that is said.
func TestMultiDBManager_PurgeLast(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	makeRestedRows(t, f.path("a.db"), 1)
	f.open()
	f.awaitCounts(map[string]int{"clean": 1})
	removeDB(t, f.path("a.db"))
	f.awaitState("a.db", "gone")
	f.scans(1)
	if _, err := f.purge("a.db", false); !errors.Is(err, litestream.ErrNotPurgeable) {
		t.Errorf("got %v", err)
	}
	if _, err := f.purge("a.db", true); err != nil {
		t.Error(err)
	}
	f.close()
}

// A purge that fails half way is gone on with, by the next process too,
// whatever deleted-retention is.
func TestMultiDBManager_PurgeInterrupted(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	makeRestedRows(t, f.path("a.db"), 1)
	makeRestedRows(t, f.path("b.db"), 1)
	f.open()
	f.awaitCounts(map[string]int{"clean": 2})
	removeDB(t, f.path("a.db"))
	f.awaitState("a.db", "gone")
	f.breaks(func(_, op string, _ int) error {
		if op == testutil.OpDeleteAll {
			return errors.New("no answer")
		}
		return nil
	})
	if _, err := f.purge("a.db", false); err == nil {
		t.Error("no error")
	}
	f.close()
	f.breaks(nil)
	f.open()
	f.awaitState("a.db", "")
	if n := len(f.client("a").Files(0)); n != 0 {
		t.Errorf("%d files are left", n)
	}
	f.close()
	if _, ok := catalogOf(t, f.root)[f.path("a.db")]; ok {
		t.Error("the catalog names it")
	}
}

// A database that only the catalog knows, after the loss of the state directory.
func TestMultiDBManager_PurgeUnknown(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	for _, name := range []string{"a.db", "b.db", "c.db"} {
		makeRestedRows(t, f.path(name), 1)
	}
	f.open()
	f.awaitCounts(map[string]int{"clean": 3})
	f.close()
	removeDB(t, f.path("a.db"))
	if err := os.RemoveAll(f.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.replicated()
	f.close()
	if _, ok := catalogOf(t, f.root)[f.path("a.db")]; !ok {
		t.Fatal("the catalog has lost it")
	}
	f.open()
	f.replicated()
	if res, err := f.purge("a.db", false); err != nil || res.Files == 0 {
		t.Errorf("got %+v, %v", res, err)
	}
	f.close()
	if got := catalogOf(t, f.root); len(got) != 2 {
		t.Errorf("catalog: %v", got)
	}
	f.open() // and it stays away
	makeRestedRows(t, f.path("d.db"), 1)
	f.replicated()
	f.close()
	if got := catalogOf(t, f.root); len(got) != 3 || got[f.path("d.db")].TXID == 0 {
		t.Errorf("catalog: %v", got)
	}
}

// Without a daemon the record and the entry go, and the rest stays as it was.
func TestOfflinePurge(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	for _, name := range []string{"a.db", "b.db"} {
		makeRestedRows(t, f.path(name), 1)
	}
	f.open()
	f.awaitCounts(map[string]int{"clean": 2})
	if _, err := litestream.BeginOfflinePurge(t.Context(), f.cfg.StateDir, f.path("a.db")); !errors.Is(err, registry.ErrLocked) {
		t.Fatalf("while the daemon runs: %v", err)
	}
	f.close()
	removeDB(t, f.path("a.db"))
	p, err := litestream.BeginOfflinePurge(t.Context(), f.cfg.StateDir, f.path("a.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := litestream.PurgeReplica(t.Context(), f.client("a")); err != nil {
		t.Fatal(err)
	}
	if n, err := litestream.RemoveFromCatalog(t.Context(), f.root, "a"); n != 1 || err != nil {
		t.Errorf("%d entries, error %v", n, err)
	}
	if n, err := litestream.RemoveFromCatalog(t.Context(), f.root, "a"); n != 0 || err != nil {
		t.Errorf("once more: %d entries, error %v", n, err)
	}
	if err := p.End(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if got := catalogOf(t, f.root); len(got) != 1 || got[f.path("b.db")].TXID != 1 {
		t.Errorf("catalog: %v", got)
	}
	f.resetCounts()
	f.open()
	f.scans(2)
	if state, _ := f.m.TenantState(f.path("a.db")); state != "" {
		t.Errorf("the database is %s", state)
	}
	if n := f.requests() + f.root.Requests(); n != 1 {
		t.Errorf("%d requests, want the read of the epoch: %v", n, f.root.Counts())
	}
	makeRestedRows(t, f.path("a.db"), 3)
	f.replicated()
	f.rows("a", 3)
	f.close()
	if got := catalogOf(t, f.root); len(got) != 2 || got[f.path("a.db")].TXID != 1 {
		t.Errorf("catalog: %v", got)
	}
}

// What was begun without a daemon, and not ended, a daemon ends.
func TestOfflinePurge_CutOff(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	for _, name := range []string{"a.db", "b.db"} {
		makeRestedRows(t, f.path(name), 1)
	}
	f.open()
	f.awaitCounts(map[string]int{"clean": 2})
	f.close()
	removeDB(t, f.path("a.db"))
	p, err := litestream.BeginOfflinePurge(t.Context(), f.cfg.StateDir, f.path("a.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.End(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.awaitState("a.db", "")
	f.close()
	if n := len(f.client("a").Files(0)); n != 0 {
		t.Errorf("%d files are left", n)
	}
	if got := catalogOf(t, f.root); len(got) != 1 {
		t.Errorf("catalog: %v", got)
	}
	p, err = litestream.BeginOfflinePurge(t.Context(), t.TempDir()+"/none", f.path("a.db"))
	if err != nil || p.End(t.Context(), true) != nil {
		t.Errorf("without a state directory: %v", err)
	}
}
