package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// A restart of a fleet that rests costs one request, for the mark of the
// replica, and an idle fleet costs none and opens no database.
func TestMultiDBManager_RestartAndIdle(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.rested(8)
	insert := appWith(t, f.path("open.db"), 3) // with a log
	f.open()
	f.replicated()
	f.close()
	f.resetCounts()
	opened := testutil.WatchOpens(t, f.dir)
	f.open()
	f.scans(10)
	f.awaitCounts(map[string]int{"clean": 9})
	if n, root := f.requests(), f.root.Counts(); n != 0 || root[testutil.OpReadObject] != 1 || f.root.Requests() != 1 {
		t.Errorf("%d requests for databases, for the mark: %v; want 0 and one read", n, root)
	}
	f.root.ResetCounts()
	f.scans(10)
	if n := f.requests() + f.root.Requests(); n != 0 {
		t.Errorf("%d requests while nothing changed", n)
	}
	if names := opened(); len(names) > 0 {
		t.Errorf("opened %v", names)
	}
	insert(1)
	f.replicated()
	f.rows("open", 4)
	f.close()
}

// After a reboot each database is looked at once, and what is unchanged costs
// no upload.
func TestMultiDBManager_Reboot(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	names := f.rested(6)
	appWith(t, f.path("open.db"), 3)
	f.open()
	f.replicated()
	f.close()
	f.setup = func(m *litestream.MultiDBManager) { m.Tune(knob.Fleet{BootID: [16]byte{1, 2, 3}}) }
	f.resetCounts()
	opened := testutil.WatchOpens(t, f.dir)
	f.open()
	f.scans(1)
	f.awaitCounts(map[string]int{"clean": 7})
	if n := f.requests(); n != 0 {
		t.Errorf("%d requests although nothing changed", n)
	}
	seen := make(map[string]bool)
	for _, name := range opened() {
		seen[strings.TrimSuffix(name, "-wal")] = true
	}
	for _, name := range append(names, "open.db") {
		if !seen[name] {
			t.Errorf("%s was not looked at", name)
		}
	}
	f.scans(3)
	if more := opened(); len(more) > 0 {
		t.Errorf("opened again: %v", more)
	}
	f.close()
}

// Another replica, or an emptied one, is known as such: nothing counts as
// replicated.
func TestMultiDBManager_OtherReplica(t *testing.T) {
	t.Parallel()
	for _, tt := range []string{"Emptied", "Epoch"} {
		t.Run(tt, func(t *testing.T) {
			f := newMemFleet(t)
			names := f.rested(4)
			f.open()
			f.awaitCounts(map[string]int{"clean": 4})
			f.close()
			if tt == "Emptied" {
				f.emptyBucket()
			} else if err := f.root.WriteObject(context.Background(), "!litestream/epoch", []byte("other"), false); err != nil {
				t.Fatal(err)
			}
			f.resetCounts()
			f.open()
			f.scans(1)
			f.awaitCounts(map[string]int{"clean": 4})
			for _, name := range names {
				f.rows(name[:4], 1)
				if tt == "Epoch" && f.client(name[:4]).Count(testutil.OpList) == 0 {
					t.Errorf("the replica of %s was not asked for its position", name)
				}
			}
			f.close()
		})
	}
}

// A pattern that gives a resting database another place while the program is
// stopped has it backed up there at the next start: what the registry knows is
// about the old one. The others are as clean as before.
func TestMultiDBManager_RestartMoves(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	if err := os.Mkdir(f.path("still"), 0o755); err != nil {
		t.Fatal(err)
	}
	makeRestedRows(t, f.path("p1.db"), 3)
	makeRestedRows(t, f.path("p2.db"), 2)
	makeRestedRows(t, f.path("still/q.db"), 1)
	start := func(pattern string) {
		f.cfg.Patterns = []string{f.dir + pattern, f.dir + "/still/*.db"}
		f.resetCounts()
		f.open()
		f.scans(1)
		f.awaitCounts(map[string]int{"clean": 3})
	}
	start("/p*.db")
	for range 2 { // there, and back where files lie already
		f.close()
		start("/*.db")
		f.rows("p1", 3)
		f.rows("p2", 2)
		if n := f.client("q").Requests(); n != 0 {
			t.Errorf("%d requests for a database that has its old place", n)
		}
		f.close()
		start("/p*.db")
		if f.client("1").Count(testutil.OpList) == 0 {
			t.Error("the replica at the old place was not asked for its position")
		}
		f.rows("1", 3)
	}
	f.close()
}

