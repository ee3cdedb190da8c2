package litestream_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	litestream "github.com/benbjohnson/litestream"
)

// TestFleetSummary_Lists compares the lists of a summary, kept short on the
// way, with those of all databases sorted and cut.
func TestFleetSummary_Lists(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	start := time.Unix(1_700_000_000, 0).UTC()
	for range 200 {
		var s litestream.FleetSummary
		var waiting []litestream.FleetWaiting
		var logs []litestream.FleetLog
		asked := 0
		for i := range rnd.IntN(50) {
			path := fmt.Sprintf("/d/%d", i)
			w := litestream.FleetWaiting{Path: path, ChangedAt: start.Add(time.Duration(rnd.IntN(20)) * time.Second), State: "failed"}
			waiting = append(waiting, w)
			s.NoteUnreplicated(w.ChangedAt, "", func() string { asked++; return path })
			size := int64(litestream.LargeLogBytes) + rnd.Int64N(7)
			s.NoteLog(size, path)
			logs = append(logs, litestream.FleetLog{Path: path, Size: size})
		}
		if s.Unreplicated != len(waiting) || s.LargeLogN != len(logs) {
			t.Fatalf("%d unreplicated and %d large logs, want %d and %d", s.Unreplicated, s.LargeLogN, len(waiting), len(logs))
		}
		slices.SortStableFunc(waiting, func(a, b litestream.FleetWaiting) int { return a.ChangedAt.Compare(b.ChangedAt) })
		if diff := gocmp.Diff(waiting[:min(10, len(waiting))], append([]litestream.FleetWaiting{}, s.Oldest...)); diff != "" && len(waiting) > 0 {
			t.Fatalf("oldest changes (-want +got):\n%s", diff)
		}
		slices.SortStableFunc(logs, func(a, b litestream.FleetLog) int { return cmp.Compare(b.Size, a.Size) })
		if diff := gocmp.Diff(logs[:min(10, len(logs))], append([]litestream.FleetLog{}, s.LargeLogs...)); diff != "" && len(logs) > 0 {
			t.Fatalf("large logs (-want +got):\n%s", diff)
		}
	}
}

// TestFleetSummary_Costs holds that paths are made for those databases only
// that are named: a summary is made over all of them.
func TestFleetSummary_Costs(t *testing.T) {
	var s litestream.FleetSummary
	start, asked := time.Unix(1_700_000_000, 0), 0
	for i := range 10_000 {
		s.NoteUnreplicated(start.Add(time.Duration(i)), "", func() string { asked++; return "/x" })
	}
	if asked != 10 {
		t.Errorf("%d paths made, want 10", asked)
	}
}

func TestFleetSummary_NoNulls(t *testing.T) {
	s := litestream.FleetSummary{States: map[string]int{}}
	s.NoNulls()
	b, err := json.Marshal(s)
	if err != nil || bytes.Contains(b, []byte("null")) {
		t.Errorf("got %s, %v; want no null", b, err)
	}
}

// TestFleetSummary_Failures checks classes and examples, and that what is not
// UTF-8 survives the way through JSON in a readable form.
func TestFleetSummary_Failures(t *testing.T) {
	var s litestream.FleetSummary
	s.NoteFailed("empty", "no page", "/d/0")
	for i := range 5 {
		s.NoteFailed("locked", fmt.Sprintf("lock %d", i), fmt.Sprintf("/d/\xff%d", i))
	}
	s.NoteFailed("corrupt", "c", "/d/1")
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got litestream.FleetSummary
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := []litestream.FleetFailure{
		{Reason: "locked", Count: 5, Examples: []litestream.FleetExample{
			{Path: `/d/\xff0`, Error: "lock 0"}, {Path: `/d/\xff1`, Error: "lock 1"}, {Path: `/d/\xff2`, Error: "lock 2"},
		}},
		{Reason: "empty", Count: 1, Examples: []litestream.FleetExample{{Path: "/d/0", Error: "no page"}}},
		{Reason: "corrupt", Count: 1, Examples: []litestream.FleetExample{{Path: "/d/1", Error: "c"}}},
	}
	if diff := gocmp.Diff(want, got.Failures); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
}
