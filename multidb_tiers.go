package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// enqueueLocked lets a database wait for a place among the hot ones.
func (m *MultiDBManager) enqueueLocked(i uint32, class queueClass, since time.Time) {
	s := m.table.At(i)
	switch {
	case s.has(tenantStopped):
		m.haltLocked(i)
		return
	case s.has(tenantLost):
		m.loseLocked(i, &secondWriterError{})
		return
	}
	s.state = TenantQueued
	if s.changedAt == 0 {
		s.changedAt = secondsOf(since)
	}
	m.queue.Push(i, class, since)
}

// retryLocked tries a database that failed again after a pause.
func (m *MultiDBManager) retryLocked(i uint32, f *tenantFailure, pause time.Duration, now time.Time) {
	if !f.lasting {
		m.queue.Delay(i, classOf(m.table.At(i)), now, now.Add(m.retryPause(pause)))
	}
}

// hastenLocked tries a database that failed sooner, because it has changed.
func (m *MultiDBManager) hastenLocked(i uint32, f *tenantFailure, now time.Time) {
	m.queue.Hasten(i, now.Add(tenantRetry(f.tries, true)))
}

// dispatch makes databases hot, the one with the oldest change first, while
// there is room.
func (m *MultiDBManager) dispatch() {
	now := m.now()
	m.mu.Lock()
	m.queue.wake(now) // who failed waits again, and somebody has to yield
	for m.started && m.bound && len(m.hot) < m.cfg().MaxHotDatabases {
		q, ok := m.queue.Pop(now)
		if !ok {
			break
		}
		m.promoteLocked(q, now)
	}
	m.setYieldLocked(now)
	m.checkIdleLocked()
	m.mu.Unlock()
}

// yieldEvery is how long a choice among the hot databases stands.
const yieldEvery = 100 * time.Millisecond

// setYieldLocked chooses the hot databases that yield their places.
func (m *MultiDBManager) setYieldLocked(now time.Time) {
	n, mode := m.queue.Len(), m.yield.Load()
	switch {
	case m.stopping || n > 0 && n >= len(m.hot):
		m.yield.Store(yieldAll)
	case n == 0:
		m.yield.Store(yieldNone)
		if mode != yieldNone {
			for _, d := range m.hot {
				d.chosen.Store(0)
			}
		}
	case mode != yieldSome || now.Sub(m.yieldSet) > yieldEvery:
		m.chooseYieldsLocked(n, now)
		m.yield.Store(yieldSome)
		m.yieldSet = now
	}
}

func (m *MultiDBManager) chooseYieldsLocked(waiting int, now time.Time) {
	hot := m.hotLocked()
	facts := make([]yieldFacts, len(hot))
	for i, d := range hot {
		facts[i] = yieldFacts{d.touched.Load(), d.chosen.Load()}
	}
	for _, i := range chooseYields(facts, waiting, now.UnixNano()) {
		hot[i].chosen.Store(now.UnixNano())
	}
}

// checkIdleLocked tells a Close that waits that nothing is left.
func (m *MultiDBManager) checkIdleLocked() {
	if !m.stopping || len(m.hot) > 0 || m.queue.Len() > 0 {
		return
	}
	select {
	case <-m.idle:
	default:
		close(m.idle)
	}
}

func (m *MultiDBManager) hotLocked() []*DynamicDB {
	a := make([]*DynamicDB, 0, len(m.hot))
	for _, d := range m.hot {
		a = append(a, d)
	}
	return a
}

// promoteLocked gives a database a place among the hot ones. A worker opens it.
func (m *MultiDBManager) promoteLocked(q queued, now time.Time) {
	m.table.At(q.idx).state = TenantHot
	d := m.newDynamicLocked(q.idx, now)
	d.since = q.since
	d.touched.Store(now.UnixNano())
	m.hot[q.idx] = d
	m.metrics.promoted()
	m.store.resources.Monitors.Submit(MonitorTask{Key: d, Run: func(ctx context.Context) { d.begin(ctx) }})
}

