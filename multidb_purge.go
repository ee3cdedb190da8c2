package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/benbjohnson/litestream/internal/registry"
)

// ErrNotPurgeable means that a database is in use, so that its replica is not
// deleted.
var ErrNotPurgeable = errors.New("the replica is not deleted")

// purgePause is the time between looks at whether a file's deletion was noticed.
const purgePause = 100 * time.Millisecond

// PurgeTenant deletes the replica of a database whose file was deleted, without
// waiting for deleted-retention, and forgets the database; its entry leaves the
// catalog with the next write. A file that is there is ErrNotPurgeable. So is a
// pattern that matches nothing, as if a volume was not mounted, unless force is
// set; with force the file may also be there, if StopTenant has stopped it: the
// next scan finds a new database then. A deletion that fails, or is cut off, is
// gone on with later.
func (m *MultiDBManager) PurgeTenant(ctx context.Context, path string, force bool) (*PurgeResult, error) {
	unlock, err := m.store.changing.lock(ctx, path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := m.tenants().Lookup(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
	client, err := m.client(&t)
	if err != nil {
		return nil, err
	}
	if err := m.checkPurge(path, t.Pattern, force); err != nil {
		return nil, err
	}
	i, known, err := m.awaitGone(ctx, path, force)
	if err != nil {
		return nil, err
	}
	if !known {
		return m.purgeUnknown(ctx, path, client)
	}
	m.mu.Lock()
	s := m.table.At(i)
	switch {
	case s == nil || m.table.Path(i) != path || !m.purgeableLocked(i, s, force):
		err = fmt.Errorf("%w: %s is replicated again", ErrNotPurgeable, path)
	case m.underway[i] != nil:
		err = fmt.Errorf("%w: maintenance of the replica of %s is under way: try again in a minute", ErrNotPurgeable, path)
	case !m.bound || m.stopping || m.ended:
		err = fmt.Errorf("%w: the daemon stops, or has not reached the replica yet", ErrNotPurgeable)
	}
	if err != nil {
		m.mu.Unlock()
		return nil, err
	}
	if s.state != TenantGone { // stopped: it is looked at like a deleted one from now on
		m.queue.Remove(i)
		delete(m.reasons, i)
		s.set(tenantStopped, false)
		s.state, s.changedAt, s.since = TenantGone, 0, secondsOf(m.now())
	}
	s.set(tenantDoomed, true)
	m.put(m.recordLocked(i), nil)
	run := m.beginUpkeepLocked(i)
	m.mu.Unlock()
	return m.purgeKnown(ctx, i, path, client, run)
}

// checkPurge refuses what looks like a mistake.
func (m *MultiDBManager) checkPurge(path string, pattern int, force bool) error {
	_, err := os.Lstat(path)
	switch {
	case err == nil && !force:
		return fmt.Errorf("%w: %s is there", ErrNotPurgeable, path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNotPurgeable, err)
	case !force && m.matchesNothing(pattern):
		return fmt.Errorf("%w: %w; -force deletes it all the same", ErrNotPurgeable, errPatternEmpty)
	default:
		return nil
	}
}

// purgeableLocked reports whether nobody writes to the replica of a database.
func (m *MultiDBManager) purgeableLocked(i uint32, s *DBState, force bool) bool {
	return m.hot[i] == nil && (s.state == TenantGone || force && s.has(tenantStopped))
}

// awaitGone waits until it was noticed that a file is gone. known is false if
// nothing is known of the database.
func (m *MultiDBManager) awaitGone(ctx context.Context, path string, force bool) (i uint32, known bool, err error) {
	scanned := make(chan struct{})
	select {
	case m.scanAsked <- scanned:
	case <-ctx.Done():
		return 0, false, context.Cause(ctx)
	}
	tick := time.NewTicker(purgePause)
	defer tick.Stop()
	for done := (<-chan struct{})(scanned); ; {
		select {
		case <-done:
			done = nil // a hot one is looked at once a second
		case <-tick.C:
		case <-ctx.Done():
			return 0, false, context.Cause(ctx)
		}
		if done != nil {
			continue
		}
		m.mu.Lock()
		i, known = m.table.FindPath(path)
		ready := !known || m.purgeableLocked(i, m.table.At(i), force)
		m.mu.Unlock()
		if ready {
			return i, known, nil
		} else if _, err := os.Lstat(path); err == nil {
			return 0, false, fmt.Errorf("%w: %s is there and replicated: stop it first, with litestream stop", ErrNotPurgeable, path)
		}
	}
}

// purgeKnown deletes a replica as maintenance of it.
func (m *MultiDBManager) purgeKnown(ctx context.Context, i uint32, path string, client ReplicaClient, run *upkeepRun) (*PurgeResult, error) {
	var res *PurgeResult
	var err error
	done := make(chan struct{})
	ok := m.store.resources.Snapshots.Submit(SnapshotTask{Key: run, Kind: "purge", Run: func(ctx context.Context) {
		defer close(done)
		res, err = m.purge(ctx, i, path, client, run)
	}})
	if !ok {
		return nil, fmt.Errorf("purge %s: %w", path, errStopped)
	}
	select {
	case <-done:
		return res, err
	case <-ctx.Done():
		return nil, fmt.Errorf("purge %s: %w", path, context.Cause(ctx))
	}
}

func (m *MultiDBManager) purge(ctx context.Context, i uint32, path string, client ReplicaClient, run *upkeepRun) (res *PurgeResult, err error) {
	if err = m.reg.Flush(ctx); err == nil { // a later process must know
		res, err = PurgeReplica(ctx, client)
	}
	if res != nil && err == nil {
		err = errors.Join(m.noteRemoval(path), removeTenantLedger(m.cfg().StateDir, path))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.underway[i] != run {
		return res, err // nobody else deletes it meanwhile
	}
	if err != nil {
		delete(m.underway, i)
		m.endUpkeepLocked(i, m.table.At(i), run, err)
		return res, err
	}
	m.catalog.remove(i, path)
	m.forgetLocked(i)
	m.logger.Info("replica of a deleted database was purged", "db", path, "objects", res.Objects(), "bytes", res.Bytes)
	return res, nil
}

// purgeUnknown deletes the replica of a database that only the catalog may know,
// because the state directory was lost since.
func (m *MultiDBManager) purgeUnknown(ctx context.Context, path string, client ReplicaClient) (*PurgeResult, error) {
	res, err := PurgeReplica(ctx, client)
	if err != nil {
		return res, err
	}
	err = errors.Join(m.noteRemoval(path), removeTenantLedger(m.cfg().StateDir, path))
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.table.FindPath(path); !ok {
		m.catalog.removeUnknown(path)
	}
	m.logger.Info("replica of a deleted database was purged", "db", path, "objects", res.Objects(), "bytes", res.Bytes)
	return res, err
}

// removeUnknown takes note that the replica of a database was deleted that only
// the catalog may know.
func (c *fleetCatalog) removeUnknown(path string) {
	if c.removed[path] != markDirty {
		c.dirty++
	}
	c.removed[path] = markDirty
	c.reload = true // else it stays among what a base keeps
}

// OfflinePurge is the purge of one database of a fleet whose daemon does not
// run. While it is open no daemon can be started with the state directory.
type OfflinePurge struct {
	reg      *registry.Registry // nil: nothing is known on this host
	stateDir string
	path     string
	rec      registry.Record // ID 0: there is none
}

// BeginOfflinePurge takes the state directory and notes that the deletion of a
// replica has begun. A directory that a daemon uses is registry.ErrLocked; one
// that holds nothing is not made.
func BeginOfflinePurge(ctx context.Context, stateDir, path string) (_ *OfflinePurge, err error) {
	p := &OfflinePurge{stateDir: stateDir, path: path}
	if _, err := os.Stat(filepath.Join(stateDir, registry.FileName)); errors.Is(err, fs.ErrNotExist) {
		return p, nil
	} else if err != nil {
		return nil, fmt.Errorf("look for the registry: %w", err)
	}
	p.reg, err = registry.Open(ctx, stateDir, registry.Options{KeepBoot: true})
	if err != nil {
		return nil, err
	}
	err = p.reg.Load(ctx, func(rec *registry.Record) error {
		if rec.Path == path {
			p.rec = *rec
		}
		return nil
	})
	if err == nil && p.rec.ID != 0 {
		now := time.Now()
		if p.rec.GoneAt.IsZero() {
			p.rec.GoneAt = now
		}
		p.rec.State = uint8(TenantGone) | recordDoomed
		p.rec.Due = now
		p.reg.Put(p.rec, nil)
		err = p.reg.Flush(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, p.reg.Close(ctx, false))
	}
	return p, nil
}

// End gives the state directory free. done says that the replica was deleted:
// then the database is forgotten. Without it a daemon goes on with the deletion.
func (p *OfflinePurge) End(ctx context.Context, done bool) error {
	if p.reg == nil {
		return nil
	}
	var err error
	if done {
		err = removeTenantLedger(p.stateDir, p.path)
		if p.rec.ID != 0 {
			p.reg.Delete(p.rec.ID)
		}
	}
	return errors.Join(err, p.reg.Close(ctx, p.reg.Info().Clean))
}
