package litestream_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// planFiles parses files written as "level:min-max@second"; without a second,
// a file was created at the second of its max.
func planFiles(tb testing.TB, s string) (levels [10][]*ltx.FileInfo) {
	tb.Helper()
	for word := range strings.FieldsSeq(s) {
		var level, minTXID, maxTXID, at int
		if n, err := fmt.Sscanf(word, "%d:%d-%d@%d", &level, &minTXID, &maxTXID, &at); n == 3 {
			at = maxTXID
		} else if n != 4 {
			tb.Fatalf("%q: %v", word, err)
		}
		levels[level] = append(levels[level], &ltx.FileInfo{
			Level: level, MinTXID: ltx.TXID(minTXID), MaxTXID: ltx.TXID(maxTXID),
			CreatedAt: time.Unix(int64(at), 0).UTC(), Size: 1000,
		})
	}
	return levels
}

func planString(plan []*ltx.FileInfo) string {
	var words []string
	for _, info := range plan {
		words = append(words, fmt.Sprintf("%d:%d-%d", info.Level, info.MinTXID, info.MaxTXID))
	}
	return strings.Join(words, " ")
}

func TestPlanRestore(t *testing.T) {
	for _, tt := range []struct {
		name      string
		files     string
		txid      ltx.TXID
		timestamp int64
		want      string
		err       error
		message   string // part of the error
	}{
		{name: "empty", err: litestream.ErrNoBackups},
		{name: "empty, txid", txid: 3, err: litestream.ErrNoBackups},
		{name: "empty, timestamp", timestamp: 3, err: litestream.ErrNoBackups},
		{name: "first file", files: "0:1-1", want: "0:1-1"},
		{name: "level 0 only", files: "0:1-1 0:2-2 0:3-3", want: "0:1-1 0:2-2 0:3-3"},
		{name: "snapshot only", files: "9:1-7", want: "9:1-7"},
		{name: "newest snapshot", files: "9:1-3 9:1-7 9:1-5", want: "9:1-7"},
		{name: "snapshot and rest", files: "9:1-2 0:1-1 0:2-2 0:3-3", want: "9:1-2 0:3-3"},
		{name: "largest reach", files: "9:1-2 0:3-3 1:3-5 2:2-9 0:10-10", want: "9:1-2 2:2-9 0:10-10"},
		{name: "tie: smaller min", files: "9:1-4 1:5-9 2:3-9", want: "9:1-4 2:3-9"},
		{name: "tie: higher level", files: "9:1-4 1:5-9 3:5-9 2:5-9", want: "9:1-4 3:5-9"},
		{name: "overlap", files: "9:1-4 1:3-6 1:5-8 0:9-9", want: "9:1-4 1:5-8 0:9-9"},
		{name: "superseded snapshot is left out", files: "9:1-1 1:1-6 0:7-7", want: "1:1-6 0:7-7"},
		{name: "partial file on the snapshot level is no base", files: "9:3-7 0:1-1", err: litestream.ErrNonContiguous, message: "missing txids 0000000000000002-0000000000000002"},
		{name: "gap", files: "9:1-4 0:5-5 0:8-8", err: litestream.ErrNonContiguous, message: "missing txids 0000000000000006-0000000000000007 before 0000000000000008-0000000000000008.ltx on level 0 (the newest position before the gap is txid 0000000000000005)"},
		{name: "no base", files: "0:5-5 0:6-6", err: litestream.ErrNonContiguous, message: "missing txids 0000000000000001-0000000000000004"},

		{name: "txid", files: "9:1-2 0:3-3 0:4-4 0:5-5", txid: 4, want: "9:1-2 0:3-3 0:4-4"},
		{name: "txid of a snapshot", files: "9:1-2 9:1-4 0:3-3 0:4-4 0:5-5", txid: 4, want: "9:1-4"},
		{name: "txid in front of a gap", files: "9:1-2 0:3-3 0:9-9", txid: 3, want: "9:1-2 0:3-3"},
		{name: "txid without snapshot", files: "0:1-1 0:2-2 9:1-5", txid: 2, want: "0:1-1 0:2-2"},
		{name: "txid inside a file", files: "9:1-2 1:3-6 1:7-9", txid: 5, err: litestream.ErrTxNotAvailable, message: "nearest restorable positions are 0000000000000002 and 0000000000000006"},
		{name: "txid inside the first file", files: "9:1-6", txid: 5, err: litestream.ErrTxNotAvailable, message: "first restorable position is 0000000000000006"},
		{name: "txid too new", files: "9:1-2", txid: 5, err: litestream.ErrTxNotAvailable, message: "newer than the newest on the replica, 0000000000000002"},
		{name: "txid behind a gap", files: "9:1-2 0:5-5 0:6-6", txid: 6, err: litestream.ErrNonContiguous, message: "missing txids 0000000000000003-0000000000000004"},
		{name: "txid in a gap", files: "9:1-2 0:5-5 0:6-6", txid: 4, err: litestream.ErrTxNotAvailable, message: "missing txids 0000000000000003-0000000000000004"},

		{name: "timestamp is exclusive", files: "9:1-2 0:3-3 0:4-4 0:5-5", timestamp: 4, want: "9:1-2 0:3-3"},
		{name: "timestamp after everything", files: "9:1-2 0:3-3", timestamp: 99, want: "9:1-2 0:3-3"},
		{name: "timestamp before the first", files: "9:1-5 0:6-6", timestamp: 5, err: litestream.ErrTxNotAvailable, message: "timestamp 1970-01-01T00:00:05Z is not after the first backup, which was made at 1970-01-01T00:00:05Z"},
		{name: "timestamp never goes past a gap", files: "9:1-2 0:3-3 0:6-6 0:7-7", timestamp: 7, err: litestream.ErrNonContiguous, message: "missing txids 0000000000000004-0000000000000005"},
		{name: "timestamp in front of a gap", files: "9:1-2 0:3-3 0:6-6", timestamp: 5, want: "9:1-2 0:3-3"},
		{name: "timestamp inside a compacted file", files: "9:1-2 1:3-6 0:5-5 0:6-6", timestamp: 6, want: "9:1-2"},
		{name: "timestamp after the clock went back", files: "9:1-2 0:3-3@20 0:4-4@10", timestamp: 15, want: "9:1-2"},
		{name: "timestamp without base", files: "0:5-5 0:6-6", timestamp: 3, err: litestream.ErrNonContiguous, message: "missing txids 0000000000000001-0000000000000004"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var timestamp time.Time
			if tt.timestamp != 0 {
				timestamp = time.Unix(tt.timestamp, 0)
			}
			plan, err := litestream.PlanRestore(planFiles(t, tt.files), tt.txid, timestamp)
			if !errors.Is(err, tt.err) {
				t.Fatalf("err=%v, want %v", err, tt.err)
			}
			if err != nil && !strings.Contains(err.Error(), tt.message) {
				t.Errorf("err=%q, want it to contain %q", err, tt.message)
			}
			if got := planString(plan); got != tt.want {
				t.Errorf("plan=%q, want %q", got, tt.want)
			}
		})
	}
}

