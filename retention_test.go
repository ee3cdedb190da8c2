package litestream

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"
)

// retentionNow is the clock of the tables below.
var retentionNow = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// file makes a file that is age old.
func ageFile(level int, minTXID, maxTXID ltx.TXID, age time.Duration) *ltx.FileInfo {
	return &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID, CreatedAt: retentionNow.Add(-age)}
}

func l0Files(ages ...time.Duration) (a []*ltx.FileInfo) {
	for i, age := range ages {
		a = append(a, ageFile(0, ltx.TXID(i+1), ltx.TXID(i+1), age))
	}
	return a
}

func fileNames(a []*ltx.FileInfo) []string {
	names := []string{}
	for _, f := range a {
		names = append(names, fmt.Sprintf("%d:%d-%d", f.Level, f.MinTXID, f.MaxTXID))
	}
	return names
}

func TestL0RetentionPlan(t *testing.T) {
	const h, m = time.Hour, time.Minute
	tests := []struct {
		name string
		in   l0Retention
		want []string
	}{
		{"Empty", l0Retention{retention: m}, []string{}},
		{"CompactedAndOld", l0Retention{
			l0: l0Files(h, h, h), l1: []*ltx.FileInfo{ageFile(1, 1, 3, h)}, retention: 5 * m,
		}, []string{"0:1-1", "0:2-2"}},
		{"ZeroNeverDeletes", l0Retention{
			l0: l0Files(h, h, h), l1: []*ltx.FileInfo{ageFile(1, 1, 3, h)}, retention: 0,
		}, []string{}},
		{"NotCompacted", l0Retention{l0: l0Files(h, h, h), retention: 5 * m}, []string{}},
		{"NewestStaysThoughCompacted", l0Retention{
			l0: l0Files(h), l1: []*ltx.FileInfo{ageFile(1, 1, 1, h)}, retention: 5 * m,
		}, []string{}},
		{"StopsAtFirstYoung", l0Retention{
			l0: l0Files(h, m, h, h), l1: []*ltx.FileInfo{ageFile(1, 1, 1, h), ageFile(1, 2, 3, h)}, retention: 5 * m,
		}, []string{"0:1-1"}},
		{"BaseOfYoungPositionStays", l0Retention{
			// Position 3 is promised: 2 is needed to reach it, as level 1 jumps to 4.
			l0: l0Files(h, h, m, m), l1: []*ltx.FileInfo{ageFile(1, 1, 1, h), ageFile(1, 2, 4, h)}, retention: 5 * m,
		}, []string{"0:1-1"}},
		{"GraceExtendsThePromise", l0Retention{
			l0: l0Files(h, 12*m, m), l1: []*ltx.FileInfo{ageFile(1, 1, 1, h), ageFile(1, 2, 3, h)}, retention: 5 * m, grace: 10 * m,
		}, []string{"0:1-1"}},
		{"JustReplaced", l0Retention{
			l0: l0Files(h, h), l1: []*ltx.FileInfo{ageFile(1, 1, 1, m)}, retention: 5 * m, grace: 10 * m,
		}, []string{}},
		{"GapOfLevel1CoveredBySnapshot", l0Retention{
			l0: l0Files(h, h, h), l1: []*ltx.FileInfo{ageFile(1, 2, 3, h)},
			snapshots: []*ltx.FileInfo{ageFile(9, 1, 1, h)}, retention: 5 * m,
		}, []string{"0:1-1", "0:2-2"}},
		{"SnapshotAloneIsNotEnough", l0Retention{
			l0: l0Files(h, h), snapshots: []*ltx.FileInfo{ageFile(9, 1, 2, h)}, retention: 5 * m,
		}, []string{}},
		{"NoTimeIsOld", l0Retention{
			l0: []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}, {MinTXID: 2, MaxTXID: 2}},
			l1: []*ltx.FileInfo{{Level: 1, MinTXID: 1, MaxTXID: 2}}, retention: 5 * m,
		}, []string{"0:1-1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.now = retentionNow
			got, stats := tt.in.plan()
			if diff := cmp.Diff(tt.want, fileNames(got)); diff != "" {
				t.Errorf("deleted (-want +got):\n%s", diff)
			}
			if n := stats.Eligible + stats.NotCompacted + stats.TooRecent; n != len(tt.in.l0) || stats.Eligible != len(got) {
				t.Errorf("stats=%+v for %d files, %d deleted", stats, len(tt.in.l0), len(got))
			}
		})
	}
}

