package litestream

import (
	"cmp"
	"slices"
	"time"

	"github.com/superfly/ltx"
)

// What retention promises (design.md section 7): every position younger than
// the L0 retention, each file boundary of level 1 that is younger than the
// snapshot retention, the state at the beginning of that time, and always the
// newest position. Each promise is kept for the grace period longer than
// stated, so that a restore that was planned while it stood finds its files.
//
// The functions of this file decide; they know the clock only as a parameter
// and do no I/O.

// L0RetentionStats counts the level-0 files of one database by what a
// retention pass made of them.
type L0RetentionStats struct {
	Eligible     int // deleted
	NotCompacted int // old, but needed because no level covers them
	TooRecent    int
}

// l0Retention is what the decision about level 0 depends on.
type l0Retention struct {
	l0        []*ltx.FileInfo
	l1        []*ltx.FileInfo // those that overlap with l0, or more; see coversOf
	snapshots []*ltx.FileInfo // see coversOf
	now       time.Time
	retention time.Duration // 0 or less: nothing is deleted
	grace     time.Duration

	// snapshotsCount: a snapshot is written in place of a file of level 1,
	// which goes on behind it.
	snapshotsCount bool
}

// plan returns the level-0 files to delete, in ascending order.
//
// A file may go if its transaction is older than the promise, it is not the
// newest, level 1 has gone past it, and the first boundary of level 1 or a
// snapshot at or behind it belongs to a file that holds it and was there
// before the grace period. That boundary must not lie behind the first
// position that is still promised: from there on, single positions count.
func (r l0Retention) plan() (remove []*ltx.FileInfo, stats L0RetentionStats) {
	files := sortedByMax(r.l0)
	young := len(files) - 1 // the first file that stays because of its age
	for i, f := range files {
		if i == young || r.retention <= 0 || isYoung(f, r.now.Add(-r.retention-r.grace)) {
			young = i
			break
		}
	}
	if young < 0 {
		return nil, stats
	}
	stats.TooRecent = len(files) - young

	covers := sortedByMax(append(slices.Clone(r.l1), r.snapshots...))
	l1Max := maxTXIDOf(r.l1)
	if r.snapshotsCount {
		l1Max = max(l1Max, maxTXIDOf(r.snapshots))
	}
	for _, f := range files[:young] {
		if f.MaxTXID <= l1Max && r.covered(covers, f, files[young].MaxTXID) {
			remove = append(remove, f)
		} else {
			stats.NotCompacted++
		}
	}
	stats.Eligible = len(remove)
	return remove, stats
}

// covered reports whether the first boundary at or behind f belongs to a file
// that holds f, is old enough, and does not lie behind last.
func (r l0Retention) covered(covers []*ltx.FileInfo, f *ltx.FileInfo, last ltx.TXID) bool {
	i, _ := slices.BinarySearchFunc(covers, f.MaxTXID, func(c *ltx.FileInfo, txid ltx.TXID) int {
		return cmp.Compare(c.MaxTXID, txid)
	})
	if i == len(covers) || covers[i].MaxTXID > last {
		return false
	}
	boundary := covers[i].MaxTXID
	for ; i < len(covers) && covers[i].MaxTXID == boundary; i++ {
		if covers[i].MinTXID <= f.MinTXID && !isYoung(covers[i], r.now.Add(-r.grace)) {
			return true
		}
	}
	return false
}

// snapshotRetention is what the decision about the levels 1 to 9 depends on.
type snapshotRetention struct {
	files       []*ltx.FileInfo // of all levels
	now         time.Time
	retention   time.Duration // 0 or less: nothing is deleted
	l0Retention time.Duration
	grace       time.Duration

	// tenant: the database is one of a fleet. There may be no snapshot of its
	// first file of level 0, which holds the whole database, so that it is kept
	// as long as one; with an l0Retention of 0 it stays for ever, like all of
	// level 0. Compaction goes on behind the newest snapshot, so that the last
	// file of a level need not stay.
	tenant bool
}

// plan returns the files to delete in the order in which they have to go.
//
// The base is the newest snapshot that is older than the promised time and not
// behind the oldest promised position. It was there when any restore that runs
// now was planned, and every promised position is restorable from it and the
// files that reach beyond it. So older snapshots may go, and with them the
// files of the levels 1 to 8, configured or not, that do not reach beyond it;
// the last of each level stays, because compaction goes on behind it. Without
// a base nothing may go.
//
// Snapshots go first and the oldest of everything first: a restore to a
// position that is no longer promised then fails for want of a base, where it
// would otherwise find a gap and end at an older state than it was asked for.
func (r snapshotRetention) plan() []*ltx.FileInfo {
	if r.retention <= 0 {
		return nil
	}
	horizon := r.now.Add(-r.retention - r.grace)
	oldest := r.oldestPromised(horizon)
	var base ltx.TXID
	var newest [SnapshotLevel + 1]ltx.TXID
	for _, f := range r.files {
		newest[f.Level] = max(newest[f.Level], f.MaxTXID)
		if f.Level == SnapshotLevel && f.MaxTXID <= oldest && !isYoung(f, horizon) {
			base = max(base, f.MaxTXID)
		}
	}
	var snapshots, others []*ltx.FileInfo
	for _, f := range r.files {
		merged := f.Level > 0 && f.Level < SnapshotLevel
		last := f.MaxTXID == newest[f.Level]
		switch {
		case merged && f.MaxTXID <= base && (r.tenant || !last):
			others = append(others, f)
		case r.isBase(f) && f.MaxTXID < base && !last:
			snapshots = append(snapshots, f)
		}
	}
	slices.SortFunc(others, func(a, b *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(a.MinTXID, b.MinTXID), -cmp.Compare(a.Level, b.Level))
	})
	return append(sortedByMax(snapshots), others...)
}

// isBase reports whether a restore can begin with f and f may be deleted.
func (r snapshotRetention) isBase(f *ltx.FileInfo) bool {
	return f.Level == SnapshotLevel || r.tenant && r.l0Retention > 0 && f.Level == 0 && f.MinTXID == 1
}

// oldestPromised returns the lowest position that is promised by its age, or
// the newest of all. The state at the horizon needs no mention: the base is
// older than that.
func (r snapshotRetention) oldestPromised(horizon time.Time) ltx.TXID {
	l0Horizon := r.now.Add(-r.l0Retention - r.grace)
	oldest := maxTXIDOf(r.files)
	for _, f := range r.files {
		if f.Level == 0 && isYoung(f, l0Horizon) || f.Level == 1 && isYoung(f, horizon) {
			oldest = min(oldest, f.MaxTXID)
		}
	}
	return oldest
}

// isYoung reports whether a file was made after t. One without a time is old.
func isYoung(f *ltx.FileInfo, t time.Time) bool {
	return !f.CreatedAt.IsZero() && f.CreatedAt.After(t)
}

func sortedByMax(a []*ltx.FileInfo) []*ltx.FileInfo {
	a = slices.Clone(a)
	slices.SortFunc(a, func(x, y *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(x.MaxTXID, y.MaxTXID), cmp.Compare(x.MinTXID, y.MinTXID))
	})
	return a
}

func maxTXIDOf(a []*ltx.FileInfo) (txid ltx.TXID) {
	for _, f := range a {
		txid = max(txid, f.MaxTXID)
	}
	return txid
}
