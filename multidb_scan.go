package litestream

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/scan"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// scanTotals is what is remembered of scans.
type scanTotals struct {
	last      time.Time // end of the newest
	took      time.Duration
	files     int
	matches   []int // files, by pattern
	sizes     scanSizes
	errors    []*scan.PathError
	errorN    int
	unmatched map[int]time.Time // by pattern: when it was last warned of
}

// unmatchedEvery is how often a pattern that matches nothing is warned of.
const unmatchedEvery = 10 * time.Minute

// scan looks at all files and queues what changed.
func (m *MultiDBManager) scan(ctx context.Context) {
	start := m.now()
	m.mu.Lock()
	m.table.BeginScan()
	m.mu.Unlock()
	st := scanStats{}
	res, err := m.scanner.Scan(ctx, func(e *scan.Entry) error {
		m.observe(e, start, &st)
		m.rounds.step()
		return nil
	})
	if err != nil {
		if ctx.Err() == nil {
			m.logger.Error("scan", "error", err)
		}
		return
	}
	m.endScan(res, start, &st)
	m.watchHot()
	m.dispatch()
	m.warnUnmatched(res)
	m.putSummary()
}

// observe compares one file with what was last replicated of it.
func (m *MultiDBManager) observe(e *scan.Entry, start time.Time, st *scanStats) {
	fp := sqlitefile.Fingerprint{Main: e.Main}
	if e.HasWAL && e.WAL.Size > 0 {
		fp.WAL = e.WAL
	}
	st.Files++
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.table.Find(e.Dir, e.Name)
	if !ok {
		st.New++
		if i, ok = m.discoverLocked(e, fp); !ok {
			return
		}
	}
	m.table.See(i)
	s := m.table.At(i)
	s.set(tenantDeleted, false)
	st.sizes.add(s.group, fp.Main.Size+fp.WAL.Size)
	if fp.WAL.Size >= LargeLogBytes {
		st.sizes.addLog(FleetLog{Path: e.Path(), Size: fp.WAL.Size})
	}
	switch s.state {
	case TenantUnknown, TenantGone:
		if !s.has(tenantDoomed) { // else it is a new one in a moment
			if s.state == TenantGone {
				m.touchCatalogLocked(i, s)
			}
			m.enqueueLocked(i, classOf(s), start)
		}
	case TenantClean:
		if !m.table.Matches(i, &fp) {
			st.Changed++
			m.enqueueLocked(i, queueChanged, changeTime(fp, m.scans.last, start))
		} else if !s.has(tenantSettled) {
			m.enqueueLocked(i, queueChanged, start)
		}
	case TenantFailed:
		if f, seen := m.reasons[i], maphash.Comparable(printSeed, fp); f != nil && f.seen != seen {
			f.seen = seen
			m.hastenLocked(i, f, start)
		}
	case TenantQueued, TenantHot:
	}
}

// classOf returns which of the queues a database waits in.
func classOf(s *DBState) queueClass {
	if s.txid == 0 {
		return queueFirst
	}
	return queueChanged
}

// changeTime is when a database changed that the last scan saw unchanged: by
// the files' times where they can be true.
func changeTime(fp sqlitefile.Fingerprint, lastScan, now time.Time) time.Time {
	at := time.Unix(0, max(fp.Main.Mtime, fp.WAL.Mtime))
	if at.Before(lastScan) || at.After(now) {
		return now
	}
	return at
}

// discoverLocked makes the record of a database that was not seen before.
func (m *MultiDBManager) discoverLocked(e *scan.Entry, fp sqlitefile.Fingerprint) (uint32, bool) {
	i, err := m.table.Add(e.Dir, e.Name)
	if err != nil {
		m.logger.Error("take note of database", "db", e.Path(), "error", err)
		return 0, false
	}
	if err := m.placeLocked(i); err != nil {
		m.failLocked(i, &tenantFailure{err: err, seen: maphash.Comparable(printSeed, fp), lasting: true})
	}
	return i, true
}

// placeLocked finds out where a database's replica lies, and that it has it
// for itself.
func (m *MultiDBManager) placeLocked(i uint32) error {
	t, err := m.tenants().Lookup(m.table.Path(i))
	if err != nil {
		return err
	}
	return m.settleLocked(i, &t)
}

