package litestream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/benbjohnson/litestream/internal/scan"
)

// MultiDBSettings are the settings of a MultiDBManager that may change while it
// is open. MultiDBConfig and the manager's fields of the same names tell their
// meaning.
type MultiDBSettings struct {
	Patterns, Exclude []string

	MaxHotDatabases  int
	ScanInterval     time.Duration
	HotDuration      time.Duration
	DeletedRetention time.Duration
	Checksums        bool
	Drill            DrillConfig

	Levels            CompactionLevels
	SnapshotInterval  time.Duration
	SnapshotRetention time.Duration
	L0Retention       time.Duration
	RetentionEnabled  bool
}

// fleetSettings are replaced as a whole.
type fleetSettings struct {
	cfg      MultiDBConfig
	tenants  *TenantMap
	upkeeper *tenantMaintainer
}

func (m *MultiDBManager) cfg() *MultiDBConfig         { return &m.live.Load().cfg }
func (m *MultiDBManager) tenants() *TenantMap         { return m.live.Load().tenants }
func (m *MultiDBManager) upkeeper() *tenantMaintainer { return m.live.Load().upkeeper }

// fields returns the settings as the exported fields have them.
func (m *MultiDBManager) fields() *MultiDBSettings {
	return &MultiDBSettings{
		Levels: m.Levels, SnapshotInterval: m.SnapshotInterval, SnapshotRetention: m.SnapshotRetention,
		L0Retention: m.L0Retention, RetentionEnabled: m.RetentionEnabled,
	}
}

// settingsSwap asks the loop to change the settings.
type settingsSwap struct {
	to      *fleetSettings
	scanner *scan.Scanner   // nil: the patterns stay
	done    chan<- []string // databases that are in use and in the way
}

// CheckSettings returns why settings cannot be used, as far as that can be told
// before. It changes nothing.
func (m *MultiDBManager) CheckSettings(ctx context.Context, c MultiDBSettings) error {
	to, _, err := m.next(c)
	if err != nil {
		return err
	}
	return m.newCollisions(ctx, to.tenants)
}

// next returns what is in force after a change.
func (m *MultiDBManager) next(c MultiDBSettings) (*fleetSettings, *scan.Scanner, error) {
	if err := c.Levels.Validate(); err != nil {
		return nil, nil, err
	}
	from := m.live.Load()
	to := &fleetSettings{cfg: from.cfg, tenants: from.tenants}
	to.cfg.Patterns, to.cfg.Exclude = c.Patterns, c.Exclude
	to.cfg.MaxHotDatabases, to.cfg.ScanInterval, to.cfg.HotDuration = c.MaxHotDatabases, c.ScanInterval, c.HotDuration
	to.cfg.DeletedRetention, to.cfg.Checksums, to.cfg.Drill = c.DeletedRetention, c.Checksums, c.Drill
	if err := to.cfg.Validate(); err != nil {
		return nil, nil, err
	}
	to.upkeeper = m.maintainer(&c)
	if slices.Equal(from.cfg.Patterns, c.Patterns) && slices.Equal(from.cfg.Exclude, c.Exclude) {
		return to, nil, nil
	}
	var err error
	if to.tenants, err = NewTenantMap(to.cfg); err != nil {
		return nil, nil, err
	}
	scanner, err := to.tenants.scanner()
	return to, scanner, err
}

// newCollisions returns the databases, of those that are known, that would
// share a replica.
func (m *MultiDBManager) newCollisions(ctx context.Context, tenants *TenantMap) error {
	if tenants.distinct() {
		return nil
	}
	owners := make(map[string]string)
	var errs []error
	err := m.Tenants(ctx, 0, func(info TenantInfo, _ uint32) error {
		t, err := tenants.Lookup(info.Path)
		if err != nil {
			return nil //nolint:nilerr // it leaves, or fails by itself
		}
		if owner, ok := owners[t.ReplicaPath]; ok {
			errs = append(errs, fmt.Errorf("%s %w, %s", info.Path, errSamePath, owner))
		}
		owners[t.ReplicaPath] = info.Path
		return nil
	})
	return errors.Join(err, summarize(errs))
}

