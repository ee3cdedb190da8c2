package litestream_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// A library user has the database open in the same process. Letting go of it
// must not drop the locks of its connection: another process would take itself
// for the last one and delete the log under it.
func TestDB_KeepsLocksOfThisProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	insert := appWith(t, path, 3)
	probe, err := os.Open(path) // closed when the application's connection is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { probe.Close() })
	locked := func() bool {
		t.Helper()
		l, err := sqlitefile.Locked(probe)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if !locked() {
		t.Fatal("want a lock of the application, seen from its own process")
	}
	client := testutil.NewMemClient()
	db := inMemory(t, path, client)
	syncAll(t, db)
	if !locked() {
		t.Error("the capture dropped the application's lock")
	}
	for i := range 3 {
		db.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
		mustSync(t, db)
		if db.Status().Connected {
			t.Fatal("want a database at rest")
		}
		if !locked() {
			t.Fatalf("rest %d dropped the application's lock", i)
		}
		db.SetClock(time.Now)
		insert(1)
		syncAll(t, db)
	}
	if n := openDescriptors(t, path); n > 6 {
		t.Errorf("%d descriptors of the file are open, want them to be used again", n)
	}
	wantRows(t, client, 6)
}

func openDescriptors(tb testing.TB, path string) (n int) {
	tb.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Skip("no /proc")
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && to == path {
			n++
		}
	}
	return n
}

// The file is replaced between two reads of one look: nothing of the mixture
// is believed.
func TestDB_ReplacedDuringLook(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	client := testutil.NewMemClient()
	appWith(t, path, 3)
	db := inMemory(t, path, client)
	syncAll(t, db)
	app := openApp(t, filepath.Join(dir, "new"), "_journal_mode=wal")
	mustExec(t, app, "PRAGMA wal_autocheckpoint=0")
	mustExec(t, app, "CREATE TABLE t (x)")
	mustExec(t, app, "CREATE TABLE u (x)")
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(filepath.Join(dir, "new")+suffix, path+suffix); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.OpenViewNow(t.Context()); err == nil {
		t.Error("a view of the old file and the new log was opened")
	}
	syncAll(t, db)
	wantRows(t, client, 0)
}

// loseLocks does what the kernel does first with a process that was killed:
// it closes a descriptor of the file, and with it go the SQLite connections'
// locks on the file, but not those on the log's index.
func loseLocks(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
}

// wantUnharmed lets an application have a database to itself, if it can, while
// this process dies, and another one come after it. Neither may lose a commit.
func wantUnharmed(t *testing.T, path string) {
	t.Helper()
	loseLocks(t, path)
	alone := startChild(t, "alone", path)
	rows := 1
	if got := alone.do("INSERT INTO t VALUES (2, randomblob(5000))"); !strings.Contains(got, "locked") {
		t.Errorf("an application has the database to itself: %s", got)
		rows++
	}
	alone.close()
	next := startChild(t, "app", path)
	if got := next.do("INSERT INTO t VALUES (3, randomblob(5000))"); got != "ok" {
		t.Errorf("the application after it: %s", got)
	}
	next.close()
	last := startChild(t, "app", path)
	last.exec("SELECT count(*) FROM t", fmt.Sprintf("CREATE TABLE ok AS SELECT 1 / (count(*) = %d) AS n FROM t", rows+1))
}

// A process that is killed loses its locks one after the other. In between
// nobody gets a database to himself that a connection is open over.
func TestDB_KilledWhilePinned(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	app := startChild(t, "app", path)
	app.exec("PRAGMA journal_mode=wal", "CREATE TABLE t (x, y)", "INSERT INTO t VALUES (1, randomblob(5000))")
	db := inMemory(t, path, testutil.NewMemClient())
	syncAll(t, db)
	if !db.Status().Connected {
		t.Fatal("want a database that is pinned")
	}
	app.close()
	wantUnharmed(t, path)
}
