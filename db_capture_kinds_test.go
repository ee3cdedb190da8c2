package litestream_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// captures returns the captures of a registry by "kind reason".
func captures(tb testing.TB, reg *prometheus.Registry) map[string]int {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	got := make(map[string]int)
	for _, f := range families {
		if f.GetName() != "litestream_capture_count" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			got[fmt.Sprintf("%s %s", labels["kind"], labels["reason"])] += int(m.GetCounter().GetValue())
		}
	}
	return got
}

// While a database is pinned, our own checkpoints restart the log, and every
// capture is proven: only the first is a full copy.
func TestStore_PinnedIsTailed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	mustExec(t, app, "INSERT INTO t VALUES (0)")
	db := litestream.NewDB(path)
	db.MonitorInterval, db.MinCheckpointPageN = 5*time.Millisecond, 50
	db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(filepath.Join(dir, "replica")))
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	reg := prometheus.NewRegistry()
	store.Metrics = litestream.NewMetrics(reg)
	if err := store.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first capture", func() bool { return db.Pos().TXID > 0 })
	for range 2000 {
		mustExec(t, app, "INSERT INTO t VALUES (randomblob(2000))")
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := captures(t, reg)
	t.Logf("captures: %v", got)
	for kind, n := range got {
		if kind != "tail " && kind != "full no-cursor" {
			t.Errorf("%d captures are %q, want tails only", n, kind)
		}
	}
	if got := count(t, restored(t, filepath.Join(dir, "replica")), "SELECT count(*) FROM t"); got != 2001 {
		t.Fatalf("restored %d rows, want 2001", got)
	}
}
