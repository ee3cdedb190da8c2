package litestream

import (
	"context"
	"errors"
	"time"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// When a tenant's diffs are dear: a large database whose log does not provably
// continue, again and again, because its application opens and closes it or
// checkpoints all the time.
const (
	dearAfter = 2                // discontinuities in a row until the next step
	dearCalm  = time.Minute      // without one, until everything is let go
	dearHold  = 10 * time.Second // longest life of a read transaction
	// cheapDiff is the size below which a diff is taken at every look.
	cheapDiff = 1 << 20
)

// dearStep is what is done to keep a log from starting anew.
type dearStep uint8

const (
	dearNothing dearStep = iota
	dearHeld             // a connection is open: the application's is not the last one to close
	dearPinned           // a read transaction is held, for a while at a time
)

// dearState is what a database of a fleet remembers of its discontinuities.
type dearState struct {
	step     dearStep
	gaps     int // in this step
	lastGap  time.Time
	pinnedAt time.Time
}

// met counts a discontinuity and reports whether the next step is due.
func (d *dearState) met(now time.Time) bool {
	if now.Sub(d.lastGap) > dearCalm {
		d.gaps = 0
	}
	d.lastGap = now
	d.gaps++
	if d.gaps < dearAfter || d.step == dearPinned {
		return false
	}
	d.step++
	d.gaps = 0
	return true
}

// diffed notes a diff that began at start.
func (db *DB) diffed(start time.Time, reason wal.Reason) {
	h := db.st.handle
	if h == nil {
		return
	}
	p, err := sqlitefile.StatFile(h.main)
	if err != nil || p.Size < cheapDiff {
		return
	}
	now := db.knobs.now()
	db.st.view.diffAt = now.Add(min(lookShare*now.Sub(start), longestWait))
	switch reason {
	case wal.ReasonNoCursor, wal.ReasonBoot, wal.ReasonReplaced, wal.ReasonPageSize:
		return // nothing that a connection would have kept from happening
	default:
	}
	if h.pool == nil || p.Size < db.knobs.restBytes {
		return
	}
	if db.st.view.dear.met(now) && db.st.view.dear.step == dearHeld {
		h.pool.count(func(s *ConnectionPoolStats) { s.Held++ })
		db.Logger.Info("a connection is held, because the log of a large database is started anew again and again", "db", db.path)
	}
}

// diffsOnly reports whether a look can find a change by a diff only: there is
// no log, and there was none.
func (db *DB) diffsOnly(fp sqlitefile.Fingerprint) bool {
	return db.tenant != nil && !db.st.cursor.IsZero() && !db.st.cursor.HasFrames() && fp.WAL == (wal.Print{})
}

// keepsHandle reports whether the file of a tenant stays open between looks,
// and with it a connection.
func (db *DB) keepsHandle() bool { return db.tenant != nil && db.st.view.dear.step > dearNothing }

// tendTenant does what a look has to do besides capturing.
func (db *DB) tendTenant(ctx context.Context, fp sqlitefile.Fingerprint) error {
	if err := db.tendDear(ctx); err != nil {
		return err
	}
	if db.tenant.checkpoint {
		return db.checkpointTenant(ctx, fp)
	}
	return nil
}

// tendDear keeps what is held of a database whose diffs are dear, and lets go
// of it when there was no discontinuity for a while.
func (db *DB) tendDear(ctx context.Context) error {
	d, now := &db.st.view.dear, db.knobs.now()
	if d.step == dearNothing {
		return nil
	}
	if now.Sub(d.lastGap) > dearCalm {
		*d = dearState{}
		return db.closeHandle(false)
	}
	if h := db.st.handle; h != nil && h.lease != nil {
		if now.Sub(d.pinnedAt) < dearHold {
			return nil
		}
		// The application's checkpoints have their turn until the next look.
		return h.dropLease()
	}
	c, err := db.connectIfUsed(ctx)
	if err != nil || c == nil {
		return err
	}
	if d.step != dearPinned {
		return c.Release(true)
	}
	if err := c.begin(); err != nil {
		return errors.Join(err, c.Release(false))
	}
	db.st.handle.lease, d.pinnedAt = c, now
	c.pool.count(func(s *ConnectionPoolStats) { s.Pinned++ })
	return nil
}

// connectIfUsed returns a connection to a database that somebody has open, or
// nil where there is none to be had.
func (db *DB) connectIfUsed(ctx context.Context) (*PooledConn, error) {
	if err := db.openMain(); err != nil {
		return nil, err
	}
	facts, err := db.tenantFacts()
	if err == nil && facts.wal && facts.live && facts.connect && !facts.network {
		var c *PooledConn
		c, err = db.connect(ctx, false)
		if err == nil || !errors.Is(err, errViewMoved) && !errors.Is(err, ErrDatabaseLocked) {
			return c, err
		}
		err = nil // the next look will do
	}
	return nil, errors.Join(err, db.afterCapture(true))
}

// dropLease ends the read transaction that pins a tenant.
func (h *dbHandle) dropLease() error {
	c := h.lease
	if c == nil {
		return nil
	}
	h.lease = nil
	err := c.conn.exec("ROLLBACK")
	return errors.Join(err, c.Release(err == nil))
}

// checkpointTenant moves a long log into a database whose application never
// does, with PASSIVE, which makes nobody wait. What comes behind it is proven
// like everything else, or diffed.
func (db *DB) checkpointTenant(ctx context.Context, fp sqlitefile.Fingerprint) (err error) {
	cur := db.st.cursor
	if !cur.HasFrames() {
		return nil
	}
	salt1, _ := cur.Salts()
	in := checkpointInput{
		Now: db.knobs.now(), PageSize: cur.PageSize, WALBytes: cur.End(), MainTouched: time.Unix(0, fp.Main.Mtime),
		SameLineage: salt1 == db.st.ckpt.salt1, State: db.st.ckpt, MinPageN: db.MinCheckpointPageN,
	}
	if decideCheckpoint(in) != checkpointPassive {
		return nil
	}
	if h := db.st.handle; h != nil {
		if err := h.dropLease(); err != nil {
			return err
		}
	}
	c, err := db.connectIfUsed(ctx)
	if err != nil || c == nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Release(db.keepsHandle()), db.afterCapture(true)) }()
	moved, err := walCheckpoint(c.conn, checkpointPassive)
	db.st.ckpt = checkpointState{attempted: in.Now, end: cur.End(), salt1: salt1, complete: err == nil && moved.complete()}
	c.pool.count(func(s *ConnectionPoolStats) { s.Checkpoints++ })
	if errors.Is(err, ErrDatabaseLocked) {
		return nil
	}
	return err
}
