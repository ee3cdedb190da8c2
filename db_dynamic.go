package litestream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// DBLifecycleState says where a DynamicDB is between cold and hot.
type DBLifecycleState uint8

// The states of a DynamicDB. It begins cold and ends cold or failed.
const (
	LifecycleCold    DBLifecycleState = iota // a record in a table, nothing is open
	LifecycleOpening                         // its position is being read
	LifecycleHot                             // looked at and uploaded again and again
	LifecycleClosing                         // its position is being written
	LifecycleFailed                          // it cannot be replicated now; Err tells why
)

// String returns the state's name.
func (s DBLifecycleState) String() string {
	names := [...]string{"cold", "opening", "hot", "closing", "failed"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("DBLifecycleState(%d)", s)
}

// A DynamicDB is a DB with a lifecycle: EnsureOpen makes it hot with the
// position that the registry holds, Close gives that back once all that was
// captured is acknowledged. It exists only while its database is not cold. Its
// methods are safe for concurrent use.
type DynamicDB struct {
	fleet *MultiDBManager
	idx   uint32 // in the fleet's table
	path  string

	// mu serializes opening, closing and the decisions between them. The
	// database's own lock is taken below it, the fleet's is not.
	mu    sync.Mutex
	state DBLifecycleState
	err   error // of LifecycleFailed
	ended bool  // it is let go for good
	m     *managedDB
	users int // who needs it open, beside the fleet's own looks
	// halting: it is let go as soon as nobody needs it open, and not replicated.
	halting bool

	retried       bool      // it failed the last time
	known, unsure bool      // the registry has a position; it may not be the storage's
	provenAt      time.Time // of that position; see Replica.proven
	// seen is the fingerprint at that position; settled says that an equal one
	// proves that nothing changed since.
	seen    sqlitefile.Fingerprint
	settled bool

	touched    atomic.Int64 // when it was last written to, in nanoseconds; for the fleet
	chosen     atomic.Int64 // when the fleet chose it to yield, in nanoseconds; 0: it did not
	lookedAt   time.Time    // end of the last look, or the opening
	since      time.Time    // oldest change that may not be replicated; zero: none
	lastChange time.Time    // newest capture, or the promotion
	txid       ltx.TXID     // newest captured one that was taken note of
	captures   int          // since it is hot that were taken note of
	looked     bool         // a look that followed the opening came to its end
	failing    time.Time    // first of the failed uploads in a row
	sendErr    error        // of the last upload

	files tenantFiles // on the replica; guarded by the fleet, which keeps it while maintenance runs
}

// begin opens the database on a worker of the monitor pool and looks at it.
func (d *DynamicDB) begin(ctx context.Context) {
	db, err := d.EnsureOpen(ctx)
	d.mu.Lock()
	m := d.m
	d.mu.Unlock()
	switch {
	case err != nil || m == nil: // the fleet knows
	case !db.Replica.awaited():
		// Not here: somebody may have needed it open since, and have scheduled a
		// look, and two at a time there must not be.
		d.fleet.store.look(m)
	default:
		d.fleet.store.contact(m) // a look follows it
	}
}

// lookAgain makes a look due at once.
func (d *DynamicDB) lookAgain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == LifecycleHot {
		d.fleet.store.look(d.m)
	}
}

// Close lets the database go at the end of the process, whatever is left to do.
// It returns an error if not all of it is replicated.
func (d *DynamicDB) Close(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return nil
	}
	reason := d.sendErr
	if reason == nil {
		reason = fmt.Errorf("sync %s: %w", d.path, errStopped)
	}
	current := d.state == LifecycleHot && d.current()
	pos, ok, err := d.letGo(ctx)
	switch {
	case !ok || !d.looked:
		d.fleet.failed(d, reason, d.abandon(ctx, reason))
		return reason
	case !current:
		d.fleet.cooled(d, pos)
		return reason
	default:
		d.fleet.cooled(d, pos)
		return err
	}
}

// errStopped means that the process ended before a database was replicated.
var errStopped = errors.New("the process ended before it was replicated")

// noteUpload is told of each acknowledged level-0 file, and when it was known
// that nobody else has gone on from there.
func (d *DynamicDB) noteUpload(info *ltx.FileInfo, proven time.Time) {
	now := d.fleet.now()
	d.fleet.noteFiles(d, func(f *tenantFiles) { f.noteUpload(info, now) })
	d.fleet.acknowledged(d, info.MaxTXID, proven)
	d.fleet.metrics.sent(info.Size)
}

