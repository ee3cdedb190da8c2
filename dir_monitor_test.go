package litestream_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// dirScene is a store that replicates a folder to clients in memory.
type dirScene struct {
	t     *testing.T
	dir   string
	store *litestream.Store
	log   *lineLog

	mu      sync.Mutex
	clients map[string]*testutil.MemClient // by path below dir
}

// lineLog keeps what is logged.
type lineLog struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lineLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lineLog) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// newDirScene returns a scene that is not open yet.
func newDirScene(t *testing.T, scan time.Duration) *dirScene {
	t.Helper()
	s := &dirScene{t: t, dir: filepath.Join(t.TempDir(), "dbs"), log: &lineLog{}, clients: make(map[string]*testutil.MemClient)}
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Compactions would meet folders that are being renamed, at a time of their own.
	s.store = litestream.NewStore(nil, litestream.CompactionLevels{{Level: 0}})
	s.store.Logger = slog.New(slog.NewTextHandler(s.log, nil))
	s.store.Dirs = []*litestream.DirConfig{{Path: s.dir, Pattern: "*.db", Recursive: true, Watch: true, NewDB: s.newDB}}
	s.store.Tune(knob.Store{DirScanInterval: scan, RetryDelay: 10 * time.Millisecond})
	return s
}

func (s *dirScene) newDB(path string) (*litestream.DB, error) {
	db := litestream.NewDB(path)
	db.MonitorInterval = 20 * time.Millisecond
	db.Logger = s.store.Logger
	db.Replica = litestream.NewReplicaWithClient(db, s.client(path))
	db.Replica.SyncInterval = 20 * time.Millisecond
	return db, nil
}

// client returns the replica of a path, which outlives the database.
func (s *dirScene) client(path string) *testutil.MemClient {
	rel, err := filepath.Rel(s.dir, path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[rel] == nil {
		s.clients[rel] = testutil.NewMemClient()
	}
	return s.clients[rel]
}

func (s *dirScene) open() {
	s.t.Helper()
	if err := s.store.Open(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := s.store.Close(context.Background()); err != nil {
			s.t.Error(err)
		}
	})
}

func (s *dirScene) path(rel string) string { return filepath.Join(s.dir, rel) }

// write makes a database if there is none, inserts a row and closes it.
func (s *dirScene) write(rel string) {
	s.t.Helper()
	path := s.path(rel)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	app, err := sql.Open("sqlite3", "file:"+path+"?_busy_timeout=5000&_journal_mode=wal")
	if err != nil {
		s.t.Fatal(err)
	}
	defer app.Close()
	mustExec(s.t, app, "CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1)")
}

// removeAll removes a folder, in which files may be made meanwhile.
func (s *dirScene) removeAll(rel string) {
	s.t.Helper()
	waitFor(s.t, rel+" to be removed", func() bool { return os.RemoveAll(s.path(rel)) == nil })
}

// managed returns the paths of the store's databases below the folder.
func (s *dirScene) managed() []string {
	var paths []string
	for _, db := range s.store.DBs() {
		rel, err := filepath.Rel(s.dir, db.Path())
		if err != nil {
			s.t.Fatal(err)
		}
		paths = append(paths, rel)
	}
	slices.Sort(paths)
	return paths
}

// await waits until the store has just these databases.
func (s *dirScene) await(want ...string) {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got := s.managed()
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("databases (-want +got):\n%s\n%s", cmp.Diff(want, got), s.log.buf.String())
		}
		<-tick.C
	}
}

// awaitRows waits until a restore of a replica has so many rows.
func (s *dirScene) awaitRows(rel string, want int) {
	s.t.Helper()
	client := s.client(s.path(rel))
	waitFor(s.t, fmt.Sprintf("%d rows of %s on the replica", want, rel), func() bool {
		if len(client.Files(0)) == 0 {
			return false
		}
		db := restoredFrom(s.t, client)
		return count(s.t, db, "SELECT count(*) FROM sqlite_schema WHERE name='t'") == 1 && count(s.t, db, "SELECT count(*) FROM t") == want
	})
}

