package litestream_test

import (
	"os"
	"path/filepath"
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
