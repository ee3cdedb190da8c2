package litestream_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// smallTenants makes n resting databases of 12 KB.
func smallTenants(tb testing.TB, n int) (paths []string) {
	tb.Helper()
	dir := tb.TempDir()
	first := filepath.Join(dir, "0.db")
	app := openApp(tb, first, "_journal_mode=wal")
	mustExec(tb, app, "CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(4500))")
	if err := app.Close(); err != nil {
		tb.Fatal(err)
	}
	content, err := os.ReadFile(first)
	if err != nil || len(content) != 3*4096 {
		tb.Fatalf("%d bytes, %v", len(content), err)
	}
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("%d.db", i))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			tb.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// openTenant opens a database that counts as old.
func openTenant(tb testing.TB, path, state string) *litestream.DB {
	tb.Helper()
	db := litestream.NewTenantDB(path, state)
	db.Replica = litestream.NewReplicaWithClient(db, testutil.NewMemClient())
	db.Checksums = true
	db.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
	if err := db.SeedEmpty(); err != nil {
		tb.Fatal(err)
	}
	return db
}

// BenchmarkTenant_FirstCapture is the first backup of a database of 12 KB: open,
// read, encode, stage. Under strace -c -f the difference of two counts of
// iterations gives its system calls.
func BenchmarkTenant_FirstCapture(b *testing.B) {
	const n = 200
	paths, state := smallTenants(b, n), b.TempDir()
	if err := litestream.SweepStaging(state); err != nil {
		b.Fatal(err)
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		db := openTenant(b, paths[i%n], state)
		i++
		b.StartTimer()
		if err := db.Sync(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if db.Pos().TXID != 1 {
			b.Fatal("nothing was captured")
		}
		if err := db.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkTenant_Tail is a commit of one page in a database that stays hot.
func BenchmarkTenant_Tail(b *testing.B) {
	path := smallTenants(b, 1)[0]
	state := b.TempDir()
	if err := litestream.SweepStaging(state); err != nil {
		b.Fatal(err)
	}
	app := openApp(b, path, "_journal_mode=wal&_synchronous=OFF")
	mustExec(b, app, "PRAGMA wal_autocheckpoint=0")
	db := openTenant(b, path, state)
	if err := db.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		mustExec(b, app, "UPDATE t SET x = randomblob(100)")
		pos := db.Pos()
		b.StartTimer()
		benchSync(b, db)
		if db.Pos() == pos {
			b.Fatal("nothing was captured")
		}
	}
}
