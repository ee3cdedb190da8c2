package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/pagesum"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// Sync looks at the database once and stages all that was committed since the
// last time. It returns when the staged files are durable; it does not wait
// for the replica. A database that is missing or has no page yet is no error.
func (db *DB) Sync(ctx context.Context) error {
	if err := db.acquire(ctx); err != nil {
		return err
	}
	defer db.release()
	return db.syncLocked(ctx, false)
}

// SyncFully is Sync for the last time, or the only one: it does not wait for a
// young file to settle or a busy one to rest, but pins the database at once.
// Staging that is full is an error here.
func (db *DB) SyncFully(ctx context.Context) error {
	if err := db.acquire(ctx); err != nil {
		return err
	}
	defer db.release()
	const tries = 5
	var err error
	for range tries {
		db.st.view.diffAt = time.Time{}
		if err = db.pass(ctx, !db.st.settled); !errors.Is(err, errViewMoved) {
			break
		}
		db.st.moved = movedTooOften
	}
	return err
}

// movedTooOften is how many optimistic looks in a row may be disturbed before
// the database is pinned.
const movedTooOften = 3

// syncLocked is Sync for whoever holds exec. With force it looks even where
// nothing seems to have changed.
func (db *DB) syncLocked(ctx context.Context, force bool) error {
	err := db.pass(ctx, force)
	if errors.Is(err, errViewMoved) || errors.Is(err, errAwaitReplica) || errors.Is(err, errSuspended) {
		return nil // the next look will do
	}
	return err
}

// pass looks once and records the outcome.
func (db *DB) pass(ctx context.Context, force bool) error {
	start := db.knobs.now()
	err := db.look(ctx, start, force)
	db.metrics.synced(db, start, db.knobs.now(), err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errViewMoved), errors.Is(err, errAwaitReplica), errors.Is(err, errSuspended):
		return fmt.Errorf("sync %s: %w", db.path, err)
	case errors.Is(err, ErrDiskFull):
		// Our pin would keep the application's log growing on a full disk.
		if serr := db.suspend(); !errors.Is(serr, errSuspended) {
			err = errors.Join(err, serr)
		}
	case ctx.Err() == nil:
		// The log must not grow behind a pin for as long as this goes on.
		err = errors.Join(err, db.closeHandle(true))
	}
	db.setState(SyncStateFailed, err)
	return fmt.Errorf("sync %s: %w", db.path, err)
}

// errAwaitReplica means that nothing is known locally, and the replica has not
// been asked yet which position to follow.
var errAwaitReplica = errors.New("waiting for the replica's position")

func (db *DB) look(ctx context.Context, now time.Time, force bool) error {
	if err := db.lostErr(); err != nil {
		return err // pass lets the file go
	}
	fp, err := sqlitefile.Take(db.path)
	if errors.Is(err, fs.ErrNotExist) {
		return db.letGo(SyncStateMissing)
	} else if err != nil {
		return err
	}
	if fp.Main.Size == 0 && fp.WAL.Size == 0 {
		return db.letGo(SyncStateEmpty)
	}
	if err := db.checkLeftover(fp); err != nil {
		return err
	}
	if err := db.identify(fp.Main.ID); err != nil {
		return err
	}
	if err := db.ready(); err != nil {
		return err
	}
	if force || db.changed(fp, now) && !db.waits(fp, now) {
		if db.stage.over() {
			return db.suspend()
		}
		if err := db.checkFileSystem(); err != nil {
			return err
		}
		if err := db.capture(ctx, fp); err != nil {
			return db.vanished(err)
		}
		db.st.capturedFrom = now
		db.st.seen, db.st.settled, db.st.moved = fp, fp.Settled(now, clockMargin), db.movedAfterCapture()
		db.setState(SyncStateOK, nil)
	}
	if db.tenant != nil {
		return errors.Join(db.lookBelow(ctx, fp, now), db.tendTenant(ctx, fp), db.ownTouch(fp))
	}
	if err := db.checkpointIfNeeded(fp); err != nil {
		return err
	}
	return db.rest(fp, now)
}

