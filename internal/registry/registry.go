// Package registry keeps the durable record of what was last replicated: one
// row for each database that the patterns of multi-db mode ever found, in one
// SQLite file in the state directory (docs/formats/registry.md).
//
// The registry is a cache. The replica and the live database are the truth; a
// registry that is lost costs one listing and one snapshot per database. So
// rows are queued and written in batches, commits are not synced one by one,
// and a file that is damaged is moved aside rather than repaired.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// Names in the state directory.
const (
	// FileName is the registry's SQLite file; its -wal and -shm lie beside it.
	FileName = "registry.db"

	// CorruptName is what a file that could not be used is renamed to. An
	// older one of that name is replaced.
	CorruptName = FileName + ".corrupt"

	// LockName is the file whose lock says that the directory is in use. It
	// holds the process id of its owner and is never removed.
	LockName = "lock"
)

var (
	// ErrLocked means that another registry has the directory open. The
	// wrapping error names its process.
	ErrLocked = errors.New("state directory is in use")

	// ErrClosed means that the registry was closed before the call.
	ErrClosed = errors.New("registry is closed")
)

// A Record is what the registry knows of one database.
type Record struct {
	// ID names the row. The caller gives it and keeps it as long as the row
	// lives. 0 is no valid ID.
	ID uint32

	// Path is absolute and may hold any bytes. The caller keeps it unique.
	Path string

	// Place is where on the replica the database lies, in the caller's terms.
	// What else is known of the replica is about that place.
	Place uint64

	// Fingerprint was taken before the last acknowledged capture.
	Fingerprint sqlitefile.Fingerprint
	// Settled says that the fingerprint was older than the clock margin then.
	Settled bool

	// TXID is the newest transaction that the replica acknowledged; 0: none.
	TXID ltx.TXID
	// SyncedAt is when it did.
	SyncedAt time.Time

	// Due is when maintenance has something to do; zero: never.
	Due time.Time
	// Files is what maintenance knows of the files on the replica. It is
	// opaque here, and at most MaxFilesBytes long.
	Files []byte

	// State is the owner's, Reason why the database failed.
	State  uint8
	Reason string

	// ChangedAt is the time of the oldest change that is not replicated;
	// zero: there is none.
	ChangedAt time.Time
	// GoneAt is when the file was found deleted; zero: it lies there.
	GoneAt time.Time

	// ProvenAt is when a drill last proved that the replica restores; zero:
	// never. Drill is what the last one found wrong, empty if nothing.
	ProvenAt time.Time
	Drill    string
}

// Options of a registry. The zero value is valid.
type Options struct {
	Logger *slog.Logger     // nil: silent
	Now    func() time.Time // nil: time.Now
	BootID [16]byte         // of the machine's boot; zero: not known

	// KeepBoot leaves the boot that is stored, for an owner that looks after none
	// of what a reboot may have lost.
	KeepBoot bool
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Info is what the registry says of itself, as it was found by Open.
type Info struct {
	Fresh    bool     // there was none, or none that could be used
	Clean    bool     // the last owner closed it after everything was resolved
	SameBoot bool     // the machine was not restarted since the last owner opened it
	Identity [32]byte // of the replica, as stored by Bind; zero: none yet
	Epoch    string   // of the replica, as stored by Bind

	// WrittenAt is the time of the last transaction.
	WrittenAt time.Time
}

// A Registry is the writing owner of a state directory. It is safe for
// concurrent use and has no goroutine: writes wait in a queue until Flush.
type Registry struct {
	dir  string
	opt  Options
	lock *os.File

	// wmu serialises writing, rmu reading; both are held across I/O and never
	// together. mu guards what follows it, is taken last and never held
	// across I/O.
	wmu sync.Mutex
	w   *writer // nil when closed
	rmu sync.Mutex
	r   *reads // nil when closed

	mu       sync.Mutex
	info     Info
	bound    bool // Identity and Epoch are stored
	queue    map[uint32]change
	inflight map[uint32]change // what Flush is writing
	summary  []byte            // nil: nothing queued
	closed   bool
}

// Open takes the state directory, which is made if it is missing, and opens
// the registry in it. From then on, until Close says otherwise, the last stop
// counts as unclean. A registry that cannot be used is moved aside with one
// log line and an empty one begun. A directory that another process holds is
// ErrLocked.
func Open(ctx context.Context, dir string, opt Options) (_ *Registry, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("resolve state directory: %w", err)
	}
	lock, err := takeLock(dir)
	if err != nil {
		return nil, err
	}
	r := &Registry{
		dir: dir, opt: opt.withDefaults(), lock: lock,
		queue: map[uint32]change{}, inflight: map[uint32]change{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.release())
		}
	}()
	path := r.path()
	_, statErr := os.Lstat(path)
	if err = r.open(ctx); err == nil && r.w.fresh && statErr == nil {
		r.opt.Logger.Warn("registry is empty, as a power cut may leave it: every database counts as unknown", "path", path)
	} else if errors.Is(err, errUnusable) {
		if merr := errors.Join(r.closeFiles(), moveAside(path)); merr != nil {
			return nil, fmt.Errorf("open registry %s: %w", path, errors.Join(err, merr))
		}
		r.opt.Logger.Warn("registry cannot be used and was moved aside: every database counts as unknown",
			"path", path, "moved_to", filepath.Join(dir, CorruptName), "error", err)
		err = r.open(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open registry %s: %w", path, err)
	}
	return r, nil
}