// Path returns the path of the database.
func (d *DynamicDB) Path() string { return d.path }

// State returns where the database is, and why if it failed.
func (d *DynamicDB) State() (DBLifecycleState, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, d.err
}

// EnsureOpen makes the database hot and returns it. The error tells why it
// cannot be replicated; nothing is left open then.
func (d *DynamicDB) EnsureOpen(ctx context.Context) (*DB, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ensureOpen(ctx); err != nil {
		return nil, err
	}
	return d.m.db, nil
}

// errTenantEnded means that a database was let go meanwhile.
var errTenantEnded = errors.New("database was let go meanwhile")

// ensureOpen tells the fleet if it fails.
func (d *DynamicDB) ensureOpen(ctx context.Context) error {
	if d.state == LifecycleHot {
		return nil
	} else if d.ended {
		return errTenantEnded
	}
	d.state = LifecycleOpening
	m, err := d.fleet.openTenant(ctx, d)
	if err != nil {
		d.state, d.err, d.ended = LifecycleFailed, err, true
		d.fleet.failed(d, err, nil)
		return err
	}
	d.m, d.state, d.err, d.lookedAt = m, LifecycleHot, nil, d.fleet.now()
	return nil
}

// watch makes a look due if the last one is long ago, and reports that. No hot
// database may ever be left alone, whatever went wrong.
func (d *DynamicDB) watch(patience time.Duration) bool {
	if !d.mu.TryLock() {
		return false // somebody works on it
	}
	defer d.mu.Unlock()
	if d.state != LifecycleHot || !d.m.db.Replica.asked() || d.fleet.now().Sub(d.lookedAt) < patience {
		return false
	}
	d.lookedAt = d.fleet.now()
	d.fleet.store.look(d.m)
	return true
}

// letGo gives the position back, unless something is captured and not
// acknowledged.
func (d *DynamicDB) letGo(ctx context.Context) (tenantPosition, bool, error) {
	if d.state != LifecycleHot {
		return tenantPosition{}, false, nil
	}
	d.state = LifecycleClosing
	pos, err := d.m.db.detach(ctx)
	if errors.Is(err, errNotCovered) {
		d.state = LifecycleHot
		return pos, false, nil
	} else if err != nil && d.m.db.Status().State != SyncStateClosed {
		d.state = LifecycleHot
		return pos, false, err
	}
	d.fleet.store.dropTenant(d.m)
	d.m, d.state, d.ended = nil, LifecycleCold, true
	return pos, true, err
}

// abandon lets the database go whatever is left to do. What was captured and
// not acknowledged is thrown away: the next promotion asks the storage where
// it stands, and a diff covers the rest.
func (d *DynamicDB) abandon(ctx context.Context, reason error) error {
	var err error
	if d.m != nil {
		d.fleet.store.dropTenant(d.m)
		err = d.m.db.discard(ctx)
		d.m = nil
	}
	d.state, d.err, d.ended = LifecycleFailed, reason, true
	return err
}

// synced is told of each look at the database.
func (d *DynamicDB) synced(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != LifecycleHot {
		return
	}
	d.lookedAt = d.fleet.now()
	d.noteCapture()
	st, first := d.m.db.Status(), !d.looked
	if err == nil || !errors.Is(err, context.Canceled) {
		d.looked = d.looked || st.State != SyncStateUnknown
	}
	// What the first look captured may have been sent before it came to its end.
	if n, _ := d.m.db.stage.pending(); first && n == 0 && st.State == SyncStateOK && !st.Suspended {
		d.replicated(d.lookedAt)
	}
	d.settle()
}

// holds reports whether the database has to yield its place and is kept from
// that by what is not sent yet. Nothing more is captured then: where changes
// come faster than uploads end, there would never be a moment without any.
func (d *DynamicDB) holds() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != LifecycleHot || !d.looked || d.users > 0 || !d.failing.IsZero() || !d.yields() {
		return false
	}
	n, _ := d.m.db.stage.pending()
	return n > 0
}

// uploaded is told of each attempt to send what was captured.
func (d *DynamicDB) uploaded(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != LifecycleHot {
		return
	}
	d.sendErr = err
	d.fleet.noteUnsent(d, err)
	d.fleet.noteStorage(d.idx, d.path, err)
	switch now := d.fleet.now(); {
	case err == nil:
		d.failing = time.Time{}
		if n, _ := d.m.db.stage.pending(); n == 0 && d.looked {
			d.replicated(now)
		}
	case d.failing.IsZero():
		d.failing = now
	}
	d.settle()
}

