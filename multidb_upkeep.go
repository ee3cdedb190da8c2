package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/superfly/ltx"
)

// upkeepRun is maintenance of one database that is under way. It keeps what is
// known of the replica's files, whoever learns something.
type upkeepRun struct {
	files tenantFiles
	known bool // files was loaded
}

// maintainer is what carries out the maintenance of all databases.
func (m *MultiDBManager) maintainer(c *MultiDBSettings) *tenantMaintainer {
	grace := DefaultRetentionGrace
	if m.knobs.Grace > 0 {
		grace = m.knobs.Grace
	}
	var onVerified func(int, error)
	if m.VerifyCompaction {
		onVerified = func(_ int, err error) { m.metrics.verified(err) }
	}
	return &tenantMaintainer{
		Settings: maintenanceSettings{
			Levels: c.Levels, SnapshotInterval: c.SnapshotInterval, SnapshotRetention: c.SnapshotRetention,
			L0Retention: c.L0Retention, Grace: grace, RetentionEnabled: c.RetentionEnabled,
		},
		StagingDir: m.mode.scratchDir(), Logger: m.logger, Now: m.now, OnVerified: onVerified,
	}
}

// filesLocked returns what is known of the files on the replica of a database
// that is open.
func (m *MultiDBManager) filesLocked(d *DynamicDB) *tenantFiles {
	if run := m.underway[d.idx]; run != nil {
		return &run.files
	}
	return &d.files
}

// noteFiles applies a change to what is known of the files of an open database,
// and makes maintenance due when it leads to some.
func (m *MultiDBManager) noteFiles(d *DynamicDB, change func(*tenantFiles)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.filesLocked(d)
	change(f)
	m.catalog.noteFiles(d.idx, f)
	m.validation.changed.add(d.idx)
	if m.underway[d.idx] != nil {
		return
	}
	due := f.due(m.upkeeper().Settings, d.path)
	if retry := m.upkeep.at(d.idx); m.upkeepFailures[d.idx] > 0 && due.Before(retry) {
		due = retry // what failed just now would fail again
	}
	m.upkeep.set(d.idx, due)
}

// loadFiles gives an opened database what the registry knows of its files.
// While maintenance runs, that knows more.
func (m *MultiDBManager) loadFiles(d *DynamicDB, stored []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	run := m.underway[d.idx]
	if run != nil && run.known {
		return
	}
	*m.filesLocked(d) = m.decodeFiles(d.path, stored)
	if run != nil {
		run.known = true
	}
}

// decodeFiles returns what the registry knows of the files on the replica of a
// database. What is damaged costs a listing.
func (m *MultiDBManager) decodeFiles(path string, stored []byte) (files tenantFiles) {
	if err := files.UnmarshalBinary(stored); err != nil {
		m.logger.Debug("what was known of the replica's files is lost", "db", path, "error", err)
	}
	return files
}

// maintainDue hands what is due to the workers, twice as many at a time as
// there are of them.
func (m *MultiDBManager) maintainDue() {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.bound && !m.stopping && !m.once && len(m.underway) < 2*m.cfg().Limits.SnapshotWorkers {
		i, ok := m.upkeep.pop(now)
		if !ok {
			return
		}
		if m.table.At(i) == nil {
			continue
		}
		run := m.beginUpkeepLocked(i)
		m.store.resources.Snapshots.Submit(SnapshotTask{Key: run, Kind: "maintain", Run: func(ctx context.Context) {
			_ = m.maintain(ctx, i, run) // it is logged, and tried again
		}})
	}
}

// beginUpkeepLocked takes over what is known of the files.
func (m *MultiDBManager) beginUpkeepLocked(i uint32) *upkeepRun {
	run := &upkeepRun{}
	if d := m.hot[i]; d != nil {
		run.files, run.known = d.files, true
	}
	m.underway[i] = run
	return run
}

// upkeepSoon is the pause before maintenance of a database that was busy.
const upkeepSoon = 2 * clockMargin

// Pauses after maintenance that failed, doubled with each failure in a row.
const (
	minUpkeepRetry = 5 * time.Minute
	maxUpkeepRetry = time.Hour
)

// upkeepRetryLocked returns the pause after one more failure.
func (m *MultiDBManager) upkeepRetryLocked(i uint32) time.Duration {
	n := m.upkeepFailures[i]
	m.upkeepFailures[i] = min(n+1, 10)
	return m.retryPause(min(minUpkeepRetry<<n, maxUpkeepRetry))
}