func (m *MultiDBManager) newDynamicLocked(i uint32, now time.Time) *DynamicDB {
	s := m.table.At(i)
	return &DynamicDB{
		fleet: m, idx: i, path: m.table.Path(i), txid: s.txid, lastChange: now,
		retried: m.reasons[i] != nil, known: s.txid > 0, unsure: s.has(tenantRecheck),
		seen: m.table.Fingerprint(i), settled: s.has(tenantSettled) && m.sameBoot,
		provenAt: s.provenAt.Time(),
	}
}

// openTenant makes a database and its replica, with the position of the
// registry, and takes it into the store.
func (m *MultiDBManager) openTenant(ctx context.Context, d *DynamicDB) (*managedDB, error) {
	t, err := m.tenants().Lookup(d.path)
	if err != nil {
		return nil, err
	}
	client, err := m.client(&t)
	if err != nil {
		return nil, err
	}
	if owner, ok := m.store.placeOwner(client); ok {
		return nil, samePath(owner)
	}
	db := newTenantDB(d.path, m.mode)
	m.tuneTenant(db)
	db.Checksums, db.Logger = m.cfg().Checksums, m.logger
	db.AllowNetworkFS = m.cfg().AllowNetworkFS
	db.Replica = NewReplicaWithClient(db, client)
	db.Replica.SyncInterval, db.Replica.l0Retention = m.SyncInterval, func() time.Duration { return m.upkeeper().Settings.L0Retention }
	db.Replica.onUploaded = func(info *ltx.FileInfo) { d.noteUpload(info, db.Replica.proven()) }
	db.Replica.whoElse, db.Replica.provenAt = m.otherWriter, d.provenAt
	db.shared = m.shared
	if err := m.claim(d); err != nil {
		return nil, err
	}
	if err := m.seed(ctx, d, db); err != nil {
		return nil, err
	}
	return m.store.addTenant(db, m.shared, d)
}

// client returns the client of a database's replica.
func (m *MultiDBManager) client(t *Tenant) (ReplicaClient, error) {
	client, err := m.clients.Tenant(t)
	if err != nil {
		return nil, err
	}
	if oc, ok := client.(ObservableClient); ok && m.store.Metrics != nil {
		oc.SetObserver(m.store.Metrics)
	}
	return client, nil
}

// claim makes sure that no other path leads to the file.
func (m *MultiDBManager) claim(d *DynamicDB) error {
	p, err := sqlitefile.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errTenantGone, err)
	} else if err != nil {
		return err
	}
	owner, ok := m.claimInode(d.idx, p.ID)
	if ok {
		return nil
	}
	if o, err := sqlitefile.Stat(owner); err == nil && o.ID == p.ID {
		return secondPath(owner)
	}
	// It was renamed, or another file lies there by now.
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, ok := m.table.FindPath(owner); ok {
		m.table.ReleaseInode(i)
	}
	m.table.ClaimInode(d.idx, p.ID)
	return nil
}

// claimInode makes a record the owner of an inode, or returns the path of the
// one that is.
func (m *MultiDBManager) claimInode(i uint32, id wal.FileID) (owner string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.table.ClaimInode(i, id)
	return m.table.Path(o), ok
}

// seed gives a database the position that the registry holds.
func (m *MultiDBManager) seed(ctx context.Context, d *DynamicDB, db *DB) error {
	m.mu.Lock()
	empty := m.empty
	m.mu.Unlock()
	if !d.known && empty && !d.unsure {
		return db.seedEmpty()
	} else if !d.known {
		return db.seedUnconfirmed(0, nil)
	}
	ledger, err := m.reg.Ledger(ctx, d.idx+1)
	if err != nil {
		return err
	}
	stored, err := m.reg.Files(ctx, d.idx+1)
	if err != nil {
		return err
	}
	m.loadFiles(d, stored)
	if d.unsure {
		err = db.seedUnconfirmed(d.txid, ledger)
	} else {
		err = db.seed(d.txid, ledger)
	}
	db.remember(d.seen, d.settled)
	return err
}

