package litestream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// fineMargin takes the place of clockMargin on file systems that stamp each
// write with the kernel's clock: five of its longest ticks.
const fineMargin = 50 * time.Millisecond

// tenantView is what a database of a fleet remembers between two looks.
type tenantView struct {
	// lockedSince is when a lock was first met that is still there, on a
	// database that cannot be read while it is held.
	lockedSince time.Time
	// connected says that this look opened a connection.
	connected bool
	// busy says that the last capture took slices of the SHARED lock.
	busy bool
	// diffAt is when the next diff may be taken of a database that knows no
	// other way: of the time between two, most is spent otherwise.
	diffAt time.Time
	dear   dearState
}

// tenantFacts are what the choice of a view depends on.
type tenantFacts struct {
	wal       bool // the header says write-ahead log
	network   bool // locks do not reach everybody who uses the file
	live      bool // there is a log's index, and somebody holds a lock: it is in use
	connect   bool // a connection can clean up if it is the last to close
	readOnly  bool // a connection can change nothing
	disturbed int  // looks that a change disturbed, since the last good one
}

// decideTenantView chooses what holds a database of a fleet still. Mostly that
// is nothing but the proof that nobody wrote to the main file while it was read.
// A connection is for those whose main file is written to again and again, and
// only where somebody else has one, so that it creates nothing: whoever has a
// connection may be the last to close it, and then SQLite moves the log into
// the database in our name. A read-only one is the last resort: if the
// application closes meanwhile, the log stays behind.
func decideTenantView(f tenantFacts) viewKind {
	tooOften := f.disturbed >= movedTooOften
	switch {
	case f.network:
		return viewQuiet
	case !f.wal && tooOften:
		return viewSliced
	case !f.wal, !f.live:
		return viewQuiet
	case (f.connect || f.readOnly) && f.disturbed >= 2*movedTooOften:
		return viewLocked
	default:
		return viewStill
	}
}

// openTenantView opens a view of a database of a fleet.
func (db *DB) openTenantView(ctx context.Context, opt wal.Options) (*View, error) {
	if err := db.openMain(); err != nil {
		return nil, err
	}
	facts, err := db.tenantFacts()
	if err != nil {
		return nil, err
	}
	kind := decideTenantView(facts)
	if db.st.handle.lease != nil {
		return openDBView(db.viewSource(ctx, opt, viewLocked))
	}
	src := db.viewSource(ctx, opt, kind)
	if !facts.network && facts.disturbed > 0 {
		if src.margin, err = db.clockMargin(); err != nil {
			return nil, err
		}
	}
	var v *View
	switch kind {
	case viewLocked:
		v, err = db.openLockedView(ctx, src, !facts.connect)
	case viewSliced:
		v, err = db.openSlicedView(ctx, src)
	case viewQuiet, viewStill:
		if src.now, err = db.awaitAge(ctx, src); err == nil {
			v, err = openDBView(src)
		}
	}
	if kind == viewQuiet && (facts.wal || facts.network) {
		err = db.noteLock(err)
	}
	return v, err
}

// openMain opens the raw descriptor, unless it is open.
func (db *DB) openMain() error {
	if db.st.handle != nil {
		return nil
	}
	h, err := openHandle(db.path)
	if err != nil {
		return err
	}
	h.pool = db.tenant.connections
	db.st.handle = h
	return nil
}

// tenantFacts looks at the database from outside.
func (db *DB) tenantFacts() (tenantFacts, error) {
	main := db.st.handle.main
	hdr, err := sqlitefile.ReadHeader(main)
	if err != nil {
		return tenantFacts{}, err
	}
	f := tenantFacts{wal: hdr.WAL, disturbed: db.st.moved}
	if db.AllowNetworkFS {
		name, err := sqlitefile.NetworkFS(filepath.Dir(db.path))
		if err != nil {
			return f, err
		}
		f.network = name != ""
	}
	if !f.wal || f.network {
		return f, nil
	}
	if f.live, err = inUse(db.path, main); err != nil || !f.live || db.tenant.connections == nil {
		return f, err
	}
	file, dir := accessible(db.path, unix.W_OK), accessible(filepath.Dir(db.path), unix.W_OK)
	f.connect = file && dir &&
		accessible(sqlitefile.SHMPath(db.path), unix.R_OK|unix.W_OK) &&
		accessible(sqlitefile.WALPath(db.path), unix.R_OK|unix.W_OK)
	f.readOnly = !file && !dir
	return f, nil
}

