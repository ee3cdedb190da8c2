package litestream

import "time"

// SetClock replaces the clock that a database's age is measured by.
func (db *DB) SetClock(now func() time.Time) { db.knobs.now = now }