// The system's events make a new database known long before the next scan.
func TestStore_DirWatch(t *testing.T) {
	s := newDirScene(t, time.Hour)
	s.write("a.db")
	s.open()
	s.await("a.db")
	s.awaitRows("a.db", 1)

	begin := time.Now()
	s.write("b.db")
	s.await("a.db", "b.db")
	if took := time.Since(begin); took > 5*time.Second && !raceEnabled {
		t.Errorf("a new database was found after %s", took)
	}
	s.write("new/deep/c.db") // folders come with what is in them
	s.await("a.db", "b.db", "new/deep/c.db")
	s.awaitRows("new/deep/c.db", 1)
	s.write("new/deep/d.db") // and are watched
	s.await("a.db", "b.db", "new/deep/c.db", "new/deep/d.db")

	// A file becomes a database some time after it was made.
	if err := os.WriteFile(s.path("late.db"), []byte("not yet"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.write("e.db")
	s.await("a.db", "b.db", "e.db", "new/deep/c.db", "new/deep/d.db")
	if err := os.WriteFile(s.path("late.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.write("late.db")
	s.await("a.db", "b.db", "e.db", "late.db", "new/deep/c.db", "new/deep/d.db")

	s.awaitRows("e.db", 1)
	if err := os.Remove(s.path("e.db")); err != nil {
		t.Fatal(err)
	}
	s.removeAll("new/deep")
	s.await("a.db", "b.db", "late.db")
	if len(s.client(s.path("e.db")).Files(0)) == 0 {
		t.Error("the replica of a deleted database is gone")
	}
}

// A deleted database that comes back goes on behind its old transactions.
func TestStore_DirRecreate(t *testing.T) {
	s := newDirScene(t, 30*time.Millisecond)
	s.write("a.db")
	s.open()
	s.awaitRows("a.db", 1)
	for range 3 {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			if err := os.Remove(s.path("a.db" + suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		s.await()
		s.write("a.db")
		s.write("a.db")
		s.await("a.db")
		s.awaitRows("a.db", 2)
	}
	infos := s.client(s.path("a.db")).Files(0)
	for i, info := range infos {
		if i > 0 && info.MinTXID != infos[i-1].MaxTXID+1 {
			t.Errorf("transaction %s follows %s", info.MinTXID, infos[i-1].MaxTXID)
		}
	}
}

// A folder that is renamed has its databases at their new places, and what
// happens in it afterwards is told with the right names.
func TestStore_DirRename(t *testing.T) {
	s := newDirScene(t, time.Hour)
	s.write("x/y/a.db")
	s.write("z/b.db")
	s.open()
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(s.path(from), s.path(to)); err != nil {
			t.Fatal(err)
		}
	}
	// What is captured and not sent yet lies in the folder: one that is renamed
	// before takes it away, which is told as an error.
	replicated := func(rels ...string) {
		t.Helper()
		s.await(rels...)
		for _, rel := range rels {
			s.awaitRows(rel, 1)
		}
	}
	replicated("x/y/a.db", "z/b.db")
	rename("x", "moved")
	replicated("moved/y/a.db", "z/b.db")
	s.write("moved/y/c.db")
	replicated("moved/y/a.db", "moved/y/c.db", "z/b.db")

	// Two folders change places.
	rename("moved", "tmp")
	rename("z", "moved")
	rename("tmp", "z")
	replicated("moved/b.db", "z/y/a.db", "z/y/c.db")
	s.write("moved/d.db")
	s.write("z/y/e.db")
	replicated("moved/b.db", "moved/d.db", "z/y/a.db", "z/y/c.db", "z/y/e.db")

	// One leaves, and the whole folder goes and comes back.
	outside := filepath.Join(t.TempDir(), "out")
	if err := os.Rename(s.path("z"), outside); err != nil {
		t.Fatal(err)
	}
	s.await("moved/b.db", "moved/d.db")
	if err := os.Rename(outside, s.path("back")); err != nil {
		t.Fatal(err)
	}
	replicated("back/y/a.db", "back/y/c.db", "back/y/e.db", "moved/b.db", "moved/d.db")
	for _, text := range []string{"level=ERROR", "no such file or directory"} {
		if s.log.count(text) > 0 {
			t.Errorf("%s, although nothing went wrong:\n%s", text, s.log.buf.String())
		}
	}
}

// Where the system cannot watch, or loses events, scans find everything; it is
// logged once.
func TestStore_DirScanOnly(t *testing.T) {
	for _, tt := range []struct {
		name string
		add  func(string) error
		want string
	}{
		{"WatchLimit", func(string) error { return syscall.ENOSPC }, "fs.inotify.max_user_watches"},
		{"Silent", func(string) error { return nil }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newDirScene(t, 20*time.Millisecond)
			s.store.Tune(knob.Store{DirScanInterval: 20 * time.Millisecond, DirWatch: tt.add})
			s.open()
			s.write("a.db")
			s.write("sub/b.db")
			s.await("a.db", "sub/b.db")
			if err := os.Rename(s.path("sub"), s.path("other")); err != nil {
				t.Fatal(err)
			}
			s.await("a.db", "other/b.db")
			s.removeAll(".")
			s.await()
			waitFor(t, "a line about the missing directory", func() bool { return s.log.count("directory cannot be read") > 0 })
			s.write("a.db")
			s.await("a.db")
			if n := s.log.count("found by scans only"); tt.want == "" && n > 0 || tt.want != "" && (n != 1 || s.log.count(tt.want) != 1) {
				t.Errorf("%d warnings, want one with %q:\n%s", n, tt.want, s.log.buf.String())
			}
		})
	}
}

// After events were lost a scan follows soon, and folders are watched anew.
func TestStore_DirOverflow(t *testing.T) {
	s := newDirScene(t, time.Hour)
	s.write("x/a.db")
	s.open()
	s.awaitRows("x/a.db", 1)
	if err := os.Rename(s.path("x"), s.path("y")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.store.FailDirWatch(fsnotify.ErrEventOverflow)
	}
	s.await("y/a.db")
	waitFor(t, "a warning", func() bool { return s.log.count("changes in directories came faster") == 1 })
	s.write("y/b.db")
	s.await("y/a.db", "y/b.db")
}

// A folder that cannot be read keeps its databases and no other from being
// found, and so does a file that cannot be a database.
func TestStore_DirUnreadable(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	s := newDirScene(t, 20*time.Millisecond)
	s.write("sub/a.db")
	s.write("b.db")
	s.open()
	s.awaitRows("sub/a.db", 1)
	if err := os.Chmod(s.path("sub"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(s.path("sub"), 0o755) }) //nolint:gosec // as it was
	waitFor(t, "a line about it", func() bool { return s.log.count("directory cannot be read") == 1 })
	s.write("c.db")
	s.await("b.db", "c.db", "sub/a.db")
}

// What is no regular file is never opened: a pipe would block for ever.
func TestStore_DirSpecialFiles(t *testing.T) {
	s := newDirScene(t, 20*time.Millisecond)
	if err := syscall.Mkfifo(s.path("pipe.db"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path("folder.db"), 0o755); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(filepath.Dir(s.dir), "outside")
	if err := os.Rename(s.dir, outside); err != nil {
		t.Fatal(err)
	}
	s.write("real.db")
	for link, target := range map[string]string{"dangling.db": "none", "fifo.db": outside + "/pipe.db", "loop": ".", "out": outside} {
		if err := os.Symlink(target, s.path(link)); err != nil {
			t.Fatal(err)
		}
	}
	s.open()
	s.write("folder.db/in.db")
	s.await("folder.db/in.db", "real.db")
	// A link to a database is one; the same file under two names is not
	// replicated twice.
	if err := os.Symlink("real.db", s.path("link.db")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a line about the second path", func() bool { return s.log.count("is the same file as") > 0 })
	s.await("folder.db/in.db", "real.db")
}

// A database that two settings stand for is replicated by the first, and one
// that the command refuses is told once.
func TestStore_DirRefused(t *testing.T) {
	s := newDirScene(t, 20*time.Millisecond)
	second := *s.store.Dirs[0]
	second.Pattern = "b*"
	first := *s.store.Dirs[0]
	first.NewDB = func(path string) (*litestream.DB, error) {
		if filepath.Base(path) == "no.db" {
			return nil, errors.New("not this one")
		}
		return s.newDB(path)
	}
	s.store.Dirs = []*litestream.DirConfig{&first, &second}
	s.open()
	s.write("a.db")
	s.write("b.db")
	s.write("no.db")
	s.write("bz")
	s.await("a.db", "b.db", "bz")
	s.awaitRows("b.db", 1)
	waitFor(t, "two lines", func() bool { return s.log.count("database in directory is not replicated") == 2 })
	for _, want := range []string{"not this one", "is found in directory"} {
		if s.log.count(want) != 1 {
			t.Errorf("log lacks %q:\n%s", want, s.log.buf.String())
		}
	}
}

// TestStore_DirStorm makes, writes, renames and deletes databases and folders
// at random. In the end the store has what is there, and each replica the rows.
func TestStore_DirStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := newDirScene(t, 300*time.Millisecond)
	s.open()
	dirs := []string{".", "p", "p/q", "r", "r/s"}
	steps := 150
	if testing.Short() {
		steps = 50
	}
	for range steps {
		from := filepath.Join(dirs[rng.IntN(len(dirs))], fmt.Sprintf("%c.db", 'a'+rng.IntN(3)))
		to := filepath.Join(dirs[rng.IntN(len(dirs))], fmt.Sprintf("%c.db", 'a'+rng.IntN(3)))
		switch rng.IntN(6) {
		case 0, 1:
			s.write(from)
		case 2: // what is not there cannot be moved
			_ = os.MkdirAll(filepath.Dir(s.path(to)), 0o755)
			moveDatabase(s.path(from), s.path(to))
		case 3:
			for _, suffix := range []string{"", "-wal", "-shm"} {
				_ = os.Remove(s.path(from + suffix))
			}
		case 4:
			_ = os.Rename(s.path(filepath.Dir(from)), s.path(filepath.Dir(to)))
		case 5:
			if dir := filepath.Dir(from); dir != "." && rng.IntN(2) == 0 {
				_ = os.RemoveAll(s.path(dir))
			}
		}
	}
	want := make(map[string]int)
	var paths []string
	err := filepath.WalkDir(s.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".db" {
			return err
		}
		rel, err := filepath.Rel(s.dir, path)
		want[rel] = count(t, path, "SELECT count(*) FROM t")
		paths = append(paths, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	s.await(paths...)
	for rel, rows := range want {
		s.awaitRows(rel, rows)
	}
}

// moveDatabase renames a database with its log, as who knows SQLite does.
func moveDatabase(from, to string) {
	if _, err := os.Stat(from); err != nil {
		return
	}
	for _, suffix := range []string{"-wal", "-shm", ""} {
		_ = os.Remove(to + suffix)
		_ = os.Rename(from+suffix, to+suffix)
	}
}

// A replica that hangs keeps neither removals nor new databases waiting.
func TestStore_DirRemoveHungReplica(t *testing.T) {
	s := newDirScene(t, 20*time.Millisecond)
	s.store.ShutdownSyncTimeout = 200 * time.Millisecond
	newDB := s.store.Dirs[0].NewDB
	s.store.Dirs[0].NewDB = func(path string) (*litestream.DB, error) {
		db, err := newDB(path)
		if filepath.Base(path) == "hung.db" {
			db.Replica = litestream.NewReplicaWithClient(db, &hungClient{testutil.NewMemClient(), func(string) bool { return true }})
		}
		return db, err
	}
	s.write("hung.db")
	s.open()
	s.await("hung.db")
	if err := os.Remove(s.path("hung.db")); err != nil {
		t.Fatal(err)
	}
	s.await()
	s.write("other.db")
	s.await("other.db")
	s.awaitRows("other.db", 1)
}