// maintain does what is due for one database and schedules what comes next.
func (m *MultiDBManager) maintain(ctx context.Context, i uint32, run *upkeepRun) (err error) {
	m.mu.Lock()
	path := m.table.Path(i)
	current := m.underway[i] == run
	m.mu.Unlock()
	if current { // else the database was forgotten before its turn came
		err = m.maintainOne(ctx, i, path, run)
		m.mu.Lock()
		if m.underway[i] == run {
			delete(m.underway, i)
			m.endUpkeepLocked(i, m.table.At(i), run, err)
		}
		m.mu.Unlock()
	}
	m.maintainDue()
	return err
}

// endUpkeepLocked keeps what maintenance found, and schedules what comes next.
func (m *MultiDBManager) endUpkeepLocked(i uint32, s *DBState, run *upkeepRun, err error) {
	path := m.table.Path(i)
	due := run.files.due(m.upkeeper().Settings, path)
	switch {
	case errors.Is(err, errViewMoved), errors.Is(err, errPositionGone):
		due = m.now().Add(upkeepSoon) // the database was written to at that moment
	case errors.Is(err, errPatternEmpty), errors.Is(err, errFileBack):
		due = m.now().Add(maxUpkeepRetry)
		m.logger.Warn("the replica of a deleted database is kept", "db", path, "reason", err)
	case err != nil:
		m.metrics.maintained("run", failureClass(err))
		pause := m.upkeepRetryLocked(i)
		if !m.store.outages.failed(upkeepFailer(i), err, m.logger, "db", path) {
			m.logger.Warn("maintenance of a replica: it is tried again", "db", path, "pause", pause, "error", err)
		}
		if retry := m.now().Add(pause); due.IsZero() || due.Before(retry) {
			due = retry
		}
	case s.state == TenantGone:
		due = earliest(due, deletedDue(s.Since(), m.cfg().DeletedRetention))
		fallthrough
	default:
		m.metrics.maintained("run", "ok")
		m.store.outages.succeeded(upkeepFailer(i), m.logger, "db", path)
		m.validation.changed.add(i)
		delete(m.upkeepFailures, i)
	}
	if s.has(tenantLost) {
		due = time.Time{}
	}
	m.upkeep.set(i, due)
	if !run.known {
		return // nothing was learnt, so that nothing is overwritten
	}
	m.catalog.noteFiles(i, &run.files)
	if d := m.hot[i]; d != nil {
		d.files = run.files
		return
	}
	rec := m.recordLocked(i)
	rec.Files = run.files.encode()
	m.put(rec, nil)
}

func (m *MultiDBManager) maintainOne(ctx context.Context, i uint32, path string, run *upkeepRun) error {
	t, err := m.tenants().Lookup(path)
	if errors.Is(err, ErrNoTenant) {
		m.forgetUnmatched(i, run)
		return nil
	} else if err != nil {
		return err
	}
	client, err := m.client(&t)
	if err != nil {
		return err
	}
	stored, err := m.reg.Files(ctx, i+1)
	if err != nil {
		return err
	}
	m.mu.Lock()
	s, open := m.table.At(i), m.hot[i] != nil
	if s == nil || m.underway[i] != run || s.has(tenantLost) {
		m.mu.Unlock()
		return nil
	}
	gone, stopped, doomed := s.state == TenantGone, s.has(tenantStopped), s.has(tenantDoomed)
	deleted := deletedDue(s.Since(), m.cfg().DeletedRetention)
	if !open && !run.known {
		run.files = m.decodeFiles(path, stored)
	}
	run.known = true
	files := run.files
	m.mu.Unlock()
	if gone && (doomed || !deleted.IsZero() && !deleted.After(m.now())) {
		if err := m.checkExpired(path, t.Pattern); err != nil && !doomed {
			return err
		}
		return m.deleteTenant(ctx, i, path, client)
	}
	target := tenantTarget{Path: path, Client: client, Files: files, Note: func(change func(*tenantFiles)) {
		m.mu.Lock()
		defer m.mu.Unlock()
		change(&run.files)
	}}
	if !gone && !stopped {
		target.Snapshot = func(ctx context.Context) (*ltx.FileInfo, error) { return m.snapshotTenant(ctx, i) }
	}
	return m.upkeeper().run(ctx, target)
}

// errPatternEmpty means that the last scan found no database of a pattern: a
// volume that is not mounted looks as if everything was deleted, and then no
// replica may be.
var errPatternEmpty = errors.New("its pattern matches nothing, as if a volume was not mounted")

// errFileBack means that there is a file that no scan has met yet.
var errFileBack = errors.New("its file is there again")

