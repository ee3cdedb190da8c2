package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// errTenantStopped is why a database is not replicated that StopTenant stopped.
var errTenantStopped = errors.New("stopped by request: it is replicated again after a start, or when the daemon starts again")

// TenantInfo is what is known of a database found by pattern without any I/O.
type TenantInfo struct {
	Path      string
	State     TenantState
	Stopped   bool
	TXID      ltx.TXID // newest that the replica acknowledged
	SyncedAt  time.Time
	ChangedAt time.Time // of the oldest change that is not acknowledged; zero: none
	Err       error     // why it is not replicated, or not all of it
}

// Store returns the store that the databases run in.
func (m *MultiDBManager) Store() *Store { return m.store }

// Covers reports whether a pattern stands for a path, and which.
func (m *MultiDBManager) Covers(path string) (pattern string, ok bool) {
	set := m.live.Load()
	t, err := set.tenants.Lookup(path)
	if errors.Is(err, ErrNoTenant) {
		return "", false
	}
	return set.cfg.Patterns[t.Pattern], true
}

// Tenant returns what is known of a database found by pattern. The error is
// ErrDatabaseNotFound.
func (m *MultiDBManager) Tenant(path string) (TenantInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.table.FindPath(path)
	if !ok {
		return TenantInfo{}, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
	return m.infoLocked(i, m.table.At(i)), nil
}

// TenantCount returns how many databases there are that were found by pattern.
func (m *MultiDBManager) TenantCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.table.Len()
}

// tenantBatch is how many records are read while the others wait.
const tenantBatch = 256

// Tenants calls fn for every database found by pattern whose number is from or
// more, in the order of the numbers, with the number that goes on behind it. It
// ends with the first error of fn. Databases that come or go meanwhile may be
// missed; no other is.
func (m *MultiDBManager) Tenants(ctx context.Context, from uint32, fn func(info TenantInfo, next uint32) error) error {
	batch := make([]TenantInfo, 0, tenantBatch)
	next := make([]uint32, 0, tenantBatch)
	for {
		batch, next = batch[:0], next[:0]
		m.mu.Lock()
		for i, s := range m.table.From(from) {
			batch, next = append(batch, m.infoLocked(i, s)), append(next, i+1)
			if len(batch) == tenantBatch {
				break
			}
		}
		m.mu.Unlock()
		for j := range batch {
			if err := fn(batch[j], next[j]); err != nil {
				return err
			}
		}
		if len(batch) < tenantBatch {
			return nil
		} else if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		from = next[len(next)-1]
	}
}

func (m *MultiDBManager) infoLocked(i uint32, s *DBState) TenantInfo {
	return TenantInfo{
		Path: m.table.Path(i), State: s.state, Stopped: s.has(tenantStopped), TXID: s.txid,
		SyncedAt: s.SyncedAt(), ChangedAt: s.ChangedAt(), Err: m.reasonLocked(i, s),
	}
}

// SyncTenant captures what was committed to a database before the call and,
// with wait, returns when its replica holds that. A database that rests is made
// hot for it, beyond the number of places if need be; one whose file is new
// need not have been found by a scan yet.
func (m *MultiDBManager) SyncTenant(ctx context.Context, path string, wait bool) (SyncResult, error) {
	i, err := m.admit(path)
	if err != nil {
		return SyncResult{}, err
	}
	return m.syncRecord(ctx, i, path, wait)
}

