package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

func TestTimeline(t *testing.T) {
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	file := func(level int, lo, hi ltx.TXID, at int) *ltx.FileInfo {
		return &ltx.FileInfo{Level: level, MinTXID: lo, MaxTXID: hi, CreatedAt: base.Add(time.Duration(at) * time.Second), Size: 1000}
	}
	for _, tt := range []struct {
		name                string
		files               []*ltx.FileInfo
		points, unreachable string
	}{
		{"FirstOnly", []*ltx.FileInfo{file(0, 1, 1, 5)}, "1@5", ""},
		{"Chain", []*ltx.FileInfo{file(0, 1, 1, 5), file(0, 2, 2, 6), file(0, 3, 3, 9)}, "1@5 2@6 3@9", ""},
		{"Snapshot", []*ltx.FileInfo{file(9, 1, 4, 20), file(0, 4, 4, 8), file(0, 5, 5, 30)}, "4@8 5@30", ""},
		{"Compacted", []*ltx.FileInfo{file(9, 1, 2, 2), file(1, 3, 6, 6), file(0, 5, 5, 5), file(0, 6, 6, 6), file(0, 7, 7, 7)}, "2@2 6@6 7@7", "5@5"},
		{"Gap", []*ltx.FileInfo{file(0, 1, 1, 1), file(0, 3, 3, 3), file(0, 4, 4, 4)}, "1@1", "3@3 4@4"},
		{"HealedGap", []*ltx.FileInfo{file(0, 1, 1, 1), file(0, 3, 3, 3), file(9, 1, 4, 9), file(0, 5, 5, 10)}, "1@1 4@9 5@10", "3@3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := litestream.NewTimeline(tt.files...)
			text := func(points []litestream.TimelinePoint) (s string) {
				for i, p := range points {
					if i > 0 {
						s += " "
					}
					s += fmt.Sprintf("%d@%d", p.TXID, int(p.At.Sub(base).Seconds()))
				}
				return s
			}
			if text(got.Points) != tt.points || text(got.Unreachable) != tt.unreachable {
				t.Errorf("got points %q, unreachable %q; want %q, %q", text(got.Points), text(got.Unreachable), tt.points, tt.unreachable)
			}
		})
	}
}

// TestTimeline_Restorable compares random listings with what a restore plan
// says of each position.
func TestTimeline_Restorable(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		client := testutil.NewMemClient()
		n := 1 + rnd.IntN(12)
		var files []*ltx.FileInfo
		for range n {
			level := []int{0, 0, 0, 1, 2, 9}[rnd.IntN(6)]
			lo := ltx.TXID(1 + rnd.IntN(10))
			hi := lo
			if level > 0 {
				hi += ltx.TXID(rnd.IntN(6))
			}
			if level == litestream.SnapshotLevel {
				lo = 1
			}
			client.Put(level, lo, hi, []byte("x"), time.Unix(int64(hi), 0))
			files = append(files, &ltx.FileInfo{Level: level, MinTXID: lo, MaxTXID: hi})
		}
		got, err := litestream.OpenTimeline(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		points := make(map[ltx.TXID]bool)
		for _, p := range got.Points {
			points[p.TXID] = true
		}
		for _, f := range files {
			_, err := litestream.CalcRestorePlan(t.Context(), client, f.MaxTXID, time.Time{}, nil)
			if (err == nil) != points[f.MaxTXID] {
				t.Errorf("txid %d: timeline %t, restore plan %v\n%v", f.MaxTXID, points[f.MaxTXID], err, files)
			}
		}
	}
}

func TestTimeline_Empty(t *testing.T) {
	if _, err := litestream.OpenTimeline(context.Background(), testutil.NewMemClient()); !errors.Is(err, litestream.ErrNoBackups) {
		t.Errorf("got error %v, want ErrNoBackups", err)
	}
}

func TestTimeline_Spans(t *testing.T) {
	now := time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)
	var tl litestream.Timeline
	for i, age := range []time.Duration{40 * 24 * time.Hour, 3 * 24 * time.Hour, 2 * 24 * time.Hour, 50 * time.Minute, 45 * time.Minute, 30 * time.Second, 10 * time.Second, 9 * time.Second, -time.Second} {
		tl.Points = append(tl.Points, litestream.TimelinePoint{TXID: ltx.TXID(i + 1), At: now.Add(-age)})
	}
	p := func(i int) litestream.TimelinePoint { return tl.Points[i-1] }
	day := 24 * time.Hour
	want := []litestream.TimelineSpan{
		{MaxAge: 5 * time.Minute, Oldest: p(6), Newest: p(9), Points: 4, Typical: 20 * time.Second, Largest: 44*time.Minute + 30*time.Second},
		{MinAge: 5 * time.Minute, MaxAge: time.Hour, Oldest: p(4), Newest: p(5), Points: 2, Typical: 2*day - 50*time.Minute, Largest: 2*day - 50*time.Minute},
		{MinAge: day, MaxAge: 7 * day, Oldest: p(2), Newest: p(3), Points: 2, Typical: 37 * day, Largest: 37 * day},
		{MinAge: 30 * day, Oldest: p(1), Newest: p(1), Points: 1},
	}
	if d := cmp.Diff(want, tl.Spans(now)); d != "" {
		t.Errorf("spans (-want +got):\n%s", d)
	}
	if got := (&litestream.Timeline{}).Spans(now); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

// A listing may miss a file that had just come and have a newer one.
func TestTimeline_FalseGap(t *testing.T) {
	client := newMemReplica()
	newSource(t, client, 1024, false).fill(5)
	client.onList = func(info *ltx.FileInfo) bool { return client.lists > 10 || info.MinTXID != 3 }
	got, err := litestream.OpenTimeline(t.Context(), client)
	if err != nil || len(got.Points) != 5 || len(got.Unreachable) != 0 {
		t.Errorf("got %+v, err=%v, want five points", got, err)
	}
}