// vanished makes an error that only tells that the file was deleted or renamed
// meanwhile one for the next look.
func (db *DB) vanished(err error) error {
	if _, serr := os.Lstat(db.path); db.tenant == nil && errors.Is(err, fs.ErrNotExist) && errors.Is(serr, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errViewMoved, err)
	}
	return err
}

// ready makes sure that it is known what the next capture follows, and that
// there is room for it.
func (db *DB) ready() error {
	if err := db.load(); err != nil {
		return err
	}
	if db.awaitsReplica() {
		return errAwaitReplica
	}
	if l := db.st.ledger; l != nil && l.Header().TXID != db.st.txid {
		// What it stands for is not what the next capture follows.
		if err := db.forget(db.st.txid); err != nil {
			return err
		}
	}
	if db.st.suspended && !db.resume() {
		return errSuspended
	}
	return nil
}

// awaitsReplica reports whether the storage has to be asked first which position
// the next capture follows. A database of a fleet always waits for that, others
// only where nothing is known here.
func (db *DB) awaitsReplica() bool {
	return db.Replica != nil && (db.tenant != nil || db.st.txid == 0) && db.Replica.awaited()
}

// letGo releases the file of a database that has nothing to capture.
func (db *DB) letGo(state SyncState) error {
	// What lies at the path, now or in a moment, may be another's log.
	err := db.closeHandle(true)
	db.shared.releaseInode(db.st.inode, db.path)
	db.st.inode = wal.FileID{}
	db.setState(state, nil)
	return err
}

// errLeftoverLog means that a database was replaced and the old one's log lies
// beside the new one. Whoever opens both lets SQLite mix them.
var errLeftoverLog = errors.New("the -wal of the replaced database lies beside the new one: remove it before anybody opens the database")

// checkLeftover refuses to open a new file with the log of the old one, until
// that is gone or somebody else has written to it.
func (db *DB) checkLeftover(fp sqlitefile.Fingerprint) error {
	seen, none := db.st.seen, wal.FileID{}
	if seen.Main.ID != none && seen.Main.ID != fp.Main.ID && fp.WAL.ID != none && fp.WAL.ID == seen.WAL.ID &&
		db.st.leftover == (wal.Print{}) && db.sameLog() {
		db.st.leftover = fp.WAL
	}
	if db.st.leftover == (wal.Print{}) {
		return nil
	}
	if fp.WAL != db.st.leftover {
		db.st.leftover, db.st.seen = wal.Print{}, sqlitefile.Fingerprint{}
		return nil
	}
	return errors.Join(errLeftoverLog, db.closeHandle(true))
}

// sameLog reports whether the log that lies there may be the one that was
// captured. The number of its inode alone says little: one that was freed is
// often given to the next file.
func (db *DB) sameLog() bool {
	if !db.st.cursor.HasFrames() {
		return true
	}
	f, err := os.Open(sqlitefile.WALPath(db.path)) // which carries no locks
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	var header [wal.HeaderSize]byte
	_, err = f.ReadAt(header[:], 0)
	return err != nil || header == db.st.cursor.Header
}

// identify makes sure that what is open is the file that lies there now, and
// that no other path leads to it.
func (db *DB) identify(id wal.FileID) error {
	if db.st.handle != nil && db.st.handle.id != id {
		db.Logger.Info("database file was replaced", "db", db.path)
		// The log that lies there is another's.
		if err := db.closeHandle(true); err != nil {
			db.Logger.Warn("close replaced database", "db", db.path, "error", err)
		}
	}
	if db.st.handle.orphaned() {
		db.Logger.Warn("the log was removed while the database was open: opening it again", "db", db.path)
		if err := db.closeHandle(true); err != nil {
			return err
		}
	}
	if db.st.inode != id {
		db.shared.releaseInode(db.st.inode, db.path)
		db.st.inode = wal.FileID{}
		if err := db.shared.claimInode(id, db.path); err != nil {
			if db.tenant == nil && renamed(db.path, err) {
				return fmt.Errorf("%w: renamed from another path: %w", errViewMoved, err)
			}
			return err
		}
		db.st.inode = id
	}
	return nil
}