// admit returns the record of a path, and makes one if the file is new.
func (m *MultiDBManager) admit(path string) (uint32, error) {
	m.mu.Lock()
	i, ok := m.table.FindPath(path)
	m.mu.Unlock()
	if ok {
		return i, nil
	}
	if _, err := m.tenants().Lookup(path); err != nil {
		return 0, m.notFound(path)
	}
	st, err := os.Lstat(path)
	if real, rerr := filepath.EvalSymlinks(path); err != nil || rerr != nil || !st.Mode().IsRegular() || real != path {
		return 0, m.notFound(path) // a scan would not find it
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, ok = m.table.FindPath(path); ok {
		return i, nil
	}
	dir, name, ok := splitTenantPath(path)
	if !ok {
		return 0, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
	if i, err = m.table.Add(dir, []byte(name)); err != nil {
		return 0, fmt.Errorf("take note of database %s: %w", path, err)
	}
	m.table.See(i) // a scan that runs may be past it
	if err := m.placeLocked(i); err != nil {
		m.failLocked(i, &tenantFailure{err: err, lasting: true})
		return i, nil
	}
	m.enqueueLocked(i, queueFirst, m.now())
	return i, nil
}

// notFound is the error for a path that nothing replicates. It names the one
// that is, where a link leads there.
func (m *MultiDBManager) notFound(path string) error {
	err := fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	if real, rerr := filepath.EvalSymlinks(path); rerr == nil && real != path {
		if _, ok := m.Covers(real); ok {
			return fmt.Errorf("%w: it is a link to %s", err, real)
		}
	}
	return err
}

// syncRecord is SyncTenant for a database that is known.
func (m *MultiDBManager) syncRecord(ctx context.Context, i uint32, path string, wait bool) (SyncResult, error) {
	fp, err := sqlitefile.Take(path)
	if errors.Is(err, fs.ErrNotExist) {
		return SyncResult{}, fmt.Errorf("%w: %s: %w", ErrDatabaseNotFound, path, errTenantGone)
	} else if err != nil {
		return SyncResult{}, err
	}
	m.mu.Lock()
	clean, txid, err := m.syncableLocked(i, path, &fp)
	m.mu.Unlock()
	if err != nil {
		return SyncResult{}, err
	} else if clean {
		return SyncResult{Before: txid, TXID: txid, Acked: txid}, nil
	}
	d, open, err := m.holdHot(ctx, i)
	if err != nil {
		return SyncResult{}, fmt.Errorf("open database %s: %w", path, err)
	}
	defer d.release()
	if d.path != path { // it was forgotten meanwhile, and its number given to another one
		return SyncResult{}, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
	return syncNow(ctx, open.db, wait)
}

// syncableLocked reports whether a database whose files are as fp says can be
// synced, and whether there is nothing to do for it.
func (m *MultiDBManager) syncableLocked(i uint32, path string, fp *sqlitefile.Fingerprint) (clean bool, txid ltx.TXID, err error) {
	s, f := m.table.At(i), m.reasons[i]
	switch {
	case s == nil:
		return false, 0, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	case s.has(tenantStopped):
		return false, 0, fmt.Errorf("%w: %s", ErrDatabaseNotOpen, path)
	case f != nil && f.lasting:
		return false, 0, fmt.Errorf("database %s is not replicated: %w", path, f.err)
	case s.has(tenantDoomed):
		return false, 0, fmt.Errorf("database %s waits: the replica of a deleted one of that path is being removed", path)
	case m.stopping || m.ended:
		return false, 0, fmt.Errorf("sync %s: %w", path, errStopped)
	case !m.started || !m.bound:
		return false, 0, fmt.Errorf("sync %s: the replica could not be reached yet", path)
	case s.state == TenantGone: // and it has come back
		s.set(tenantDeleted, false)
		m.enqueueLocked(i, classOf(s), m.now())
	case s.state == TenantClean:
		clean = m.table.Matches(i, fp) && s.has(tenantSettled) && !s.has(tenantRecheck)
	}
	return clean, s.txid, nil
}

// StopTenant syncs a database a last time, within ctx, and stops replicating it
// until StartTenant or the end of the process. It is stopped whatever the error
// says of the last sync. Local work on it that is under way is waited for, also
// beyond ctx. changed is false if it was stopped already.
func (m *MultiDBManager) StopTenant(ctx context.Context, path string) (info TenantInfo, changed bool, err error) {
	unlock, err := m.store.changing.lock(ctx, path)
	if err != nil {
		return TenantInfo{}, false, err
	}
	defer unlock()
	i, err := m.admit(path)
	if err != nil {
		return TenantInfo{}, false, err
	}
	if info, err := m.Tenant(path); err != nil || info.Stopped {
		return info, false, err
	}
	if _, err = m.syncRecord(ctx, i, path, true); errors.Is(err, errNoPosition) {
		err = nil
	}
	m.mu.Lock()
	s, d := m.table.At(i), m.hot[i]
	if s == nil || m.table.Path(i) != path {
		m.mu.Unlock()
		return TenantInfo{}, false, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
	s.set(tenantStopped, true)
	if d == nil {
		m.haltLocked(i)
	}
	m.mu.Unlock()
	if d != nil {
		d.halt(context.WithoutCancel(ctx))
	}
	m.dispatch()
	if err != nil {
		err = fmt.Errorf("the database is stopped, but its last changes may not be on the replica: %w", err)
	}
	info, ierr := m.Tenant(path)
	return info, true, errors.Join(err, ierr)
}

// haltLocked leaves a stopped database alone.
func (m *MultiDBManager) haltLocked(i uint32) {
	m.queue.Remove(i)
	m.failLocked(i, &tenantFailure{err: errTenantStopped, lasting: true})
}

// StartTenant begins to replicate a database again that StopTenant stopped.
// changed is false if it was not.
func (m *MultiDBManager) StartTenant(ctx context.Context, path string) (info TenantInfo, changed bool, err error) {
	unlock, err := m.store.changing.lock(ctx, path)
	if err != nil {
		return TenantInfo{}, false, err
	}
	defer unlock()
	i, err := m.admit(path)
	if err != nil {
		return TenantInfo{}, false, err
	}
	m.mu.Lock()
	s, d := m.table.At(i), m.hot[i]
	changed = s != nil && s.has(tenantStopped)
	if changed {
		s.set(tenantStopped, false)
		m.releaseLocked(i, s, d != nil)
	}
	m.mu.Unlock()
	if changed && d != nil {
		d.unhalt()
	}
	m.dispatch()
	info, err = m.Tenant(path)
	return info, changed, err
}

// releaseLocked lets a database that was stopped wait for a place among the hot
// ones, unless it still has one.
func (m *MultiDBManager) releaseLocked(i uint32, s *DBState, hot bool) {
	if hot || s.state != TenantFailed {
		return
	}
	delete(m.reasons, i)
	if err := m.placeLocked(i); err != nil {
		m.failLocked(i, &tenantFailure{err: err, lasting: true})
		return
	}
	m.enqueueLocked(i, classOf(s), m.now())
}

// halt lets the database go because it was stopped, or as soon as nobody else
// needs it open.
func (d *DynamicDB) halt(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.halting = true
	if d.users == 0 {
		d.letGoStopped(ctx)
	}
}

func (d *DynamicDB) unhalt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.halting = false
}

// letGoStopped lets the database go whatever is left to do.
func (d *DynamicDB) letGoStopped(ctx context.Context) {
	if d.state != LifecycleHot {
		return
	}
	pos, ok, err := d.letGo(ctx)
	if !ok || !d.looked || err != nil {
		d.fleet.failed(d, errTenantStopped, errors.Join(err, d.abandon(ctx, errTenantStopped)))
		return
	}
	d.fleet.cooled(d, pos)
}

// SyncAll scans and syncs every database that changed, those of the store
// included. One that fails keeps no other from being synced. When ctx is done
// the rest is left.
func (m *MultiDBManager) SyncAll(ctx context.Context, wait bool) SyncAllResult {
	var a, b SyncAllResult
	together(
		func() { a = m.store.SyncAll(ctx, wait) },
		func() { b = m.syncAllTenants(ctx, wait) },
	)
	a.Databases += b.Databases
	a.Synced += b.Synced
	a.Failed += b.Failed
	a.Left += b.Left
	a.Errors = append(a.Errors, b.Errors...)
	return a
}

func (m *MultiDBManager) syncAllTenants(ctx context.Context, wait bool) SyncAllResult {
	scanned := make(chan struct{})
	select {
	case m.scanAsked <- scanned:
		select {
		case <-scanned:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	var ids []uint32
	m.mu.Lock()
	for i, s := range m.table.All() {
		f := m.reasons[i]
		switch s.state {
		case TenantUnknown, TenantQueued, TenantHot:
			ids = append(ids, i)
		case TenantFailed:
			if f == nil || !f.lasting && !errors.Is(f.err, errNoPages) {
				ids = append(ids, i)
			}
		case TenantClean, TenantGone:
		}
	}
	m.mu.Unlock()
	return syncEach(ctx, ids, func(ctx context.Context, i uint32) error {
		m.mu.Lock()
		path := m.table.Path(i)
		m.mu.Unlock()
		if path == "" {
			return nil // it was forgotten meanwhile
		}
		_, err := m.syncRecord(ctx, i, path, wait)
		if err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
		if errors.Is(err, errNoPosition) || errors.Is(err, ErrDatabaseNotFound) || errors.Is(err, ErrDatabaseNotOpen) {
			return nil // there is nothing to bring anywhere
		}
		return err
	})
}

// FindFile returns the database found by pattern that is the same file as the
// one at a path, and was opened before.
func (m *MultiDBManager) FindFile(path string) (owner string, ok bool) {
	p, err := sqlitefile.Stat(path)
	if err != nil {
		return "", false
	}
	m.mu.Lock()
	if i, found := m.table.FindInode(p.ID); found {
		owner = m.table.Path(i)
	}
	m.mu.Unlock()
	if o, err := sqlitefile.Stat(owner); owner == "" || err != nil || o.ID != p.ID {
		return "", false
	}
	return owner, true
}