// A registry that is damaged is made anew; one that is not to be had is an
// error that says why.
func TestMultiDBManager_StateDir(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.rested(3)
	f.open()
	f.awaitCounts(map[string]int{"clean": 3})

	second := f.m
	err := f.manager().Open(context.Background())
	if !errors.Is(err, registry.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a second process: got error %v, want one that names the process", err)
	}
	f.m = second
	f.close()

	paths, err := filepath.Glob(filepath.Join(f.cfg.StateDir, "registry.db*"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	writeFile(t, filepath.Join(f.cfg.StateDir, "registry.db"), noise(20_000))
	f.resetCounts()
	f.open()
	f.scans(1)
	f.awaitCounts(map[string]int{"clean": 3})
	if n := f.log.has("corrupt"); n == 0 {
		t.Error("nothing was logged of the damaged registry")
	}
	f.rows("t001", 1)
	f.close()

	f.cfg.StateDir = filepath.Join(f.dir, "file", "state")
	writeFile(t, filepath.Join(f.dir, "file"), nil)
	if err := f.manager().Open(context.Background()); err == nil || !strings.Contains(err.Error(), f.cfg.StateDir) {
		t.Errorf("a state directory that cannot be made: got error %v", err)
	}
}

// A change within the clock margin that leaves everything that stat tells as it
// was is found by the second look.
func TestMultiDBManager_RacyTimestamp(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	app := openApp(t, f.path("a.db"), "_journal_mode=delete")
	mustExec(t, app, "CREATE TABLE t (x)")
	mustExec(t, app, "INSERT INTO t VALUES (111111)")
	app.Close()
	f.open()
	f.awaitState("a.db", "clean") // and before that it was captured more than once
	f.close()

	// As a file system would that counts in coarse ticks: the fingerprint is the
	// one of after the change.
	info, err := os.Stat(f.path("a.db"))
	if err != nil {
		t.Fatal(err)
	}
	app = openApp(t, f.path("a.db"), "_journal_mode=delete")
	mustExec(t, app, "UPDATE t SET x = 222222")
	app.Close()
	if err := os.Chtimes(f.path("a.db"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	fp, err := sqlitefile.Take(f.path("a.db"))
	if err != nil {
		t.Fatal(err)
	}
	edit(t, f.cfg.StateDir, func(rec *registry.Record) { rec.Fingerprint, rec.Settled = fp, false })
	f.open()
	f.replicated()
	if got := count(t, restoredFrom(t, f.client("a")), "SELECT x FROM t"); got != 222222 {
		t.Errorf("restored %d, want 222222", got)
	}
	f.close()
}

// edit changes all records of a registry that nobody has open.
func edit(t *testing.T, dir string, change func(*registry.Record)) {
	t.Helper()
	ctx := context.Background()
	r, err := registry.Open(ctx, dir, registry.Options{BootID: sqlitefile.BootID()})
	if err != nil {
		t.Fatal(err)
	}
	var recs []registry.Record
	if err := r.Load(ctx, func(rec *registry.Record) error {
		recs = append(recs, *rec)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		files, err := r.Files(ctx, rec.ID)
		if err != nil {
			t.Fatal(err)
		}
		rec.Files = files
		change(&rec)
		r.Put(rec, nil)
	}
	if err := r.Close(ctx, true); err != nil {
		t.Fatal(err)
	}
}
