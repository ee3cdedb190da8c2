package litestream

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/superfly/ltx"
)

// TimelinePoint is a position that a file of a replica ends at.
type TimelinePoint struct {
	TXID ltx.TXID
	At   time.Time // when it was captured, as exact as the storage tells
}

// Timeline is what a replica can be restored to.
type Timeline struct {
	Points []TimelinePoint // ascending; each can be restored by its TXID
	// Unreachable are the ends of files that no chain of files leads to, ascending:
	// compaction and retention leave such for a while. One behind all points means
	// that the newest position is lost.
	Unreachable []TimelinePoint
}

// OpenTimeline lists a replica. A replica without files is ErrNoBackups.
func OpenTimeline(ctx context.Context, client ReplicaClient) (*Timeline, error) {
	var levels levelFiles
	var listErr error
	_ = withoutFalseGaps(func() error { // one that stays is in the timeline
		if levels, listErr = listLevels(ctx, client, true); listErr != nil {
			return listErr
		}
		_, err := planRestore(levels, 0, time.Time{})
		return err
	})
	if listErr != nil {
		return nil, fmt.Errorf("read timeline: %w", listErr)
	}
	if countFiles(levels) == 0 {
		return nil, ErrNoBackups
	}
	return newTimeline(levels), nil
}

// newTimeline sorts the ends of all files. Where several files end, the oldest
// time counts: a snapshot of a position is younger than the position.
func newTimeline(levels levelFiles) *Timeline {
	files := sortedByMax(slices.Concat(levels[:]...))
	restorable := restorablePoints(files)
	t := &Timeline{}
	for i := 0; i < len(files); {
		p := TimelinePoint{TXID: files[i].MaxTXID, At: files[i].CreatedAt}
		for ; i < len(files) && files[i].MaxTXID == p.TXID; i++ {
			if files[i].CreatedAt.Before(p.At) {
				p.At = files[i].CreatedAt
			}
		}
		if restorable[p.TXID] {
			t.Points = append(t.Points, p)
		} else {
			t.Unreachable = append(t.Unreachable, p)
		}
	}
	return t
}

// TimelineSpan is what a timeline has of one range of ages.
type TimelineSpan struct {
	MinAge, MaxAge time.Duration // MaxAge 0: no end
	Oldest, Newest TimelinePoint
	Points         int
	// Typical and Largest are the median and the longest time from a point to
	// the one before it, which may be older than the span. The first point of
	// all has none before it.
	Typical, Largest time.Duration
}

// timelineAges are where spans end: compaction and retention have made points
// rarer by then.
var timelineAges = []time.Duration{5 * time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour}

// Spans returns the ranges of ages that have points, the youngest first.
func (t *Timeline) Spans(now time.Time) []TimelineSpan {
	var spans []TimelineSpan
	end := len(t.Points) // of what is not told yet
	for i := 0; i <= len(timelineAges) && end > 0; i++ {
		var s TimelineSpan
		if i > 0 {
			s.MinAge = timelineAges[i-1]
		}
		begin := 0
		if i < len(timelineAges) {
			s.MaxAge = timelineAges[i]
			for begin = end; begin > 0 && now.Sub(t.Points[begin-1].At) < s.MaxAge; begin-- {
			}
		}
		if begin == end {
			continue
		}
		s.Oldest, s.Newest, s.Points = t.Points[begin], t.Points[end-1], end-begin
		s.Typical, s.Largest = t.gaps(begin, end)
		spans = append(spans, s)
		end = begin
	}
	return spans
}

// gaps returns the median and the longest of the times ahead of some points.
func (t *Timeline) gaps(begin, end int) (median, longest time.Duration) {
	var gaps []time.Duration
	for i := max(begin, 1); i < end; i++ {
		gaps = append(gaps, max(t.Points[i].At.Sub(t.Points[i-1].At), 0))
	}
	if len(gaps) == 0 {
		return 0, 0
	}
	slices.Sort(gaps)
	return gaps[len(gaps)/2], gaps[len(gaps)-1]
}
