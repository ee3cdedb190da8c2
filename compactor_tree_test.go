package litestream_test

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// treeReplica is a fixtureReplica that lists all levels with one request.
type treeReplica struct{ *fixtureReplica }

func (r treeReplica) LTXTree(context.Context) ([]*ltx.FileInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists++
	var a []*ltx.FileInfo
	for _, f := range r.files {
		info := f.info
		a = append(a, &info)
	}
	slices.SortFunc(a, func(x, y *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(x.Level, y.Level), cmp.Compare(x.MinTXID, y.MinTXID), cmp.Compare(x.MaxTXID, y.MaxTXID))
	})
	return a, nil
}

// reopenTree stands for a new process with a storage that is a TreeLister.
func (fx *compactorFixture) reopenTree() {
	fx.reopen()
	c := litestream.NewCompactor(treeReplica{fx.replica}, nil)
	c.Now, c.StagingDir = fx.c.Now, fx.c.StagingDir
	fx.c = c
	fx.replica.requests()
}

func (fx *compactorFixture) wantLists(n int) {
	fx.t.Helper()
	if fx.replica.lists != n {
		fx.t.Errorf("%d lists, want %d", fx.replica.lists, n)
	}
}

func TestCompactor_TreeLister(t *testing.T) {
	t.Run("Compact", func(t *testing.T) {
		fx := newCompactorFixture(t)
		fx.write(5, false)
		fx.snapshot()
		fx.mustCompact(1)
		fx.write(2, false)
		fx.reopenTree()
		fx.mustCompact(1)
		fx.mustCompact(2)
		fx.wantLists(1)
		for level, want := range map[int][]string{1: {"1-5", "6-7"}, 2: {"6-7"}} {
			if diff := gocmp.Diff(want, fx.replica.names(level)); diff != "" {
				t.Errorf("level %d (-want +got):\n%s", level, diff)
			}
		}
	})
	t.Run("Bridge", func(t *testing.T) {
		fx := newCompactorFixture(t)
		fx.write(6, false)
		delete(fx.replica.files, fixtureKey(0, 3, 3))
		fx.db.upload(t, fx.replica, 3, fx.db.ltx(t, 1, 4, fx.now, false))
		fx.reopenTree()
		fx.mustCompact(1)
		fx.mustCompact(1)
		fx.wantLists(2)
		if diff := gocmp.Diff(fx.db.at(6), restoreChain(fx.replica.plan(fx.replica.listing(), 6))); diff != "" {
			t.Errorf("content (-want +got):\n%s", diff)
		}
	})
	t.Run("SnapshotRetention", func(t *testing.T) {
		fx := newCompactorFixture(t)
		fx.daily()
		fx.db.upload(t, fx.replica, 6, fx.db.ltx(t, 1, 3, fx.now.Add(-90*time.Hour), false))
		fx.db.upload(t, fx.replica, 6, fx.db.ltx(t, 4, 5, fx.now.Add(-70*time.Hour), false))
		fx.reopenTree()
		if n, err := fx.c.EnforceSnapshotRetention(t.Context()); n != 9 || err != nil {
			t.Fatalf("deleted %d, %v, want 9", n, err)
		}
		fx.wantLists(2)
		for level, want := range map[int][]string{
			9: {"1-9", "1-12"}, 6: {"4-5"}, 2: {"10-12"}, 1: {"10-12"},
		} {
			if diff := gocmp.Diff(want, fx.replica.names(level)); diff != "" {
				t.Errorf("level %d (-want +got):\n%s", level, diff)
			}
		}
	})
}
