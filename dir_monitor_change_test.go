package litestream_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// sub returns an entry for a folder of the scene, which is made.
func (s *dirScene) sub(name string, watch bool) *litestream.DirConfig {
	s.t.Helper()
	if err := os.MkdirAll(s.path(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	return &litestream.DirConfig{Path: s.path(name), Pattern: "*.db", Watch: watch, NewDB: s.newDB}
}

func (s *dirScene) set(dirs ...*litestream.DirConfig) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	if err := s.store.SetDirs(ctx, dirs); err != nil {
		s.t.Fatal(err)
	}
}

// Entries come and go while the store runs. What stays notices nothing, what
// leaves is synced a last time, and folders that are watched are from then on.
func TestStore_SetDirs(t *testing.T) {
	s := newDirScene(t, time.Hour)
	a, b := s.sub("a", true), s.sub("b", true)
	s.store.Dirs = []*litestream.DirConfig{a, b}
	s.write("a/1.db")
	s.write("b/1.db")
	s.open()
	s.await("a/1.db", "b/1.db")
	stays := s.store.FindDB(s.path("a/1.db"))
	c, d := s.sub("c", true), s.sub("d", false)
	s.write("c/1.db")
	s.write("d/1.db")
	s.write("b/1.db")
	s.set(a, c, d)
	s.awaitRows("b/1.db", 2) // is closed: no look later has it
	s.await("a/1.db", "c/1.db", "d/1.db")
	if s.store.FindDB(s.path("a/1.db")) != stays {
		t.Error("a database whose entry stays was opened again")
	}
	for _, rel := range []string{"b/2.db", "d/2.db", "c/2.db", "a/2.db"} {
		s.write(rel)
	}
	s.await("a/1.db", "a/2.db", "c/1.db", "c/2.db", "d/1.db")
	s.set()
	s.await()
	s.set(b)
	s.await("b/1.db", "b/2.db")
	s.awaitRows("b/2.db", 1)
}

// An entry that changed has its databases opened again by the new one, for
// instance with another replica.
func TestStore_SetDirsChange(t *testing.T) {
	s := newDirScene(t, time.Hour)
	s.store.Dirs = nil
	s.open()
	s.write("a/1.db")
	s.set(s.sub("a", false))
	s.await("a/1.db")
	s.awaitRows("a/1.db", 1)
	other := testutil.NewMemClient()
	changed := s.sub("a", true)
	changed.NewDB = func(path string) (*litestream.DB, error) {
		db, err := s.newDB(path)
		db.Replica = litestream.NewReplicaWithClient(db, other)
		db.Replica.SyncInterval = 20 * time.Millisecond
		return db, err
	}
	s.set(changed)
	s.await("a/1.db")
	waitFor(t, "an upload to the other replica", func() bool { return len(other.Files(0)) > 0 })
	s.write("a/2.db")
	s.await("a/1.db", "a/2.db")
}

// A last sync that fails is told of, and the change is made all the same.
func TestStore_SetDirsFails(t *testing.T) {
	s := newDirScene(t, time.Hour)
	a := s.sub("a", true)
	s.store.Dirs = []*litestream.DirConfig{a}
	s.store.ShutdownSyncTimeout, s.store.ShutdownSyncInterval = 100*time.Millisecond, 10*time.Millisecond
	s.write("a/1.db")
	s.client(s.path("a/1.db")).Fail = func(op string, _ int, _, _ ltx.TXID) error {
		if op != testutil.OpInit {
			return errors.New("replica is away")
		}
		return nil
	}
	s.open()
	s.await("a/1.db")
	s.write("b/1.db")
	err := s.store.SetDirs(t.Context(), []*litestream.DirConfig{s.sub("b", true)})
	if err == nil || !strings.Contains(err.Error(), filepath.Join("a", "1.db")) {
		t.Errorf("got error %v, want one that names the database", err)
	}
	s.await("b/1.db")
	s.awaitRows("b/1.db", 1)
}
