package litestream_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/testutil"
)

// removeDB removes a database with what lies beside it.
func removeDB(tb testing.TB, path string) {
	tb.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			tb.Fatal(err)
		}
	}
}

// A file that is deleted leaves its replica, and one that takes its place goes
// on behind it.
func TestMultiDBManager_DeletedAndRecreated(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	makeRestedRows(t, f.path("a.db"), 3)
	f.open()
	f.awaitState("a.db", "clean")
	removeDB(t, f.path("a.db"))
	f.awaitState("a.db", "gone")
	f.scans(2)
	f.rows("a", 3)
	makeRestedRows(t, f.path("a.db"), 5)
	f.replicated()
	f.rows("a", 5)

	// While the process is away it is replaced once more.
	f.close()
	removeDB(t, f.path("a.db"))
	makeRestedRows(t, f.path("a.db"), 7)
	f.open()
	f.replicated()
	f.rows("a", 7)
	f.close()

	removeDB(t, f.path("a.db"))
	f.resetCounts()
	f.open()
	f.awaitState("a.db", "gone")
	f.scans(1)
	if n := f.requests(); n != 0 {
		t.Errorf("%d requests for one that is gone", n)
	}
	f.close()
	f.rows("a", 7)
}

// After deleted-retention the replica is deleted, across restarts too.
func TestMultiDBManager_DeletedRetention(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.DeletedRetention = 24 * time.Hour
	makeRestedRows(t, f.path("a.db"), 1)
	makeRestedRows(t, f.path("b.db"), 1)
	f.open()
	f.awaitCounts(map[string]int{"clean": 2})
	removeDB(t, f.path("a.db"))
	f.awaitState("a.db", "gone")
	f.advance(23 * time.Hour)
	f.scans(1)
	f.close()
	if len(f.client("a").Files(0)) == 0 {
		t.Fatal("the replica was deleted too early")
	}
	f.open()
	f.scans(1)
	f.awaitState("a.db", "gone")
	f.advance(2 * time.Hour)
	f.awaitState("a.db", "")
	if n := len(f.client("a").Files(0)); n != 0 {
		t.Errorf("%d files are left", n)
	}
	f.rows("b", 1)
	makeRestedRows(t, f.path("a.db"), 4)
	f.replicated()
	f.rows("a", 4)
	f.close()
}

// A volume that is not mounted looks as if all databases of a pattern were
// deleted. Their replicas stay until it matches something again.
func TestMultiDBManager_DeletedAll(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.DeletedRetention = time.Hour
	makeRestedRows(t, f.path("a.db"), 1)
	f.open()
	f.awaitCounts(map[string]int{"clean": 1})
	removeDB(t, f.path("a.db"))
	f.awaitState("a.db", "gone")
	f.advance(2 * time.Hour)
	f.scans(3)
	f.awaitState("a.db", "gone")
	if len(f.client("a").Files(0)) == 0 {
		t.Fatal("the replica was deleted although its pattern matches nothing")
	}
	makeRestedRows(t, f.path("b.db"), 1)
	f.awaitState("b.db", "clean")
	f.advance(2 * time.Hour)
	f.awaitState("a.db", "")
	f.close()
}

// A file that comes back while its replica is being deleted is a new database
// afterwards: nothing is added to what is half deleted, whatever happens.
func TestMultiDBManager_ComesBackWhileDeleted(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.DeletedRetention = time.Hour
	makeRestedRows(t, f.path("other.db"), 1)
	makeRestedRows(t, f.path("a.db"), 1)
	f.open()
	f.awaitState("a.db", "clean")
	makeRestedRows(t, f.path("a.db"), 1)
	f.replicated()
	waitFor(t, "a second file", func() bool { return len(f.client("a").Files(0)) > 1 })
	removeDB(t, f.path("a.db"))
	f.awaitState("a.db", "gone")
	f.breaks(func(_, op string, _ int) error {
		if op == testutil.OpDeleteAll {
			return errors.New("no answer")
		}
		return nil
	})
	f.advance(2 * time.Hour)
	waitFor(t, "the deletion to begin", func() bool { return f.client("a").Count(testutil.OpDeleteAll) > 0 })
	f.client("a").Delete(0, 1, 1) // it got as far as this
	makeRestedRows(t, f.path("a.db"), 3)
	left := len(f.client("a").Files(0))
	f.scans(3)
	if n := len(f.client("a").Files(0)); n != left {
		t.Fatalf("%d files, want the %d that are left", n, left)
	}
	f.close()
	f.open()
	f.scans(3)
	if n := len(f.client("a").Files(0)); n != left {
		t.Fatalf("%d files after a restart, want the %d that are left", n, left)
	}
	f.breaks(nil)
	f.advance(10 * time.Minute)
	waitFor(t, "the first backup", func() bool {
		files := f.client("a").Files(0)
		return len(files) > 0 && files[0].MinTXID == 1
	})
	f.replicated()
	f.rows("a", 3)
	f.close()
}