// cooled takes note that a database was let go, with all of it replicated.
func (m *MultiDBManager) cooled(d *DynamicDB, pos tenantPosition) {
	now := m.now()
	m.mu.Lock()
	delete(m.hot, d.idx)
	s := m.table.At(d.idx)
	same := s.txid == pos.TXID && m.table.Matches(d.idx, &pos.Seen)
	m.table.SetFingerprint(d.idx, &pos.Seen, pos.Settled)
	s.state, s.txid = TenantClean, pos.TXID
	s.changedAt, s.since, s.syncedAt = 0, secondsOf(now), secondsOf(now)
	s.set(tenantRecheck, false)
	if !same {
		m.touchCatalogLocked(d.idx, s)
	}
	m.recoveredLocked(d, pos.TXID)
	delete(m.unsent, d.idx)
	if s.has(tenantStopped) {
		m.haltLocked(d.idx)
	}
	rec := m.recordLocked(d.idx)
	rec.Files = m.filesLocked(d).encode()
	m.put(rec, pos.Ledger) // before anybody can forget the record
	m.mu.Unlock()
	m.metrics.demoted()
	m.dispatch()
}

// changed takes note of a change to an open database that was up to date.
func (m *MultiDBManager) changed(d *DynamicDB) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.table.At(d.idx); s != nil && s.changedAt == 0 {
		s.changedAt = secondsOf(d.since)
	}
}

// upToDate takes note that an open database is replicated up to its last look.
func (m *MultiDBManager) upToDate(d *DynamicDB) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.table.At(d.idx); s != nil {
		s.changedAt, s.syncedAt = 0, secondsOf(now)
		m.recoveredLocked(d, s.txid)
	}
}

// recoveredLocked takes note that a database is replicated, whatever it failed
// for before.
func (m *MultiDBManager) recoveredLocked(d *DynamicDB, txid ltx.TXID) {
	m.store.outages.succeeded(failer{id: d.idx}, m.logger, "db", d.path)
	f := m.reasons[d.idx]
	if f == nil {
		return
	}
	delete(m.reasons, d.idx)
	if m.hot[d.idx] == d { // else its record is written in a moment, with more
		m.put(m.recordLocked(d.idx), nil)
	}
	if !isStorage(f.err) {
		m.logger.Info("database is replicated again", "db", d.path, "txid", txid)
	}
}

// retryUnsentLocked tries once more what failed because of the replica.
func (m *MultiDBManager) retryUnsentLocked() {
	for i, f := range m.reasons {
		if s := m.table.At(i); s.state == TenantFailed && failureClass(f.err) == "replica" {
			m.queue.Remove(i)
			m.enqueueLocked(i, classOf(s), s.ChangedAt())
		}
	}
}

// unsentLocked returns why databases failed that the replica is to blame for.
func (m *MultiDBManager) unsentLocked() (errs []error) {
	for i, f := range m.reasons {
		if m.table.At(i).state == TenantFailed && failureClass(f.err) == "replica" {
			errs = append(errs, fmt.Errorf("%s: %w", m.table.Path(i), f.err))
		}
	}
	return errs
}

// noteUnsent takes note of why the uploads of a hot database fail; nil: they do
// not.
func (m *MultiDBManager) noteUnsent(d *DynamicDB, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.unsent, d.idx)
	} else if m.hot[d.idx] == d {
		m.unsent[d.idx] = unsent(err)
	}
}

// noteStorage takes note of whether the storage served a database.
func (m *MultiDBManager) noteStorage(i uint32, path string, err error) {
	if err == nil {
		m.store.outages.succeeded(failer{id: i}, m.logger, "db", path)
		return
	}
	m.store.outages.failed(failer{id: i}, err, m.logger, "db", path)
}

// acknowledged takes note of a position that the storage holds.
func (m *MultiDBManager) acknowledged(d *DynamicDB, txid ltx.TXID, proven time.Time) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.table.At(d.idx); s != nil && m.hot[d.idx] == d && txid > s.txid {
		s.txid, s.syncedAt = txid, secondsOf(now)
		s.provenAt = secondsOf(proven)
		m.touchCatalogLocked(d.idx, s)
	}
}