// inUse reports whether somebody has a database with a write-ahead log open:
// the index alone may be what a crash left.
func inUse(path string, main *os.File) (bool, error) {
	if !exists(sqlitefile.SHMPath(path)) {
		return false, nil
	}
	return sqlitefile.Locked(main)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func accessible(path string, mode uint32) bool { return unix.Access(path, mode) == nil }

// clockMargin returns how old the times of this database's files must be
// before they prove something.
func (db *DB) clockMargin() (time.Duration, error) {
	p, err := sqlitefile.StatFile(db.st.handle.main)
	if err != nil {
		return 0, fmt.Errorf("stat database: %w", err)
	}
	if p.Mtime%int64(time.Millisecond) == 0 && p.Ctime%int64(time.Millisecond) == 0 {
		return clockMargin, nil // the file system may not store more
	}
	fine, err := sqlitefile.FineClock(filepath.Dir(db.path))
	if err != nil || !fine {
		return clockMargin, err
	}
	return fineMargin, nil
}

// awaitAge waits until the files' times are old enough, where that takes no
// longer than a moment, and returns the time then.
func (db *DB) awaitAge(ctx context.Context, src viewSource) (time.Time, error) {
	if src.margin > fineMargin {
		return src.now, nil
	}
	fp, err := sqlitefile.Take(src.path)
	if err != nil {
		return src.now, fmt.Errorf("stat database: %w", err)
	}
	touched := max(fp.Main.Mtime, fp.Main.Ctime)
	if src.kind == viewQuiet {
		touched = max(touched, fp.WAL.Mtime, fp.WAL.Ctime)
	}
	age := src.now.Sub(time.Unix(0, touched))
	if age < 0 || age > src.margin {
		return src.now, nil
	}
	if err := wait(ctx, src.margin-age+time.Millisecond); err != nil {
		return src.now, err
	}
	return db.knobs.now(), nil
}

// noteLock turns a lock that stays, and that nothing but its end helps, into
// an error that names it.
func (db *DB) noteLock(err error) error {
	if !errors.Is(err, errLockHeld) {
		db.st.view.lockedSince = time.Time{}
		return err
	}
	now := db.knobs.now()
	if db.st.view.lockedSince.IsZero() {
		db.st.view.lockedSince = now
	}
	if now.Sub(db.st.view.lockedSince) > 2*clockMargin {
		return fmt.Errorf("%w and cannot be read while it is", ErrDatabaseLocked)
	}
	return err
}

// openLockedView opens a view under a read transaction, which ends with it.
func (db *DB) openLockedView(ctx context.Context, src viewSource, readOnly bool) (_ *View, err error) {
	c, err := db.connect(ctx, readOnly)
	if err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, errors.Join(err, c.Release(false))
	}
	release := func() error {
		err := c.conn.exec("ROLLBACK")
		return errors.Join(err, c.Release(err == nil && db.keepsHandle()))
	}
	v, err := openDBView(src)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	v.release = release
	return v, nil
}

// connect returns a connection. A SHARED lock of the raw descriptor, taken first,
// keeps the last connection of the application from removing the log and its
// index, which ours would create again.
func (db *DB) connect(ctx context.Context, readOnly bool) (_ *PooledConn, err error) {
	wait, cancel := context.WithTimeout(ctx, db.BusyTimeout)
	defer cancel()
	h := db.st.handle
	guard := func() (func() error, error) {
		release, ok, err := sqlitefile.TryShared(h.main)
		if err != nil {
			return nil, err
		} else if !ok {
			return nil, errLockHeld
		}
		if !exists(sqlitefile.SHMPath(db.path)) {
			return nil, errors.Join(fmt.Errorf("%w: the application closed it", errViewMoved), release())
		}
		return release, nil
	}
	db.st.view.connected = true
	c, err := db.tenant.connections.Acquire(wait, ConnectionRequest{
		Path: db.path, Main: h.main, Inode: h.id, BusyTimeout: db.BusyTimeout, ReadOnly: readOnly, guard: guard,
	})
	if errors.Is(err, ErrConnectionWait) && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: %w", errViewMoved, err)
	}
	return c, err
}

// tailTenant is tail without anything open: the main file's bytes are needed
// only where the log was restarted.
func (db *DB) tailTenant(opt wal.Options) (wal.Result, error) {
	if db.st.cursor.IsZero() {
		return wal.Result{Reason: wal.ReasonNoCursor}, nil
	}
	main, err := sqlitefile.Stat(db.path)
	if err != nil {
		return wal.Result{}, fmt.Errorf("stat database: %w", err)
	}
	res, err := wal.Tail(db.st.cursor, wal.Source{
		Path: sqlitefile.WALPath(db.path), BootID: db.knobs.bootID, Main: main,
		Pages: lazyMain{db: db, id: main.ID},
	}, opt)
	return res, classifyIO(err)
}

// lazyMain opens the main file when it is read.
type lazyMain struct {
	db *DB
	id wal.FileID
}

// ReadAt implements io.ReaderAt.
func (m lazyMain) ReadAt(b []byte, off int64) (int, error) {
	if err := m.db.openMain(); err != nil {
		return 0, err
	}
	if m.db.st.handle.id != m.id {
		return 0, fmt.Errorf("%w: file was replaced", errViewMoved)
	}
	return m.db.st.handle.main.ReadAt(b, off)
}

// movedAfterCapture is what remains, after a good capture, of the looks that
// were disturbed: a database that is written all the time gets its slices at
// the first disturbance from now on.
func (db *DB) movedAfterCapture() int {
	if busy := db.st.view.busy; busy {
		db.st.view.busy = false
		return movedTooOften - 1
	}
	return 0
}
