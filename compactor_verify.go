package litestream

import (
	"context"
	"fmt"

	"github.com/superfly/ltx"
)

// LevelProblemKind says what is wrong between two neighbouring files of a
// level, in the words of upstream's validation (compat.md section 6.6).
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
	infos, err := c.list(ctx, level)
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