func TestSnapshotRetentionPlan(t *testing.T) {
	const h = time.Hour
	daily := []*ltx.FileInfo{
		ageFile(9, 1, 10, 72*h), ageFile(9, 1, 20, 48*h), ageFile(9, 1, 30, 25*h), ageFile(9, 1, 40, 1*h),
		ageFile(1, 1, 10, 72*h), ageFile(1, 11, 20, 48*h), ageFile(1, 21, 25, 30*h), ageFile(1, 26, 30, 25*h),
		ageFile(1, 31, 35, 12*h), ageFile(1, 36, 40, 1*h),
		ageFile(2, 1, 20, 48*h), ageFile(2, 21, 35, 12*h),
		ageFile(7, 1, 8, 72*h), ageFile(7, 9, 12, 72*h),
		ageFile(0, 40, 40, 1*h),
	}
	tests := []struct {
		name string
		in   snapshotRetention
		want []string
	}{
		{"Daily", snapshotRetention{files: daily, retention: 24 * h}, []string{
			"9:1-10", "9:1-20", "7:1-8", "2:1-20", "1:1-10", "1:11-20", "1:21-25", "1:26-30",
		}},
		{"BaseOfOldestBoundaryStays", snapshotRetention{files: daily, retention: 26 * h}, []string{
			"9:1-10", "7:1-8", "2:1-20", "1:1-10", "1:11-20",
		}},
		{"GraceExtendsThePromise", snapshotRetention{files: daily, retention: 24 * h, grace: 2 * h}, []string{
			"9:1-10", "7:1-8", "2:1-20", "1:1-10", "1:11-20",
		}},
		{"YoungLevel0NeedsItsBase", snapshotRetention{
			files: append([]*ltx.FileInfo{ageFile(0, 15, 15, 0)}, daily...), retention: 24 * h, l0Retention: h,
		}, []string{"7:1-8", "1:1-10"}},
		{"NothingIsOld", snapshotRetention{files: daily, retention: 100 * h}, []string{}},
		{"ZeroDeletesNothing", snapshotRetention{files: daily}, []string{}},
		{"NoSnapshot", snapshotRetention{files: daily[4:], retention: 24 * h}, []string{}},
		{"OnlySnapshots", snapshotRetention{files: daily[:4], retention: 24 * h}, []string{"9:1-10", "9:1-20"}},
		{"LongQuiet", snapshotRetention{
			files: []*ltx.FileInfo{ageFile(9, 1, 5, 90*h), ageFile(9, 1, 9, 80*h), ageFile(1, 1, 5, 90*h), ageFile(1, 6, 9, 80*h)}, retention: 24 * h,
		}, []string{"9:1-5", "1:1-5"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.now = retentionNow
			if diff := cmp.Diff(tt.want, fileNames(tt.in.plan())); diff != "" {
				t.Errorf("deleted (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSnapshotDue(t *testing.T) {
	day := 24 * time.Hour
	noon := retentionNow
	tests := []struct {
		name   string
		newest *ltx.FileInfo
		pos    ltx.TXID
		delay  time.Duration
		want   bool
	}{
		{"NoneYet", nil, 1, 0, true},
		{"NoTransaction", nil, 0, 0, false},
		{"CoversPosition", ageFile(9, 1, 7, 100*time.Hour), 7, 0, false},
		{"MadeToday", ageFile(9, 1, 7, 11*time.Hour), 8, 0, false},
		{"MadeYesterday", ageFile(9, 1, 7, 13*time.Hour), 8, 0, true},
		{"MadeYesterdayButPhaseIsToCome", ageFile(9, 1, 7, 13*time.Hour), 8, 13 * time.Hour, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := SnapshotDue(noon, tt.newest, tt.pos, day, tt.delay); got != tt.want {
				t.Errorf("SnapshotDue=%v, want %v", got, tt.want)
			}
		})
	}
}

// A process that is restarted every hour for three days takes one snapshot a
// day, as one that runs on does.
func TestSnapshotDue_RestartedHourly(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 30, 0, 0, time.UTC)
	var newest *ltx.FileInfo
	n := 0
	for hour := range 72 {
		pos := ltx.TXID(hour + 1)
		if SnapshotDue(now, newest, pos, 24*time.Hour, 20*time.Minute) {
			newest = &ltx.FileInfo{Level: SnapshotLevel, MinTXID: 1, MaxTXID: pos, CreatedAt: now}
			n++
		}
		now = now.Add(time.Hour)
	}
	if n != 4 { // the first, and one behind each of three midnights
		t.Errorf("%d snapshots, want 4", n)
	}
}

func TestPlanCompaction(t *testing.T) {
	f := func(minTXID, maxTXID ltx.TXID) *ltx.FileInfo {
		return &ltx.FileInfo{Level: 1, MinTXID: minTXID, MaxTXID: maxTXID, Size: 10}
	}
	tests := []struct {
		name   string
		files  []*ltx.FileInfo
		after  ltx.TXID
		limits compactionLimits
		want   []string
		more   bool
		gap    txidRange
	}{
		{name: "Empty", want: []string{}},
		{name: "All", files: []*ltx.FileInfo{f(3, 3), f(1, 1), f(2, 2)}, want: []string{"1:1-1", "1:2-2", "1:3-3"}},
		{name: "OnlyNew", files: []*ltx.FileInfo{f(1, 1), f(2, 2), f(3, 3)}, after: 2, want: []string{"1:3-3"}},
		{name: "EmptyLevelStartsAnywhere", files: []*ltx.FileInfo{f(7, 8), f(9, 9)}, want: []string{"1:7-8", "1:9-9"}},
		{name: "GapInFront", files: []*ltx.FileInfo{f(1, 1), f(4, 4)}, after: 1, want: []string{}, gap: txidRange{2, 3}},
		{name: "StopsAtGap", files: []*ltx.FileInfo{f(1, 1), f(2, 2), f(4, 4)}, want: []string{"1:1-1", "1:2-2"}, more: true},
		{name: "LongestOfOverlapping", files: []*ltx.FileInfo{f(1, 3), f(1, 5), f(2, 4), f(4, 8)}, want: []string{"1:1-5", "1:4-8"}},
		{name: "OverlapsDestination", files: []*ltx.FileInfo{f(1, 3), f(4, 8), f(9, 9)}, after: 5, want: []string{"1:4-8", "1:9-9"}},
		{name: "CaughtUp", files: []*ltx.FileInfo{f(1, 3)}, after: 3, want: []string{}},
		{
			name: "FileLimit", files: []*ltx.FileInfo{f(1, 1), f(2, 2), f(3, 3)}, limits: compactionLimits{2, 1000},
			want: []string{"1:1-1", "1:2-2"}, more: true,
		},
		{
			name: "ByteLimit", files: []*ltx.FileInfo{f(1, 1), f(2, 2), f(3, 3)}, limits: compactionLimits{99, 25},
			want: []string{"1:1-1", "1:2-2"}, more: true,
		},
		{
			name: "OneFileAboveByteLimit", files: []*ltx.FileInfo{f(1, 1), f(2, 2)}, limits: compactionLimits{99, 5},
			want: []string{"1:1-1"}, more: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.limits.files == 0 {
				tt.limits = compactionLimits{files: 256, bytes: 1 << 20}
			}
			p := planCompaction(tt.files, tt.after, tt.limits)
			if diff := cmp.Diff(tt.want, fileNames(p.inputs)); diff != "" {
				t.Errorf("inputs (-want +got):\n%s", diff)
			}
			if p.more != tt.more || p.gap != tt.gap {
				t.Errorf("more=%v gap=%v, want %v and %v", p.more, p.gap, tt.more, tt.gap)
			}
		})
	}
}

func TestLevelProblems(t *testing.T) {
	var got []string
	for _, p := range levelProblems([]*ltx.FileInfo{
		ageFile(1, 1, 5, 0), ageFile(1, 6, 9, 0), ageFile(1, 9, 12, 0), ageFile(1, 15, 16, 0), ageFile(1, 3, 20, 0), ageFile(1, 21, 21, 0),
	}) {
		got = append(got, fmt.Sprintf("%s %d-%d", p.Kind, p.Next.MinTXID, p.Next.MaxTXID))
	}
	if diff := cmp.Diff([]string{"overlap 9-12", "gap 15-16", "unsorted 3-20"}, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if got := levelProblems([]*ltx.FileInfo{ageFile(1, 7, 9, 0)}); got != nil {
		t.Errorf("problems of one file: %v", got)
	}
}