// changed reports whether the database may differ from what was captured.
func (db *DB) changed(fp sqlitefile.Fingerprint, now time.Time) bool {
	if fp != db.st.seen || db.st.cursor.IsZero() {
		return true
	}
	if db.st.settled {
		return false
	}
	// Equal, but it was too young to prove anything. A look at the log is
	// cheap; without one only a diff can tell, and that waits until it is old.
	return db.st.cursor.HasFrames() || fp.Settled(now, clockMargin)
}

// Bounds of looks at a large transaction that is not committed: each reads all
// of it again.
const (
	largeUncommitted = 16 << 20
	lookShare        = 10 // of the time between two looks, one part is spent looking
	longestWait      = 30 * time.Second
)

// waits reports whether a look has to wait because the last one read much that
// was not committed, for nothing. A main file that was touched ends the wait.
func (db *DB) waits(fp sqlitefile.Fingerprint, now time.Time) bool {
	if now.Before(db.st.view.diffAt) && db.diffsOnly(fp) {
		return true
	}
	return now.Before(db.st.lookAt) && fp.Main == db.st.seen.Main
}

// looked plans the next look behind one at a large transaction.
func (db *DB) looked(uncommitted int64, start time.Time) {
	db.st.lookAt = time.Time{}
	if uncommitted >= largeUncommitted {
		now := db.knobs.now()
		db.st.lookAt = now.Add(min(lookShare*now.Sub(start), longestWait))
	}
}

// checkFileSystem refuses what SQLite's locks do not work on.
func (db *DB) checkFileSystem() error {
	if db.AllowNetworkFS || db.st.handle != nil || db.st.localFS == db.st.inode {
		return nil
	}
	name, err := sqlitefile.NetworkFS(filepath.Dir(db.path))
	if err != nil {
		return err
	} else if name == "" {
		db.st.localFS = db.st.inode
		return nil
	}
	return fmt.Errorf("%w %s, where SQLite's locks do not reach other machines", errNetworkFS, name)
}

// errNetworkFS means that SQLite's locks are worth nothing where a database
// lies.
var errNetworkFS = errors.New("database lies on the network file system")

// capture brings the position up to the newest commit.
func (db *DB) capture(ctx context.Context, fp sqlitefile.Fingerprint) (err error) {
	opened, err := db.openForCapture(fp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.afterCapture(opened)) }()
	for {
		more, err := db.captureOnce(ctx, captureLimit{})
		if errors.Is(err, errViewMoved) {
			db.disturb(fp)
		}
		if err != nil || !more || db.st.cursor.End() >= fp.WAL.Size {
			return err // what came after fp is for the next look
		}
		if db.stage.over() {
			return db.suspend()
		}
	}
}

// disturb counts optimistic looks that found the database touched or locked.
// One that stays as it is and never settles, because its times lie in the
// future or a lock is held on it, counts as disturbed too often in the end.
func (db *DB) disturb(fp sqlitefile.Fingerprint) {
	now := db.knobs.now()
	if db.st.disturbed != fp {
		db.st.moved++
		db.st.disturbed, db.st.disturbedAt = fp, now
	} else if now.Sub(db.st.disturbedAt) > 2*clockMargin {
		db.st.moved = movedTooOften
	}
}