// noteCapture takes note of what the last look captured.
func (d *DynamicDB) noteCapture() {
	st := d.m.db.Status()
	if st.TXID == d.txid {
		return
	}
	now := d.fleet.now()
	d.txid = st.TXID
	d.captures++
	if d.since.IsZero() {
		d.since = st.ChangedAt
		if st.ChangedAt.Before(d.lastChange) || st.ChangedAt.After(now) {
			d.since = now // the files' times tell nothing
		}
		d.fleet.changed(d)
	}
	d.lastChange = now
}

// replicated takes note that everything captured is acknowledged. Where nothing
// was captured, because files were touched only, nothing lagged.
func (d *DynamicDB) replicated(now time.Time) {
	if !d.since.IsZero() {
		if d.captures > 0 {
			d.fleet.metrics.replicated(now.Sub(d.since))
		}
		d.fleet.upToDate(d)
	}
	d.since = time.Time{}
}

// facts are what the next move depends on.
func (d *DynamicDB) facts() tierFacts {
	now := d.fleet.now()
	st := d.m.db.Status()
	pending, _ := d.m.db.stage.pending()
	touched := d.lastTouched(st.ChangedAt, now)
	if d.looked {
		d.touched.Store(touched.UnixNano())
	}
	f := tierFacts{
		state: st.State, pending: pending, suspended: st.Suspended, looked: d.looked,
		settled: st.Settled, quiet: now.Sub(touched),
		permanent: IsPermanent(d.sendErr), retried: d.retried, users: d.users, waiting: d.yields(),
	}
	if !d.failing.IsZero() {
		f.sendFailed, f.sendFailing = true, now.Sub(d.failing)
	}
	return f
}

// yields reports whether it has to hand its place on, once it can.
func (d *DynamicDB) yields() bool {
	return yields(d.fleet.yield.Load(), d.chosen.Load() != 0, d.captures)
}

// lastTouched is when the files were last written to: by their times, or by
// our own clock where those lie in the future.
func (d *DynamicDB) lastTouched(files, now time.Time) time.Time {
	if files.After(now) {
		return d.lastChange
	}
	return files
}

// settle decides whether the database stays hot, and carries that out.
func (d *DynamicDB) settle() {
	ctx := d.fleet.run
	if d.halting && d.users == 0 {
		d.letGoStopped(ctx)
		return
	}
	switch decideTier(d.facts(), d.fleet.cfg().HotDuration) {
	case tierStay:
	case tierCool:
		if !d.fleet.looksAgain() && !d.current() {
			return // it has changed since, or somebody works on it
		}
		pos, ok, err := d.letGo(ctx)
		if err != nil {
			d.fleet.logger.Warn("let go of database", "db", d.path, "error", err)
		}
		if ok {
			d.fleet.cooled(d, pos)
		}
	case tierGone:
		reason := fmt.Errorf("sync %s: %w", d.path, errTenantGone)
		d.fleet.failed(d, reason, d.abandon(ctx, reason))
	case tierFail:
		st := d.m.db.Status()
		reason := st.Err
		if n, _ := d.m.db.stage.pending(); d.sendErr != nil && (n > 0 || reason == nil) {
			reason = unsent(d.sendErr)
		} else if st.State == SyncStateEmpty {
			reason = errNoPages
		}
		d.fleet.failed(d, reason, d.abandon(ctx, reason))
	}
}

// errTenantGone means that the file of a database is no longer there.
var errTenantGone = errors.New("file is gone")

// current reports whether the last capture holds all that there is now. At the
// end of the process, what is written while it ends may be left out.
func (d *DynamicDB) current() bool {
	stop := d.fleet.stoppingSince()
	return !stop.IsZero() && d.m.db.Status().capturedFrom.After(stop) || d.m.db.demotable()
}

// hold keeps the database hot until release is called.
func (d *DynamicDB) hold(ctx context.Context) (*managedDB, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ensureOpen(ctx); err != nil {
		return nil, err
	}
	d.users++
	return d.m, nil
}

func (d *DynamicDB) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users--
	switch {
	case d.users > 0 || d.state != LifecycleHot:
	case d.looked || d.halting:
		d.settle()
	case !d.m.db.Replica.awaited():
		d.fleet.store.look(d.m) // it was opened for this use alone: nothing else lets it go
	default:
		d.fleet.store.contact(d.m)
	}
}
