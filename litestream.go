// Package litestream replicates SQLite databases continuously to object
// storage and restores them to any replicated point.
//
// A DB captures what each commit changed into LTX files, a Replica uploads
// them through a ReplicaClient, a Store schedules that work for many databases
// on bounded pools, and Restore rebuilds a database from a replica alone.
// docs/ARCHITECTURE.md tells the life of one commit from SQLite to storage.
package litestream

import (
	"time"

	"github.com/superfly/ltx"
)

// Levels of LTX files on a replica, as in Litestream v0.5. Level 0 holds one
// transaction per file, levels 1 to MaxCompactionLevel hold merged ranges and
// SnapshotLevel holds whole databases whose range begins at TXID 1.
const (
	MaxCompactionLevel = 8
	SnapshotLevel      = 9
)

// Defaults of a database, as in Litestream v0.5.
const (
	DefaultMonitorInterval    = 1 * time.Second
	DefaultCheckpointInterval = 1 * time.Minute
	DefaultBusyTimeout        = 1 * time.Second
	DefaultMinCheckpointPageN = 1000
	DefaultTruncatePageN      = 121359
	DefaultMaxSyncWALBytes    = 64 << 20
)

// Defaults of a replica, as in Litestream v0.5.
const (
	DefaultSyncInterval    = 1 * time.Second
	DefaultMaxSyncLTXFiles = 256
)

// Defaults of a store, as in Litestream v0.5.
const (
	DefaultSnapshotInterval         = 24 * time.Hour
	DefaultSnapshotRetention        = 24 * time.Hour
	DefaultL0Retention              = 5 * time.Minute
	DefaultL0RetentionCheckInterval = 15 * time.Second
	DefaultShutdownSyncTimeout      = 30 * time.Second
	DefaultShutdownSyncInterval     = 500 * time.Millisecond
	DefaultMaxStagedBytes           = 1 << 30
)

// WALHeaderSize and WALFrameHeaderSize are the fixed sizes of the write-ahead
// log's parts in bytes (SQLite file format, section 4.1).
const (
	WALHeaderSize      = 32
	WALFrameHeaderSize = 24
)

// Pos is a position in a database's replication: the TXID of its newest LTX
// file and, where checksums are kept, the database checksum after it.
type Pos = ltx.Pos