// renamePause is how long a renamed file waits for the end of its old name.
const renamePause = time.Second

// renamed reports whether what is called a second path to a file is the only
// one by now: the owner has not noticed yet.
func renamed(path string, reason error) bool {
	e, ok := errors.AsType[*secondPathError](reason)
	if !ok {
		return false
	}
	own, err := sqlitefile.Stat(path)
	if err != nil {
		return false
	}
	p, err := sqlitefile.Stat(e.owner)
	return errors.Is(err, fs.ErrNotExist) || err == nil && p.ID != own.ID
}

// failed takes note that a database cannot be replicated now.
func (m *MultiDBManager) failed(d *DynamicDB, reason, closeErr error) {
	if closeErr != nil {
		m.logger.Warn("let go of database", "db", d.path, "error", closeErr)
	}
	moved := renamed(d.path, reason)
	if !isStorage(reason) {
		m.store.outages.forget(failer{id: d.idx})
	}
	m.mu.Lock()
	delete(m.hot, d.idx)
	delete(m.unsent, d.idx)
	s := m.table.At(d.idx)
	s.set(tenantRecheck, true) // an upload may have arrived all the same
	switch now := m.now(); {
	case m.ended && !errors.Is(reason, ErrSecondWriter): // the next process looks again
		s.state = TenantUnknown
		m.put(m.recordLocked(d.idx), nil)
	case errors.Is(reason, ErrSecondWriter):
		m.loseLocked(d.idx, reason)
	case errors.Is(reason, errTenantGone):
		s.state = TenantQueued
		s.set(tenantDeleted, false)
		m.goneLocked(d.idx, s, now)
	case s.has(tenantStopped):
		m.haltLocked(d.idx)
	case moved && !m.stopping:
		s.state = TenantQueued
		m.queue.Delay(d.idx, classOf(s), now, now.Add(renamePause))
	default:
		m.failLocked(d.idx, &tenantFailure{err: advise(reason)})
	}
	m.mu.Unlock()
	m.metrics.demoted()
	m.dispatch()
}

// ownReasons is how many databases that failed keep an error of their own. An
// outage lets all fail at once, and an error weighs more than ten records.
const ownReasons = 1000

// leanLocked returns an error to keep in place of err, which may be that of
// another database that failed for the same class of reasons.
func (m *MultiDBManager) leanLocked(class string, f *tenantFailure) error {
	common := m.commonReasons[class]
	switch {
	case f.lasting:
		return f.err
	case common == nil, len(m.reasons) < ownReasons:
		m.commonReasons[class] = &commonError{f.err}
		return f.err
	default:
		return common
	}
}

// commonError is why many databases failed; it was met at one of them.
type commonError struct{ err error }

func (e *commonError) Error() string { return "as another database: " + e.err.Error() }
func (e *commonError) Unwrap() error { return e.err }

// failLocked leaves a database alone for a while.
func (m *MultiDBManager) failLocked(i uint32, f *tenantFailure) {
	s := m.table.At(i)
	old := m.reasons[i]
	if old != nil {
		f.tries = min(old.tries+1, 200)
		f.seen = old.seen
	}
	class := failureClass(f.err)
	switch {
	case m.store.outages.failed(failer{id: i}, f.err, m.logger, "db", m.table.Path(i)):
	case old == nil, isStorage(old.err), failureClass(old.err) != class:
		log := m.logger.Warn
		if errors.Is(f.err, errTenantStopped) { // somebody asked for it
			log = m.logger.Info
		}
		log("database is not replicated", "db", m.table.Path(i), "reason", class, "error", f.err)
	}
	f.err = m.leanLocked(class, f)
	m.reasons[i] = f
	s.state = TenantFailed
	m.metrics.failed(class)
	pause := tenantRetry(f.tries, class == "replica")
	m.retryLocked(i, f, pause, m.now())
	m.put(m.recordLocked(i), nil)
}
