package main

import (
	"bytes"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/benbjohnson/litestream"
)

func TestNewStore(t *testing.T) {
	cfg := mustParse(t, `
levels: [{interval: 1m}, {interval: 2h}]
snapshot: {interval: 3h, retention: 4h}
l0-retention: 0
l0-retention-check-interval: 5s
retention: {enabled: false}
shutdown-sync-timeout: 0s
shutdown-sync-interval: 6s
max-staged-bytes: 7MB
checksums: true
dbs:
  - {path: /a, replica: {path: /r}}
  - path: /b
    meta-path: /m
    monitor-interval: 8s
    checkpoint-interval: 0
    busy-timeout: 9s
    min-checkpoint-page-count: 10
    truncate-page-n: -1
    max-sync-wal-bytes: 0
    checksums: false
    replica: {path: /s, sync-interval: 11s, max-sync-ltx-files: 12}
  - {path: /c, truncate-page-n: 0, replica: {path: /t}}
`)
	r, err := newStore(t.Context(), cfg, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := r.(*litestream.Store)
	var levels []time.Duration
	for _, l := range s.Levels {
		levels = append(levels, l.Interval)
	}
	got := []any{
		levels, s.SnapshotInterval, s.SnapshotRetention, s.L0Retention, s.L0RetentionCheckInterval, s.RetentionEnabled,
		s.ShutdownSyncTimeout, s.ShutdownSyncInterval, s.MaxStagedBytes,
	}
	want := []any{
		[]time.Duration{0, time.Minute, 2 * time.Hour},
		3 * time.Hour, 4 * time.Hour, time.Duration(0), 5 * time.Second, false,
		time.Duration(0), 6 * time.Second, int64(7_000_000),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("store (-want +got):\n%s", diff)
	}

	describe := func(i int) []any {
		db, err := newDB(t.Context(), cfg, cfg.DBs[i], slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return []any{
			db.Path(), db.MetaPath(), db.MonitorInterval, db.CheckpointInterval, db.BusyTimeout, db.MinCheckpointPageN,
			db.TruncatePageN, db.MaxSyncWALBytes, db.Checksums, db.Replica.SyncInterval, db.Replica.MaxSyncLTXFiles, db.Replica.Client.Type(),
		}
	}
	for i, want := range [][]any{
		{"/a", "/.a-litestream", time.Second, time.Minute, time.Second, 1000, 121359, int64(64 << 20), true, time.Second, 256, "file"},
		{"/b", "/m", 8 * time.Second, time.Duration(0), 9 * time.Second, 10, -1, int64(0), false, 11 * time.Second, 12, "file"},
		{"/c", "/.c-litestream", time.Second, time.Minute, time.Second, 1000, 121359, int64(64 << 20), true, time.Second, 256, "file"},
	} {
		if diff := cmp.Diff(want, describe(i)); diff != "" {
			t.Errorf("database %d (-want +got):\n%s", i, diff)
		}
	}
}

// TestReplicateAndRestore takes a database through the commands: once, as the
// parent of a child that is gone at once, and back.
func TestReplicateAndRestore(t *testing.T) {
	dir := testFolder(t)
	url := "file://" + dir + "/r"
	insert := func() {
		t.Helper()
		db, err := sql.Open("sqlite3", "file:a.db?_journal_mode=WAL")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.Exec("CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (randomblob(5000))"); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		t.Helper()
		var stdout, stderr lockedBuffer
		a := &app{stdout: &stdout, stderr: &stderr, signals: noSignals, newRunner: newStore}
		if code := a.main(t.Context(), args); code != 0 || stderr.String() != "" {
			t.Fatalf("%q: status %d\n%s%s", args, code, stdout.String(), stderr.String())
		}
	}
	check := func(name string) {
		t.Helper()
		run("restore", "-integrity-check", "full", "-o", name, url)
		want, err := os.ReadFile("a.db")
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s differs from the source", name)
		}
	}

	insert()
	run("replicate", "-once", "a.db", url)
	check("o1.db")
	insert()
	run("replicate", "-exec", "true", "a.db", url)
	check("o2.db")
	insert()
	run("replicate", "-once", "-force-snapshot", "-enforce-retention", "a.db", url)
	check("o3.db")
	if got := runCommand(t, "ltx", "-level", "9", url); strings.Count(got.stdout, "\n") != 2 {
		t.Errorf("snapshots:\n%s", got.stdout)
	}

	if err := os.Remove("a.db"); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove("a.db" + suffix) // SQLite may have removed it
	}
	run("replicate", "-once", "-restore-if-db-not-exists", "a.db", url)
	check("o4.db")
	if _, err := os.Stat(filepath.Join(dir, ".a.db-litestream", "ledger")); err != nil {
		t.Error(err)
	}
}
