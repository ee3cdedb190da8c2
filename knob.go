package litestream

import (
	"time"

	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// Tune changes settings that exist for this module's tests. It must be called
// before Open.
func (db *DB) Tune(k knob.DB) {
	if k.Now != nil {
		db.knobs.now = k.Now
	}
	if k.RestAfter > 0 {
		db.knobs.restAfter = k.RestAfter
	}
	if k.RestBytes > 0 {
		db.knobs.restBytes = k.RestBytes
	}
	if k.BootID != [16]byte{} {
		db.knobs.bootID = k.BootID
	}
}

// Tune changes settings that exist for this module's tests. It must be called
// before Open.
func (s *Store) Tune(k knob.Store) {
	s.knobs = k
	s.outages.interval = k.LogInterval
}

// tuneCompactor passes the store's knobs on.
func (s *Store) tuneCompactor(c *Compactor) {
	if s.knobs.Now != nil {
		c.Now = s.knobs.Now
	}
	if s.knobs.Grace > 0 {
		c.Grace = s.knobs.Grace
	}
}

// minRetryDelay is the first pause after a failure.
func (s *Store) minRetryDelay(db *DB) time.Duration {
	if s.knobs.RetryDelay > 0 {
		return s.knobs.RetryDelay
	}
	return max(db.MonitorInterval, time.Second)
}

// Tune changes settings that exist for this module's tests. It must be called
// before Open.
func (m *MultiDBManager) Tune(k knob.Fleet) {
	m.knobs = k
	if k.RetryMax > 0 {
		m.bindDelay.Min, m.bindDelay.Max = min(m.bindDelay.Min, k.RetryMax), k.RetryMax
	}
}

// retryPause bounds a pause after a failure.
func (m *MultiDBManager) retryPause(d time.Duration) time.Duration {
	if m.knobs.RetryMax > 0 {
		return min(d, m.knobs.RetryMax)
	}
	return d
}

// bootID is that of the machine.
func (m *MultiDBManager) bootID() [16]byte {
	if m.knobs.BootID != [16]byte{} {
		return m.knobs.BootID
	}
	return sqlitefile.BootID()
}

// tuneTenant passes the fleet's knobs on.
func (m *MultiDBManager) tuneTenant(db *DB) {
	db.Tune(knob.DB{BootID: m.knobs.BootID})
	if m.knobs.Monitor > 0 {
		db.MonitorInterval = m.knobs.Monitor
	}
}
