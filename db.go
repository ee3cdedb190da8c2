package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/pagesum"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// A DB is one database under replication. It starts no goroutine: a Store, or
// a caller of Sync, drives it. The exported fields are settings; they must not
// change after Open. Its methods are safe for concurrent use.
type DB struct {
	// Replica is where the captured files go. It may be nil.
	Replica *Replica

	// MonitorInterval is the time between two looks at the database.
	MonitorInterval time.Duration
	// CheckpointInterval is how long the main file may rest behind the log
	// before a PASSIVE checkpoint; 0 turns this off.
	CheckpointInterval time.Duration
	// MinCheckpointPageN is the size of the log in pages from which on a
	// PASSIVE checkpoint is made.
	MinCheckpointPageN int
	// TruncatePageN is the size from which on a TRUNCATE checkpoint is made;
	// 0 or less turns this off.
	TruncatePageN int
	// BusyTimeout is how long SQLite waits for locks on our connections.
	BusyTimeout time.Duration
	// MaxSyncWALBytes splits the capture of a long log, at commits, into files
	// of about so many bytes of frames; 0 is no limit.
	MaxSyncWALBytes int64
	// Checksums makes increments carry the database checksum. Litestream v0.5
	// restores such files and cannot compact them.
	Checksums bool
	// AllowNetworkFS accepts a database on a network file system.
	AllowNetworkFS bool
	// Logger is where state changes are reported.
	Logger *slog.Logger

	path     string
	metaPath string
	knobs    dbKnobs

	// exec is held by whoever works on the database. It is a channel so that
	// waiting for it ends with a context.
	exec chan struct{}
	st   dbState // guarded by exec

	stage *stage // its own lock, a leaf

	mu     sync.Mutex // guards status; never held across I/O
	status DBStatus

	lost lostReplica

	onStaged func() // told after a file was staged; set by the Store
	metrics  *dbMetrics
	shared   *sharedState
	tenant   *tenantMode     // nil unless the database is one of a fleet
	staged   *ltxfile.Memory // small files of such a one
}

// dbKnobs are settings that tests change.
type dbKnobs struct {
	now func() time.Time
	// restAfter and restBytes: a database that nobody touched for this long
	// and that is smaller than this is unpinned and its connection closed.
	restAfter time.Duration
	restBytes int64
	bootID    [16]byte
}

// dbState is what the engine knows of a database. All of it is a cache of the
// replica and the live database.
type dbState struct {
	loaded bool
	closed bool
	txid   ltx.TXID        // newest captured transaction; 0 is none
	cursor wal.Cursor      // what txid covers
	ledger *pagesum.Ledger // page checksums at txid; nil if none are held
	handle *dbHandle       // nil while nothing is open
	// pinPlace says that handle counts among the databases that stay pinned.
	pinPlace bool
	inode    wal.FileID // of the file, claimed for this path
	// localFS is the inode that was found not to lie on a network file system.
	localFS wal.FileID
	seen    sqlitefile.Fingerprint
	// leftover is the log of a file that was replaced, while it lies unchanged
	// beside the new one.
	leftover wal.Print
	// below is the main file as it was when a view last read all of it, in a
	// database of a fleet.
	below   wal.Print
	settled bool // seen was older than the clock margin when it was taken
	// capturedFrom is the begin of the last look that captured everything.
	capturedFrom time.Time
	// lookAt is when a large uncommitted transaction is looked at again.
	lookAt time.Time
	// suspended says that staging is full: nothing is captured or pinned
	// until the replica takes files again.
	suspended   bool
	flushed     time.Time              // of the ledger, for local retention
	moved       int                    // optimistic looks that a new change disturbed, since the last good one
	disturbed   sqlitefile.Fingerprint // at the last of them
	disturbedAt time.Time

	ckpt checkpointState
	view tenantView // of one of a fleet
}

// NewDB returns a database with the default settings. It touches nothing.
func NewDB(path string) *DB {
	path = filepath.Clean(path)
	dir, file := filepath.Split(path)
	db := &DB{
		MonitorInterval:    DefaultMonitorInterval,
		CheckpointInterval: DefaultCheckpointInterval,
		MinCheckpointPageN: DefaultMinCheckpointPageN,
		TruncatePageN:      DefaultTruncatePageN,
		BusyTimeout:        DefaultBusyTimeout,
		MaxSyncWALBytes:    DefaultMaxSyncWALBytes,
		Logger:             slog.New(slog.DiscardHandler),
		path:               path,
		metaPath:           filepath.Join(dir, "."+file+MetaDirSuffix),
		exec:               make(chan struct{}, 1),
		knobs: dbKnobs{
			now: time.Now, restAfter: time.Minute, restBytes: 64 << 20, bootID: bootID(),
		},
	}
	db.stage = &stage{}
	db.status.State = SyncStateUnknown
	return db
}

