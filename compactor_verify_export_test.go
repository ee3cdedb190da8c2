package litestream

import (
	"time"

	"github.com/superfly/ltx"
)

// Problems returns what a validation finds in a listing of all levels.
func (c *Compactor) Problems(levels [SnapshotLevel + 1][]*ltx.FileInfo, maxLevel int) []LevelProblem {
	return treeProblems(levels, maxLevel, c.promise())
}

// Problems returns what a validation finds in a listing of all levels.
func (t *tenantMaintainer) Problems(levels [SnapshotLevel + 1][]*ltx.FileInfo, maxLevel int) []LevelProblem {
	return treeProblems(levels, maxLevel, t.promise())
}

// ValidationTicks returns how many ticks a round over n databases takes.
func ValidationTicks(n int, interval time.Duration) (ticks int) {
	var v fleetValidation
	for i := range n {
		v.changed.add(uint32(i))
	}
	v.begin(time.Time{}, interval)
	for n > 0 {
		ticks++
		v.grow()
		for v.credit >= 1 {
			if _, ok := v.pop(); !ok {
				return ticks
			}
			v.credit--
			n--
		}
	}
	return ticks
}