// reachable returns every position at which a chain of files can end, found
// by trying all of them.
func reachable(files []*ltx.FileInfo) map[ltx.TXID]bool {
	reached := map[ltx.TXID]bool{0: true}
	for grown := true; grown; {
		grown = false
		for _, info := range files {
			for at := range reached {
				if info.MinTXID <= at+1 && info.MaxTXID > at && !reached[info.MaxTXID] {
					reached[info.MaxTXID], grown = true, true
				}
			}
		}
	}
	return reached
}

// checkChain reports what keeps a plan from being applied.
func checkChain(plan []*ltx.FileInfo) error {
	if len(plan) == 0 || plan[0].MinTXID != 1 {
		return errors.New("does not begin at txid 1")
	}
	for i, info := range plan[1:] {
		if prev := plan[i]; !ltx.IsContiguous(prev.MaxTXID, info.MinTXID, info.MaxTXID) {
			return fmt.Errorf("%s-%s does not continue %s-%s", info.MinTXID, info.MaxTXID, prev.MinTXID, prev.MaxTXID)
		}
	}
	return nil
}

func TestPlanRestore_Oracle(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const newest = 9
	rounds := 20000
	if raceEnabled {
		rounds /= 10
	}
	for range rounds {
		var levels [10][]*ltx.FileInfo
		var all []*ltx.FileInfo
		for range 1 + rnd.IntN(9) {
			info := &ltx.FileInfo{Level: rnd.IntN(10), MinTXID: ltx.TXID(1 + rnd.IntN(newest))}
			if rnd.IntN(4) == 0 {
				info.Level = 9
			}
			if info.Level == 9 {
				info.MinTXID = 1
			}
			info.MaxTXID = info.MinTXID + ltx.TXID(rnd.IntN(newest-int(info.MinTXID)+1))
			if info.Level == 0 {
				info.MaxTXID = info.MinTXID
			}
			info.CreatedAt = time.Unix(int64(info.MaxTXID), 0)
			levels[info.Level] = append(levels[info.Level], info)
			all = append(all, info)
		}
		for txid := ltx.TXID(1); txid <= newest; txid++ {
			within := slices.DeleteFunc(slices.Clone(all), func(info *ltx.FileInfo) bool { return info.MaxTXID > txid })
			plan, err := litestream.PlanRestore(levels, txid, time.Time{})
			if want := reachable(within)[txid]; (err == nil) != want {
				t.Fatalf("%s: txid %d: err=%v, reachable=%t", planString(all), txid, err, want)
			}
			if err == nil {
				checkPlan(t, all, plan, txid)
			}
			// Just after txid was captured.
			plan, err = litestream.PlanRestore(levels, 0, time.Unix(int64(txid), 1))
			checkNewest(t, fmt.Sprintf("%s: before %d", planString(all), txid), within, all, plan, err)
		}
		plan, err := litestream.PlanRestore(levels, 0, time.Time{})
		checkNewest(t, planString(all), all, all, plan, err)
	}
}

