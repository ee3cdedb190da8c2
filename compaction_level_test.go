package litestream

import (
	"fmt"
	"testing"
	"time"
)

func TestCompactionLevel_Boundaries(t *testing.T) {
	now := time.Date(2026, 11, 22, 21, 7, 13, 5, time.FixedZone("CET", 3600))
	tests := []struct {
		interval   time.Duration
		prev, next string
	}{
		{30 * time.Second, "2026-11-22T20:07:00Z", "2026-11-22T20:07:30Z"},
		{5 * time.Minute, "2026-11-22T20:05:00Z", "2026-11-22T20:10:00Z"},
		{time.Hour, "2026-11-22T20:00:00Z", "2026-11-22T21:00:00Z"},
		{24 * time.Hour, "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"},
	}
	for _, tt := range tests {
		t.Run(tt.interval.String(), func(t *testing.T) {
			lvl := CompactionLevel{Level: 1, Interval: tt.interval}
			if got := lvl.PrevCompactionAt(now).Format(time.RFC3339Nano); got != tt.prev {
				t.Errorf("PrevCompactionAt=%s, want %s", got, tt.prev)
			}
			if got := lvl.NextCompactionAt(now).Format(time.RFC3339Nano); got != tt.next {
				t.Errorf("NextCompactionAt=%s, want %s", got, tt.next)
			}
			if at := lvl.PrevCompactionAt(now); !lvl.PrevCompactionAt(at).Equal(at) || !lvl.NextCompactionAt(at).After(at) {
				t.Errorf("boundary %s is not its own previous one", at)
			}
		})
	}
}

func TestCompactionLevels_Validate(t *testing.T) {
	nine := CompactionLevels{{Level: 0}}
	for i := 1; i <= 9; i++ {
		nine = append(nine, &CompactionLevel{Level: i, Interval: time.Minute})
	}
	tests := []struct {
		name   string
		levels CompactionLevels
		ok     bool
	}{
		{"Default", DefaultCompactionLevels(), true},
		{"OnlyL0", CompactionLevels{{Level: 0}}, true},
		{"Eight", nine[:9], true},
		{"Nine", nine, false},
		{"None", nil, false},
		{"NoL0", CompactionLevels{{Level: 1, Interval: time.Second}}, false},
		{"L0WithInterval", CompactionLevels{{Level: 0, Interval: time.Second}}, false},
		{"Hole", CompactionLevels{{Level: 0}, {Level: 2, Interval: time.Second}}, false},
		{"ZeroInterval", CompactionLevels{{Level: 0}, {Level: 1}}, false},
		{"NegativeInterval", CompactionLevels{{Level: 0}, {Level: 1, Interval: -1}}, false},
		{"Nil", CompactionLevels{{Level: 0}, nil}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.levels.Validate(); (err == nil) != tt.ok {
				t.Errorf("Validate=%v, want ok=%v", err, tt.ok)
			}
		})
	}
}

func TestPhase(t *testing.T) {
	const n = 1000
	for _, interval := range []time.Duration{time.Second, 30 * time.Second, 24 * time.Hour} {
		spread := min(interval/phaseShare, maxPhase)
		var buckets [8]int
		for i := range n {
			path := fmt.Sprintf("/data/tenant-%d.db", i)
			p := phase(path, interval)
			if p < 0 || p >= spread || p != phase(path, interval) {
				t.Fatalf("phase(%q, %s)=%s, want a stable one below %s", path, interval, p, spread)
			}
			buckets[int(p*8/spread)]++
		}
		for i, got := range buckets {
			if got < n/16 || got > n/4 {
				t.Errorf("interval %s: %d of %d databases in part %d of 8", interval, got, n, i)
			}
		}
	}
	if got := phase("/x", 0); got != 0 {
		t.Errorf("phase of no interval=%s, want 0", got)
	}
}

func TestCompactionLevel_PhasedBoundaries(t *testing.T) {
	lvl := CompactionLevel{Level: 1, Interval: 30 * time.Second}
	at := time.Date(2026, 1, 1, 0, 0, 31, 0, time.UTC)
	if got, want := lvl.prevAt(at, 2*time.Second), at.Add(-29*time.Second); !got.Equal(want) {
		t.Errorf("prevAt=%s, want %s", got, want)
	}
	if got, want := lvl.nextAt(at, 2*time.Second), at.Add(time.Second); !got.Equal(want) {
		t.Errorf("nextAt=%s, want %s", got, want)
	}
}
