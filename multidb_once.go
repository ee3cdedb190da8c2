package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
)

// failuresOnce returns the databases that a single pass could not replicate. A
// file without a page is none of them.
func (m *MultiDBManager) failuresOnce() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]uint32, 0, len(m.reasons))
	for i, f := range m.reasons {
		if !errors.Is(f.err, errNoPages) {
			ids = append(ids, i)
		}
	}
	slices.Sort(ids)
	errs := make([]error, 0, len(ids)+1)
	for _, i := range ids {
		errs = append(errs, fmt.Errorf("%s: %w", m.table.Path(i), m.reasons[i].err))
	}
	if m.scans.errorN > 0 {
		errs = append(errs, fmt.Errorf("%d files or directories could not be looked at: %w", m.scans.errorN, m.scans.errors[0]))
	}
	return summarize(errs)
}

// maintainAll takes a snapshot of every database, or enforces retention, as a
// single pass was asked to.
func (m *MultiDBManager) maintainAll(ctx context.Context, opt SyncOnceOptions) error {
	m.mu.Lock()
	var ids []uint32
	for i, s := range m.table.All() {
		if s.state == TenantClean && s.txid > 0 {
			ids = append(ids, i)
		}
	}
	m.stopping, m.ended = false, false // snapshots open databases again
	m.yield.Store(yieldAll)
	m.mu.Unlock()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards errs
		errs []error
	)
	for _, i := range ids {
		wg.Add(1)
		m.store.resources.Snapshots.Submit(SnapshotTask{Key: i, Kind: "once", Run: func(task context.Context) {
			defer wg.Done()
			task, cancel := context.WithCancel(task)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			if ctx.Err() != nil {
				return // said once, for all
			}
			if err := m.maintainOnce(task, i, opt); err != nil && !errors.Is(err, fs.ErrNotExist) {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		}})
	}
	wg.Wait()
	m.awaitIdle(ctx)
	return errors.Join(ctx.Err(), summarize(errs))
}

// awaitIdle waits until nothing is hot, or ctx is done.
func (m *MultiDBManager) awaitIdle(ctx context.Context) {
	idle := make(chan struct{})
	m.mu.Lock()
	m.stopping, m.idle = true, idle
	m.checkIdleLocked()
	m.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

func (m *MultiDBManager) maintainOnce(ctx context.Context, i uint32, opt SyncOnceOptions) error {
	if opt.ForceSnapshot {
		now := m.now()
		info, err := m.snapshotTenant(ctx, i)
		if err != nil {
			return err
		}
		if err := m.noteCold(ctx, i, func(f *tenantFiles) { f.noteSnapshot(info, now) }); err != nil {
			return err
		}
	}
	if opt.EnforceRetention {
		m.mu.Lock()
		run := m.beginUpkeepLocked(i)
		m.mu.Unlock()
		return m.maintain(ctx, i, run)
	}
	return nil
}
