package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// dirSwap asks the monitor to go over to other folders.
type dirSwap struct {
	dirs    []*DirConfig
	leaving map[*dirDB]struct{}
	errs    []error
	done    chan<- error // buffered
}

// SetDirs changes the folders whose databases an open store replicates. An
// entry that stays is given as the same pointer, and its databases notice
// nothing; those of the others are synced a last time and closed, and what the
// new ones have is opened. It returns when that is done, or with ctx, after
// which it goes on by itself. The error tells of last syncs that failed. Calls
// must not overlap each other or Close.
func (s *Store) SetDirs(ctx context.Context, dirs []*DirConfig) error {
	if !s.isOpen() || s.cancel == nil {
		return fmt.Errorf("change directories: store: %w", os.ErrClosed)
	}
	m := s.dirs
	if m.stop == nil {
		m.start(ctx)
	}
	done := make(chan error, 1)
	select {
	case m.swaps <- &dirSwap{dirs: slices.Clone(dirs), leaving: make(map[*dirDB]struct{}), done: done}:
	case <-ctx.Done():
		return fmt.Errorf("change directories: %w", context.Cause(ctx))
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("change directories: %w", context.Cause(ctx))
	}
}

func (c *DirConfig) watched() bool { return c.Watch }

// change begins a swap. Databases that leave are closed beside it.
func (m *dirMonitor) change(ctx context.Context, swap *dirSwap) {
	if m.swap != nil { // nobody waits for it any more
		for d := range m.swap.leaving {
			swap.leaving[d] = struct{}{}
		}
	}
	old := m.dirs
	m.dirs, m.swap = swap.dirs, swap
	m.notePlaces()
	clear(m.refused)
	for _, d := range m.dbs {
		if slices.Contains(m.dirs, d.dir) {
			continue
		}
		swap.leaving[d] = struct{}{}
		if !d.leaving {
			m.release(d)
		}
	}
	m.watch.keep(func(dir string) bool {
		return slices.ContainsFunc(m.dirs, func(c *DirConfig) bool {
			return c.Watch && (dir == c.Path || c.Recursive && isBelow(c.Path, dir))
		})
	})
	if m.watch.watcher == nil && slices.ContainsFunc(m.dirs, (*DirConfig).watched) {
		m.watch.open()
	}
	for _, c := range m.dirs {
		if !slices.Contains(old, c) {
			m.scanBelow(ctx, c, c.Path)
		}
	}
	m.answer()
}

// ended reports whether a database left because of the swap.
func (s *dirSwap) ended(d *dirDB) bool {
	if s == nil {
		return false
	}
	_, ok := s.leaving[d]
	delete(s.leaving, d)
	if ok && d.err != nil && !errors.Is(d.err, fs.ErrNotExist) {
		s.errs = append(s.errs, fmt.Errorf("close database %s: %w", d.path, d.err))
	}
	return ok
}

// answer ends the swap once every database that leaves has been closed.
func (m *dirMonitor) answer() {
	if m.swap == nil || len(m.swap.leaving) > 0 {
		return
	}
	m.swap.done <- summarize(m.swap.errs)
	m.swap = nil
}