// ErrSettingsKept means that settings were not changed.
var ErrSettingsKept = errors.New("the settings stay as they were")

// stopPause is the pause after a try to let go of the databases that leave: one
// may be in use, or another one may have become hot meanwhile.
const stopPause = 100 * time.Millisecond

// Reconfigure changes the settings of an open manager. Databases that no
// pattern matches any more, or whose replica would lie elsewhere, are synced a
// last time and forgotten with their replicas left as they are: the latter are
// found again as new ones. All others stay as they are, hot ones too, and
// follow with their next promotion, look and maintenance. The scan that follows
// has ended when it returns.
//
// The error is ErrSettingsKept if settings cannot be used, or a database that
// leaves does not end: then nothing is changed. Any other one tells of last
// syncs that failed. Calls must not overlap.
func (m *MultiDBManager) Reconfigure(ctx context.Context, c MultiDBSettings) error {
	to, scanner, err := m.next(c)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSettingsKept, err)
	}
	if err := m.newCollisions(ctx, to.tenants); err != nil {
		return fmt.Errorf("%w: %w", ErrSettingsKept, err)
	}
	if scanner == nil {
		_, err := m.askSwap(ctx, settingsSwap{to: to})
		return err
	}
	patience, cancel := context.WithTimeout(ctx, m.stopTimeout())
	defer cancel()
	var stopped []string
	var syncErr error
	for {
		paths, err := m.stopLeavers(ctx, to.tenants)
		stopped, syncErr = append(stopped, paths...), errors.Join(syncErr, err)
		busy, err := m.askSwap(ctx, settingsSwap{to: to, scanner: scanner})
		if err == nil && len(busy) == 0 {
			return syncErr
		}
		if err == nil && wait(patience, stopPause) != nil {
			err = fmt.Errorf("%w: %s, and %d more databases that leave, are in use: try again", ErrSettingsKept, busy[0], len(busy)-1)
		}
		if err != nil {
			return errors.Join(err, syncErr, m.startAgain(context.WithoutCancel(ctx), stopped))
		}
	}
}

// askSwap has the loop change the settings.
func (m *MultiDBManager) askSwap(ctx context.Context, swap settingsSwap) (busy []string, err error) {
	closed := fmt.Errorf("%w: multi-db: %w", ErrSettingsKept, os.ErrClosed)
	if m.stop == nil {
		return nil, closed
	}
	done := make(chan []string, 1)
	swap.done = done
	select {
	case m.swapAsked <- swap:
		return <-done, nil
	case <-m.run.Done():
		return nil, closed
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrSettingsKept, context.Cause(ctx))
	}
}

// leaves reports whether a database is another one, or none, by other patterns.
func leaves(path string, from, to *TenantMap) bool {
	is, err := to.Lookup(path)
	if errors.Is(err, ErrNoTenant) {
		return true
	}
	was, werr := from.Lookup(path)
	return was.ReplicaPath != is.ReplicaPath || (err == nil) != (werr == nil)
}

