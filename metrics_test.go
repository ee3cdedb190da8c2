package litestream_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	litestream "github.com/benbjohnson/litestream"
)

// gathered returns the values of the gauges and counters of one database, with
// the labels they have besides.
func gathered(tb testing.TB, reg *prometheus.Registry, path string) map[string]float64 {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if len(m.GetLabel()) == 0 || m.GetLabel()[0].GetName() != "db" || m.GetLabel()[0].GetValue() != path {
				continue
			}
			name := f.GetName()
			if own := m.GetLabel()[1:]; len(own) > 0 {
				var labels []string
				for _, l := range own {
					labels = append(labels, l.GetName()+`="`+l.GetValue()+`"`)
				}
				name += "{" + strings.Join(labels, ",") + "}"
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

// TestMetrics_Database checks the series of a database: there from its first
// moment on, right after a sync, gone when it is closed.
func TestMetrics_Database(t *testing.T) {
	dir := t.TempDir()
	// A file name is bytes; a label is UTF-8.
	path, odd := filepath.Join(dir, "db"), filepath.Join(dir, "db\xff")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	mustExec(t, openApp(t, odd, "_journal_mode=wal"), "CREATE TABLE t (x)")

	reg := prometheus.NewRegistry()
	dbs := []*litestream.DB{litestream.NewDB(path), litestream.NewDB(odd)}
	store := litestream.NewStore(dbs, nil)
	store.Metrics = litestream.NewMetrics(reg)
	if err := store.SyncOnce(context.Background(), litestream.SyncOnceOptions{}); err != nil {
		t.Fatal(err)
	}
	got := gathered(t, reg, path)
	if got["litestream_sync_seconds"] <= 0 {
		t.Errorf("sync_seconds=%v, want more than 0", got["litestream_sync_seconds"])
	}
	delete(got, "litestream_sync_seconds")
	want := map[string]float64{
		"litestream_db_size":   4096,
		"litestream_disk_full": 0,

		"litestream_compaction_verify_error_count": 0,
		"litestream_sync_count":                    1,
		"litestream_sync_error_count":              0,
		"litestream_total_wal_bytes":               0, // the first capture is of the whole database
		"litestream_txid":                          1,
		"litestream_wal_size":                      32 + 2*(24+4096),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series differ (-want +got):\n%s", diff)
	}
	if got := gathered(t, reg, filepath.Join(dir, `db\xff`)); len(got) == 0 {
		t.Error("no series for a name that is not UTF-8")
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := gathered(t, reg, path); len(got) != 0 {
		t.Errorf("series=%v after close, want none", got)
	}
}
