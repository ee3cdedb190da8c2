package litestream_test

import (
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream"
)

// BenchmarkFleetRestore restores many small databases from a folder.
func BenchmarkFleetRestore(b *testing.B) {
	const n = 2000
	l := newLostTenants(b, b.TempDir(), n)
	out := b.TempDir()
	b.ReportAllocs()
	cpu, runs := cpuSeconds(b), 0
	for b.Loop() {
		opt := l.options(filepath.Join(out, strconv.Itoa(runs)))
		opt.Parallelism = litestream.DefaultFleetRestoreParallelism
		if sum, _ := runFleetRestore(b.Context(), b, opt); sum.Restored != n {
			b.Fatalf("%+v", sum)
		}
		runs++
	}
	b.ReportMetric(n*float64(runs)/b.Elapsed().Seconds(), "dbs/s")
	b.ReportMetric((cpuSeconds(b)-cpu)*1e6/float64(n*runs), "cpu-µs/db")
}

// cpuSeconds returns what this process has used of all processors.
func cpuSeconds(tb testing.TB) float64 {
	tb.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return float64(ru.Utime.Nano()+ru.Stime.Nano()) / 1e9
}
