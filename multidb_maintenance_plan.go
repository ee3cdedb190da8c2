package litestream

import (
	"time"

	"github.com/superfly/ltx"
)

// Databases of a fleet are maintained one by one, when something is due, and
// from a record of a few numbers: what lies on the replica is listed only when
// files may be deleted or levels climbed. After its last change a database has
// a handful of due times and then none; an idle one causes no request.
//
// What is promised is what retention.go says. A base is a file from which a
// restore can begin: a snapshot, or the first file of level 0, which holds the
// whole database. A snapshot that is written in place of a file of level 1 is a
// boundary of that level.
//
// The functions of this file decide and do no I/O.

// Weights of the economy (design.md section 7).
const (
	// objectWeight is what a file on the replica costs besides its bytes. It
	// makes small databases write snapshots, which need nothing to be read from
	// the replica and make a restore one file.
	objectWeight = 16 << 10

	// minClimbFiles is how many files a level must hold before they are merged
	// into the next: fewer cost more requests than they save in a restore.
	minClimbFiles = 8

	// Below lazyL0Files and lazyL0Bytes level-0 files wait for a deletion that
	// has to come anyway.
	lazyL0Files = 64
	lazyL0Bytes = 1 << 20

	// From promptSnapshotBytes on a snapshot is deleted as soon as nothing
	// promised needs it; smaller ones wait, so that many go at once.
	promptSnapshotBytes = 1 << 20
)

// maintenanceSettings are the settings of all databases of a fleet.
type maintenanceSettings struct {
	Levels            CompactionLevels
	SnapshotInterval  time.Duration // 0: only where the economy wants one
	SnapshotRetention time.Duration // 0: for ever
	L0Retention       time.Duration // 0: for ever
	Grace             time.Duration // see Compactor.Grace
	RetentionEnabled  bool
}

// maintenanceSchedule is when what is due; a zero time is never.
type maintenanceSchedule struct {
	list     time.Time
	boundary time.Time // level 1, or a snapshot in its place
	snapshot time.Time
	climb    [MaxCompactionLevel + 1]time.Time // into levels from 2 on
	retain   time.Time
}

// due returns when maintenance has something to do, in the past if it is late,
// zero if there is nothing until something is uploaded.
func (f tenantFiles) due(s maintenanceSettings, path string) time.Time {
	sched := f.schedule(s, path)
	due := earliest(earliest(sched.list, sched.boundary), earliest(sched.snapshot, sched.retain))
	for _, at := range sched.climb {
		due = earliest(due, at)
	}
	return due
}

// earliest returns the earlier of two times, of which zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// schedule returns all due times.
func (f tenantFiles) schedule(s maintenanceSettings, path string) (sched maintenanceSchedule) {
	first := s.Levels.Level(1)
	var boundary time.Time
	if f.pendingSince > 0 {
		boundary = f.pendingSince.time()
		if first != nil {
			boundary = first.nextAt(boundary, phase(path, first.Interval))
		}
	}
	if !f.known {
		sched.list = boundary
		return sched
	}
	if f.pos > f.done && first != nil && !f.stuck {
		sched.boundary = boundary
	}
	if !f.gone && f.pos > f.base.txid {
		lvl := CompactionLevel{Level: SnapshotLevel, Interval: s.SnapshotInterval}
		if f.base.txid == 0 {
			sched.snapshot = f.doneAt.time() // at once: nothing is restorable
		} else if s.SnapshotInterval > 0 {
			sched.snapshot = lvl.nextAt(f.newSince.time(), phase(path, s.SnapshotInterval))
		}
	}
	for level := 2; level <= s.Levels.MaxLevel() && !f.stuck; level++ {
		if src := f.levels[level-1]; src.files >= minClimbFiles {
			lvl := s.Levels.Level(level)
			sched.climb[level] = lvl.nextAt(src.at.time(), phase(path, lvl.Interval))
		}
	}
	sched.retain = f.retainAt(s, sched)
	return sched
}