// openForCapture opens the file, and pins it if it is in use. It reports
// whether the raw descriptor was opened for this one capture.
func (db *DB) openForCapture(fp sqlitefile.Fingerprint) (bool, error) {
	if db.tenant != nil {
		return true, nil // by who needs the main file
	}
	opened := false
	if db.st.handle == nil {
		h, err := openHandle(db.path)
		if err != nil {
			return false, err
		}
		db.st.handle, opened = h, true
	}
	if _, err := sqlitefile.ReadHeader(db.st.handle.main); err != nil {
		return opened, errors.Join(err, db.closeHandle(false))
	}
	if !db.wantPin(fp) {
		return opened, nil
	}
	h := db.st.handle
	if err := h.connect(db.BusyTimeout); err != nil {
		return opened, errors.Join(err, db.closeHandle(false))
	}
	if err := h.pin(); err != nil {
		return opened, errors.Join(err, db.closeHandle(false))
	}
	return opened, nil
}

// wantPin decides whether a database is held by a read transaction: while
// somebody has it open, and always when a diff of it would be dear. One that
// was just closed settles within the clock margin and is then read without a
// lock, unless that was disturbed too often.
func (db *DB) wantPin(fp sqlitefile.Fingerprint) bool {
	h := db.st.handle
	if h.pinned || db.st.moved >= movedTooOften {
		return true
	}
	if fp.Main.Size >= db.knobs.restBytes && writable(filepath.Dir(db.path)) {
		return true // where nothing can be written, nobody has to be kept from writing
	}
	if hdr, err := sqlitefile.ReadHeader(h.main); err != nil || !hdr.WAL {
		return true // it is to be converted
	}
	_, err := os.Stat(sqlitefile.SHMPath(db.path))
	return err == nil
}

// afterCapture closes a descriptor that was opened for one capture.
func (db *DB) afterCapture(opened bool) error {
	if opened && db.st.handle != nil && db.st.handle.conn == nil && !db.keepsHandle() {
		return db.closeHandle(false)
	}
	return nil
}

// spool returns how much of a log may be copied, and where to.
func (db *DB) spool() wal.Options {
	if t := db.tenant; t != nil {
		return wal.Options{SpoolDir: t.stateDir} // it is there, and the file has no name
	}
	return wal.Options{SpoolDir: db.metaPath}
}

// captureLimit bounds one capture.
type captureLimit struct {
	endAt      int64 // stop in front of this offset of the log; 0 is no end
	provenOnly bool  // errNotProven instead of a diff
}

// errNotProven means that only a diff can tell what changed.
var errNotProven = errors.New("the log does not provably continue")

// captureOnce stages at most one file. It reports whether there is more.
func (db *DB) captureOnce(ctx context.Context, limit captureLimit) (more bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := db.ensureMeta(); err != nil {
		return false, err
	}
	opt := db.spool()
	opt.Limit, opt.EndAt = db.MaxSyncWALBytes, limit.endAt
	start := db.knobs.now()
	res, err := db.tail(opt)
	if err != nil {
		return false, err
	}
	db.looked(res.Uncommitted, start)
	if res.Reason != "" && limit.provenOnly {
		return false, fmt.Errorf("%w: %s", errNotProven, res.Reason)
	} else if res.Reason != "" {
		return false, db.captureDiff(ctx, res.Reason)
	}
	err = db.publishTail(res)
	if errors.Is(err, errPublishRule) && limit.provenOnly {
		return false, fmt.Errorf("%w: %w", errNotProven, err)
	} else if errors.Is(err, errPublishRule) {
		db.Logger.Debug("tail does not hold the publish rule, taking a diff", "db", db.path, "error", err)
		return false, db.captureDiff(ctx, "publish-rule")
	}
	return res.More, err
}

// tail looks at the log behind the cursor. The caller closes the frames, or
// hands the result to publishTail.
func (db *DB) tail(opt wal.Options) (wal.Result, error) {
	if db.tenant != nil {
		return db.tailTenant(opt)
	}
	h := db.st.handle
	main, err := sqlitefile.StatFile(h.main)
	if err != nil {
		return wal.Result{}, err
	}
	res, err := wal.Tail(db.st.cursor, wal.Source{
		Path: sqlitefile.WALPath(db.path), BootID: db.knobs.bootID, Main: main,
		Pages: h.main, Pinned: h.pinned && h.sealed,
	}, opt)
	return res, classifyIO(err)
}

