package litestream

import (
	"time"

	"github.com/benbjohnson/litestream/internal/knob"
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
func (s *Store) Tune(k knob.Store) { s.knobs = k }

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
