package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/superfly/ltx"
)

// submit hands a task that is due to its pool.
func (s *Store) submit(m *managedDB, kind taskKind) {
	if kind != taskSync && kind != taskUpload && m.db.lostErr() != nil {
		return // the replica is another's; a takeover schedules them again
	}
	run := func(task func(context.Context, *managedDB)) func(context.Context) {
		return func(ctx context.Context) {
			if ctx, done, ok := m.beginTask(ctx, kind); ok {
				defer done()
				task(ctx, m)
			}
		}
	}
	switch kind {
	case taskSync:
		s.resources.Monitors.Submit(MonitorTask{Key: m, Run: run(s.runSync)})
	case taskUpload:
		s.resources.Replicas.Submit(ReplicaTask{Key: m, Run: run(s.runUpload)})
	case taskSnapshot:
		s.resources.Snapshots.Submit(SnapshotTask{Key: m, Kind: "snapshot", Run: run(s.runSnapshot)})
	case taskL0Retention:
		s.resources.Snapshots.Submit(SnapshotTask{Key: m, Kind: "l0-retention", Run: run(s.runL0Retention)})
	case taskValidate:
		s.resources.Snapshots.Submit(SnapshotTask{Key: m, Kind: "validate", Run: run(s.runValidation)})
	default:
		level := int(kind-taskCompact) + 1
		s.resources.Snapshots.Submit(SnapshotTask{
			Key: m, Kind: fmt.Sprintf("compact-%d", level),
			Run: run(func(ctx context.Context, m *managedDB) { s.runCompaction(ctx, m, level) }),
		})
	}
}

// runSync looks at a database and schedules the next look. While another look
// runs, as the one that follows a promotion may, that one will do.
func (s *Store) runSync(ctx context.Context, m *managedDB) {
	if !m.looking.CompareAndSwap(false, true) {
		return
	}
	defer m.looking.Store(false)
	start := time.Now()
	if m.tenant != nil && m.tenant.holds() {
		s.sched.at(start.Add(m.db.MonitorInterval), m, taskSync)
		return
	}
	if until, ok := m.holdBack(start); ok {
		s.sched.at(until, m, taskSync)
		return
	}
	err := m.db.Sync(ctx)
	if ctx.Err() != nil {
		return
	}
	s.report(m, &m.sync, err, "sync error", "sync recovered")
	next := start.Add(m.db.MonitorInterval)
	if err != nil {
		next = time.Now().Add(m.sync.delay.Next())
	} else {
		m.lookedAt.Store(start.UnixNano())
	}
	s.sched.at(next, m, taskSync)
	if m.tenant != nil {
		m.tenant.synced(err)
	}
}

// longestHold is how long a look waits at most for an upload.
const longestHold = time.Second

// holdBack reports whether a look has to wait, and until when at most, because
// files are captured faster than the storage takes them. Each of them costs
// this machine two fsyncs, which the uploads would wait for, and the replica
// would be further behind with every look. What is committed meanwhile goes
// along in the next file.
func (m *managedDB) holdBack(now time.Time) (until time.Time, ok bool) {
	until = time.Unix(0, m.lookedAt.Load()).Add(longestHold)
	if m.db.MonitorInterval >= longestHold || !now.Before(until) {
		return until, false
	}
	m.held.Store(true) // before the look at the queue: who empties it reads this after
	if m.db.stage.ahead() {
		return until, true
	}
	m.held.Store(false)
	return until, false
}

// resumeLook schedules the look that waited for an upload, if one does.
func (s *Store) resumeLook(m *managedDB) {
	if m.held.Load() && !m.db.stage.ahead() && m.held.CompareAndSwap(true, false) {
		s.sched.at(time.Unix(0, m.lookedAt.Load()).Add(m.db.MonitorInterval), m, taskSync)
	}
}

