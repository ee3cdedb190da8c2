package litestream

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/superfly/ltx"
)

// A Replica is the copy of one database on one storage. It starts no
// goroutine: a Store, or a caller of Sync, drives it. The exported fields are
// settings; they must not change after the first use. Its methods are safe for
// concurrent use.
type Replica struct {
	// Client is the storage. It must be set.
	Client ReplicaClient
	// SyncInterval is the least time between two uploads.
	SyncInterval time.Duration
	// MaxSyncLTXFiles is how many files one call of Sync sends at most before
	// it looks at the clock and the context again; 0 is no limit.
	MaxSyncLTXFiles int
	// L0Retention is for how long files of level 0 are kept at least by whoever
	// writes to the storage; 0 stands for the default. That an upload which follows
	// the one before it sooner than half of that is not refused shows that nobody
	// else went on; behind a longer pause one small request does.
	L0Retention time.Duration
	// Logger is where state changes are reported.
	Logger *slog.Logger

	db         *DB
	onUploaded func(*ltx.FileInfo)          // told of each acknowledged file; set by the Store
	onAdopted  func()                       // told that the storage holds files of somebody else; set by the Store
	whoElse    func(context.Context) string // what is known of another writer, for people; may be nil

	l0Retention func() time.Duration // in place of L0Retention, which a reload does not reach; may be nil

	exec chan struct{} // held by whoever uploads

	mu         sync.Mutex // guards the rest; never held across I/O
	inited     bool
	tried      bool // the storage was asked for its position, with or without an answer
	positioned bool // and the local state was brought in line with the answer
	lastSync   time.Time
	provenAt   time.Time  // see proven
	last       ltx.Header // of the newest acknowledged file where the storage is unsure; zero: not known
	unsure     bool       // an upload of an earlier time may still arrive
	takingOver bool       // see takeOverNext
}

// NewReplica returns a replica of db without a client.
func NewReplica(db *DB) *Replica { return NewReplicaWithClient(db, nil) }

// NewReplicaWithClient returns a replica of db with the default settings.
func NewReplicaWithClient(db *DB, client ReplicaClient) *Replica {
	r := &Replica{
		Client: client, SyncInterval: DefaultSyncInterval, MaxSyncLTXFiles: DefaultMaxSyncLTXFiles,
		Logger: slog.New(slog.DiscardHandler), db: db, exec: make(chan struct{}, 1),
	}
	if db != nil {
		r.Logger = db.Logger
	}
	return r
}

// DB returns the database.
func (r *Replica) DB() *DB { return r.db }

// Location names the replica for people and logs.
func (r *Replica) Location() string {
	if l, ok := r.Client.(Locator); ok {
		return l.Location()
	}
	return r.Client.Type()
}

// Identity is a hash of the destination. A page ledger of another replica is
// not used.
func (r *Replica) Identity() [32]byte { return ReplicaIdentity(r.Client) }

// ReplicaIdentity returns the identity of a client's destination.
func ReplicaIdentity(c ReplicaClient) [32]byte {
	loc := c.Type()
	if l, ok := c.(Locator); ok {
		loc += "\n" + l.Location()
	}
	return sha256.Sum256([]byte(loc))
}

// asked reports whether the storage was asked for its position since the start.
// A storage that does not answer does not keep the database from being captured.
func (r *Replica) asked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tried
}

// awaited reports whether a capture that needs the storage's position waits for
// it. What is staged of a database of a fleet is worth nothing to a later
// process, so that one waits for the answer; others wait for the attempt.
func (r *Replica) awaited() bool {
	if r.db.tenant != nil {
		return !r.knows()
	}
	return !r.asked()
}

// stopAsking lets the database be captured without an answer of the storage.
func (r *Replica) stopAsking() {
	r.mu.Lock()
	r.tried = true
	r.mu.Unlock()
}

// trust takes the position that the database was given for the storage's own:
// the storage is not asked.
func (r *Replica) trust() {
	r.mu.Lock()
	r.tried, r.positioned, r.unsure = true, true, false
	r.mu.Unlock()
}

// knows reports whether the database's position was brought in line with the
// storage's.
func (r *Replica) knows() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.positioned
}

// LastSyncAt returns when everything that was staged had last been acknowledged.
func (r *Replica) LastSyncAt() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lastSync
}

// Pos returns the newest position that the storage acknowledged.
func (r *Replica) Pos() Pos { return Pos{TXID: r.db.stage.ackedTXID()} }

// init readies the client once.
func (r *Replica) init(ctx context.Context) error {
	r.mu.Lock()
	done := r.inited
	r.mu.Unlock()
	if done {
		return nil
	}
	if err := r.Client.Init(ctx); err != nil {
		return fmt.Errorf("init replica: %w", err)
	}
	r.mu.Lock()
	r.inited = true
	r.mu.Unlock()
	return nil
}