// retainAt returns when a retention pass is due.
func (f *tenantFiles) retainAt(s maintenanceSettings, sched maintenanceSchedule) time.Time {
	if !s.RetentionEnabled || f.fruitless > maxFruitless {
		return time.Time{}
	}
	at := f.expireAt(s)
	coming := !at.IsZero() || !sched.boundary.IsZero() || !sched.snapshot.IsZero() && s.SnapshotRetention > 0
	few := f.oldest > 0 && f.done+1 < f.oldest+lazyL0Files && f.oldBytes < lazyL0Bytes
	if !few || !coming {
		at = earliest(at, f.expireL0At(s))
	}
	if rest := f.rest.time(); !at.IsZero() && at.Before(rest) {
		return rest
	}
	return at
}

// expireAt returns when a base is not needed any longer. All that lie there
// today but the newest go with one pass, unless that would take more than twice
// the time for which they are promised.
func (f *tenantFiles) expireAt(s maintenanceSettings) time.Time {
	next := f.secondAt // the base that follows the oldest
	if f.first && s.L0Retention > 0 && f.base.txid > 1 {
		next = f.oldestAt
	}
	if s.SnapshotRetention <= 0 || next == 0 {
		return time.Time{}
	}
	promised := s.SnapshotRetention + s.Grace
	at, last := next.time().Add(promised), f.base.at.time().Add(promised)
	if f.base.size < promptSnapshotBytes {
		at = at.Add(promised)
	}
	return earliest(at, last)
}

// expireL0At returns when level-0 files are not needed any longer, with the
// same bound. The newest file stays.
func (f *tenantFiles) expireL0At(s maintenanceSettings) time.Time {
	if s.L0Retention <= 0 || f.oldest == 0 || f.oldest > f.done || f.oldest >= f.pos {
		return time.Time{}
	}
	promised := s.L0Retention + s.Grace
	last := f.doneAt.time().Add(promised)
	if f.mark < f.oldest {
		return last
	}
	return earliest(f.markAt.time().Add(2*promised), last)
}

// settled returns the position up to which the files that stand for those of
// level 0 were there before the grace period.
func (f *tenantFiles) settled(s maintenanceSettings, now time.Time) ltx.TXID {
	switch old := now.Add(-s.Grace); {
	case !f.doneAt.time().After(old):
		return f.done
	case !f.markAt.time().After(old):
		return min(f.mark, f.done)
	default:
		return 0
	}
}

// outweighs reports whether the files since the base weigh more than a new
// snapshot, those included that the next file of level 1 would add.
func (f *tenantFiles) outweighs() bool {
	return f.sinceBytes+f.pendingBytes+int64(f.sinceFiles+1)*objectWeight >= f.base.size
}

// maintenancePlan is what to do now.
type maintenancePlan struct {
	list     bool // and plan again
	retain   bool
	snapshot bool
	compact  []int // levels, ascending
}

// idle reports whether there is nothing to do.
func (p maintenancePlan) idle() bool {
	return !p.list && !p.retain && !p.snapshot && len(p.compact) == 0
}

// plan returns what is due now.
func (f tenantFiles) plan(s maintenanceSettings, path string, now time.Time) (p maintenancePlan) {
	sched := f.schedule(s, path)
	isDue := func(t time.Time) bool { return !t.IsZero() && !t.After(now) }
	p.list, p.retain, p.snapshot = isDue(sched.list), isDue(sched.retain), isDue(sched.snapshot)
	if isDue(sched.boundary) {
		if !f.gone && f.outweighs() {
			p.snapshot = true
		} else {
			p.compact = append(p.compact, 1)
		}
	}
	for level, at := range sched.climb {
		if isDue(at) {
			p.compact = append(p.compact, level)
		}
	}
	if p.snapshot {
		p.compact = nil
	}
	return p
}