// publishTail stages the frames of a proven look, if there are any, and moves
// the cursor behind them. It closes the frames.
func (db *DB) publishTail(res wal.Result) (err error) {
	if res.Frames != nil {
		defer func() { err = errors.Join(err, res.Frames.Close()) }()
		c := db.nextCapture()
		out, err := c.tail(res)
		if err != nil {
			return classifyIO(err)
		}
		if err := db.publishFile(out, "tail", ""); err != nil {
			return err
		}
		db.applyTail(out)
		db.events().walBytes(res.Frames.FrameN * (int64(res.Frames.PageSize) + WALFrameHeaderSize))
	}
	if h := db.st.handle; h != nil && res.Cursor.Header != db.st.cursor.Header {
		h.sealed = false // the one restart has happened
	}
	db.st.cursor = res.Cursor
	return nil
}

// nextCapture prepares the file of the next TXID.
func (db *DB) nextCapture() *capture {
	return &capture{
		dir: db.ltxDir(), txid: db.st.txid + 1, cursor: db.st.cursor, ledger: db.st.ledger,
		checksums: db.Checksums, timestamp: db.knobs.now(), now: db.knobs.now, writer: db.writerID(),
	}
}

// applyTail brings the ledger up to a published tail. Without a ledger that
// follows, the next discontinuity is a full copy: a lost optimisation.
func (db *DB) applyTail(out *captured) {
	l := db.st.ledger
	if l == nil {
		return
	}
	h := l.Header()
	h.TXID, h.PageN, h.Rolling, h.Meta = out.header.MaxTXID, out.header.Commit, out.post, nil
	if err := l.Apply(out.changes, h); err != nil && !errors.Is(err, pagesum.ErrFlush) {
		db.Logger.Warn("page ledger is dropped, the next discontinuity is a full copy", "db", db.path, "error", err)
		l.Discard()
		db.st.ledger = nil
	}
}

