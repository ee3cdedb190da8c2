package file_test

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// BenchmarkFirstUpload stores the first file of many databases whose folders
// do not exist yet, in the layout of a fleet: 1,000 databases in one folder.
func BenchmarkFirstUpload(b *testing.B) {
	for _, writers := range []int{1, 64, 200} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			benchFirstUpload(b, writers)
		})
	}
}

func benchFirstUpload(b *testing.B, writers int) {
	b.Helper()
	base := file.NewReplicaClient(b.TempDir())
	data := ltxBytes(b, 1, time.Now(), 4096)
	b.ReportAllocs()
	cpu := cpuTime(b)
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				path := fmt.Sprintf("%s/p%02d/d%d/main/t%06d", base.Path(), i/10000, i/1000%10, i)
				c := base.WithPrefix(path).(litestream.ExclusiveWriter)
				if _, err := c.WriteLTXFileExclusive(b.Context(), 0, 1, 1, bytes.NewReader(data)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "dbs/s")
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/db")
}

// cpuTime returns what this process has used of all processors.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
