package litestream_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// testFleet is a directory of databases under a manager.
type testFleet struct {
	t       *testing.T
	dir     string // of the databases
	replica string
	state   string
	cfg     litestream.MultiDBConfig
	m       *litestream.MultiDBManager
	log     slog.Handler
}

func newTestFleet(t *testing.T) *testFleet {
	t.Helper()
	waitsForClocks(t)
	root := t.TempDir()
	f := &testFleet{t: t, dir: filepath.Join(root, "data"), replica: filepath.Join(root, "replica"), state: filepath.Join(root, "state")}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.cfg = litestream.NewMultiDBConfig()
	f.cfg.Patterns = []string{f.dir + "/{{tenant}}.db"}
	f.cfg.ReplicaPath = "{{tenant}}"
	f.cfg.StateDir = f.state
	f.cfg.ScanInterval = 20 * time.Millisecond
	f.cfg.HotDuration = 100 * time.Millisecond
	f.log = slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo})
	return f
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func (f *testFleet) path(i int) string { return filepath.Join(f.dir, fmt.Sprintf("t%03d.db", i)) }

// manager makes the manager of the next run.
func (f *testFleet) manager() *litestream.MultiDBManager {
	f.t.Helper()
	store := litestream.NewStore(nil, nil)
	base := file.NewReplicaClient(f.replica)
	m, err := litestream.NewMultiDBManager(f.cfg, store, litestream.TenantClients{
		Root: base,
		Tenant: func(t *litestream.Tenant) (litestream.ReplicaClient, error) {
			return file.NewReplicaClient(filepath.Join(f.replica, t.ReplicaPath)), nil
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	m.Logger = slog.New(f.log)
	m.SyncInterval = 10 * time.Millisecond
	f.m = m
	return m
}

func (f *testFleet) open() {
	f.t.Helper()
	if err := f.manager().Open(context.Background()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *testFleet) close() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := f.m.Close(ctx); err != nil {
		f.t.Fatal(err)
	}
}

// restored returns how many rows the newest state of a database's replica has.
func (f *testFleet) restored(i int) (n int) {
	f.t.Helper()
	out := filepath.Join(f.t.TempDir(), "out")
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = out
	client := file.NewReplicaClient(filepath.Join(f.replica, fmt.Sprintf("t%03d", i)))
	if _, err := litestream.Restore(context.Background(), client, opt); err != nil {
		f.t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", out)
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT COUNT(*) FROM t").Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// Databases at rest are backed up, and what changes afterwards follows, with
// fewer places among the hot ones than there are databases.
func TestMultiDBManager_Replicates(t *testing.T) {
	f := newTestFleet(t)
	f.cfg.MaxHotDatabases = 3
	var inserts []func(int)
	for i := range 20 {
		inserts = append(inserts, appWith(t, f.path(i), i+1))
	}
	f.open()
	waitFor(t, "first backups", func() bool { return f.m.Counts()["clean"] == 20 })
	for i := range 20 {
		inserts[i](1)
	}
	f.close()
	for i := range 20 {
		if got, want := f.restored(i), i+2; got != want {
			t.Errorf("database %d has %d rows after a restore, want %d", i, got, want)
		}
	}
	f.open()
	defer f.close()
	waitFor(t, "a clean restart", func() bool { return f.m.Counts()["clean"] == 20 })
}

// Maintenance opens a cold database for its snapshot. Afterwards it is let go,
// or looked at like any other hot one: a change that follows is replicated.
func TestMultiDBManager_ChangeAfterMaintenance(t *testing.T) {
	f := newTestFleet(t)
	insert := appWith(t, f.path(0), 1)
	m := f.manager()
	m.Levels = litestream.CompactionLevels{{Level: 0}, {Level: 1, Interval: 300 * time.Millisecond}}
	if err := m.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer f.close()
	snapshots := func() int {
		names, err := filepath.Glob(filepath.Join(f.replica, "t000", "ltx", "9", "*.ltx"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	for round := range 3 {
		waitFor(t, "the database to rest", func() bool { return m.Counts()["clean"] == 1 })
		before := snapshots()
		insert(1)
		waitFor(t, "the change to be replicated", func() bool { return f.restored(0) == round+2 })
		waitFor(t, "a snapshot by maintenance", func() bool { return snapshots() > before })
	}
}