// report logs a failure, at once and then at intervals, and its end.
func (s *Store) report(m *managedDB, f *failures, err error, failed, recovered string) {
	if errors.Is(err, os.ErrClosed) {
		return // the store is being closed
	}
	if err == nil {
		f.delay.Reset()
	}
	if m.tenant != nil {
		return // the fleet tells of its databases together
	}
	// A validation that failed is tried again after hours.
	if f != &m.validate && s.outages.failed(failer{task: f}, err, m.db.Logger, "db", m.db.Path()) {
		return
	}
	if err == nil {
		s.outages.succeeded(failer{task: f}, m.db.Logger, "db", m.db.Path())
		if f.log.Recovered() {
			m.db.Logger.Info(recovered, "db", m.db.Path()) //nolint:sloglint // a constant of the caller
		}
		return
	}
	if f.log.Allow(err) {
		args := []any{"db", m.db.Path(), "error", err}
		if n := f.log.Suppressed(); n > 0 {
			args = append(args, "repeated", n)
		}
		m.db.Logger.Error(failed, args...) //nolint:sloglint // a constant of the caller
	}
}

// wantUpload schedules an upload, at most one in each sync interval. Where looks
// are no more frequent than that, they keep it by themselves; to wait for an
// interval from the end of the last upload on would only fall further behind
// with each of them.
func (s *Store) wantUpload(m *managedDB) {
	r := m.db.Replica
	if r == nil || m.uploadFailing.Load() {
		return // the retry is scheduled already
	}
	due := time.Now()
	paced := m.db.MonitorInterval > 0 && m.db.MonitorInterval >= r.SyncInterval
	if next := r.LastSyncAt().Add(r.SyncInterval); !paced && next.After(due) {
		due = next
	}
	s.sched.at(due, m, taskUpload)
}

// runUpload sends what is staged. It asks the storage first where it stands, if
// that is not known; the first look at the database, which waits for it, follows.
func (s *Store) runUpload(ctx context.Context, m *managedDB) {
	r := m.db.Replica
	first := r.awaited()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.uploads, cancel)() //nolint:contextcheck // it ends this task's own context
	err := r.Sync(ctx)
	if ctx.Err() != nil {
		return // the last sync reports what is left
	}
	s.resumeLook(m)
	s.report(m, &m.upload, err, "monitor error", "replica sync recovered")
	if first {
		s.contacted(m)
	}
	m.uploadFailing.Store(err != nil) // before the look at what is pending
	if err != nil {
		s.sched.at(time.Now().Add(m.upload.delay.Next()), m, taskUpload)
	} else if n, _ := m.db.stage.pending(); n > 0 {
		s.sched.at(time.Now().Add(r.SyncInterval), m, taskUpload)
	}
	if m.tenant != nil {
		m.tenant.uploaded(err)
	}
}

// contacted schedules what follows the first contact with the storage: the
// first look, and one look at each level, where files of an earlier run may
// wait.
func (s *Store) contacted(m *managedDB) {
	now := time.Now()
	if m.db.MonitorInterval > 0 {
		s.sched.at(now, m, taskSync)
	}
	if m.tenant == nil {
		s.scheduleLevel(m, 1)
	}
}

// uploaded is told of each level-0 file that the storage acknowledged.
func (s *Store) uploaded(m *managedDB, info *ltx.FileInfo) {
	m.compactor.NoteL0(info)
	s.resumeLook(m)
	s.scheduleLevel(m, 1)
	s.sched.at(time.Now(), m, taskSnapshot)
}

// scheduleLevel makes the compaction into a level due at its next boundary.
func (s *Store) scheduleLevel(m *managedDB, level int) {
	lvl := s.Settings().Levels.Level(level)
	if lvl == nil {
		return
	}
	s.sched.at(lvl.nextAt(time.Now(), phase(m.db.Path(), lvl.Interval)), m, taskCompact+taskKind(level-1))
}

// runCompaction merges into one level. Success makes the level above due.
func (s *Store) runCompaction(ctx context.Context, m *managedDB, level int) {
	if err := m.db.ensureMeta(); err != nil {
		s.maintenanceFailed(ctx, m, err, "compaction failed", taskCompact+taskKind(level-1))
		return
	}
	for ctx.Err() == nil && m.compactor.Due(level) {
		info, err := m.compactor.Compact(ctx, level)
		if errors.Is(err, ErrNoCompaction) {
			break
		} else if err != nil {
			s.maintenanceFailed(ctx, m, err, "compaction failed", taskCompact+taskKind(level-1))
			return
		}
		m.db.Logger.Info("compaction complete", "db", m.db.Path(), "level", level,
			slog.Group("txid", "min", info.MinTXID.String(), "max", info.MaxTXID.String()), "size", info.Size)
	}
	s.maintained(m, taskCompact+taskKind(level-1))
	s.scheduleLevel(m, level+1)
	if level == 1 {
		s.sched.at(time.Now(), m, taskL0Retention)
	}
}

