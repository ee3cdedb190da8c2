package litestream_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
)

// TestSyncTenant brings a database to its replica that no scan has looked at
// since it was written to.
func TestSyncTenant(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.ScanInterval = time.Hour
	f.cfg.MaxHotDatabases = 1
	f.rested(3)
	f.open()
	f.awaitCounts(map[string]int{"clean": 3})
	ctx := t.Context()
	app := openApp(t, f.path("t001.db"), "_journal_mode=wal")
	for i := range 4 {
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		res, err := f.m.SyncTenant(ctx, f.path("t001.db"), true)
		if err != nil || res.Acked != res.TXID {
			t.Fatalf("got %+v, %v", res, err)
		}
		f.rows("t001", 2+i)
	}
	if res, err := f.m.SyncTenant(ctx, f.path("t001.db"), true); err != nil || res.TXID != res.Before {
		t.Errorf("without a change: got %+v, %v", res, err)
	}
	f.awaitState("t001.db", "clean")
	f.resetCounts()
	f.advance(time.Hour)
	if res, err := f.m.SyncTenant(ctx, f.path("t000.db"), true); err != nil || res.TXID == 0 || res.TXID != res.Before {
		t.Errorf("at rest: got %+v, %v", res, err)
	}
	if n := f.requests(); n > 0 {
		t.Errorf("%d requests for a database at rest", n)
	}

	makeRestedRows(t, f.path("new.db"), 2) // no scan has seen it
	if res, err := f.m.SyncTenant(ctx, f.path("new.db"), true); err != nil || res.TXID != 1 || res.Acked != 1 {
		t.Errorf("new: got %+v, %v", res, err)
	}
	f.rows("new", 2)
	if err := os.Symlink(f.path("new.db"), f.path("link.db")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.path("t002.db")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		f.path("none.db"): "database not found: " + f.path("none.db"),
		f.path("x.txt"):   "database not found",
		f.path("t002.db"): "file is gone",
		f.path("link.db"): "it is a link to " + f.path("new.db"),
	} {
		if _, err := f.m.SyncTenant(ctx, path, true); !errors.Is(err, litestream.ErrDatabaseNotFound) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	f.close()
}

// TestSyncTenant_Hung answers in time where the replica hangs, and others are
// not kept from being synced when it comes back.
func TestSyncTenant_Hung(t *testing.T) {
	f := newMemFleet(t)
	f.rested(2)
	f.open()
	f.replicated()
	f.gate.shut()
	makeRestedRows(t, f.path("t000.db"), 1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if res, err := f.m.SyncTenant(ctx, f.path("t000.db"), true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v; want a timeout", res, err)
	}
	f.gate.open()
	if _, err := f.m.SyncTenant(t.Context(), f.path("t000.db"), true); err != nil {
		t.Error(err)
	}
	f.rows("t000", 2)
	f.close()
}

// TestSyncTenant_AskedInVain: after a failure the storage has to say where it
// stands. That a sync asks for it first, and in vain, does not keep the database
// from being replicated when the storage is back.
func TestSyncTenant_AskedInVain(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.ScanInterval = time.Hour
	f.rested(1)
	f.open()
	f.awaitState("t000.db", "clean")
	f.breaks(func(string, string, int) error {
		return &litestream.ReplicaError{Type: "mem", Op: "put", Permanent: true, Err: errors.New("expired")}
	})
	makeRestedRows(t, f.path("t000.db"), 1)
	if _, err := f.m.SyncTenant(t.Context(), f.path("t000.db"), true); err == nil {
		t.Error("no error from a storage that refuses everything")
	}
	f.awaitState("t000.db", "failed")
	f.breaks(func(string, string, int) error { return errors.New("no route") })
	if _, err := f.m.SyncTenant(t.Context(), f.path("t000.db"), true); err == nil {
		t.Error("no error from a storage that is away")
	}
	f.breaks(nil)
	f.awaitState("t000.db", "clean")
	f.rows("t000", 2)
	f.close()
}

// TestStopTenant stops a database of a fleet, whatever is done to it and however
// often it is scanned, until it is started.
func TestStopTenant(t *testing.T) {
	f := newMemFleet(t)
	f.rested(2)
	f.open()
	f.replicated()
	ctx, path := t.Context(), f.path("t000.db")
	app := openApp(t, path, "_journal_mode=wal")
	for i := range 3 {
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		info, changed, err := f.m.StopTenant(ctx, path)
		if err != nil || !changed || !info.Stopped {
			t.Fatalf("stop: %+v, %t, %v", info, changed, err)
		}
		f.rows("t000", 2+2*i)
		if _, changed, err := f.m.StopTenant(ctx, path); err != nil || changed {
			t.Errorf("second stop: %t, %v", changed, err)
		}
		f.awaitFailed("t000.db", "stopped")
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		f.client("t000").ResetCounts()
		f.scans(3)
		if _, err := f.m.SyncTenant(ctx, path, true); !errors.Is(err, litestream.ErrDatabaseNotOpen) {
			t.Errorf("sync: %v", err)
		}
		if res := f.m.SyncAll(ctx, true); res.Failed+res.Left > 0 {
			t.Errorf("sync all: %+v", res)
		}
		if n := f.client("t000").Requests(); n > 0 {
			t.Errorf("%d requests for a stopped database", n)
		}
		if _, changed, err := f.m.StartTenant(ctx, path); err != nil || !changed {
			t.Fatalf("start: %t, %v", changed, err)
		}
		if _, changed, err := f.m.StartTenant(ctx, path); err != nil || changed {
			t.Errorf("second start: %t, %v", changed, err)
		}
		if _, err := f.m.SyncTenant(ctx, path, true); err != nil {
			t.Fatal(err)
		}
		f.rows("t000", 3+2*i)
	}
	f.close()
}

// TestStopTenant_Hung stops a database whose replica hangs, in time.
func TestStopTenant_Hung(t *testing.T) {
	f := newMemFleet(t)
	f.rested(1)
	f.open()
	f.replicated()
	f.gate.shut()
	path := f.path("t000.db")
	makeRestedRows(t, path, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	info, changed, err := f.m.StopTenant(ctx, path)
	if !errors.Is(err, context.DeadlineExceeded) || !changed || !info.Stopped {
		t.Errorf("got %+v, %t, %v", info, changed, err)
	}
	f.awaitFailed("t000.db", "stopped")
	f.gate.open()
	f.scans(2)
	f.awaitFailed("t000.db", "stopped")
	if _, _, err := f.m.StartTenant(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.m.SyncTenant(t.Context(), path, true); err != nil {
		t.Fatal(err)
	}
	f.rows("t000", 2)
	f.close()
}

// TestStopTenant_Restart: a new process replicates what was stopped.
func TestStopTenant_Restart(t *testing.T) {
	f := newMemFleet(t)
	f.rested(1)
	f.open()
	f.replicated()
	if _, _, err := f.m.StopTenant(t.Context(), f.path("t000.db")); err != nil {
		t.Fatal(err)
	}
	makeRestedRows(t, f.path("t000.db"), 1)
	f.close()
	f.rows("t000", 1)
	f.open()
	f.awaitState("t000.db", "clean")
	f.rows("t000", 2)
	f.close()
}

// TestSyncAll scans first, and syncs what changed, whatever there are places for.
func TestSyncAll(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.ScanInterval = time.Hour
	f.cfg.MaxHotDatabases = 2
	names := f.rested(20)
	f.open()
	f.awaitCounts(map[string]int{"clean": 20})
	for _, name := range names[:15] {
		makeRestedRows(t, f.path(name), 1)
	}
	makeRestedRows(t, f.path("new.db"), 1)
	res := f.m.SyncAll(t.Context(), true)
	if res.Failed+res.Left != 0 || res.Databases < 16 || res.Synced != res.Databases {
		t.Errorf("got %+v", res)
	}
	for _, name := range names[:15] {
		f.rows(strings.TrimSuffix(name, ".db"), 2)
	}
	f.rows("new", 1)

	f.gate.shut()
	for _, name := range names[:5] {
		makeRestedRows(t, f.path(name), 1)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if res := f.m.SyncAll(ctx, true); res.Left == 0 || res.Left+res.Synced+res.Failed != res.Databases {
		t.Errorf("replica hangs: got %+v", res)
	}
	f.gate.open()
	if res := f.m.SyncAll(t.Context(), true); res.Failed+res.Left != 0 {
		t.Errorf("replica is back: got %+v", res)
	}
	for _, name := range names[:5] {
		f.rows(strings.TrimSuffix(name, ".db"), 3)
	}
	f.close()
}

// TestTenants lists every database once, in pieces of any size.
func TestTenants(t *testing.T) {
	f := newMemFleet(t)
	const n = 600 // more than two batches
	for i := range n {
		if err := os.WriteFile(f.path(strings.Repeat("x", i%100+1)+string(rune('a'+i/100))+".db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.open()
	errStop := errors.New("stop")
	for _, size := range []int{1, 63, 64, 65, 256, 257, n, n + 1} {
		seen := make(map[string]bool)
		from, calls := uint32(0), 0
		for {
			got := 0
			err := f.m.Tenants(t.Context(), from, func(info litestream.TenantInfo, next uint32) error {
				if seen[info.Path] || info.Path == "" {
					t.Fatalf("size %d: %q twice", size, info.Path)
				}
				seen[info.Path], from = true, next
				if got++; got == size {
					return errStop
				}
				return nil
			})
			calls++
			if err == nil {
				break
			} else if !errors.Is(err, errStop) || calls > n+2 {
				t.Fatal(err)
			}
		}
		if len(seen) != n {
			t.Errorf("size %d: %d databases, want %d", size, len(seen), n)
		}
	}
	if got := f.m.TenantCount(); got != n {
		t.Errorf("count %d, want %d", got, n)
	}
	f.close()
}
