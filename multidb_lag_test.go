package litestream_test

import (
	"errors"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/testutil"
)

// What a hot database committed counts as not replicated for as long as the
// replica does not take it, though the database was up to date before.
func TestMultiDBManager_LagOfHot(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.HotDuration = time.Hour
	insert := appWith(t, f.path("a.db"), 1)
	f.open()
	defer f.close()
	waitFor(t, "the first backup", func() bool {
		s := f.m.Summary()
		return s.Hot == 1 && s.Unreplicated == 0
	})
	f.breaks(func(_, op string, _ int) error {
		if op == testutil.OpWrite || op == testutil.OpWriteExclusive {
			return errors.New("no room")
		}
		return nil
	})
	insert(1)
	waitFor(t, "a change that waits", func() bool { return f.m.Stats().OldestUnreplicated > 0 })
	if s := f.m.Summary(); s.Unreplicated != 1 || len(s.Oldest) != 1 || s.Oldest[0].Path != f.path("a.db") {
		t.Errorf("summary has %d, %+v", s.Unreplicated, s.Oldest)
	}
	f.breaks(nil)
	waitFor(t, "its upload", func() bool { return f.m.Stats().OldestUnreplicated == 0 })
}
