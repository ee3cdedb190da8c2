package litestream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/pagesum"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// tenantMode makes a DB one of a fleet of databases that belong to somebody
// else: it is never pinned, checkpointed or converted, nothing is put beside
// its file, and nothing of it is kept open between two looks. What stays of
// the local state while it is cold is the fleet's registry's. One value serves
// all databases of a fleet.
type tenantMode struct {
	connections *ConnectionPool       // for views that need a read transaction
	metrics     *AggregatedMetrics    // may be nil
	stateDir    string                // where everything lies that is staged
	staged      *ltxfile.MemoryBudget // of small files that are staged
	checkpoint  bool                  // PASSIVE, for applications that never checkpoint
	writer      uint64                // what its files say about who wrote them
}

// newTenantDB returns a database of a fleet with the default settings. It
// touches nothing. One of the seed methods follows, then Open.
func newTenantDB(path string, mode *tenantMode) *DB {
	db := NewDB(path)
	db.tenant = mode
	db.staged = ltxfile.NewMemory(mode.staged)
	db.metaPath = tenantMetaPath(mode.stateDir, db.path)
	return db
}

// stagingDir holds, below the state directory, what is captured and not yet
// acknowledged. It is volatile: no later process reads it.
const stagingDir = "staging"

// ledgersDir holds, below the state directory, the page ledgers that are too
// large for the registry. It tells by a hash which one it means.
const ledgersDir = "ledgers"

func (db *DB) tenantLedgerPath() string {
	return filepath.Join(db.tenant.stateDir, ledgersDir, tenantKey(db.path))
}

// removeTenantLedger removes the page ledger of a database that the registry
// forgets.
func removeTenantLedger(stateDir, path string) error {
	err := os.Remove(filepath.Join(stateDir, ledgersDir, tenantKey(path)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove page ledger: %w", err)
	}
	return nil
}

// tenantMetaPath is where a database of a fleet stages its files.
func tenantMetaPath(stateDir, path string) string {
	return filepath.Join(stateDir, stagingDir, tenantKey(path))
}

// tenantKey is a path below which a database of a fleet has its files: 256
// folders with one folder, or file, for each.
func tenantKey(path string) string {
	sum := sha256.Sum256([]byte(path))
	name := hex.EncodeToString(sum[:16])
	return filepath.Join(name[:2], name)
}

// sweepStaging throws away what an earlier process staged, and makes the
// folder. The replica and the live databases are the truth.
func sweepStaging(stateDir string) error {
	dir := filepath.Join(stateDir, stagingDir)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove staged files: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create staging folder: %w", err)
	}
	return nil
}

// seed gives a database of a fleet the state that the registry kept: the
// newest acknowledged position and the page ledger at it, nil if there is
// none. The storage is not asked for its position. A ledger that is of no use
// is dropped: the next capture is then a full copy. seed, or one of its
// variants, is called once, before anything else.
func (db *DB) seed(txid ltx.TXID, ledger []byte) error {
	if err := db.seedUnconfirmed(txid, ledger); err != nil {
		return err
	}
	if db.Replica != nil {
		db.Replica.trust()
	}
	return nil
}

// seedEmpty is seed for a database whose replica is known to hold nothing.
func (db *DB) seedEmpty() error { return db.seed(0, nil) }

// seedUnconfirmed is seed for a database of which the registry is not sure, or
// knows nothing (TXID 0): nothing is captured before the storage has told its
// position. If that is the registry's, the ledger stays good; if not, the
// storage's is adopted.
func (db *DB) seedUnconfirmed(txid ltx.TXID, ledger []byte) error {
	if db.st.loaded {
		return fmt.Errorf("seed database %s: it is in use already", db.path)
	}
	db.st.txid = txid
	db.stage.reset(txid, nil)
	if db.Replica != nil {
		db.Replica.unsure = true
	}
	db.seedLedger(ledger)
	db.st.loaded = true
	db.publish()
	return nil
}