func checkPlan(t *testing.T, all, plan []*ltx.FileInfo, txid ltx.TXID) {
	t.Helper()
	if err := checkChain(plan); err != nil || plan[len(plan)-1].MaxTXID != txid {
		t.Fatalf("%s: plan %s for txid %d: %v", planString(all), planString(plan), txid, err)
	}
}

// checkNewest checks a plan for the newest position among the files within a
// limit: an error if TXIDs are missing, else the farthest reach.
func checkNewest(t *testing.T, what string, within, all, plan []*ltx.FileInfo, err error) {
	t.Helper()
	var farthest ltx.TXID
	for txid := range reachable(within) {
		farthest = max(farthest, txid)
	}
	gap := false
	for _, info := range within {
		gap = gap || info.MinTXID > farthest+1
	}
	for _, info := range all {
		gap = gap && (info.MinTXID > farthest+1 || info.MaxTXID <= farthest)
	}
	switch {
	case gap && !errors.Is(err, litestream.ErrNonContiguous):
		t.Fatalf("%s: err=%v, want a gap behind %d", what, err, farthest)
	case !gap && farthest == 0 && err == nil:
		t.Fatalf("%s: plan %s, want an error", what, planString(plan))
	case !gap && farthest > 0:
		if err != nil {
			t.Fatalf("%s: %v, want txid %d", what, err, farthest)
		}
		checkPlan(t, all, plan, farthest)
	}
}

func TestCalcRestorePlan(t *testing.T) {
	client := newMemReplica()
	s := newSource(t, client, 1024, false)
	s.fill(4)
	s.write(9, 1, 2)

	plan, err := litestream.CalcRestorePlan(t.Context(), client, 0, time.Time{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := planString(plan), "9:1-2 0:3-3 0:4-4"; got != want {
		t.Errorf("plan=%q, want %q", got, want)
	}
	if client.lists != 10 {
		t.Errorf("%d lists, want one per level", client.lists)
	}
	if _, err := litestream.CalcRestorePlan(t.Context(), client, 1, s.start, nil); err == nil {
		t.Error("txid and timestamp together: no error")
	}
}

// A listing of a folder that is written to may miss a file and have a newer one.
// What two listings in a row miss is missing.
func TestCalcRestorePlan_FalseGap(t *testing.T) {
	for _, tt := range []struct {
		name   string
		hidden []ltx.TXID // by the first listing, the second and so on
		lists  int
		gap    bool
	}{
		{name: "seen at once", lists: 1},
		{name: "seen by the second", hidden: []ltx.TXID{3}, lists: 2},
		{name: "another one unseen", hidden: []ltx.TXID{3, 4}, lists: 3},
		{name: "missing", hidden: []ltx.TXID{3, 3, 3, 3}, lists: 2, gap: true},
		{name: "no end", hidden: []ltx.TXID{3, 4, 3, 4, 3, 4}, lists: 5, gap: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := newMemReplica()
			newSource(t, client, 1024, false).fill(5)
			client.onList = func(info *ltx.FileInfo) bool {
				listing := (client.lists - 1) / 10 // one request per level
				return info.Level != 0 || listing >= len(tt.hidden) || info.MinTXID != tt.hidden[listing]
			}
			for name, run := range map[string]func() error{
				"plan": func() error {
					_, err := litestream.CalcRestorePlan(t.Context(), client, 0, time.Time{}, nil)
					return err
				},
				"restore": func() error {
					opt := litestream.NewRestoreOptions()
					opt.OutputPath = filepath.Join(t.TempDir(), "db")
					_, err := litestream.Restore(t.Context(), client, opt)
					return err
				},
			} {
				client.lists = 0
				if err := run(); errors.Is(err, litestream.ErrNonContiguous) != tt.gap || !tt.gap && err != nil {
					t.Errorf("%s: err=%v, want a gap: %v", name, err, tt.gap)
				}
				if client.lists != 10*tt.lists {
					t.Errorf("%s: %d lists, want %d of each level", name, client.lists, tt.lists)
				}
			}
		})
	}
}

func BenchmarkPlanRestore(b *testing.B) {
	var levels [10][]*ltx.FileInfo
	levels[9] = []*ltx.FileInfo{{Level: 9, MinTXID: 1, MaxTXID: 1}}
	for txid := ltx.TXID(2); txid < 100000; txid++ {
		levels[0] = append(levels[0], &ltx.FileInfo{MinTXID: txid, MaxTXID: txid})
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := litestream.PlanRestore(levels, 0, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}