// settleLocked gives a database the place on the replica that t tells.
func (m *MultiDBManager) settleLocked(i uint32, t *Tenant) error {
	group := t.variableOr("database") + "\x00" + t.variableOr("branch")
	if _, err := m.table.SetGroup(i, t.variableOr(variableProject), group); err != nil {
		return err
	}
	if m.paths == nil {
		return nil
	}
	h := maphash.String(replicaPathSeed, t.ReplicaPath)
	if owner, ok := m.paths[h]; ok && owner != i && m.table.At(owner) != nil {
		return samePath(m.table.Path(owner))
	}
	m.paths[h] = i
	return nil
}

var replicaPathSeed = maphash.MakeSeed()

// placeNumber stands for a database's replica path in the registry
// (docs/formats/registry.md).
func placeNumber(replicaPath string) uint64 {
	sum := sha256.Sum256([]byte(replicaPath))
	return binary.BigEndian.Uint64(sum[:])
}

// samePath tells whose replica a database would share.
func samePath(owner string) error {
	return fmt.Errorf("%w, %s: change replica-template.path so that it tells them apart", errSamePath, owner)
}

// collisions returns the pairs of databases that would share one replica. Who
// collides with a deleted one is no reason not to start.
func (m *MultiDBManager) collisions() error {
	errs := m.namedCollisions()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, f := range m.reasons {
		if errors.Is(f.err, errSamePath) && m.rivalThereLocked(i) {
			errs = append(errs, fmt.Errorf("%s %w", m.table.Path(i), f.err))
		}
	}
	return summarize(errs)
}

// namedCollisions returns the databases whose replica is that of one that was
// not found by pattern.
func (m *MultiDBManager) namedCollisions() (errs []error) {
	if len(m.store.namedPlaces()) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, s := range m.table.All() {
		if s.has(tenantDeleted) {
			continue
		}
		path := m.table.Path(i)
		t, err := m.tenants().Lookup(path)
		if err != nil {
			continue // it failed for that
		}
		if client, err := m.clients.Tenant(&t); err != nil {
			return []error{err}
		} else if owner, ok := m.store.placeOwner(client); ok {
			errs = append(errs, fmt.Errorf("%s %w", path, samePath(owner)))
		}
	}
	return errs
}

// reclaimLocked lets databases have the replica path of one that is forgotten.
func (m *MultiDBManager) reclaimLocked(now time.Time) {
	for i, f := range m.reasons {
		if !errors.Is(f.err, errSamePath) || m.placeLocked(i) != nil {
			continue
		}
		s := m.table.At(i)
		delete(m.reasons, i)
		s.state = TenantUnknown
		m.enqueueLocked(i, classOf(s), now)
	}
}

// rivalThereLocked reports whether the file of the database is there that has
// the replica path of another one.
func (m *MultiDBManager) rivalThereLocked(i uint32) bool {
	t, err := m.tenants().Lookup(m.table.Path(i))
	if err != nil {
		return false
	}
	owner, ok := m.paths[maphash.String(replicaPathSeed, t.ReplicaPath)]
	s := m.table.At(owner)
	return ok && owner != i && s != nil && !s.has(tenantDeleted)
}

// forgetLocked removes a record.
func (m *MultiDBManager) forgetLocked(i uint32) {
	if m.paths != nil {
		if t, err := m.tenants().Lookup(m.table.Path(i)); err == nil {
			if h := maphash.String(replicaPathSeed, t.ReplicaPath); m.paths[h] == i {
				delete(m.paths, h)
			}
		}
	}
	m.queue.Remove(i)
	m.upkeep.remove(i)
	delete(m.underway, i)
	delete(m.upkeepFailures, i)
	m.validation.forget(i)
	m.drill.forget(i)
	m.catalog.forget(i)
	m.store.outages.forget(failer{id: i}, upkeepFailer(i), validationFailer(i))
	delete(m.reasons, i)
	m.table.Remove(i)
	m.reg.Delete(i + 1)
}

// endScan settles what a scan that came to its end did not meet.
func (m *MultiDBManager) endScan(res scan.Result, start time.Time, st *scanStats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st.Skipped, st.Errors, st.End = res.Special+res.Links, res.ErrorN, m.now()
	st.Unmatched = countZero(res.Matches)
	if res.ErrorN == len(res.Errors) { // else what could not be looked at is not known
		unreadable := make([]string, len(res.Errors))
		for i, e := range res.Errors {
			unreadable[i] = e.Path
		}
		for i, s := range m.table.Unseen(unreadable) {
			if m.goneLocked(i, s, start) {
				st.Deleted++
			}
		}
		if st.Deleted > 0 {
			m.reclaimLocked(start)
		}
	}
	m.scans.last, m.scans.took, m.scans.files = st.End, st.End.Sub(start), st.Files
	m.scans.errors, m.scans.errorN, m.scans.matches, m.scans.sizes = res.Errors, res.ErrorN, res.Matches, st.sizes
	m.metrics.scanned(m.scans.took, *st)
}

