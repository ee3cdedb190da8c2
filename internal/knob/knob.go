// Package knob holds settings of the engine that only this module's tests
// change. The exported methods that take them are out of reach of other
// modules, which cannot name these types.
package knob

import "time"

// DB are the knobs of a database. A field that is zero leaves the default.
type DB struct {
	Now       func() time.Time // clock that files' ages are measured by
	RestAfter time.Duration    // untouched for so long, a database is closed
	RestBytes int64            // below this size; larger ones stay pinned
	BootID    [16]byte         // of the machine
}

// Store are the knobs of a store. A field that is zero leaves the default.
type Store struct {
	Now        func() time.Time // clock of retention and compaction
	Grace      time.Duration    // how long files outlive their promise
	RetryDelay time.Duration    // least pause after a failure

	LogInterval time.Duration // between two lines about a storage that comes and goes

	DirScanInterval time.Duration          // between scans of watched folders
	DirWatch        func(dir string) error // in place of the system's watches
}

// Fleet are the knobs of a fleet of databases. A field that is zero leaves the
// default.
type Fleet struct {
	Monitor  time.Duration // between two looks at a hot database
	Grace    time.Duration // how long files outlive their promise
	RetryMax time.Duration // longest pause after a failure
	BootID   [16]byte      // of the machine
	Catalog  time.Duration // least time between two writes of the catalog
}