// captureDiff stages what differs from the ledger, or everything if there is
// none, from a consistent view.
func (db *DB) captureDiff(ctx context.Context, reason wal.Reason) (err error) {
	v, err := db.openView(ctx, db.spool())
	if err != nil {
		return err
	}
	if db.tenant != nil {
		defer db.diffed(db.knobs.now(), reason)
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	return db.captureView(v, reason)
}

// openView opens a view under the pin, or an optimistic one without.
func (db *DB) openView(ctx context.Context, opt wal.Options) (*View, error) {
	if db.tenant != nil {
		return db.openTenantView(ctx, opt)
	}
	src := db.viewSource(ctx, opt, viewQuiet)
	switch {
	case db.st.handle.pinned:
		src.kind = viewLocked
	case db.st.moved > 0:
		// It was touched a moment ago. The next look need not wait for times of
		// two seconds where the file system stores finer ones.
		var err error
		if src.margin, err = db.clockMargin(); err != nil {
			return nil, err
		}
	}
	return openDBView(src)
}

// viewSource describes a view of what is open.
func (db *DB) viewSource(ctx context.Context, opt wal.Options, kind viewKind) viewSource {
	return viewSource{
		path: db.path, main: db.st.handle.main, bootID: db.knobs.bootID,
		now: db.knobs.now(), spool: opt, kind: kind, margin: clockMargin, stop: ctx.Err,
	}
}

// openDBView opens a view and names its errors.
func openDBView(src viewSource) (*View, error) {
	v, err := openView(src)
	if errors.Is(err, wal.ErrMoved) {
		return nil, fmt.Errorf("%w: %w", errViewMoved, err)
	}
	return v, classifyIO(err)
}

func (db *DB) captureView(v *View, reason wal.Reason) error {
	kind := "diff"
	db.st.handle.sealed = false
	if db.st.ledger == nil || db.st.ledger.Header().PageSize != v.PageSize {
		kind = "full"
		if err := db.checkRoom(int64(v.PageN) * int64(v.PageSize)); err != nil {
			return err
		}
	}
	c := db.nextCapture()
	sums, err := db.newLedger(v)
	if err != nil {
		return classifyIO(err)
	}
	out, err := c.view(v, sums)
	if errors.Is(err, errLedger) && db.st.ledger != nil {
		if err := db.rejectLedger(err); err != nil {
			return err
		}
		return db.captureView(v, reason)
	} else if err != nil {
		return classifyIO(err)
	}
	db.st.below = v.fp.Main
	if out.file == nil { // nothing differs
		db.st.cursor = v.Cursor
		db.events().captured("none", string(reason))
		return out.abort()
	}
	if err := db.publishFile(out, kind, string(reason)); err != nil {
		return err
	}
	hdr := c.ledgerHeader(out.header)
	if db.Replica != nil {
		hdr.Replica = db.Replica.Identity()
	}
	old := db.st.ledger
	if old != nil {
		old.Discard()
		db.st.ledger = nil
	}
	db.st.cursor = v.Cursor
	l, err := out.sums.Commit(hdr)
	if err != nil {
		db.Logger.Warn("page ledger was not written, the next discontinuity is a full copy", "db", db.path, "error", err)
		return out.sums.Abort()
	}
	l.SetBudget(db.shared.ledgerBudget())
	db.st.ledger = l
	if old != nil && l.InMemory() {
		return old.Remove() // the database has shrunk
	}
	return nil
}

// newLedger begins the ledger of a view.
func (db *DB) newLedger(v *View) (*pagesum.Writer, error) {
	if db.tenant != nil {
		return pagesum.NewVolatileWriter(db.LedgerPath(), v.PageSize, v.PageN)
	}
	return pagesum.NewWriter(db.LedgerPath(), v.PageSize)
}

// publishFile gives a staged file its final name and the database its new
// position.
func (db *DB) publishFile(out *captured, kind, reason string) error {
	size := out.file.Size()
	if err := out.file.Commit(); err != nil {
		return errors.Join(err, out.abort())
	}
	db.st.txid = out.header.MaxTXID
	db.stage.add(stagedFile{TXID: db.st.txid, Size: size})
	db.events().captured(kind, reason)
	db.Logger.Debug("captured", "db", db.path, "txid", db.st.txid.String(), "kind", kind,
		"reason", reason, "pages", out.pageN, "bytes", size)
	db.publish()
	if db.onStaged != nil {
		db.onStaged()
	}
	return nil
}

// rest closes what is open of a database that nobody has touched for a while
// and whose diff would be cheap: it then costs two stats a look. Where more
// databases are in use than may stay pinned, it closes those as well that found
// no place; a look opens them again.
func (db *DB) rest(fp sqlitefile.Fingerprint, now time.Time) error {
	h := db.st.handle
	if h == nil || fp.Main.Size >= db.knobs.restBytes {
		return nil
	}
	settled := fp.Settled(now, db.knobs.restAfter)
	if !settled && (h.conn == nil || db.stayPinned()) {
		return nil
	}
	if settled && h.conn != nil && db.st.ledger != nil && db.st.ledger.Dirty() {
		if err := db.saveLedger(); err != nil {
			db.Logger.Warn("page ledger was not written, the next start takes a full copy", "db", db.path, "error", err)
		}
	}
	return db.closeHandle(false)
}

// stayPinned takes a place among the databases that stay pinned between two
// looks, unless this one has it.
func (db *DB) stayPinned() bool {
	db.st.pinPlace = db.st.pinPlace || db.shared.takePin()
	return db.st.pinPlace
}

// writable reports whether files can be made in a folder, as a connection to a
// resting database has to.
func writable(dir string) bool { return unix.Access(dir, unix.W_OK) == nil }
