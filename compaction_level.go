package litestream

import (
	"fmt"
	"hash/fnv"
	"time"
)

// Intervals of the compaction levels 1, 2 and 3 when none are configured, as
// in Litestream v0.5.
const (
	DefaultL1Interval = 30 * time.Second
	DefaultL2Interval = 5 * time.Minute
	DefaultL3Interval = 1 * time.Hour
)

// Limits of phase: the share of the interval over which databases are spread,
// and the longest delay that spreading may cause.
const (
	phaseShare = 8
	maxPhase   = 1 * time.Hour
)

// CompactionLevel says how often the files of the level below are merged into
// this one. Level 0 holds the files as they were captured; it has no interval.
type CompactionLevel struct {
	Level    int
	Interval time.Duration
}

// PrevCompactionAt returns the newest boundary at or before now. Boundaries
// are the multiples of the interval since year 1 UTC, so that 24 h is midnight
// and a restart of the process does not move them.
func (l *CompactionLevel) PrevCompactionAt(now time.Time) time.Time {
	return now.UTC().Truncate(l.Interval)
}

// NextCompactionAt returns the first boundary after now.
func (l *CompactionLevel) NextCompactionAt(now time.Time) time.Time {
	return l.PrevCompactionAt(now).Add(l.Interval)
}

// prevAt is PrevCompactionAt for a database whose boundaries lie phase later.
func (l *CompactionLevel) prevAt(now time.Time, phase time.Duration) time.Time {
	return l.PrevCompactionAt(now.Add(-phase)).Add(phase)
}

// nextAt is NextCompactionAt for a database whose boundaries lie phase later.
func (l *CompactionLevel) nextAt(now time.Time, phase time.Duration) time.Time {
	return l.prevAt(now, phase).Add(l.Interval)
}

// CompactionLevels are the levels of a store in order, beginning with level 0.
// Snapshots (SnapshotLevel) are not part of it.
type CompactionLevels []*CompactionLevel

// DefaultCompactionLevels returns level 0 and the levels 1 to 3 of 30 seconds,
// 5 minutes and 1 hour.
func DefaultCompactionLevels() CompactionLevels {
	return CompactionLevels{
		{Level: 0},
		{Level: 1, Interval: DefaultL1Interval},
		{Level: 2, Interval: DefaultL2Interval},
		{Level: 3, Interval: DefaultL3Interval},
	}
}

// Validate returns an error that names the first level which is out of order,
// above MaxCompactionLevel or without an interval.
func (a CompactionLevels) Validate() error {
	if len(a) == 0 || a[0] == nil || a[0].Level != 0 {
		return fmt.Errorf("compaction levels must begin with level 0")
	}
	if a[0].Interval != 0 {
		return fmt.Errorf("compaction level 0 has no interval, got %s", a[0].Interval)
	}
	if n := len(a) - 1; n > MaxCompactionLevel {
		return fmt.Errorf("%d compaction levels, the most is %d", n, MaxCompactionLevel)
	}
	for i, l := range a[1:] {
		if l == nil || l.Level != i+1 {
			return fmt.Errorf("compaction level %d is missing", i+1)
		}
		if l.Interval <= 0 {
			return fmt.Errorf("interval of compaction level %d must be above 0, got %s", l.Level, l.Interval)
		}
	}
	return nil
}

// MaxLevel returns the highest configured level, 0 if nothing is compacted.
func (a CompactionLevels) MaxLevel() int { return max(len(a)-1, 0) }

// Level returns a level by number, or nil if it is not configured.
func (a CompactionLevels) Level(n int) *CompactionLevel {
	if n < 0 || n >= len(a) {
		return nil
	}
	return a[n]
}

// phase returns how far the boundaries of one database lie behind those of the
// interval. It depends on the path alone, so that it survives a restart, and
// spreads the databases of a store over an eighth of the interval (one hour at
// most): nothing ticks for all of them in the same second.
func phase(path string, interval time.Duration) time.Duration {
	spread := min(interval/phaseShare, maxPhase)
	if spread <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(path)) // a hash never fails to write
	return time.Duration(h.Sum64() % uint64(spread))
}
