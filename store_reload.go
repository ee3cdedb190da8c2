package litestream

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// StoreSettings are the settings of a Store that may change while it is open.
// Its exported fields of the same names tell their meaning.
type StoreSettings struct {
	Levels                   CompactionLevels
	SnapshotInterval         time.Duration
	SnapshotRetention        time.Duration
	L0Retention              time.Duration
	L0RetentionCheckInterval time.Duration
	RetentionEnabled         bool
	ShutdownSyncTimeout      time.Duration
	ShutdownSyncInterval     time.Duration
}

// fields returns the settings as the exported fields have them.
func (s *Store) fields() *StoreSettings {
	return &StoreSettings{
		Levels: s.Levels, SnapshotInterval: s.SnapshotInterval, SnapshotRetention: s.SnapshotRetention,
		L0Retention: s.L0Retention, L0RetentionCheckInterval: s.L0RetentionCheckInterval,
		RetentionEnabled: s.RetentionEnabled, ShutdownSyncTimeout: s.ShutdownSyncTimeout,
		ShutdownSyncInterval: s.ShutdownSyncInterval,
	}
}

// Settings returns the settings in force. They must not be changed.
func (s *Store) Settings() *StoreSettings {
	if c := s.live.Load(); c != nil {
		return c
	}
	return s.fields()
}

// Reconfigure changes the settings of an open store. A database follows with
// its next maintenance, which a change of the schedule makes due; its position,
// and what is known of its replica, stay. The exported fields keep what Open
// found. Calls must not overlap.
func (s *Store) Reconfigure(c StoreSettings) error {
	if err := c.Levels.Validate(); err != nil {
		return fmt.Errorf("change settings: %w", err)
	}
	if !s.isOpen() {
		return fmt.Errorf("change settings: store: %w", os.ErrClosed)
	}
	old := s.Settings()
	s.live.Store(&c)
	for _, m := range s.listed() {
		if m.compactor == nil {
			continue
		}
		// Tasks of one database do not run at the same time: nobody reads the
		// settings meanwhile, but who holds the compactor's lock.
		s.resources.Snapshots.Submit(SnapshotTask{Key: m, Kind: "reconfigure", Run: func(context.Context) {
			m.compactor.reconfigure(s.Settings())
			s.reschedule(m, old)
		}})
	}
	return nil
}

// reconfigure takes over settings of the store.
func (c *Compactor) reconfigure(s *StoreSettings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Levels, c.L0Retention, c.SnapshotRetention = s.Levels, s.L0Retention, s.SnapshotRetention
	c.RetentionEnabled = s.RetentionEnabled
}

// reschedule makes due what other settings than the old ones may ask for. What
// was scheduled by those is looked at then, and found not to be due.
func (s *Store) reschedule(m *managedDB, old *StoreSettings) {
	c, now := s.Settings(), time.Now()
	if !slices.EqualFunc(old.Levels, c.Levels, func(a, b *CompactionLevel) bool { return *a == *b }) {
		for level := 1; level <= c.Levels.MaxLevel(); level++ {
			s.scheduleLevel(m, level)
		}
	}
	if old.SnapshotInterval != c.SnapshotInterval {
		s.sched.at(now, m, taskSnapshot)
	}
	if old.L0Retention != c.L0Retention || old.L0RetentionCheckInterval != c.L0RetentionCheckInterval || old.RetentionEnabled != c.RetentionEnabled {
		s.sched.at(now, m, taskL0Retention)
	}
}
