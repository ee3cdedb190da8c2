package litestream

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/superfly/ltx"
)

// LevelProblemKind says what is wrong between two neighbouring files of a
// level, in the words of upstream's validation.
type LevelProblemKind string

// The problems that two neighbouring files can have.
const (
	LevelUnsorted LevelProblemKind = "unsorted"
	LevelGap      LevelProblemKind = "gap"
	LevelOverlap  LevelProblemKind = "overlap"
)

// LevelProblem is a place where the files of a level do not join.
type LevelProblem struct {
	Kind       LevelProblemKind
	Prev, Next *ltx.FileInfo
}

// String names the problem and both files on one line.
func (p LevelProblem) String() string {
	return fmt.Sprintf("%s at level %d between %s and %s", p.Kind, p.Next.Level,
		ltx.FormatFilename(p.Prev.MinTXID, p.Prev.MaxTXID), ltx.FormatFilename(p.Next.MinTXID, p.Next.MaxTXID))
}

// VerifyLevel lists one of the levels 0 to MaxCompactionLevel and returns where
// its files do not join. That is no proof of a loss: other levels or a snapshot
// may cover a gap, and a restore passes an overlap.
func (c *Compactor) VerifyLevel(ctx context.Context, level int) ([]LevelProblem, error) {
	if level < 0 || level > MaxCompactionLevel {
		return nil, fmt.Errorf("verify level %d: snapshots and unknown levels have no order", level)
	}
	infos, err := listFiles(ctx, c.rawClient(), level)
	if err != nil {
		return nil, err
	}
	return levelProblems(infos), nil
}

// levelProblems compares each file with the one before it, in listed order.
func levelProblems(files []*ltx.FileInfo) (a []LevelProblem) {
	for i := 1; i < len(files); i++ {
		prev, next := files[i-1], files[i]
		var kind LevelProblemKind
		switch {
		case next.MinTXID < prev.MinTXID:
			kind = LevelUnsorted
		case next.MinTXID > prev.MaxTXID+1:
			kind = LevelGap
		case next.MinTXID <= prev.MaxTXID:
			kind = LevelOverlap
		default:
			continue
		}
		a = append(a, LevelProblem{Kind: kind, Prev: prev, Next: next})
	}
	return a
}

// levelPromise says which restore points are promised.
type levelPromise struct {
	now               time.Time
	levels            CompactionLevels
	snapshotRetention time.Duration // 0: for ever
	l0Retention       time.Duration // 0: for ever
}

// holds reports whether the position at the end of a file is surely promised:
// what it holds may be older than the file by the intervals of its level and
// those below, twice over if each was just missed.
func (p levelPromise) holds(f *ltx.FileInfo) bool {
	retention := p.snapshotRetention
	if f.Level == 0 {
		retention = p.l0Retention
	}
	if retention <= 0 || f.CreatedAt.IsZero() {
		return true
	}
	for _, l := range p.levels {
		if l.Level <= f.Level {
			retention -= 2 * l.Interval
		}
	}
	return f.CreatedAt.After(p.now.Add(-retention))
}

// treeProblems returns where the files of the levels 0 to maxLevel do not join.
// Retention and compaction leave gaps that are none of these: those that a
// restore passes by files of higher levels or by a base, a snapshot or the
// first file, and those ahead of positions that are no longer promised and that
// a later base makes unnecessary. Files of a lower level do not fill a gap,
// since they go away when they are old.
func treeProblems(levels levelFiles, maxLevel int, promise levelPromise) (a []LevelProblem) {
	var bases []*ltx.FileInfo
	for _, f := range append(slices.Clone(levels[SnapshotLevel]), levels[0]...) {
		if f.MinTXID == 1 {
			bases = append(bases, f)
		}
	}
	superseded := func(f *ltx.FileInfo) bool {
		return slices.ContainsFunc(bases, func(b *ltx.FileInfo) bool { return b.MaxTXID >= f.MaxTXID })
	}
	for level := range maxLevel + 1 {
		for _, p := range levelProblems(levels[level]) {
			if p.Kind == LevelGap && (passable(bases, levels, p) || !promise.holds(p.Next) && superseded(p.Next)) {
				continue
			}
			a = append(a, p)
		}
	}
	return a
}

// passable reports whether a restore gets over a gap to the end of the file
// behind it, or begins between the two.
func passable(bases []*ltx.FileInfo, levels levelFiles, gap LevelProblem) bool {
	from, to := gap.Prev.MaxTXID, gap.Next.MinTXID-1
	for _, f := range bases {
		if f.MaxTXID <= gap.Next.MaxTXID {
			from = max(from, f.MaxTXID)
		}
	}
	var above []*ltx.FileInfo
	for level := gap.Next.Level + 1; level <= MaxCompactionLevel; level++ {
		above = append(above, levels[level]...)
	}
	slices.SortFunc(above, func(a, b *ltx.FileInfo) int { return cmp.Compare(a.MinTXID, b.MinTXID) })
	for _, f := range above {
		if f.MinTXID <= from+1 {
			from = max(from, f.MaxTXID)
		}
	}
	return from >= to
}
