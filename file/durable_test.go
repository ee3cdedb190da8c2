package file_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// dirSyncs records which folders are synced below root, and fails on demand.
type dirSyncs struct {
	root string
	fail func(dir string) error

	mu   sync.Mutex // guards dirs
	dirs []string
}

func (s *dirSyncs) fsync(dir string) error {
	if s.fail != nil {
		if err := s.fail(dir); err != nil {
			return err
		}
	}
	if rel, err := filepath.Rel(s.root, dir); err == nil && !strings.HasPrefix(rel, "..") {
		s.mu.Lock()
		s.dirs = append(s.dirs, rel)
		s.mu.Unlock()
	}
	return nil
}

// take returns what was synced since the last call.
func (s *dirSyncs) take() (dirs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs, s.dirs = s.dirs, nil
	return dirs
}

func put(tb testing.TB, c litestream.ReplicaClient, level int, txid ltx.TXID) error {
	tb.Helper()
	_, err := c.WriteLTXFile(tb.Context(), level, txid, txid, bytes.NewReader(ltxBytes(tb, txid, time.Now(), 10)))
	return err
}

// When a write returns, its folder was synced after the file got its name, and
// so was each folder above in which a name was new, once.
func TestReplicaClient_SyncsFolders(t *testing.T) {
	root := t.TempDir()
	syncs := &dirSyncs{root: root}
	base := file.NewReplicaClientWithDirs(root, file.NewDirTable(syncs.fsync))
	t1, t2 := base.WithPrefix(root+"/p/t1"), base.WithPrefix(root+"/p/t2")
	for _, tt := range []struct {
		name  string
		do    func() error
		wants []string
	}{
		{"first file of all", func() error { return put(t, t1, 0, 1) }, []string{"p/t1/ltx/0", "p/t1/ltx", "p/t1", "p", "."}},
		{"second file", func() error { return put(t, t1, 0, 2) }, []string{"p/t1/ltx/0"}},
		{"other level", func() error { return put(t, t1, 9, 1) }, []string{"p/t1/ltx/9", "p/t1/ltx"}},
		{"other database", func() error { return put(t, t2, 0, 1) }, []string{"p/t2/ltx/0", "p/t2/ltx", "p/t2", "p"}},
		{"other client of it", func() error { return put(t, base.WithPrefix(root+"/p/t2"), 0, 2) }, []string{"p/t2/ltx/0"}},
		{"object", func() error {
			return base.WriteObject(t.Context(), "!litestream/epoch", []byte("x"), true)
		}, []string{"!litestream", "."}},
		{"delete", func() error { return t1.DeleteAll(t.Context()) }, nil},
		{"after delete", func() error { return put(t, t1, 0, 3) }, []string{"p/t1/ltx/0", "p/t1/ltx", "p/t1"}},
		{"folder removed by somebody", func() error {
			return errors.Join(os.RemoveAll(root+"/p"), put(t, t1, 0, 4))
		}, []string{"p/t1/ltx/0", "p/t1/ltx", "p/t1", "p", "."}},
	} {
		if err := tt.do(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.wants, syncs.take()); diff != "" {
			t.Errorf("%s: synced (-want +got):\n%s", tt.name, diff)
		}
	}

	// What another process left may not be durable yet.
	other := file.NewReplicaClientWithDirs(root+"/p/t1", file.NewDirTable(syncs.fsync))
	if err := put(t, other, 0, 5); err != nil {
		t.Fatal(err)
	}
	want := []string{"p/t1/ltx/0", "p/t1/ltx", "p/t1", "p", "."}
	if diff := cmp.Diff(want, syncs.take()); diff != "" {
		t.Errorf("new process: synced (-want +got):\n%s", diff)
	}
}

// A write that could not make a name durable is an error, and the next write
// does not take the name for durable.
func TestReplicaClient_FailedSync(t *testing.T) {
	broken := errors.New("disk broke")
	for _, dir := range []string{"p/t/ltx/0", "p/t/ltx", "p/t", "p", "."} {
		t.Run(dir, func(t *testing.T) {
			root := t.TempDir()
			syncs := &dirSyncs{root: root}
			c := file.NewReplicaClientWithDirs(root+"/p/t", file.NewDirTable(syncs.fsync))
			syncs.fail = func(d string) error {
				if d == filepath.Join(root, dir) {
					return broken
				}
				return nil
			}
			for range 2 {
				if err := put(t, c, 0, 1); !errors.Is(err, broken) {
					t.Fatalf("err=%v, want %v", err, broken)
				}
			}
			syncs.fail, syncs.dirs = nil, nil
			if err := put(t, c, 0, 1); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(syncs.take(), " "); got != "p/t/ltx/0 p/t/ltx p/t p ." {
				t.Errorf("synced %q", got)
			}
		})
	}
}

