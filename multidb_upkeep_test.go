package litestream_test

import (
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
)

// What went cold is maintained: level-0 files are merged or a snapshot takes
// their place, old ones are deleted, and then there is nothing more to do, ever.
func TestMultiDBManager_Upkeep(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.setup = func(m *litestream.MultiDBManager) {
		m.Levels = litestream.CompactionLevels{{Level: 0}, {Level: 1, Interval: 30 * time.Second}, {Level: 2, Interval: 5 * time.Minute}}
	}
	names := f.rested(5)
	f.open()
	f.awaitCounts(map[string]int{"clean": 5})
	for range 3 {
		for i, name := range names[:4] {
			makeRestedRows(t, f.path(name), 1+i)
		}
		f.replicated()
	}
	f.advance(time.Minute)
	waitFor(t, "snapshots or merged files", func() bool {
		for _, name := range names[:4] {
			if c := f.client(name[:4]); len(c.Files(1))+len(c.Files(litestream.SnapshotLevel)) == 0 {
				return false
			}
		}
		return true
	})
	f.awaitCounts(map[string]int{"clean": 5})
	for range 60 { // more than any retention
		f.advance(6 * time.Hour)
		f.scans(1)
	}
	waitFor(t, "the end of maintenance", func() bool { return f.m.UpkeepLen() == 0 })
	f.awaitCounts(map[string]int{"clean": 5})
	for i, name := range names[:4] {
		if n := len(f.client(name[:4]).Files(0)); n > 1 {
			t.Errorf("%d level-0 files of %s are left", n, name)
		}
		f.rows(name[:4], 1+3*(1+i))
	}
	f.resetCounts()
	f.advance(1000 * time.Hour)
	f.scans(3)
	if n := f.requests(); n != 0 {
		t.Errorf("%d requests for databases that rest", n)
	}
	f.close()
}