// seedLedger decodes the registry's copy of the page ledger. Only one of
// exactly the seeded position on exactly this replica is used.
func (db *DB) seedLedger(b []byte) {
	if len(b) == 0 || db.st.txid == 0 {
		return
	}
	refuse := func(reason error) {
		db.Logger.Debug("page ledger is not used, the next capture is a full copy", "db", db.path, "error", reason)
	}
	l, err := pagesum.Unmarshal(b, db.LedgerPath())
	if err != nil {
		refuse(err)
		return
	}
	hdr := l.Header()
	if db.Replica != nil && hdr.Replica != db.Replica.Identity() {
		refuse(errors.New("it is of another replica"))
		return
	}
	if hdr.TXID != db.st.txid {
		refuse(fmt.Errorf("it is of %s, the newest acknowledged file of %s", hdr.TXID, db.st.txid))
		return
	}
	var cur wal.Cursor
	if cur.UnmarshalBinary(hdr.Meta) == nil && cur.BootID != [16]byte{} {
		db.st.cursor = cur
	}
	l.SetBudget(db.shared.ledgerBudget())
	db.st.ledger = l
}

// remember gives a seeded database the fingerprint that the registry kept with
// the position. settled says that an equal one proves that nothing changed.
func (db *DB) remember(fp sqlitefile.Fingerprint, settled bool) {
	db.st.seen, db.st.settled = fp, settled
	if settled {
		db.st.below = fp.Main
	}
	db.publish()
}

// lookBelow compares the main file with the page ledger where it was touched
// and the log tells of nothing. Mostly that is a checkpoint; but somebody may
// have copied another database over it. One that is large waits for the audit
// of its next snapshot.
func (db *DB) lookBelow(ctx context.Context, fp sqlitefile.Fingerprint, now time.Time) (err error) {
	if db.Status().State == SyncStateUnknown && fp == db.st.seen {
		db.setState(SyncStateOK, nil) // it is as the registry knows it
	}
	if fp != db.st.seen || db.lookedBelow() || !fp.Settled(now, clockMargin) {
		return nil
	}
	opened, err := db.openForCapture(fp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.afterCapture(opened)) }()
	return db.captureDiff(ctx, "main-touched")
}

// ownTouch takes over what our own connection did to the fingerprint: SQLite
// that runs as root gives a log that it opens to the owner of the database, and
// that moves its change time. A write would have moved more than that.
func (db *DB) ownTouch(fp sqlitefile.Fingerprint) error {
	if !db.st.view.connected || fp != db.st.seen {
		return nil
	}
	db.st.view.connected = false
	after, err := sqlitefile.Take(db.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the next look finds out
	} else if err != nil {
		return err
	}
	touched := after.WAL.Ctime
	after.WAL.Ctime = fp.WAL.Ctime
	if after == fp {
		db.st.seen.WAL.Ctime = touched
	}
	return nil
}

// lookedBelow reports whether nothing can have happened below the log that was
// not looked at.
func (db *DB) lookedBelow() bool {
	return !db.st.cursor.HasFrames() || db.st.below == db.st.seen.Main || db.st.seen.Main.Size >= db.knobs.restBytes
}

// tenantPosition is what a database of a fleet leaves behind for the registry.
type tenantPosition struct {
	TXID ltx.TXID // newest acknowledged
	// Ledger is the page ledger at TXID with the cursor, encoded; empty if there
	// is none, nil if the registry's copy stays.
	Ledger []byte
	// Seen is the fingerprint before the last capture, Settled says that it
	// was older than the clock margin then.
	Seen    sqlitefile.Fingerprint
	Settled bool
	// Covered says that the storage acknowledged everything captured. Without
	// it Ledger is nil, and Seen stands for nothing.
	Covered bool
}

// errNotCovered means that a database cannot be let go, because the storage
// has not acknowledged everything that was captured.
var errNotCovered = errors.New("not everything that was captured is acknowledged")