func countZero(a []int) (n int) {
	for _, v := range a {
		if v == 0 {
			n++
		}
	}
	return n
}

// goneLocked takes note of a file that is no longer there. Its replica stays,
// for as long as deleted-retention says.
func (m *MultiDBManager) goneLocked(i uint32, s *DBState, now time.Time) bool {
	if s.has(tenantDeleted) {
		return false
	}
	s.set(tenantDeleted, true)
	if s.has(tenantLost) {
		return true // its replica is another's, and its record says so if the file comes back
	}
	switch s.state {
	case TenantHot:
		return true // its own look finds out
	case TenantUnknown, TenantQueued, TenantFailed:
		if s.txid == 0 { // nothing was replicated of it
			m.forgetLocked(i)
			return true
		}
	case TenantClean, TenantGone:
	}
	m.queue.Remove(i)
	m.store.outages.forget(failer{id: i})
	delete(m.reasons, i)
	s.state, s.changedAt, s.since = TenantGone, 0, secondsOf(now)
	m.touchCatalogLocked(i, s)
	m.upkeep.set(i, earliest(m.upkeep.at(i), deletedDue(now, m.cfg().DeletedRetention)))
	m.put(m.recordLocked(i), nil)
	return true
}

// lookPatience is how long a hot database may be without a look. Its worker may
// be waiting for a lock or for a slow disk, for which nothing is gained by a
// second one.
const lookPatience = 30 * time.Second

// watchHot looks after hot databases that nobody looked at for long.
func (m *MultiDBManager) watchHot() {
	m.mu.Lock()
	open := m.hotLocked()
	m.mu.Unlock()
	n := 0
	for _, d := range open {
		if d.watch(max(lookPatience, 2*m.cfg().ScanInterval)) {
			n++
		}
	}
	if n > 0 {
		m.logger.Warn("hot databases were not looked at for long: looking again", "databases", n)
	}
}

// warnUnmatched tells of patterns that match nothing, now and then.
func (m *MultiDBManager) warnUnmatched(res scan.Result) {
	now := m.now()
	if m.scans.unmatched == nil {
		m.scans.unmatched = make(map[int]time.Time)
	}
	for p, n := range res.Matches {
		if n > 0 {
			delete(m.scans.unmatched, p)
			continue
		}
		if at, ok := m.scans.unmatched[p]; ok && now.Sub(at) < unmatchedEvery {
			continue
		}
		m.scans.unmatched[p] = now
		m.logger.Warn("pattern matches no file", "pattern", m.cfg().Patterns[p])
	}
}

// tenantFailure is why a database is left alone for a while. It is 32 bytes,
// because an outage may leave one for each database.
type tenantFailure struct {
	err     error
	seen    uint64 // hash, with printSeed, of its fingerprint at the last scan; 0: not seen since
	tries   uint8
	lasting bool // it cannot go away while the process lives
}

var printSeed = maphash.MakeSeed()

// recordLocked is what the registry keeps of a database.
func (m *MultiDBManager) recordLocked(i uint32) registry.Record {
	s := m.table.At(i)
	rec := registry.Record{
		ID: i + 1, Path: m.table.Path(i), Settled: s.has(tenantSettled), TXID: s.txid,
		SyncedAt: s.SyncedAt(), State: uint8(s.state), ChangedAt: s.ChangedAt(),
		Due: m.upkeep.at(i), ProvenAt: m.catalog.at(i).proven.Time(), Drill: m.drill.found[i],
	}
	if s.has(tenantRecheck) {
		rec.State |= recordUnsure
	}
	if s.has(tenantDoomed) {
		rec.State |= recordDoomed
	}
	if s.has(tenantLost) {
		rec.State |= recordLost
	}
	if t, err := m.tenants().Lookup(rec.Path); err == nil {
		rec.Place = placeNumber(t.ReplicaPath)
	}
	rec.Fingerprint = m.table.Fingerprint(i)
	if s.state == TenantGone {
		rec.GoneAt = s.Since()
	}
	if f := m.reasons[i]; f != nil {
		rec.Reason = f.err.Error()
	}
	return rec
}

// Marks beside the state of a record.
const (
	recordUnsure = 0x80 // it was let go with an upload of unknown outcome
	recordDoomed = 0x40 // the deletion of its replica has begun
	recordLost   = 0x20 // another writer goes on with its replica
	recordMarks  = recordUnsure | recordDoomed | recordLost
)
