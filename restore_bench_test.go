package litestream_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// writeSynthetic stores a snapshot of pageN pages of 4096 bytes that compress
// about as rows of text do, and smallN files behind it that change 10 pages
// each. The database is not one that SQLite could read beyond its header.
func writeSynthetic(tb testing.TB, client litestream.ReplicaClient, pageN uint32, smallN int) {
	tb.Helper()
	write := func(level int, minTXID, maxTXID ltx.TXID, pgnos func(yield func(uint32) bool)) {
		pr, pw := io.Pipe()
		go func() {
			enc, err := ltx.NewEncoder(pw)
			if err == nil {
				err = enc.EncodeHeader(ltx.Header{
					Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: 4096, Commit: pageN,
					MinTXID: minTXID, MaxTXID: maxTXID, Timestamp: time.Now().UnixMilli(),
				})
			}
			page := make([]byte, 4096)
			state := uint64(maxTXID)
			for pgno := range pgnos {
				for i := 0; i+8 <= len(page); i += 8 {
					if i%32 == 0 {
						state = state*6364136223846793005 + 1442695040888963407
					}
					copy(page[i:], fmt.Appendf(nil, "%08x", state>>32)[:8])
				}
				if pgno == 1 {
					copy(page, "SQLite format 3\x00")
				}
				if err == nil {
					err = enc.EncodePage(ltx.PageHeader{Pgno: pgno}, page)
				}
			}
			if err == nil {
				err = enc.Close()
			}
			pw.CloseWithError(err)
		}()
		if _, err := client.WriteLTXFile(tb.Context(), level, minTXID, maxTXID, pr); err != nil {
			tb.Fatal(err)
		}
	}
	write(litestream.SnapshotLevel, 1, 1, func(yield func(uint32) bool) {
		for pgno := uint32(1); pgno <= pageN; pgno++ {
			if pgno != ltx.LockPgno(4096) && !yield(pgno) {
				return
			}
		}
	})
	for i := range smallN {
		txid := ltx.TXID(i + 2)
		write(0, txid, txid, func(yield func(uint32) bool) {
			for n := range uint32(10) {
				if !yield(2 + (uint32(i)*7919+n*(pageN/11))%(pageN/11) + n*(pageN/11)) {
					return
				}
			}
		})
	}
}

// watchHeap reports the highest heap in use until it is called.
func watchHeap() (peak func() uint64) {
	var highest atomic.Uint64
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			highest.Store(max(highest.Load(), m.HeapInuse))
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-stopped
		return highest.Load()
	}
}

func BenchmarkRestore(b *testing.B) {
	for _, bm := range []struct {
		snapshotMB, files int
	}{
		{64, 0}, {64, 1000}, {1024, 0}, {1024, 1000},
	} {
		b.Run(fmt.Sprintf("snapshot=%dMB/files=%d", bm.snapshotMB, bm.files), func(b *testing.B) {
			dir := b.TempDir()
			client := file.NewReplicaClient(filepath.Join(dir, "replica"))
			writeSynthetic(b, client, uint32(bm.snapshotMB<<20/4096), bm.files)
			runtime.GC()
			b.SetBytes(int64(bm.snapshotMB) << 20)
			b.ReportAllocs()
			peak := watchHeap()
			for b.Loop() {
				opt := litestream.NewRestoreOptions()
				opt.OutputPath = filepath.Join(dir, "restored.db")
				if _, err := litestream.Restore(b.Context(), client, opt); err != nil {
					b.Fatal(err)
				}
				os.Remove(opt.OutputPath)
			}
			b.ReportMetric(float64(peak())/(1<<20), "peak-heap-MB")
		})
	}
}
