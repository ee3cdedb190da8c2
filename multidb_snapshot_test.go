package litestream_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
)

// A cold database that is opened for a snapshot alone gives its place back.
func TestMultiDBManager_SnapshotOfColdDatabase(t *testing.T) {
	f := newTestFleet(t)
	f.cfg.MaxHotDatabases = 1
	for i := range 3 {
		closedDB(t, f.path(i))
	}
	m := f.manager()
	m.Levels = litestream.CompactionLevels{{Level: 0}, {Level: 1, Interval: 100 * time.Millisecond}}
	m.SnapshotInterval = time.Hour
	if err := m.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer f.close()
	waitFor(t, "first backups", func() bool { return m.Counts()["clean"] == 3 })
	for i := range 3 {
		insertClosed(t, f.path(i))
	}
	waitFor(t, "snapshots", func() bool {
		a, err := filepath.Glob(filepath.Join(f.replica, "*", "ltx", "9", "*.ltx"))
		return err == nil && len(a) >= 3
	})
	waitFor(t, "all to be cold", func() bool { return m.Counts()["clean"] == 3 })
}

// Snapshots of a single pass leave nothing open.
func TestMultiDBManager_SyncOnceForceSnapshot(t *testing.T) {
	f := newTestFleet(t)
	f.cfg.MaxHotDatabases = 2
	for i := range 5 {
		closedDB(t, f.path(i))
	}
	m := f.manager()
	if err := m.SyncOnce(context.Background(), litestream.SyncOnceOptions{ForceSnapshot: true}); err != nil {
		t.Fatal(err)
	}
	if got := m.Counts()["clean"]; got != 5 {
		t.Errorf("%d databases are clean after a single pass, want 5: %v", got, m.Counts())
	}
	f.close()
}

func closedDB(t *testing.T, path string) {
	t.Helper()
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
}

func insertClosed(t *testing.T, path string) {
	t.Helper()
	app := openApp(t, path, "")
	mustExec(t, app, "INSERT INTO t VALUES (1)")
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
}