// stopLeavers looks for changes, and syncs and stops the databases that leave
// and are not known to be replicated.
func (m *MultiDBManager) stopLeavers(ctx context.Context, to *TenantMap) (paths []string, err error) {
	scanned := make(chan struct{})
	select {
	case m.scanAsked <- scanned:
		<-scanned
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrSettingsKept, context.Cause(ctx))
	}
	from := m.tenants()
	err = m.Tenants(ctx, 0, func(info TenantInfo, _ uint32) error {
		if m.unsure(&info) && leaves(info.Path, from, to) {
			paths = append(paths, info.Path)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.stopTimeout())
	defer cancel()
	res := syncEach(context.WithoutCancel(ctx), paths, func(_ context.Context, path string) error {
		for {
			_, err := m.SyncTenant(ctx, path, true)
			if !errors.Is(err, errViewMoved) || wait(ctx, snapshotPause) != nil {
				break
			}
		}
		_, _, err := m.StopTenant(ctx, path)
		if errors.Is(err, ErrDatabaseNotFound) {
			return nil
		}
		return err
	})
	return paths, errors.Join(res.Errors...)
}

// stopTimeout bounds the last syncs of all databases that leave.
func (m *MultiDBManager) stopTimeout() time.Duration {
	return max(m.store.Settings().ShutdownSyncTimeout, time.Second)
}

// unsure reports whether a database may have something that its replica lacks.
func (m *MultiDBManager) unsure(info *TenantInfo) bool {
	switch info.State {
	case TenantUnknown, TenantQueued, TenantHot:
		return true
	case TenantFailed: // else it cannot be read, and nothing is gained by another try
		return !info.Stopped && failureClass(info.Err) == "replica"
	case TenantClean, TenantGone:
	}
	return false
}

// startAgain takes back that databases were stopped.
func (m *MultiDBManager) startAgain(ctx context.Context, paths []string) error {
	var errs []error
	for _, path := range paths {
		if _, _, err := m.StartTenant(ctx, path); err != nil {
			errs = append(errs, err)
		}
	}
	return summarize(errs)
}

// swap changes the settings, unless a database that leaves is in use: then it
// returns those. It runs on the loop, so that there is no scan meanwhile.
func (m *MultiDBManager) swap(to *fleetSettings, scanner *scan.Scanner) (busy []string) {
	var forgotten []string
	m.mu.Lock()
	if scanner != nil {
		if busy, forgotten = m.leaversLocked(to.tenants); len(busy) > 0 {
			m.mu.Unlock()
			return busy
		}
		for _, path := range forgotten {
			if i, ok := m.table.FindPath(path); ok {
				m.forgetLocked(i)
			}
		}
	}
	from := m.live.Swap(to)
	if from.cfg.Drill != to.cfg.Drill {
		m.drill.restart(from.cfg.Drill)
	}
	if scanner != nil {
		m.scanner = scanner
		m.scans.matches, m.scans.unmatched = nil, nil
		m.empty = false // what was forgotten has left files there, perhaps
		m.placeAllLocked()
	}
	if from.cfg.DeletedRetention != to.cfg.DeletedRetention {
		for i, s := range m.table.All() {
			if s.state == TenantGone {
				m.upkeep.set(i, earliest(m.upkeep.at(i), deletedDue(s.Since(), to.cfg.DeletedRetention)))
			}
		}
	}
	m.mu.Unlock()
	m.dropLedgers(forgotten)
	return nil
}

// leaversLocked returns the databases that leave: those that are in use, and
// the others, but for those whose replicas are being deleted.
func (m *MultiDBManager) leaversLocked(to *TenantMap) (busy, forgotten []string) {
	from := m.tenants()
	for i, s := range m.table.All() {
		path := m.table.Path(i)
		if !leaves(path, from, to) {
			continue
		}
		info := m.infoLocked(i, s)
		switch {
		case m.hot[i] != nil || m.unsure(&info) && !m.stopping:
			busy = append(busy, path)
		case s.has(tenantDoomed):
		default:
			forgotten = append(forgotten, path)
		}
	}
	return busy, forgotten
}

// placeAllLocked finds out where the replicas lie by other patterns. That of a
// database that stays is where it was.
func (m *MultiDBManager) placeAllLocked() {
	m.paths = nil
	if !m.tenants().distinct() {
		m.paths = make(map[uint64]uint32)
	}
	for i := range m.table.All() {
		if err := m.placeLocked(i); err != nil && m.hot[i] == nil && m.reasons[i] == nil {
			m.queue.Remove(i)
			m.failLocked(i, &tenantFailure{err: err, lasting: true})
		}
	}
}

// dropLedgers removes the page ledgers of databases that were forgotten.
func (m *MultiDBManager) dropLedgers(paths []string) {
	for _, path := range paths {
		if err := removeTenantLedger(m.cfg().StateDir, path); err != nil {
			m.logger.Warn("remove page ledger of a forgotten database", "db", path, "error", err)
		}
	}
	if n := len(paths); n > 0 {
		m.logger.Info("databases that no pattern matches any more, or another one, were let go: their replicas stay", "databases", n)
	}
}

// forgetUnmatched drops the record of a database that no pattern matches any
// more and that was left alone when they changed, because its replica was being
// deleted.
func (m *MultiDBManager) forgetUnmatched(i uint32, run *upkeepRun) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.underway[i] == run && m.hot[i] == nil {
		m.forgetLocked(i)
	}
}
