package litestream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/superfly/ltx"
)

// SetClock replaces the clock that a database's age is measured by.
func (db *DB) SetClock(now func() time.Time) { db.knobs.now = now }

// BoundStaging gives databases a common bound of staged bytes.
func BoundStaging(limit int64, dbs ...*DB) {
	shared := &sharedState{staged: &stageBudget{limit: limit}}
	for _, db := range dbs {
		db.shared = shared
		db.stage.share(shared.staged)
	}
}

// Takeover gives the table test names for what decideTakeover answers.
type Takeover string

// The answers of decideTakeover.
const (
	TakeoverSend    Takeover = "send"
	TakeoverAdopt   Takeover = "adopt"
	TakeoverRestart Takeover = "restart"
)

// DecideTakeover calls decideTakeover.
func DecideTakeover(captured, localMin, localMax, remote ltx.TXID, same bool) Takeover {
	p := positions{captured: captured, localMin: localMin, localMax: localMax, remote: remote, same: same}
	return map[takeover]Takeover{
		takeoverSend: TakeoverSend, takeoverAdopt: TakeoverAdopt, takeoverRestart: TakeoverRestart,
	}[decideTakeover(p)]
}

// ForgetPin lets go of the database, as a rest does, without a look at it.
func (db *DB) ForgetPin() { _ = db.closeHandle(true) }

// OpenFiles returns how many things of the database file are held open.
func (db *DB) OpenFiles() (n int) {
	if h := db.st.handle; h != nil {
		n++
		if h.conn != nil {
			n++
		}
	}
	return n
}

// OpenViewNow opens a view of what is open, without a look at the path first.
func (db *DB) OpenViewNow(ctx context.Context) error {
	v, err := db.openView(ctx, db.spool())
	if err != nil {
		return err
	}
	return v.Close()
}

// LookWaits reports whether a large uncommitted transaction delays the next look.
func (db *DB) LookWaits() bool { return db.st.lookAt.After(db.knobs.now()) }

// CheckpointedAt returns when a checkpoint was tried last.
func (db *DB) CheckpointedAt() time.Time { return db.st.ckpt.attempted }

// ReadTwice reads a whole view of what is open twice, as a snapshot does after
// a capture, calls during at page 100 of the first pass and between the passes,
// and validates the view.
func (db *DB) ReadTwice(ctx context.Context, during, between func()) error {
	v, err := db.openView(ctx, db.spool())
	if err != nil {
		return err
	}
	read := func(do func()) error {
		if err := v.Each(func(pgno uint32, _ []byte) error {
			if pgno == 100 {
				do()
			}
			return nil
		}); err != nil {
			return err
		}
		return v.Validate(db.knobs.now())
	}
	err = read(during)
	if err == nil {
		between()
		err = read(func() {})
	}
	return errors.Join(err, v.Close())
}

// LeanReasons lets n databases fail for one reason and returns how many errors
// are kept.
func LeanReasons(n uint32) int {
	m := &MultiDBManager{reasons: make(map[uint32]*tenantFailure), commonReasons: make(map[string]error)}
	kept := make(map[error]struct{})
	for i := range n {
		f := &tenantFailure{err: fmt.Errorf("%w: of %d", errNotSent, i)}
		f.err = m.leanLocked("replica", f)
		m.reasons[i] = f
		kept[f.err] = struct{}{}
		if class := failureClass(f.err); class != "replica" {
			return -1
		}
	}
	return len(kept)
}

// EnsureMeta makes the metadata directory.
func (db *DB) EnsureMeta() error { return db.ensureMeta() }

// ProofFor is for how long an upload shows that nobody else is there.
func (r *Replica) ProofFor() time.Duration { return r.proofFor() }