// Folders that were there and may not be read are somebody else's, except the
// one that a folder was made in.
func TestReplicaClient_UnreadableFolders(t *testing.T) {
	root := t.TempDir()
	syncs := &dirSyncs{root: root, fail: func(dir string) error {
		if dir == root {
			return &fs.PathError{Op: "open", Path: dir, Err: fs.ErrPermission}
		}
		return nil
	}}
	if err := os.MkdirAll(root+"/there", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := put(t, file.NewReplicaClientWithDirs(root+"/there/t", file.NewDirTable(syncs.fsync)), 0, 1); err != nil {
		t.Errorf("below a folder that was there: %v", err)
	}
	err := put(t, file.NewReplicaClientWithDirs(root+"/made/t", file.NewDirTable(syncs.fsync)), 0, 1)
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("below a new folder: err=%v, want fs.ErrPermission", err)
	}
}

// All that wait for a folder while it is synced share the next sync, which
// begins after the last of them came.
func TestDirTable_SharesSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, release := make(chan int, 10), make(chan error)
		n := 0 // syncs of one folder do not overlap
		table := file.NewDirTable(func(string) error {
			n++
			begun <- n
			return <-release
		})
		results := make(chan error, 100)
		sync := func() { results <- table.Sync("/d") }
		go sync()
		synctest.Wait()
		for range 50 {
			go sync()
		}
		synctest.Wait()
		if got := len(begun); got != 1 {
			t.Fatalf("%d syncs begun, want 1", got)
		}
		release <- nil
		synctest.Wait()
		if err := <-results; err != nil || len(results) != 0 {
			t.Fatalf("first sync: err=%v, %d others returned with it", err, len(results))
		}
		broken := errors.New("disk broke")
		release <- broken
		synctest.Wait()
		if got := len(results); got != 50 {
			t.Fatalf("%d returned after the second sync, want 50", got)
		}
		for range 50 {
			if err := <-results; !errors.Is(err, broken) {
				t.Errorf("err=%v, want that of the second sync", err)
			}
		}
		if n != 2 {
			t.Errorf("%d syncs for 51 callers, want 2", n)
		}
		go sync() // nothing is left over
		synctest.Wait()
		release <- nil
		synctest.Wait()
		if err := <-results; err != nil {
			t.Error(err)
		}
	})
}

// Names that were there when another's sync of the folder began need no other,
// be it over or not. That of one that began before does not count, and neither
// does what came after one that failed.
func TestDirTable_SyncSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan error)
		begun := 0 // syncs of one folder do not overlap
		table := file.NewDirTable(func(string) error {
			begun++
			return <-release
		})
		results := make(chan error, 10)
		start := func(since uint64) {
			go func() { results <- table.SyncSince("/d", since) }()
			synctest.Wait()
		}
		finish := func(err error, want int) {
			t.Helper()
			release <- err
			synctest.Wait()
			for range want {
				if got := <-results; !errors.Is(got, err) {
					t.Errorf("err=%v, want %v", got, err)
				}
			}
			if len(results) != 0 {
				t.Errorf("%d more returned than the %d expected", len(results), want)
			}
		}
		before := table.Moment()
		start(table.Moment())
		during := table.Moment()
		start(before) // joins the one that runs
		start(during) // waits for the next
		start(before) // joins the one that runs, though there is a next
		finish(nil, 3)
		if begun != 2 {
			t.Errorf("%d syncs begun, want that of names that came during the first", begun)
		}
		finish(nil, 1)
		start(during)
		if err := <-results; err != nil || begun != 2 {
			t.Errorf("names that are durable: err=%v, %d syncs, want no other", err, begun)
		}

		late, broken := table.Moment(), errors.New("disk broke")
		start(table.Moment())
		finish(broken, 1)
		start(table.Moment())
		finish(nil, 1)
		start(late)
		if err := <-results; !errors.Is(err, broken) || begun != 4 {
			t.Errorf("names that a sync failed for: err=%v, %d syncs, want %v and no other", err, begun, broken)
		}
		start(table.Moment())
		finish(nil, 1)
	})
}

func TestDirTable_Bound(t *testing.T) {
	table := file.NewDirTable(func(string) error { return nil })
	const often = "/base/often"
	for i := range 5 * file.MaxKnownDirs {
		if err := errors.Join(table.Add(fmt.Sprintf("/base/t%d", i)), table.Add(often)); err != nil {
			t.Fatal(err)
		}
		if got := table.Len(); got > 2*file.MaxKnownDirs {
			t.Fatalf("%d folders remembered, want at most %d", got, 2*file.MaxKnownDirs)
		}
	}
	if table.Knows("/base/t0") {
		t.Error("the oldest folder is remembered")
	}
	if !table.Knows(often) || !table.Knows("/base") {
		t.Error("a folder that was asked for again and again is not remembered")
	}
}

// A hundred thousand databases have a client each.
func TestReplicaClient_WithPrefixSize(t *testing.T) {
	base := file.NewReplicaClient("/r")
	const n = 10000
	clients := make([]litestream.ReplicaClient, n)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range clients {
		clients[i] = base.WithPrefix("/r/p01/d01/main/t")
	}
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(clients)
	if got := (after.TotalAlloc - before.TotalAlloc) / n; got > 64 {
		t.Errorf("%d bytes per client, want at most 64", got)
	}
}
