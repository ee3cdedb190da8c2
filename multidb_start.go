package litestream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/benbjohnson/litestream/internal/registry"
)

// epochObject marks a replica, so that another one or an emptied one is known
// as such. No encoded path of a database begins like it
// (docs/formats/replica-paths.md).
const epochObject = "!litestream/epoch"

// Bounds of the first contact with the replica: until the next attempt, and of
// the one at the start, which keeps the control socket waiting.
const (
	bindTimeout      = 15 * time.Second
	startBindTimeout = 3 * time.Second
)

// bind makes sure that the registry is that of this replica, with one request.
func (m *MultiDBManager) bind(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	epoch, empty, err := m.epoch(ctx)
	if err != nil {
		return err
	}
	same, err := m.reg.Bind(ctx, m.identity(), epoch)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bound, m.empty, m.catalog.epoch = true, empty, epoch
	m.otherReplica = !same
	if !same {
		m.distrustLocked()
	}
	return nil
}

// identity is that of the folder of all replicas and the way they lie in it.
func (m *MultiDBManager) identity() [32]byte {
	root := ReplicaIdentity(m.clients.Root)
	return sha256.Sum256(append(root[:], m.cfg().ReplicaPath...))
}

// epoch returns the replica's mark, which it makes if there is none. empty says
// that nothing else was there then.
func (m *MultiDBManager) epoch(ctx context.Context) (epoch string, empty bool, err error) {
	oc, ok := m.clients.Root.(ObjectClient)
	if !ok {
		return "", false, nil
	}
	b, err := oc.ReadObject(ctx, epochObject)
	if err == nil {
		return strings.TrimSpace(string(b)), false, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("read the replica's epoch: %w", err)
	}
	if empty, err = oc.Empty(ctx); err != nil {
		return "", false, fmt.Errorf("look into the replica: %w", err)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	epoch = hex.EncodeToString(id[:])
	err = oc.WriteObject(ctx, epochObject, []byte(epoch+"\n"), true)
	if errors.Is(err, fs.ErrExist) { // somebody was faster
		b, err = oc.ReadObject(ctx, epochObject)
		return strings.TrimSpace(string(b)), false, err
	} else if err != nil {
		return "", false, fmt.Errorf("write the replica's epoch: %w", err)
	}
	return epoch, empty, nil
}

// rebind tries the first contact with the replica again.
func (m *MultiDBManager) rebind(ctx context.Context) {
	m.mu.Lock()
	due := !m.bound && !m.now().Before(m.bindAt)
	m.mu.Unlock()
	if !due {
		return
	}
	err := m.bind(ctx, bindTimeout)
	if err == nil {
		m.store.outages.succeeded(bindFailer, m.logger)
		if m.bindLog.Recovered() {
			m.logger.Info("the replica is reached")
		}
		m.checkCatalog()
		return
	}
	m.mu.Lock()
	m.bindAt = m.now().Add(m.bindDelay.Next())
	m.mu.Unlock()
	m.unbound(err)
}

// unbound logs why there was no first contact with the replica yet.
func (m *MultiDBManager) unbound(err error) {
	unbound := fmt.Errorf("nothing of multi-db is replicated until its replica was reached: %w", err)
	if !m.store.outages.failed(bindFailer, unbound, m.logger) && m.bindLog.Allow(err) {
		m.logger.Warn("the replica cannot be reached: nothing is replicated until it can", "error", err)
	}
}

// distrustLocked makes every record unknown: the replica is another one.
func (m *MultiDBManager) distrustLocked() {
	for i, s := range m.table.All() {
		s.txid, s.syncedAt, s.provenAt = 0, 0, 0
		if s.has(tenantLost) { // nobody else is there
			s.set(tenantLost, false)
			delete(m.reasons, i)
			s.state = TenantUnknown
		}
		m.upkeep.remove(i)
		m.catalog.drop(i)
		if s.state == TenantClean {
			s.state = TenantUnknown
		}
	}
}

// load fills the table from the registry.
func (m *MultiDBManager) load(ctx context.Context) error {
	info := m.reg.Info()
	m.sameBoot = info.SameBoot || info.Fresh
	if !m.tenants().distinct() {
		m.paths = make(map[uint64]uint32)
	}
	unwanted := make(map[uint32]string)
	m.mu.Lock()
	err := m.reg.Load(ctx, func(rec *registry.Record) error {
		if !m.loadLocked(rec, info, m.now()) {
			unwanted[rec.ID] = rec.Path
		}
		return nil
	})
	n := m.table.Len()
	m.mu.Unlock()
	if err != nil {
		return err
	}
	for id, path := range unwanted {
		m.reg.Delete(id)
		if err := removeTenantLedger(m.cfg().StateDir, path); err != nil {
			m.logger.Warn("remove page ledger of a forgotten database", "db", path, "error", err)
		}
	}
	if n > 0 {
		m.logger.Info("registry loaded", "databases", n, "clean_stop", info.Clean, "same_boot", info.SameBoot)
	}
	return nil
}

// loadLocked makes the record of one row. It is false for one that no pattern
// matches any more, or whose replica would lie elsewhere: what the row says is
// about the old place, and the scan finds the database as a new one.
func (m *MultiDBManager) loadLocked(rec *registry.Record, info registry.Info, now time.Time) bool {
	i := rec.ID - 1
	if rec.ID == 0 || m.table.AddAt(i, rec.Path) != nil {
		return false
	}
	t, err := m.tenants().Lookup(rec.Path)
	if errors.Is(err, ErrNoTenant) || err == nil && placeNumber(t.ReplicaPath) != rec.Place {
		m.table.Remove(i)
		return false
	}
	if err == nil {
		err = m.settleLocked(i, &t)
	}
	if err != nil {
		m.failLocked(i, &tenantFailure{err: err, lasting: true})
		return true
	}
	s := m.table.At(i)
	s.txid, s.changedAt, s.syncedAt = rec.TXID, secondsOf(rec.ChangedAt), secondsOf(rec.SyncedAt)
	s.set(tenantRecheck, !info.Clean || rec.State&recordUnsure != 0)
	if !rec.Due.IsZero() {
		m.upkeep.set(i, rec.Due)
	}
	if rec.TXID > 0 {
		files := m.decodeFiles(rec.Path, rec.Files)
		m.catalog.found(i, &files)
		m.loadDrillLocked(i, rec)
	}
	if rec.State&recordLost != 0 && !m.otherReplica {
		m.loseLocked(i, readReason(rec.Reason))
		return true
	}
	switch RecordedState(rec.State) {
	case TenantClean:
		if rec.TXID == 0 && rec.Fingerprint.Main.Size > 0 {
			return true
		}
		m.table.SetFingerprint(i, &rec.Fingerprint, rec.Settled)
		s.state = TenantClean
		if !info.SameBoot { // what was not synced may be gone
			m.enqueueLocked(i, queueFirst, now)
		}
	case TenantGone:
		s.state, s.since = TenantGone, secondsOf(rec.GoneAt)
		s.set(tenantDoomed, rec.State&recordDoomed != 0)
		m.upkeep.set(i, earliest(rec.Due, deletedDue(rec.GoneAt, m.cfg().DeletedRetention)))
		if s.has(tenantDoomed) {
			m.upkeep.set(i, now) // it was begun, and is gone on with whatever the settings are by now
		}
		s.set(tenantDeleted, true)
	default: // it is looked at as if it were new
	}
	return true
}