// positionLocked returns what the registry should know now. The caller holds
// exec.
func (db *DB) positionLocked() (tenantPosition, error) {
	p := tenantPosition{TXID: db.stage.ackedTXID(), Covered: db.covered()}
	if !p.Covered {
		return p, nil
	}
	p.Seen, p.Settled = db.st.seen, db.st.settled && db.lookedBelow()
	if l := db.st.ledger; l != nil && l.Header().TXID != p.TXID {
		return p, nil
	}
	p.Ledger = []byte{}
	if db.st.ledger == nil {
		return p, nil
	}
	b, err := db.marshalLedger()
	if err != nil {
		return p, db.rejectLedger(err)
	}
	p.Ledger = b
	return p, nil
}

func (db *DB) marshalLedger() ([]byte, error) {
	if err := db.stampLedger(); err != nil && !errors.Is(err, pagesum.ErrFlush) {
		return nil, err
	}
	return db.st.ledger.Marshal()
}

// sent removes a file of a fleet's database that was acknowledged.
func (db *DB) sent(txid ltx.TXID) error {
	if db.tenant == nil {
		return nil
	}
	return db.ltxDir().Remove(txid, txid)
}

// covered reports whether the storage acknowledged everything that was
// captured, and nothing was left out. The caller holds exec.
func (db *DB) covered() bool {
	n, _ := db.stage.pending()
	return n == 0 && !db.st.suspended && db.stage.ackedTXID() == db.st.txid
}

// demotable reports whether nothing happened to the database since the last
// capture began, and the storage holds all of it. It stats two files at most,
// and is false while somebody works on the database.
func (db *DB) demotable() bool {
	select {
	case db.exec <- struct{}{}:
		defer db.release()
	default:
		return false
	}
	if db.st.closed || !db.covered() {
		return false
	}
	fp, err := sqlitefile.Take(db.path)
	return err == nil && fp == db.st.seen && db.lookedBelow()
}

// detach closes a database of a fleet of which the storage holds everything,
// and returns what the registry keeps of it. Nothing of it is left on disk or
// in memory. errNotCovered leaves it open.
func (db *DB) detach(ctx context.Context) (tenantPosition, error) {
	if err := db.acquire(ctx); err != nil {
		return tenantPosition{}, err
	}
	defer db.release()
	p, err := db.positionLocked()
	if err == nil && !p.Covered {
		err = errNotCovered
	}
	if err != nil {
		return p, fmt.Errorf("let go of database %s: %w", db.path, err)
	}
	return p, db.abandon()
}

// discard is abandon for whoever does not work on the database already.
func (db *DB) discard(ctx context.Context) error {
	if err := db.acquire(ctx); err != nil {
		return err
	}
	defer db.release()
	return db.abandon()
}

// scratchDir is where what is merged for the replicas of a fleet is staged.
func (t *tenantMode) scratchDir() string { return filepath.Join(t.stateDir, stagingDir) }

// abandon closes a database of a fleet and throws away what is staged of it.
// What was captured and not acknowledged is captured again after a seed: with
// seedUnconfirmed, because the storage may hold it all the same.
func (db *DB) abandon() error {
	db.st.closed = true
	err := db.closeHandle(true)
	if db.st.ledger != nil {
		db.st.ledger.Discard()
		db.st.ledger = nil
	}
	db.stage.reset(db.stage.ackedTXID(), nil)
	err = errors.Join(err, db.ltxDir().RemoveAll())
	db.shared.releaseInode(db.st.inode, db.path)
	db.setState(SyncStateClosed, nil)
	if rerr := syscall.Rmdir(db.metaPath); rerr == nil || errors.Is(rerr, os.ErrNotExist) {
		return err
	}
	return errors.Join(err, os.RemoveAll(db.metaPath)) // such as a snapshot that is being uploaded
}
