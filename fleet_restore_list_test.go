package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// rangeLister lists lost tenants between limits, as an object store would.
type rangeLister struct {
	l     *lostTenants
	calls atomic.Int64
	files atomic.Int64
	err   error
	// change, if set, may replace what is told of a file; nil: it is not told.
	change func(replica string, info *ltx.FileInfo) *ltx.FileInfo
}

// LTXFilesBetween implements litestream.RangeLister.
func (r *rangeLister) LTXFilesBetween(ctx context.Context, after, until string, fn func(string, *ltx.FileInfo) bool) error {
	r.calls.Add(1)
	if r.err != nil {
		return r.err
	}
	ids := make([]int, r.l.n)
	for i := range ids {
		ids[i] = i
	}
	slices.SortFunc(ids, func(a, b int) int { return strings.Compare(r.l.entries[a].Replica, r.l.entries[b].Replica) })
	for _, i := range ids {
		replica := r.l.entries[i].Replica
		tree, err := r.l.client(i).LTXTree(ctx)
		if err != nil {
			return err
		}
		for _, info := range tree {
			key := fmt.Sprintf("%s/%04x/%s", replica, info.Level, ltx.FormatFilename(info.MinTXID, info.MaxTXID))
			if key <= after || until != "" && key > until {
				continue
			}
			if r.change != nil {
				info = r.change(replica, info)
			}
			if info == nil {
				continue
			}
			r.files.Add(1)
			if !fn(replica, info) {
				return nil
			}
		}
	}
	return nil
}

// listCounter counts listings of one replica.
type listCounter struct {
	litestream.ReplicaClient
	litestream.TreeLister
	n *atomic.Int64
}

// LTXTree implements litestream.TreeLister.
func (c *listCounter) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	c.n.Add(1)
	return c.TreeLister.LTXTree(ctx)
}

// A fleet is listed together. What such a listing misses, or has and is not there
// any more, costs a listing of one database.
func TestFleetRestore_ListsTogether(t *testing.T) {
	t.Parallel()
	const n = 700
	l := newLostTenants(t, t.TempDir(), n)
	for _, tt := range []struct {
		name   string
		lister *rangeLister
		match  func(*litestream.FleetRestoreEntry) bool
		time   bool
		calls  int64 // of the lister
		lists  int64 // of single ones
		want   int
	}{
		{name: "all", lister: &rangeLister{l: l}, calls: 3, want: n},
		{name: "none", lists: n, want: n},
		{name: "a few", lister: &rangeLister{l: l}, match: func(e *litestream.FleetRestoreEntry) bool { return strings.HasSuffix(e.Path, "0.db") }, lists: 70, want: 70},
		{name: "to a time", lister: &rangeLister{l: l}, time: true, lists: n, want: n},
		{name: "fails", lister: &rangeLister{l: l, err: errors.New("denied")}, calls: 3, lists: n, want: n},
		{
			name: "misses", calls: 3, lists: 100, want: n,
			lister: &rangeLister{l: l, change: func(replica string, info *ltx.FileInfo) *ltx.FileInfo {
				if strings.HasPrefix(replica, "p3/") {
					return nil
				}
				return info
			}},
		},
		{
			name: "behind", calls: 3, lists: 234, want: n, // the newest file of those that have two
			lister: &rangeLister{l: l, change: func(_ string, info *ltx.FileInfo) *ltx.FileInfo {
				if info.Level == 0 {
					return nil
				}
				return info
			}},
		},
		{
			name: "merged since", calls: 3, lists: 234, want: n, // a file that is gone, in place of the newest
			lister: &rangeLister{l: l, change: func(_ string, info *ltx.FileInfo) *ltx.FileInfo {
				if info.Level == 0 {
					gone := *info
					gone.Level = 1
					return &gone
				}
				return info
			}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var lists atomic.Int64
			root := filepath.Join(t.TempDir(), "root")
			opt := l.options(root)
			opt.Parallelism = 8
			opt.Match = tt.match
			if tt.time {
				opt.Timestamp = time.Now()
			}
			if tt.lister != nil {
				opt.Lister = tt.lister
			}
			open := opt.Open
			opt.Open = func(e *litestream.FleetRestoreEntry) (litestream.ReplicaClient, error) {
				c, err := open(e)
				return &listCounter{c, c.(litestream.TreeLister), &lists}, err
			}
			sum, _ := runFleetRestore(t.Context(), t, opt)
			if sum.Restored != tt.want || sum.Failed != 0 || sum.Behind != 0 || sum.Stopped != nil {
				t.Fatalf("%+v", sum)
			}
			for i, e := range l.entries {
				if tt.match != nil && !tt.match(e) {
					continue
				}
				got, err := os.ReadFile(filepath.Join(root, e.Path))
				if err != nil || string(got) != string(l.want(i)) {
					t.Fatalf("%s is not what was lost: %v", e.Path, err)
				}
			}
			var calls int64
			if tt.lister != nil {
				calls = tt.lister.calls.Load()
			}
			if calls != tt.calls || lists.Load() != tt.lists {
				t.Errorf("%d listings of many and %d of one, want %d and %d", calls, lists.Load(), tt.calls, tt.lists)
			}
			if tt.name == "all" && tt.lister.files.Load() != n+234 {
				t.Errorf("%d files were listed, want each once", tt.lister.files.Load())
			}
		})
	}
}