// maintenanceFailed reports an error of the snapshot pool and tries again.
func (s *Store) maintenanceFailed(ctx context.Context, m *managedDB, err error, msg string, kind taskKind) {
	if ctx.Err() != nil {
		return
	}
	if !s.outages.failed(failer{task: &m.maintain, kind: kind}, err, m.db.Logger, "db", m.db.Path()) {
		s.report(m, &m.maintain, err, msg, "maintenance recovered")
	}
	s.sched.at(time.Now().Add(max(m.maintain.delay.Next(), time.Second)), m, kind)
}

// maintained reports a success of the snapshot pool.
func (s *Store) maintained(m *managedDB, kind taskKind) {
	s.outages.succeeded(failer{task: &m.maintain, kind: kind}, m.db.Logger, "db", m.db.Path())
	if kind >= taskCompact {
		s.report(m, &m.maintain, nil, "", "maintenance recovered")
	}
}

// runL0Retention deletes level-0 files that level 1 covers, and comes back
// while there are some that are only too young.
func (s *Store) runL0Retention(ctx context.Context, m *managedDB) {
	if err := m.db.flushLedger(ctx, s.Settings().L0Retention/2); err != nil {
		s.maintenanceFailed(ctx, m, err, "retention enforcement failed", taskL0Retention)
		return
	}
	n, err := m.compactor.EnforceL0Retention(ctx)
	if err != nil {
		s.maintenanceFailed(ctx, m, err, "retention enforcement failed", taskL0Retention)
		return
	}
	s.maintained(m, taskL0Retention)
	if n > 0 {
		m.db.Logger.Info("l0 retention enforced", "db", m.db.Path(), "files", n)
	}
	if at, ok := m.compactor.NextL0Retention(); ok {
		s.sched.at(at.Add(s.Settings().L0RetentionCheckInterval), m, taskL0Retention)
	}
}

// runSnapshot takes a snapshot if one is due, enforces retention, and
// schedules the next.
func (s *Store) runSnapshot(ctx context.Context, m *managedDB) {
	now, interval := time.Now(), s.Settings().SnapshotInterval
	due, err := m.compactor.SnapshotDue(ctx, m.db.stage.ackedTXID(), interval)
	if err == nil && due {
		err = s.snapshot(ctx, m)
	}
	if err == nil && due {
		_, err = m.compactor.EnforceSnapshotRetention(ctx)
	}
	disturbed := errors.Is(err, errViewMoved) && m.moved < movedTooOften
	if disturbed {
		m.moved++
	}
	if disturbed || errors.Is(err, errPositionGone) {
		s.sched.at(now.Add(time.Second), m, taskSnapshot)
		return
	} else if err != nil {
		s.maintenanceFailed(ctx, m, err, "snapshot failed", taskSnapshot)
		return
	}
	m.moved = 0
	s.maintained(m, taskSnapshot)
	lvl := CompactionLevel{Level: SnapshotLevel, Interval: interval}
	s.sched.at(lvl.nextAt(now, phase(m.db.Path(), interval)), m, taskSnapshot)
}

// errPositionGone means that the position of a staged snapshot never reached
// the replica.
var errPositionGone = errors.New("position of the snapshot was given up before it was sent")

// awaitPosition returns when the storage holds the snapshot's position. One
// that was dropped meanwhile, because staging was full or the replica's
// position was adopted, will stand for another state: a snapshot of it would
// spoil every restore that begins with it.
func (s *Store) awaitPosition(ctx context.Context, m *managedDB, snap *StagedSnapshot) error {
	for {
		if err := m.db.Replica.Sync(ctx); err != nil {
			return err
		}
		acked := m.db.stage.ackedTXID() // before the history is compared
		if m.db.stage.history() != snap.history {
			return errPositionGone
		}
		if acked >= snap.MaxTXID {
			return nil
		}
	}
}

