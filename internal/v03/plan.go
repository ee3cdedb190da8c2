package v03

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrNoSnapshot means that no snapshot was made by the wanted moment.
var ErrNoSnapshot = errors.New("no snapshot")

// A Plan is what restores a database: a snapshot, and the stretches of the log
// from the snapshot's index on, in the order in which they apply.
type Plan struct {
	Snapshot File
	WAL      []File
}

// Files returns all files in the order in which they apply.
func (p Plan) Files() []File { return append([]File{p.Snapshot}, p.WAL...) }

// CreatedAt returns when the newest state of the plan was stored.
func (p Plan) CreatedAt() time.Time {
	if n := len(p.WAL); n > 0 {
		return p.WAL[n-1].CreatedAt
	}
	return p.Snapshot.CreatedAt
}

// A GapError is a stretch of the log that is missing in front of another one.
type GapError struct {
	Generation string
	Index      uint32 // of what is missing
	Offset     int64  // where it begins; negative if only its index is known
	Behind     File   // what lies behind it and cannot be applied
	Reason     string // how it is known, if the names do not show it
}

// Error names the generation, the index and the offset of the missing part.
func (e *GapError) Error() string {
	at := fmt.Sprintf("index %08x", e.Index)
	if e.Offset >= 0 {
		at += fmt.Sprintf(", offset %08x", e.Offset)
	}
	s := fmt.Sprintf("generation %s: wal is missing from %s to index %08x, offset %08x",
		e.Generation, at, e.Behind.Index, e.Behind.Offset)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// NewPlan chooses the newest snapshot of all generations and the log behind it.
// With a moment, everything was stored at it or before. A log with a gap is a
// *GapError, no snapshot ErrNoSnapshot.
//
// Gaps between the stretches of one index show only when they are read.
func NewPlan(files []File, until time.Time) (Plan, error) {
	late := func(f File) bool { return !until.IsZero() && f.CreatedAt.After(until) }
	newest := make(map[string]time.Time) // of a generation's log
	for _, f := range files {
		if !late(f) && f.CreatedAt.After(newest[f.Generation]) {
			newest[f.Generation] = f.CreatedAt
		}
	}
	var p Plan
	for _, f := range files {
		if !f.Snapshot || late(f) {
			continue
		}
		// S3 counts seconds: two snapshots can be of one time.
		if p.Snapshot.Name == "" || cmp.Or(f.CreatedAt.Compare(p.Snapshot.CreatedAt),
			newest[f.Generation].Compare(newest[p.Snapshot.Generation]),
			cmp.Compare(f.Generation, p.Snapshot.Generation), cmp.Compare(f.Index, p.Snapshot.Index)) > 0 {
			p.Snapshot = f
		}
	}
	if p.Snapshot.Name == "" {
		return p, noSnapshot(files, until)
	}

	for _, f := range files {
		if !f.Snapshot && f.Generation == p.Snapshot.Generation && f.Index >= p.Snapshot.Index {
			p.WAL = append(p.WAL, f)
		}
	}
	slices.SortFunc(p.WAL, compareWAL)
	// What follows a stretch that is too new is too new, whatever the clock said.
	if i := slices.IndexFunc(p.WAL, late); i >= 0 {
		p.WAL = p.WAL[:i]
	}
	return p, p.checkIndexes()
}

func noSnapshot(files []File, until time.Time) error {
	var earliest time.Time
	for _, f := range files {
		if f.Snapshot && (earliest.IsZero() || f.CreatedAt.Before(earliest)) {
			earliest = f.CreatedAt
		}
	}
	if earliest.IsZero() {
		return fmt.Errorf("%w: %d wal segments cannot be used without one", ErrNoSnapshot, len(files))
	}
	return fmt.Errorf("%w was made by %s; the first one is of %s", ErrNoSnapshot,
		FormatTime(until), FormatTime(earliest))
}

// checkIndexes finds the gaps that names show: every index begins at offset 0
// and is followed by the next one.
func (p Plan) checkIndexes() error {
	index, begun := p.Snapshot.Index, false
	for _, f := range p.WAL {
		if begun && f.Index != index {
			index, begun = index+1, false
		}
		if !begun && (f.Index != index || f.Offset != 0) {
			return &GapError{Generation: f.Generation, Index: index, Behind: f}
		}
		begun = true
	}
	return nil
}

// NewestWithout returns the newest moment that is restorable although bad and
// all that was stored from its time on is not used: the timestamp to restore.
// It reports false if there is none.
func NewestWithout(files []File, bad File) (time.Time, bool) {
	for {
		p, err := NewPlan(files, bad.CreatedAt.Add(-1))
		if err == nil {
			return p.CreatedAt(), true
		}
		gap, ok := errors.AsType[*GapError](err)
		if !ok {
			return time.Time{}, false
		}
		bad = gap.Behind // earlier than bad, because the plan did not hold bad
	}
}

// FormatTime returns a moment as -timestamp takes it.
func FormatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
