package litestream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/pagesum"
	"github.com/benbjohnson/litestream/internal/wal"
)

// SyncState says in one word how a database fares.
type SyncState string

// The states of a database.
const (
	SyncStateUnknown SyncState = "unknown" // not looked at yet
	SyncStateMissing SyncState = "missing" // there is no file
	SyncStateEmpty   SyncState = "empty"   // a file without pages
	SyncStateOK      SyncState = "ok"      // captured up to the last look
	SyncStateFailed  SyncState = "failed"  // see Err; it is tried again
	SyncStateClosed  SyncState = "closed"
)

// DBStatus is what a database says of itself without any I/O.
type DBStatus struct {
	State     SyncState
	Err       error
	TXID      ltx.TXID // newest captured transaction
	Acked     ltx.TXID // newest transaction that the replica acknowledged
	WALOffset int64    // end of the captured log in bytes
	Pinned    bool     // a read transaction is held
	Connected bool     // a connection is open
	Suspended bool     // staging is full
	CheckedAt time.Time
	ChangedAt time.Time // when the files were last touched, as of the last look that captured
	Settled   bool      // that was long enough ago to prove that nothing came after

	capturedFrom time.Time // begin of the last look that captured everything there was
}

// Status returns the state of the last look.
func (db *DB) Status() DBStatus {
	db.mu.Lock()
	defer db.mu.Unlock()
	s := db.status
	s.Acked = db.stage.ackedTXID()
	return s
}

// setState records the outcome of a look.
func (db *DB) setState(state SyncState, err error) {
	db.mu.Lock()
	db.status.State, db.status.Err = state, err
	db.status.CheckedAt = db.knobs.now()
	db.mu.Unlock()
	db.publish()
}

// publish copies what others may see of the state. The caller holds exec.
func (db *DB) publish() {
	h := db.st.handle
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.st.loaded || db.st.txid > 0 { // else it is what presume says
		db.status.TXID = db.st.txid
	}
	db.status.WALOffset = db.st.cursor.End()
	db.status.Pinned = h != nil && h.pinned
	db.status.Connected = h != nil && h.conn != nil
	db.status.Suspended = db.st.suspended
	db.status.Settled = db.st.settled
	db.status.capturedFrom = db.st.capturedFrom
	db.status.ChangedAt = time.Unix(0, max(db.st.seen.Main.Mtime, db.st.seen.WAL.Mtime))
}

// sharedState is what all databases of a process share. Nil shares nothing and
// bounds nothing.
type sharedState struct {
	ledgers *pagesum.Budget
	staged  *stageBudget
	inodes  *inodeTable
	pins    *pinLimit
}

// pinLimit bounds how many databases stay pinned between two looks: each costs
// four descriptors and the memory of a connection. It is safe for concurrent
// use; nil has no bound.
type pinLimit struct {
	left atomic.Int64
}

func newPinLimit(n int) *pinLimit {
	if n <= 0 {
		return nil
	}
	p := &pinLimit{}
	p.left.Store(int64(n))
	return p
}

// takePin reports whether one more database may stay pinned.
func (s *sharedState) takePin() bool {
	if s == nil || s.pins == nil {
		return true
	}
	if s.pins.left.Add(-1) >= 0 {
		return true
	}
	s.pins.left.Add(1)
	return false
}

// givePin gives a place back.
func (s *sharedState) givePin() {
	if s != nil && s.pins != nil {
		s.pins.left.Add(1)
	}
}

func (s *sharedState) claimInode(id wal.FileID, path string) error {
	if s == nil {
		return nil
	}
	return s.inodes.claim(id, path)
}

func (s *sharedState) releaseInode(id wal.FileID, path string) {
	if s != nil {
		s.inodes.release(id, path)
	}
}

func (s *sharedState) ledgerBudget() *pagesum.Budget {
	if s == nil {
		return nil
	}
	return s.ledgers
}

// metaMode is the mode of the metadata directory: that of the database's
// folder, as Litestream v0.5 does it.
func (db *DB) metaMode() os.FileMode {
	if db.tenant != nil {
		return 0o700
	}
	if st, err := os.Stat(filepath.Dir(db.path)); err == nil {
		return st.Mode().Perm()
	}
	return 0o700
}

// classifyIO gives "no space" its sentinel where it did not pass through the
// staging files.
func classifyIO(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

// roomReserve is left free on the staging file system, so that the application
// never sees a full disk because of us.
const roomReserve = 64 << 20

// smallCopy is a database of a fleet whose copy is staged without asking for
// room: what all of them stage together has a bound of its own.
const smallCopy = 1 << 20

// checkRoom refuses to stage a file of at most so many bytes where it would
// not fit. LTX files are compressed; half is a cautious guess that the write
// itself corrects.
func (db *DB) checkRoom(bytes int64) error {
	dir := db.metaPath
	if t := db.tenant; t != nil {
		if bytes <= smallCopy {
			return nil
		}
		dir = t.stateDir
	}
	free, err := ltxfile.FreeBytes(dir)
	if err != nil {
		return err
	}
	if need := min(bytes/2, 1<<40); free < need+min(roomReserve, bytes) {
		return fmt.Errorf("%w: staging a copy of %d bytes needs about %d, %s has %d free",
			ErrDiskFull, bytes, need, dir, free)
	}
	return nil
}

// fileOwner returns the owner from what stat gave.
func fileOwner(sys any) (uid, gid int) {
	if st, ok := sys.(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return -1, -1
}