// Restore rebuilds the database from this replica. It is the package's function
// Restore in the form that programs written for Litestream v0.5 call.
func (r *Replica) Restore(ctx context.Context, opt RestoreOptions) error {
	if err := r.init(ctx); err != nil {
		return err
	}
	_, err := Restore(ctx, r.Client, opt)
	return err
}

// Sync sends every staged file, oldest first, and returns when the last one is
// acknowledged. The first call asks the storage where it stands.
func (r *Replica) Sync(ctx context.Context) error {
	select {
	case r.exec <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-r.exec }()
	err := r.sync(ctx)
	if err == nil {
		r.mu.Lock()
		r.lastSync = time.Now()
		r.mu.Unlock()
		return nil
	}
	return fmt.Errorf("replica of %s: %w", r.db.path, err)
}

func (r *Replica) sync(ctx context.Context) error {
	if err := r.db.lostErr(); err != nil {
		return err
	}
	if err := r.position(ctx); err != nil {
		return err
	}
	r.db.stage.sendAll(true)
	defer r.db.stage.sendAll(false)
	for n := 0; r.MaxSyncLTXFiles <= 0 || n < r.MaxSyncLTXFiles; n++ {
		f, ok := r.db.stage.begin()
		if !ok {
			return nil
		}
		if err := r.upload(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// upload sends one file, unless somebody else went on from where it begins.
// Where the storage can refuse to overwrite, a refusal is answered by comparing:
// the object may be ours, after a lost answer.
func (r *Replica) upload(ctx context.Context, f stagedFile) error {
	began := r.db.knobs.now()
	if err := r.checkLast(ctx, f); err != nil {
		return err
	}
	info, err := r.put(ctx, f.TXID)
	switch {
	case errors.Is(err, ErrLTXFileExists):
		same, cerr := r.sameFile(ctx, f.TXID)
		if cerr != nil {
			return fmt.Errorf("compare %s after a refused upload: %w", f.TXID, cerr)
		}
		if !same {
			return r.refused(ctx, f)
		}
		info = &ltx.FileInfo{MinTXID: f.TXID, MaxTXID: f.TXID, Size: f.Size, CreatedAt: r.db.knobs.now()}
	case errors.Is(err, errLocalFile):
		r.Logger.Error("a staged file is gone: going on behind the replica's position with a full copy",
			"db", r.db.path, "txid", f.TXID.String(), "error", err)
		r.unposition()
		return r.position(ctx)
	case err != nil:
		return err
	}
	if err := r.prove(ctx, f, began); err != nil {
		return err
	}
	r.keepLast(f.TXID)
	r.db.stage.ack(f.TXID)
	if r.onUploaded != nil {
		r.onUploaded(info)
	}
	if err := r.db.sent(f.TXID); err != nil {
		r.Logger.Warn("remove a sent file", "db", r.db.path, "error", err)
	}
	return nil
}

// errLocalFile means that a staged file is gone.
var errLocalFile = errors.New("staged file is gone")

func (r *Replica) put(ctx context.Context, txid ltx.TXID) (_ *ltx.FileInfo, err error) {
	file, err := r.db.ltxDir().Open(txid, txid)
	if errors.Is(err, ErrLTXFileNotFound) {
		return nil, fmt.Errorf("%w: %w", errLocalFile, err)
	} else if err != nil {
		return nil, err // such as no descriptor left; the file is still there
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if ew, ok := r.Client.(ExclusiveWriter); ok {
		return ew.WriteLTXFileExclusive(ctx, 0, txid, txid, file)
	}
	if _, err := r.header(ctx, txid); err == nil { // it would be overwritten
		return nil, fmt.Errorf("level-0 file %s: %w", txid, ErrLTXFileExists)
	} else if !errors.Is(err, ErrLTXFileNotFound) {
		return nil, err
	}
	return r.Client.WriteLTXFile(ctx, 0, txid, txid, file)
}

// sameFile reports whether the storage's level-0 file equals the local one. A
// local file that is missing equals nothing.
func (r *Replica) sameFile(ctx context.Context, txid ltx.TXID) (_ bool, err error) {
	local, err := r.db.ltxDir().Open(txid, txid)
	if errors.Is(err, ErrLTXFileNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, local.Close()) }()
	remote, err := r.Client.OpenLTXFile(ctx, 0, txid, txid, 0, 0)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, remote.Close()) }()
	return equalReaders(local, remote)
}

func equalReaders(a, b io.Reader) (bool, error) {
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		endA := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF)
		endB := errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)
		switch {
		case errA != nil && !endA:
			return false, errA
		case errB != nil && !endB:
			return false, errB
		case n != m || string(bufA[:n]) != string(bufB[:m]):
			return false, nil
		case endA || endB:
			return endA && endB, nil
		}
	}
}

// unposition makes the next sync ask the storage again.
func (r *Replica) unposition() {
	r.mu.Lock()
	r.positioned = false
	r.mu.Unlock()
}