// checkExpired returns why the replica of a database that was deleted is not
// deleted although its time is over. The last scan may be older than the file.
func (m *MultiDBManager) checkExpired(path string, pattern int) error {
	if m.matchesNothing(pattern) {
		return errPatternEmpty
	}
	switch _, err := os.Lstat(path); {
	case err == nil:
		return errFileBack
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("look whether a deleted database is there again: %w", err)
	}
	return nil
}

func (m *MultiDBManager) matchesNothing(pattern int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return pattern >= len(m.scans.matches) || m.scans.matches[pattern] == 0
}

// deleteTenant deletes the replica of a database that is gone, and forgets it.
// If a file comes back meanwhile, it waits and is a new database afterwards:
// what was added to a replica that is half deleted could not be restored.
func (m *MultiDBManager) deleteTenant(ctx context.Context, i uint32, path string, client ReplicaClient) error {
	m.mu.Lock()
	s := m.table.At(i)
	if s == nil || s.state != TenantGone {
		m.mu.Unlock()
		return nil // it has come back
	}
	s.set(tenantDoomed, true)
	m.put(m.recordLocked(i), nil)
	m.mu.Unlock()
	if err := m.reg.Flush(ctx); err != nil { // a later process must know
		return err
	}
	if other, err := m.movedOn(ctx, client, s.txid); err != nil {
		return fmt.Errorf("look for a second writer before the replica of %s is deleted: %w", path, err)
	} else if other {
		m.logger.Warn("the replica of a deleted database is kept: another writer goes on with it", "db", path)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.forgetLocked(i)
		return nil
	}
	if err := m.upkeeper().deleteReplica(ctx, path, client); err != nil {
		return err
	}
	if err := m.noteRemoval(path); err != nil {
		return err
	}
	err := removeTenantLedger(m.cfg().StateDir, path)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.catalog.remove(i, path)
	m.forgetLocked(i)
	return err
}

// snapshotTenant opens a database, wherever it stands, and writes a snapshot of
// it.
func (m *MultiDBManager) snapshotTenant(ctx context.Context, i uint32) (*ltx.FileInfo, error) {
	d, open, err := m.holdHot(ctx, i)
	if err != nil {
		return nil, err
	}
	defer d.release()
	return m.store.snapshotTenant(ctx, open)
}

// holdHot opens a database, wherever it stands, and keeps it open until it is
// released.
func (m *MultiDBManager) holdHot(ctx context.Context, i uint32) (*DynamicDB, *managedDB, error) {
	for {
		d := m.ensureHot(i)
		if d == nil {
			return nil, nil, m.whyNotHot(i)
		}
		open, err := d.hold(ctx)
		if errors.Is(err, errTenantEnded) {
			continue // it is not among the hot ones any more
		} else if err != nil {
			return nil, nil, err
		}
		m.store.look(open) // and so on until it is let go
		return d, open, nil
	}
}

// whyNotHot returns why ensureHot does not open a database.
func (m *MultiDBManager) whyNotHot(i uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch s := m.table.At(i); {
	case s == nil:
	case s.has(tenantStopped):
		return ErrDatabaseNotOpen
	case s.has(tenantLost):
		return m.lostReasonLocked(i)
	}
	return errTenantGone
}

// ensureHot returns a database that is hot, and makes it so beyond the number
// of places if it is not. It returns nil if its file is gone, or it was stopped.
func (m *MultiDBManager) ensureHot(i uint32) *DynamicDB {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.hot[i]; d != nil {
		return d
	}
	s := m.table.At(i)
	if s == nil || s.state == TenantGone || s.has(tenantStopped) || s.has(tenantLost) {
		return nil
	}
	d := m.newDynamicLocked(i, m.now())
	d.since = s.ChangedAt()
	m.hot[i] = d
	m.queue.Remove(i)
	s.state = TenantHot
	m.metrics.promoted()
	return d
}

// noteCold applies a change to what is known of the files of a database that
// may be cold.
func (m *MultiDBManager) noteCold(ctx context.Context, i uint32, change func(*tenantFiles)) error {
	stored, err := m.reg.Files(ctx, i+1)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.table.At(i)
	if s == nil {
		return nil
	}
	if d := m.hot[i]; d != nil {
		change(m.filesLocked(d))
		return nil
	}
	path := m.table.Path(i)
	files := m.decodeFiles(path, stored)
	change(&files)
	m.catalog.noteFiles(i, &files)
	m.upkeep.set(i, files.due(m.upkeeper().Settings, path))
	rec := m.recordLocked(i)
	rec.Files = files.encode()
	m.put(rec, nil)
	return nil
}