// bootID is the same for as long as the process lives.
var bootID = sync.OnceValue(sqlitefile.BootID)

// MetaDirSuffix ends the name of a metadata directory, as in Litestream v0.5.
const MetaDirSuffix = "-litestream"

// Path returns the path of the database.
func (db *DB) Path() string { return db.path }

// MetaPath returns the metadata directory.
func (db *DB) MetaPath() string { return db.metaPath }

// SetMetaPath sets the metadata directory. It must be called before Open.
func (db *DB) SetMetaPath(path string) { db.metaPath = path }

// L0Dir returns the folder of the local level-0 files.
func (db *DB) L0Dir() string {
	if db.tenant != nil {
		return db.metaPath
	}
	return filepath.Join(db.metaPath, "ltx", "0")
}

// LedgerPath returns the file of the page ledger.
func (db *DB) LedgerPath() string {
	if db.tenant != nil {
		return db.tenantLedgerPath()
	}
	return LedgerPath(db.metaPath)
}

// LedgerPath returns the page ledger's file in a metadata directory. A restore
// that leaves a ledger there lets replication go on without a full copy.
func LedgerPath(metaPath string) string { return filepath.Join(metaPath, "ledger") }

// Open checks the settings. The database itself is looked at by Sync, so that
// one that is missing, locked or broken keeps no other from working.
func (db *DB) Open(context.Context) error {
	if db.MinCheckpointPageN <= 0 {
		return fmt.Errorf("min-checkpoint-page-count: must be positive (got %d)", db.MinCheckpointPageN)
	}
	return nil
}

// acquire waits for the right to work on the database.
func (db *DB) acquire(ctx context.Context) error {
	select {
	case db.exec <- struct{}{}:
	default:
		select {
		case db.exec <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("wait for database %s: %w", db.path, context.Cause(ctx))
		}
	}
	if db.st.closed {
		db.release()
		return fmt.Errorf("database %s: %w", db.path, os.ErrClosed)
	}
	return nil
}

func (db *DB) release() { <-db.exec }

// Close releases what is held open and writes the page ledger, so that the
// next start goes on where this one stopped. It does not sync. The log is left
// in place, as Litestream v0.5 leaves it.
func (db *DB) Close(ctx context.Context) error {
	if err := db.acquire(ctx); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		return err
	}
	defer db.release()
	if db.tenant != nil {
		return db.abandon()
	}
	db.st.closed = true
	err := db.closeHandle(true)
	if _, serr := os.Lstat(db.metaPath); db.st.ledger != nil && errors.Is(serr, fs.ErrNotExist) {
		err = errors.Join(err, db.dropLedger()) // its folder was deleted or renamed, as the database was
	} else if db.st.ledger != nil {
		err = errors.Join(err, db.saveLedger())
	}
	db.shared.releaseInode(db.st.inode, db.path)
	db.metrics.close()
	db.setState(SyncStateClosed, nil)
	return err
}

// closeHandle closes what is open of the database file.
func (db *DB) closeHandle(keepWAL bool) error {
	h := db.st.handle
	if h == nil {
		return nil
	}
	db.st.handle = nil
	if db.st.pinPlace {
		db.st.pinPlace = false
		db.shared.givePin()
	}
	err := h.close(keepWAL)
	db.publish()
	return err
}

// Pos returns the newest captured position. It is zero before the first
// capture and while the local state was not looked at.
func (db *DB) Pos() Pos {
	db.mu.Lock()
	defer db.mu.Unlock()
	return Pos{TXID: db.status.TXID}
}

// ltxDir returns the staging folder with the database's mode and owner.
func (db *DB) ltxDir() ltxfile.Dir {
	p := db.permissions()
	dir := ltxfile.New(db.L0Dir(), p.DirMode, p.Mode, p.UID, p.GID)
	if db.tenant != nil {
		return dir.Volatile().InMemory(db.staged)
	}
	return dir.Within(db.metaPath)
}

// permissions are those of the database, for the files that hold its content.
// Those of a fleet lie in a folder of our own, away from the database.
func (db *DB) permissions() FilePermissions {
	p := FilePermissions{Mode: 0o600, DirMode: 0o700, UID: -1, GID: -1}
	if db.tenant != nil {
		return p
	}
	if st, err := os.Stat(db.path); err == nil {
		p.Mode = st.Mode().Perm()
		p.UID, p.GID = fileOwner(st.Sys())
	}
	if st, err := os.Stat(filepath.Dir(db.path)); err == nil {
		p.DirMode = st.Mode().Perm()
	}
	return p
}
