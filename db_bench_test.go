package litestream_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// benchApp makes a database of about mb megabytes in rows of text, which stays
// open as an application would keep it.
func benchApp(b *testing.B, mb int, params string) (path string, write func(rows int)) {
	b.Helper()
	path = filepath.Join(b.TempDir(), "db")
	app := openApp(b, path, "_journal_mode=wal&_synchronous=NORMAL&"+params)
	mustExec(b, app, "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)")
	n := 0
	write = func(rows int) {
		tx, err := app.Begin()
		if err != nil {
			b.Fatal(err)
		}
		for range rows {
			n++
			if _, err := tx.Exec("INSERT INTO t (x) VALUES (?)", strings.Repeat(fmt.Sprintf("row %d of text, ", n), 1000/16)); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	for range mb {
		write(1000)
	}
	return path, write
}

// benchDB opens a database for captures alone: no replica, no checkpoint.
func benchDB(b *testing.B, path string) *litestream.DB {
	b.Helper()
	db := litestream.NewDB(path)
	db.MinCheckpointPageN, db.CheckpointInterval, db.MaxSyncWALBytes = 1<<30, 0, 0
	if err := db.Open(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return db
}

func benchSync(b *testing.B, db *litestream.DB) {
	b.Helper()
	if err := db.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDB_Sync is what one look costs, by what it finds.
func BenchmarkDB_Sync(b *testing.B) {
	b.Run("tail=1commit", func(b *testing.B) { benchSyncTail(b, 1, 1) })
	b.Run("tail=1MB", func(b *testing.B) { benchSyncTail(b, 1, 1000) })
	b.Run("tail=1MB/commits=100", func(b *testing.B) { benchSyncTail(b, 100, 10) })
	b.Run("full=64MB", benchSyncFull)
	b.Run("diff=64MB", benchSyncDiff)
	b.Run("unchanged/pinned", func(b *testing.B) {
		path, _ := benchApp(b, 1, "")
		db := benchDB(b, path)
		benchSync(b, db)
		benchLooks(b, db)
	})
	b.Run("unchanged/resting", func(b *testing.B) {
		path, _ := benchApp(b, 1, "")
		db := benchDB(b, path)
		benchSync(b, db)
		db.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
		benchLooks(b, db)
	})
}

func benchSyncTail(b *testing.B, commits, rows int) {
	b.Helper()
	path, write := benchApp(b, 1, "")
	db := benchDB(b, path)
	benchSync(b, db)
	before := walSize(b, path)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for range commits {
			write(rows)
		}
		n++
		b.StartTimer()
		benchSync(b, db)
	}
	per := (walSize(b, path) - before) / int64(n)
	b.SetBytes(per)
	b.ReportMetric(float64(per), "walbytes/op")
}

// walSize is how long the log is, which only grows while it is pinned.
func walSize(b *testing.B, path string) int64 {
	b.Helper()
	st, err := os.Stat(path + "-wal")
	if err != nil {
		b.Fatal(err)
	}
	return st.Size()
}

func benchSyncFull(b *testing.B) {
	path, _ := benchApp(b, 64, "")
	meta := b.TempDir()
	n := 0
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		db := litestream.NewDB(path)
		db.SetMetaPath(filepath.Join(meta, fmt.Sprint(n)))
		n++
		b.StartTimer()
		benchSync(b, db)
		b.StopTimer()
		if err := db.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := os.RemoveAll(db.MetaPath()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// benchSyncDiff begins each capture with a ledger and a log that proves
// nothing: it was restarted and written while nobody looked.
func benchSyncDiff(b *testing.B) {
	path, write := benchApp(b, 64, "")
	checkpoint := openApp(b, path, "")
	db := benchDB(b, path)
	benchSync(b, db)
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if err := db.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		for range 2 {
			write(1)
			mustExec(b, checkpoint, "PRAGMA wal_checkpoint(TRUNCATE)")
		}
		db = benchDB(b, path)
		pos := db.Pos()
		b.StartTimer()
		benchSync(b, db)
		if db.Pos() == pos {
			b.Fatal("nothing was captured")
		}
	}
}

func benchLooks(b *testing.B, db *litestream.DB) {
	b.Helper()
	benchSync(b, db)
	b.ReportAllocs()
	for b.Loop() {
		benchSync(b, db)
	}
}

// BenchmarkStore_Idle holds databases at rest and reports what they cost:
// memory of each, and processor time of one look at each.
func BenchmarkStore_Idle(b *testing.B) {
	const n, interval = 500, 100 * time.Millisecond
	path, _ := benchApp(b, 1, "")
	mustExec(b, openApp(b, path, ""), "PRAGMA wal_checkpoint(TRUNCATE)")
	content, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	later := func() time.Time { return time.Now().Add(time.Hour) } // everything is old
	before := heapInUse()
	dbs := make([]*litestream.DB, n)
	for i := range dbs {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			b.Fatal(err)
		}
		db := litestream.NewDB(path)
		db.MonitorInterval = interval
		db.SetClock(later)
		db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(filepath.Join(dir, "replica", fmt.Sprint(i))))
		dbs[i] = db
	}
	store := litestream.NewStore(dbs, nil)
	store.Metrics = litestream.NewMetrics(prometheus.NewRegistry())
	if err := store.Open(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := range dbs {
		snapshots := filepath.Join(dir, "replica", fmt.Sprint(i), "ltx", fmt.Sprint(litestream.SnapshotLevel), "*.ltx")
		waitFor(b, "a snapshot", func() bool { a, err := filepath.Glob(snapshots); return err == nil && len(a) > 0 })
	}
	held := heapInUse()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	start, rounds := cpuTime(b), 0
	for b.Loop() {
		<-tick.C
		rounds++
	}
	cpu := cpuTime(b) - start
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(rounds*n), "cpu-ns/look")
	b.ReportMetric(float64(held-before)/n, "heap-B/db")
	b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
	if err := store.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
