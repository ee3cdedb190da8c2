package litestream_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/registry"
)

func writeFile(tb testing.TB, path string, data []byte) {
	tb.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		tb.Fatal(err)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Whatever lies there under a name that matches: the reason is told, and no
// other database is kept from being replicated. What becomes a database is one.
func TestMultiDBManager_BadFiles(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	insert := appWith(t, f.path("good.db"), 1)
	bad := map[string]string{ // by name: the class of the reason
		"empty.db": "empty", "short.db": "not-a-database", "text.db": "not-a-database", "encrypted.db": "not-a-database",
	}
	writeFile(t, f.path("empty.db"), nil)
	writeFile(t, f.path("short.db"), []byte("SQLite format 3\x00"))
	writeFile(t, f.path("text.db"), bytes.Repeat([]byte("no database\n"), 1000))
	writeFile(t, f.path("encrypted.db"), noise(8192))
	for _, err := range []error{
		syscall.Mkfifo(f.path("pipe.db"), 0o600), os.Mkdir(f.path("dir.db"), 0o755), os.Symlink("nowhere", f.path("dangling.db")),
		os.Symlink("loop.db", f.path("loop.db")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f.open()
	for name, class := range bad {
		f.awaitFailed(name, class)
	}
	f.awaitState("good.db", "clean")
	insert(3)
	f.failing = len(bad)
	f.replicated()
	f.rows("good", 4)
	if got := f.m.Counts(); got["failed"] != len(bad) || got["clean"] != 1 || len(got) != 2 {
		t.Errorf("got %v", got)
	}
	for name := range bad {
		if err := os.Remove(f.path(name)); err != nil {
			t.Fatal(err)
		}
		makeRestedRows(t, f.path(name), 2)
	}
	f.scans(1)
	f.advance(time.Minute)
	f.awaitCounts(map[string]int{"clean": len(bad) + 1, "failed": 0})
	for name := range bad {
		f.rows(strings.TrimSuffix(name, ".db"), 2)
	}
	f.close()
}

// A database that was damaged is replicated as it is: a copy of it is better
// than none, and what it lacks is not ours to judge.
func TestMultiDBManager_CorruptPage(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	makeRestedRows(t, f.path("good.db"), 1)
	for _, name := range []string{"page.db", "log.db"} {
		makeRestedRows(t, f.path(name), 1000)
	}
	info, err := os.Stat(f.path("page.db"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.path("page.db"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, f.path("page.db"), append(b[:4096:4096], noise(int(info.Size())-4096)...))
	writeFile(t, f.path("log.db")+"-wal", noise(10_000))
	f.open()
	f.awaitState("good.db", "clean")
	f.awaitState("page.db", "clean")
	f.awaitState("log.db", "clean")
	f.rows("log", 1000)
	f.close()
}

// A database that ends before its last page cannot be read by SQLite either: it
// was damaged, or is being copied. What was replicated stays, and what is
// complete by the end is replicated.
func TestMultiDBManager_CutShort(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} {
		f := newMemFleet(t)
		path := f.path("cut.db")
		makeRestedRows(t, path, 1000)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if known {
			f.open()
			f.awaitState("cut.db", "clean")
		}
		if err := os.Truncate(path, int64(len(whole)-4096-100)); err != nil {
			t.Fatal(err)
		}
		if !known {
			f.open()
		}
		f.awaitFailed("cut.db", "cut-short")
		_, reason := f.m.TenantState(path)
		if want := fmt.Sprintf("%d of %d bytes", len(whole)-4096-100, len(whole)); !strings.Contains(reason.Error(), want) {
			t.Errorf("the reason is %v, want %q in it", reason, want)
		}
		if n := len(f.client("cut").Files(0)); n > 1 || !known && n > 0 {
			t.Errorf("known %v: %d files of what is no database", known, n)
		}
		writeFile(t, path, whole)
		f.scans(1)
		f.advance(time.Minute)
		f.awaitState("cut.db", "clean")
		f.rows("cut", 1000)
		f.close()
	}
}

// The registry, which status reads, does not go on telling why a database failed
// that recovered and stays hot.
func TestMultiDBManager_RecoveredHot(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.HotDuration = time.Hour
	path := f.path("t.db")
	writeFile(t, path, nil)
	f.open()
	defer f.close()
	f.awaitFailed("t.db", "empty")
	appWith(t, path, 1)
	f.scans(1)
	f.advance(time.Minute)
	f.awaitState("t.db", "hot")
	waitFor(t, "the registry to know", func() bool {
		r, err := registry.OpenReader(t.Context(), f.cfg.StateDir)
		if err != nil {
			t.Fatal(err)
		}
		rec, ok, err := r.ByPath(t.Context(), path)
		if err = errors.Join(err, r.Close()); errors.Is(err, registry.ErrChanged) {
			return false
		} else if err != nil {
			t.Fatal(err)
		}
		return ok && rec.Reason == "" && litestream.RecordedState(rec.State) == litestream.TenantHot
	})
}

// Names are bytes.
func TestMultiDBManager_OddNames(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	names := map[string]string{ // by name: the folder of the replica
		"..db.db": "%2E.db", "a?b#c.db": "a%3Fb%23c", "%41.db": "%2541", "A.db": "A", "new\nline.db": "new%0Aline",
		"{{tenant}}.db": "%7B%7Btenant%7D%7D", "\xff\xfe.db": "%FF%FE", "!litestream.db": "%21litestream",
		"sp ace.db": "sp%20ace", "-wal.db": "-wal", "*.db": "%2A",
	}
	made := f.path("made")
	for name := range names {
		app := openApp(t, made, "_journal_mode=wal")
		mustExec(t, app, "CREATE TABLE t (x)")
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		app.Close()
		if err := os.Rename(made, f.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	f.open()
	f.awaitCounts(map[string]int{"clean": len(names)})
	for _, replica := range names {
		if len(f.client(replica).Files(0)) == 0 {
			t.Errorf("nothing lies in %s", replica)
			continue
		}
		f.rows(replica, 1)
	}
	f.close()
	f.resetCounts()
	f.open()
	f.scans(1)
	f.awaitCounts(map[string]int{"clean": len(names)})
	if n := f.requests(); n != 0 {
		t.Errorf("%d requests after a restart", n)
	}
	f.close()
}

// A second path to a file fails and names the first; when the first one goes,
// the second takes its place.
func TestMultiDBManager_SecondPath(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		link func(oldname, newname string) error
	}{{"HardLink", os.Link}, {"SymbolicLink", os.Symlink}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newMemFleet(t)
			makeRestedRows(t, f.path("a.db"), 1)
			f.open()
			f.awaitState("a.db", "clean")
			if err := tt.link(f.path("a.db"), f.path("b.db")); err != nil {
				t.Fatal(err)
			}
			f.awaitFailed("b.db", "second-path")
			if _, reason := f.m.TenantState(f.path("b.db")); !strings.Contains(reason.Error(), f.path("a.db")) {
				t.Errorf("the reason is %v, want the first path in it", reason)
			}
			makeRestedRows(t, f.path("a.db"), 1)
			f.failing = 1
			f.replicated()
			f.rows("a", 2)
			f.close()
			// After a restart the same one has it.
			f.open()
			f.scans(1)
			f.awaitState("a.db", "clean")
			f.awaitFailed("b.db", "second-path")
			if tt.name == "HardLink" {
				if err := os.Remove(f.path("a.db")); err != nil {
					t.Fatal(err)
				}
				f.scans(1)
				f.advance(time.Minute)
				f.awaitState("b.db", "clean")
				f.awaitState("a.db", "gone")
				f.rows("b", 2)
			}
			f.close()
		})
	}
}

// A renamed database is a new one, and no second path to the old.
func TestMultiDBManager_Rename(t *testing.T) {
	t.Parallel()
	for _, hot := range []bool{false, true} {
		f := newMemFleet(t)
		if hot {
			f.cfg.HotDuration = time.Hour
		}
		makeRestedRows(t, f.path("a.db"), 3)
		f.open()
		f.awaitState("a.db", map[bool]string{false: "clean", true: "hot"}[hot])
		waitFor(t, "the first backup", func() bool { return len(f.client("a").Files(0)) == 1 })
		if err := os.Rename(f.path("a.db"), f.path("b.db")); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the backup under the new name", func() bool { return len(f.client("b").Files(0)) == 1 })
		f.awaitState("a.db", "gone")
		f.rows("b", 3)
		f.rows("a", 3)
		if n := f.log.has("second-path"); n > 0 {
			t.Errorf("hot %v: a rename failed as a second path", hot)
		}
		f.close()
	}
}

// A pattern that matches nothing is warned of, and no error.
func TestMultiDBManager_NoMatch(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.Patterns = append(f.cfg.Patterns, filepath.Join(f.dir, "no", "such", "*.db"))
	f.open()
	f.scans(3)
	const text = "pattern matches no file"
	if n := f.log.has(text); n != 2 {
		t.Errorf("%d warnings, want one for each pattern", n)
	}
	if got := f.m.Summary().Scan.Unmatched; len(got) != 2 {
		t.Errorf("the summary names %v", got)
	}
	makeRestedRows(t, f.path("a.db"), 1)
	f.awaitState("a.db", "clean")
	f.advance(11 * time.Minute)
	waitFor(t, "the next warning", func() bool { return f.log.has(text) == 3 })
	f.close()
}
