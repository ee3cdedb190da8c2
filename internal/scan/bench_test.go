package scan_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/scan"
)

// makeFleet writes 1,000 databases into each of n/1,000 directories and
// returns the root and the directories.
func makeFleet(tb testing.TB, n int, withWAL bool) (root string, dirs []string) {
	tb.Helper()
	root = tb.TempDir()
	for i := range n / 1000 {
		dir := filepath.Join(root, fmt.Sprintf("p%d/databases/d%d/branches/main/tenants", i%10, i/10))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		dirs = append(dirs, dir)
		for j := range 1000 {
			touch(tb, filepath.Join(dir, fmt.Sprintf("t%03d.db", j)))
			if withWAL {
				touch(tb, filepath.Join(dir, fmt.Sprintf("t%03d.db-wal", j)))
			}
		}
	}
	return root, dirs
}

// bareCalls stats what a scan stats, in one goroutine, with the names at hand.
func bareCalls(tb testing.TB, dirs []string, withWAL bool) time.Duration {
	tb.Helper()
	names := make([]string, 0, 2000)
	for j := range 1000 {
		names = append(names, fmt.Sprintf("t%03d.db", j))
		if withWAL {
			names = append(names, fmt.Sprintf("t%03d.db-wal", j))
		}
	}
	start := time.Now()
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			tb.Fatal(err)
		}
		var st unix.Stat_t
		for _, name := range names {
			if err := unix.Fstatat(fd, name, &st, 0); err != nil {
				tb.Fatal(err)
			}
		}
		unix.Close(fd)
	}
	return time.Since(start)
}

// BenchmarkScan measures a scan of 100,000 databases against a loop of the
// same calls of stat (the metric "xbare"). The budget is 1.5.
func BenchmarkScan(b *testing.B) {
	const n = 100_000
	for _, withWAL := range []bool{false, true} {
		root, dirs := "", []string(nil)
		for _, cached := range []bool{false, true} {
			for _, workers := range []int{1, 0} {
				b.Run(fmt.Sprintf("dbs=100k/wal=%t/cache=%t/workers=%d", withWAL, cached, workers), func(b *testing.B) {
					if root == "" {
						root, dirs = makeFleet(b, n, withWAL)
						b.Cleanup(func() { root = "" })
					}
					s := newScanner(b, scan.Config{Cache: cached, Margin: 1, Workers: workers}, root+"/*/databases/*/branches/*/tenants/*.db")
					scanN(b, s, n) // fills the caches, the kernel's too
					var bare time.Duration
					b.ReportAllocs()
					for b.Loop() {
						b.StopTimer()
						bare += bareCalls(b, dirs, withWAL)
						b.StartTimer()
						scanN(b, s, n)
					}
					b.ReportMetric(float64(b.Elapsed())/float64(bare), "xbare")
					if cached {
						b.ReportMetric(keptBytes(s)/n, "kept-B/db")
					}
					b.ReportMetric(float64(bare.Milliseconds())/float64(b.N), "bare-ms")
				})
			}
		}
	}
}

// keptBytes returns how much of the heap is free without the scanner.
func keptBytes(s *scan.Scanner) float64 {
	var with, without runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&with)
	runtime.KeepAlive(s)
	runtime.GC()
	runtime.ReadMemStats(&without)
	return float64(with.HeapAlloc) - float64(without.HeapAlloc)
}

func scanN(tb testing.TB, s *scan.Scanner, want int) scan.Result {
	tb.Helper()
	got := 0
	res, err := s.Scan(context.Background(), func(*scan.Entry) error { got++; return nil })
	if err != nil || got != want || res.ErrorN > 0 {
		tb.Fatalf("found %d files, want %d; errors %v, %v", got, want, err, res.Errors)
	}
	return res
}