// One that is gone before it was cold, or for a moment only, is not forgotten.
func TestMultiDBManager_DeletedWhileHot(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.HotDuration = time.Hour
	f.cfg.DeletedRetention = 24 * time.Hour
	makeRestedRows(t, f.path("other.db"), 1)
	insert := appWith(t, f.path("a.db"), 3)
	f.open()
	f.awaitState("a.db", "hot")
	waitFor(t, "the first backup", func() bool { return len(f.client("a").Files(0)) == 1 })
	insert(1)
	waitFor(t, "a second file", func() bool { return len(f.client("a").Files(0)) > 1 })
	removeDB(t, f.path("a.db"))
	f.awaitState("a.db", "gone")
	f.rows("a", 4)
	f.close()
	f.advance(25 * time.Hour)
	f.open()
	f.awaitState("a.db", "")
	if n := len(f.client("a").Files(0)); n != 0 {
		t.Errorf("%d files are left", n)
	}
	f.close()
}

// A file that came back and that no scan has met yet keeps its replica.
func TestMultiDBManager_DeletedBackUnseen(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.DeletedRetention = 24 * time.Hour
	f.cfg.ScanInterval = time.Hour // of the real clock
	makeRestedRows(t, f.path("other.db"), 1)
	makeRestedRows(t, f.path("a.db"), 3)
	f.open()
	f.awaitCounts(map[string]int{"clean": 2})
	removeDB(t, f.path("a.db"))
	f.m.ScanNow()
	f.awaitState("a.db", "gone")
	makeRestedRows(t, f.path("a.db"), 5)
	f.advance(25 * time.Hour)
	waitFor(t, "the look at the file", func() bool { return f.log.has("its file is there again") > 0 })
	if n := f.client("a").Count(testutil.OpDeleteAll); n != 0 || len(f.client("a").Files(0)) == 0 {
		t.Errorf("%d deletions, %d files", n, len(f.client("a").Files(0)))
	}
	f.m.ScanNow()
	f.awaitState("a.db", "clean")
	f.rows("a", 5)
	if n := len(f.client("a").Files(0)); n < 2 {
		t.Errorf("%d files: what there was is gone", n)
	}
	f.advance(25 * time.Hour)
	f.close()
	f.rows("a", 5)
}

// A deletion that fails is seen, tried again, and done in the end.
func TestMultiDBManager_DeletedFails(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.DeletedRetention = time.Hour
	makeRestedRows(t, f.path("other.db"), 1)
	makeRestedRows(t, f.path("a.db"), 3)
	f.open()
	f.awaitCounts(map[string]int{"clean": 2})
	f.breaks(func(replica, op string, _ int) error {
		if replica == "a" && op == testutil.OpDeleteAll {
			return errors.New("object is locked")
		}
		return nil
	})
	removeDB(t, f.path("a.db"))
	f.awaitState("a.db", "gone")
	// The clock runs while one try ends and the next one comes to be due.
	waitFor(t, "four tries", func() bool {
		f.advance(10 * time.Minute)
		return f.client("a").Count(testutil.OpDeleteAll) >= 4
	})
	if f.log.has("object is locked") == 0 {
		t.Error("no failure was logged")
	}
	f.awaitState("a.db", "gone")
	f.rows("a", 3)
	f.breaks(nil)
	waitFor(t, "the deletion", func() bool {
		f.advance(10 * time.Minute)
		state, _ := f.m.TenantState(f.path("a.db"))
		return state == ""
	})
	if got := f.closeChecked(); len(got) != 1 {
		t.Errorf("catalog: %+v", got)
	}
}
