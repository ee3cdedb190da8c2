package litestream_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	litestream "github.com/benbjohnson/litestream"
)

// Sizes are those of the files now: of databases that are hot all the time, or
// were never replicated, too, and not of deleted ones.
func TestMultiDBManager_Sizes(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.Patterns = []string{f.dir + "/{{branch}}/{{tenant}}.db"}
	f.cfg.ReplicaPath = "{{branch}}/{{tenant}}"
	for _, dir := range []string{"x", "y"} {
		if err := os.Mkdir(f.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const logSize = litestream.LargeLogBytes
	good, bad := f.path("x/good.db"), f.path("y/bad.db")
	insert := appWith(t, good, 1)
	writeFile(t, bad, []byte(strings.Repeat("no database ", 1000)))
	writeFile(t, f.path("x/z.db"), nil)
	for name, size := range map[string]int64{bad: logSize, f.path("x/z.db"): logSize - 1} {
		writeFile(t, name+"-wal", nil)
		if err := os.Truncate(name+"-wal", size); err != nil {
			t.Fatal(err)
		}
	}
	f.open()
	defer f.close()
	f.awaitFailed("y/bad.db", "not-a-database")
	f.awaitState("x/good.db", "clean")

	await := func(what string, branches int, size int64, logs []litestream.FleetLog) {
		t.Helper()
		f.scans(1)
		groups := f.m.Stats().Groups
		if len(groups) != 1 || groups[0].Size != size || groups[0].Branches != branches {
			t.Errorf("%s: groups %+v, want %d branches and %d bytes", what, groups, branches, size)
		}
		if s := f.m.Summary(); s.LargeLogN != len(logs) || len(logs) > 0 && s.LargeLogs[0] != logs[0] {
			t.Errorf("%s: %d large logs, %+v, want %+v", what, s.LargeLogN, s.LargeLogs, logs)
		}
	}
	large := []litestream.FleetLog{{Path: bad, Size: logSize}}
	await("a database that failed", 2, sizeOf(t, filepath.Join(f.dir, "*/*")), large)
	insert(500)
	await("a hot database", 2, sizeOf(t, filepath.Join(f.dir, "*/*")), large)
	f.awaitState("x/good.db", "clean")
	removeAll(t, f.path("y"))
	f.scans(1)
	await("a deleted one that failed", 1, sizeOf(t, f.path("x/*")), nil)
	removeAll(t, f.path("x"))
	f.awaitState("x/good.db", "gone")
	await("a deleted one", 0, 0, nil)
}

// sizeOf sums up the sizes of databases and logs.
func sizeOf(t *testing.T, pattern string) (n int64) {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, "-shm") {
			n += info.Size()
		}
	}
	return n
}

func removeAll(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// A look that finds nothing to replicate, such as the one at a file that was
// touched, is no replicated change.
func TestMultiDBManager_LagOfNothing(t *testing.T) {
	f := newMemFleet(t)
	appWith(t, f.path("a.db"), 1)
	f.open()
	defer f.close()
	f.awaitState("a.db", "clean")
	touched := time.Now().Add(-time.Hour)
	if err := os.Chtimes(f.path("a.db"), touched, touched); err != nil {
		t.Fatal(err)
	}
	f.scans(1)
	f.awaitState("a.db", "clean")
	looks := fleetValue(t, f.reg, "litestream_multidb_promotions_total")
	if n := observations(t, f.reg, "litestream_multidb_replication_lag_seconds"); n != 1 || looks < 2 {
		t.Errorf("%v promotions and %d observations of the lag, want one for the first backup", looks, n)
	}
}

// observations returns how often a histogram was observed.
func observations(t *testing.T, reg *prometheus.Registry, name string) (n uint64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				n += m.GetHistogram().GetSampleCount()
			}
		}
	}
	return n
}