// open opens the file and begins to own it.
func (r *Registry) open(ctx context.Context) (err error) {
	if r.w, err = openWriter(ctx, r.path()); err != nil {
		return err
	}
	if r.r, err = openReads(r.path(), "mode=rw"); err != nil {
		return err
	}
	return r.begin(ctx)
}

func (r *Registry) path() string { return filepath.Join(r.dir, FileName) }

// begin reads what the last owner left and notes durably that this one is at
// work. The note is checkpointed too, so that it does not depend on the log.
func (r *Registry) begin(ctx context.Context) error {
	row, err := r.r.info(ctx)
	if err != nil {
		return err
	}
	r.info, r.bound = row.Info, row.bound
	r.info.Fresh = r.w.fresh
	r.info.SameBoot = row.boot == r.opt.BootID && row.boot != [16]byte{}
	boot := r.opt.BootID
	if r.opt.KeepBoot {
		boot = row.boot
	}
	err = r.w.durably(func() error {
		return r.w.run(ctx, setBegun, boot[:], r.opt.Now().UnixNano())
	})
	if err != nil {
		return fmt.Errorf("note that it is in use: %w", err)
	}
	return r.w.exec("PRAGMA wal_checkpoint(PASSIVE)")
}

// Info returns what Open found, and the identity and epoch that Bind stored.
func (r *Registry) Info() Info {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.info
}

// Bind says which replica the rows speak of. If it is not the stored one, all
// that rows know of a replica is emptied (position, fingerprint, ledger, files
// and due time; the rows stay), with one log line. It returns whether it was
// the stored one; for a registry that was never bound it was not.
func (r *Registry) Bind(ctx context.Context, identity [32]byte, epoch string) (same bool, err error) {
	r.wmu.Lock()
	defer r.wmu.Unlock()
	if r.w == nil {
		return false, fmt.Errorf("bind registry: %w", ErrClosed)
	}
	r.mu.Lock()
	stored, bound := r.info, r.bound
	r.mu.Unlock()
	if bound && stored.Identity == identity && stored.Epoch == epoch {
		return true, nil
	}
	if err := r.flushLocked(ctx); err != nil {
		return false, err
	}
	var n int
	err = r.w.tx(func() error {
		if n, err = r.w.forget(ctx); err != nil {
			return err
		}
		return r.w.run(ctx, setIdentity, identity[:], []byte(epoch), r.opt.Now().UnixNano())
	})
	if err != nil {
		return false, fmt.Errorf("bind registry %s to its replica: %w", r.path(), err)
	}
	r.mu.Lock()
	r.info.Identity, r.info.Epoch, r.bound = identity, epoch, true
	r.mu.Unlock()
	if n > 0 {
		r.opt.Logger.Warn("registry speaks of another replica, or of an emptied one: every database counts as unknown",
			"path", r.path(), "databases", n)
	}
	return false, nil
}

// Close writes what is queued and gives the directory free. With clean it
// stores durably that nothing is unresolved, unless writing failed. It may be
// called twice.
func (r *Registry) Close(ctx context.Context, clean bool) error {
	r.wmu.Lock()
	if r.w == nil {
		r.wmu.Unlock()
		return nil
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	err := r.flushLocked(ctx)
	if err == nil && clean {
		err = r.w.durably(func() error { return r.w.run(ctx, setClean, r.opt.Now().UnixNano()) })
		if err != nil {
			err = fmt.Errorf("note the clean stop in %s: %w", r.path(), err)
		}
	}
	r.wmu.Unlock()
	return errors.Join(err, r.release())
}

// release closes what Open opened; the lock goes last.
func (r *Registry) release() error {
	err := r.closeFiles()
	r.wmu.Lock()
	defer r.wmu.Unlock()
	if r.lock != nil {
		err = errors.Join(err, r.lock.Close())
		r.lock = nil
	}
	return err
}

// closeFiles closes the connections: the writer last, so that SQLite
// checkpoints and removes its log.
func (r *Registry) closeFiles() error {
	var errs []error
	r.rmu.Lock()
	if r.r != nil {
		errs = append(errs, r.r.close())
		r.r = nil
	}
	r.rmu.Unlock()
	r.wmu.Lock()
	defer r.wmu.Unlock()
	if r.w != nil {
		errs = append(errs, r.w.close())
		r.w = nil
	}
	return errors.Join(errs...)
}