// snapshot takes a snapshot of a database and uploads it.
func (s *Store) snapshot(ctx context.Context, m *managedDB) error {
	start := time.Now()
	err := s.writeSnapshot(ctx, m, func(txid ltx.TXID, r io.Reader) error {
		info, err := m.compactor.WriteSnapshot(ctx, txid, r)
		if err != nil {
			return err
		}
		m.db.Logger.Info("snapshot complete", "db", m.db.Path(), "txid", info.MaxTXID.String(),
			"size", info.Size, "duration", time.Since(start))
		return nil
	})
	if errors.Is(err, ErrNoPosition) {
		return nil
	}
	return err
}

// writeSnapshot stages a snapshot, waits until its position is on the storage,
// and hands it over.
func (s *Store) writeSnapshot(ctx context.Context, m *managedDB, write func(ltx.TXID, io.Reader) error) (err error) {
	snap, err := m.db.StageSnapshot(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	if err := s.awaitPosition(ctx, m, snap); err != nil {
		return err
	}
	f, err := snap.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(snap.MaxTXID, f)
}

// shutdown syncs and uploads a database for the last time and closes it.
func (s *Store) shutdown(ctx context.Context, m *managedDB) error {
	s.sched.remove(m)
	err := s.finalSync(ctx, m)
	return errors.Join(err, m.db.Close(ctx))
}

// finalSync brings everything to the storage, trying again until the timeout.
func (s *Store) finalSync(ctx context.Context, m *managedDB) error {
	r := m.db.Replica
	if r == nil {
		return m.db.SyncFully(ctx)
	}
	// What is captured is safe on this host, so that the storage's time does
	// not bound it.
	set := s.Settings()
	local, deadline := ctx, time.Now().Add(set.ShutdownSyncTimeout)
	if set.ShutdownSyncTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	if !r.asked() { // it says which position the first capture follows
		if err := r.Sync(ctx); err != nil {
			m.db.Logger.Debug("first contact failed", "db", m.db.Path(), "error", err)
			r.stopAsking()
		}
	}
	var err error
	for {
		captured := m.db.SyncFully(local)
		err = r.Sync(ctx)
		n, _ := m.db.stage.pending()
		if err == nil && (n > 0 || errors.Is(captured, errSuspended)) {
			continue // there is more, or room again for what was left out
		}
		if err == nil {
			return captured
		}
		if set.ShutdownSyncTimeout <= 0 || errors.Is(err, ErrSecondWriter) || time.Now().Add(set.ShutdownSyncInterval).After(deadline) ||
			wait(ctx, set.ShutdownSyncInterval) != nil {
			err = errors.Join(err, captured)
			break
		}
	}
	n, bytes := m.db.stage.pending()
	return fmt.Errorf("last sync of %s: %d files (%d bytes) are not on the replica; they stay in %s and are sent at the next start: %w",
		m.db.Path(), n, bytes, m.db.L0Dir(), err)
}

// SyncOnceOptions say what a single pass does beyond syncing.
type SyncOnceOptions struct {
	ForceSnapshot    bool
	EnforceRetention bool
}

// SyncOnce syncs and uploads every database once, without starting anything in
// the background. One that fails keeps no other from being synced. It is used
// in place of Open; Close releases what it left open.
func (s *Store) SyncOnce(ctx context.Context, opt SyncOnceOptions) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	var errs []error
	for _, db := range s.list {
		s.mu.Lock()
		m := s.dbs[db.Path()]
		s.mu.Unlock()
		errs = append(errs, s.once(ctx, m, opt))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(summarize(errs), s.dirs.failed())
}

func (s *Store) once(ctx context.Context, m *managedDB, opt SyncOnceOptions) error {
	if err := s.finalSync(ctx, m); err != nil {
		return err
	}
	switch m.db.Status().State {
	case SyncStateMissing:
		return fmt.Errorf("sync %s: %w", m.db.Path(), fs.ErrNotExist)
	case SyncStateEmpty:
		m.db.Logger.Warn("database has no pages yet, nothing was replicated", "db", m.db.Path())
		return nil
	default:
	}
	if m.compactor == nil {
		return nil
	}
	if opt.ForceSnapshot {
		if err := s.snapshot(ctx, m); err != nil {
			return err
		}
	}
	if opt.EnforceRetention {
		if _, err := m.compactor.EnforceSnapshotRetention(ctx); err != nil {
			return err
		}
	}
	return nil
}
