package litestream_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// A fleet counts as healthy while nothing of it waits for longer than asked
// for: not before there is a database, not while a replica is away, not with a
// database that fails. One that was deleted, and one at rest, do not matter.
func TestMultiDBManager_CheckHealth(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.HotDuration = time.Hour
	f.open()
	defer f.close()
	unhealthy := func(maxAge time.Duration, text string) {
		t.Helper()
		waitFor(t, "the answer "+text, func() bool {
			err := f.m.CheckHealth(maxAge)
			return err != nil && strings.Contains(err.Error(), text)
		})
	}
	healthy := func() {
		t.Helper()
		waitFor(t, "health", func() bool { return f.m.CheckHealth(2*time.Second) == nil })
	}
	unhealthy(time.Minute, "there is no database")

	insert := appWith(t, f.path("a.db"), 1)
	healthy()
	f.breaks(func(_, op string, _ int) error {
		if op == testutil.OpWrite || op == testutil.OpWriteExclusive {
			return errors.New("no room")
		}
		return nil
	})
	insert(1)
	unhealthy(time.Second, "1 databases are not replicated for longer than 1s, "+f.path("a.db")+" since ")
	if err := f.m.CheckHealth(time.Hour); err != nil {
		t.Errorf("a young change: %v, want health", err)
	}
	f.breaks(nil)
	healthy()

	if err := os.WriteFile(f.path("b.db"), []byte(strings.Repeat("no database ", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	f.awaitFailed("b.db", "not-a-database")
	unhealthy(time.Second, f.path("b.db"))
	if err := os.Remove(f.path("b.db")); err != nil {
		t.Fatal(err)
	}
	healthy()

	waitFor(t, "a scan that is overdue", func() bool {
		f.advance(time.Hour)
		err := f.m.CheckHealth(time.Minute)
		return err != nil && strings.Contains(err.Error(), "no scan ended since ")
	})
}

// Listed databases count together with those of patterns.
func TestMultiDBManager_CheckHealthListed(t *testing.T) {
	f := newMemFleet(t)
	missing := litestream.NewDB(f.path("missing.other"))
	missing.MonitorInterval = 10 * time.Millisecond
	missing.Replica = litestream.NewReplicaWithClient(missing, testutil.NewMemClient())
	f.named = []*litestream.DB{missing}
	appWith(t, f.path("a.db"), 1)
	f.open()
	defer f.close()
	waitFor(t, "the missing file to be noticed", func() bool {
		err := f.m.CheckHealth(time.Minute)
		return err != nil && strings.Contains(err.Error(), "missing.other: its file is missing")
	})
	appWith(t, missing.Path(), 1)
	waitFor(t, "health", func() bool { return f.m.CheckHealth(time.Minute) == nil })
}
