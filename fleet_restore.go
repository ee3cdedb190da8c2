package litestream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"
)

// DefaultFleetRestoreParallelism is how many requests a fleet restore has in
// flight.
const DefaultFleetRestoreParallelism = 32

// FleetRestoreJournalName is the folder below the root in which a fleet restore
// keeps its journal. A scan of multi-db takes it for no place of databases.
const FleetRestoreJournalName = ".restore-litestream"

// FleetRestoreEntry is a database that a fleet restore is asked to restore.
type FleetRestoreEntry struct {
	// Path is where the database was: absolute, or relative to the root.
	Path string

	// Replica tells Open where the replica is; it is not looked at otherwise.
	Replica string

	// TXID is the newest position that the source knows of; 0: unknown. A
	// replica that ends before it is restored, with a warning.
	TXID ltx.TXID

	SyncedAt  time.Time // of that position; zero: unknown
	DeletedAt time.Time // when the database's deletion was seen; zero: it is there
	Size      int64     // of the database, bytes; 0: unknown

	// Mode, UID and GID are those of the file, if HasOwner is set.
	HasOwner bool
	Mode     fs.FileMode
	UID, GID int

	// Foreign says that the replica may be one of Litestream v0.3, which costs
	// a request more to find out.
	Foreign bool

	// Problem, if set, is why the entry cannot be restored. It is reported as
	// a failure.
	Problem string
}

// FleetRestoreOrder is the order in which databases are restored.
type FleetRestoreOrder string

// Orders of a fleet restore. What is equal is in the order of the source.
const (
	FleetRestoreByName   FleetRestoreOrder = "name"
	FleetRestoreBySize   FleetRestoreOrder = "small"  // small ones first, then those of unknown size
	FleetRestoreByRecent FleetRestoreOrder = "recent" // those that were written to last first
)

// ParseFleetRestoreOrder reads the name of an order.
func ParseFleetRestoreOrder(s string) (FleetRestoreOrder, error) {
	switch o := FleetRestoreOrder(s); o {
	case FleetRestoreByName, FleetRestoreBySize, FleetRestoreByRecent:
		return o, nil
	default:
		return "", fmt.Errorf("invalid order %q, want small, recent or name", s)
	}
}

// FleetRestoreExisting says what is done about a database whose file is there
// and which this restore did not put there.
type FleetRestoreExisting int

// What is done about files that are there.
const (
	FleetRestoreRefuse  FleetRestoreExisting = iota // a failure
	FleetRestoreSkip                                // left alone, no failure
	FleetRestoreReplace                             // replaced when the new one is complete
)

// FleetRestoreOptions says what to restore and where.
type FleetRestoreOptions struct {
	// Root is the folder that everything goes below; required. Nothing is
	// written outside of it, whatever the entries and the links below it say.
	// "/" puts absolute paths where they were.
	Root string

	// JournalDir is the folder of the journal by which a restore that was
	// interrupted goes on; empty: FleetRestoreJournalName below Root.
	JournalDir string

	// Source names where the entries come from. A journal of another source,
	// or of another Timestamp, is refused.
	Source string

	// Entries are the databases. Required; an error ends the restore before it
	// begins.
	Entries iter.Seq2[*FleetRestoreEntry, error]

	// Open returns the client of a database's replica. Required, and safe for
	// concurrent use.
	Open func(*FleetRestoreEntry) (ReplicaClient, error)

	// Lister, if set, is a client of the folder that the Replica of entries is
	// relative to, where it is not Foreign: most of a fleet is listed by it.
	Lister RangeLister

	// Match chooses entries; nil: all.
	Match func(*FleetRestoreEntry) bool

	// Deleted includes databases whose deletion is known. With a Timestamp
	// those that were deleted later are included anyway.
	Deleted bool

	Timestamp time.Time // the moment before which everything restored was created; zero: newest
	Order     FleetRestoreOrder
	Existing  FleetRestoreExisting

	// AllowMissing makes a database without a backup for the request none of
	// the failures.
	AllowMissing bool

	// Parallelism is how many requests are in flight altogether; 0 means
	// DefaultFleetRestoreParallelism. Memory grows with it, by some 10 MiB for
	// each large database at a time.
	Parallelism int

	// Reserve is how many bytes stay free on each file system; 0 means 1 % of
	// it, and at least 64 MiB.
	Reserve int64

	IntegrityCheck IntegrityCheckMode

	// Ledger, if set, returns where the page ledger of a database goes, so that
	// its next capture is not a full one, and the identity of the replica it
	// stands for. An empty path: the database gets none.
	Ledger func(e *FleetRestoreEntry, client ReplicaClient) (path string, replica [32]byte)

	// Report, if set, is told the outcome of each database, from one
	// goroutine at a time and in no order. It must not block for long.
	Report func(*FleetRestoreRow)

	// Logger receives what is not about one database; nil discards it.
	Logger *slog.Logger

	knobs fleetRestoreKnobs
}

// fleetRestoreKnobs are what only tests change.
type fleetRestoreKnobs struct {
	space  func(f *os.File) (fleetSpace, error)
	linger time.Duration
	step   func(name string)
}

// FleetRestoreStatus is the outcome of one database.
type FleetRestoreStatus string

// Outcomes. Restored and verified databases are there; skipped ones are no
// failure.
const (
	FleetRestored        FleetRestoreStatus = "restored"
	FleetRestoreVerified FleetRestoreStatus = "verified" // an earlier run restored it, and its checksum is right
	FleetRestoreSkipped  FleetRestoreStatus = "skipped"
	FleetRestoreRefused  FleetRestoreStatus = "refused" // a file is there
	FleetRestoreFailed   FleetRestoreStatus = "failed"
	FleetRestoreLeft     FleetRestoreStatus = "left" // not tried: the restore ended before
)

// FleetRestoreRow is the outcome of one database.
type FleetRestoreRow struct {
	Path   string // of the entry
	Target string // where it is put
	Status FleetRestoreStatus

	TXID      ltx.TXID
	Timestamp time.Time // of the restored state
	Bytes     int64     // size of the database
	SHA256    string    // of the file, hexadecimal
	Duration  time.Duration

	Err     error  // why it is not there
	Warning string // what is not as it was
	Behind  bool   // it is older than the newest state that is known of
}

// warn adds to what is not as it was.
func (row *FleetRestoreRow) warn(format string, args ...any) {
	if row.Warning != "" {
		row.Warning += "; "
	}
	row.Warning += fmt.Sprintf(format, args...)
}

// FleetRestoreSummary counts outcomes.
type FleetRestoreSummary struct {
	Total    int
	Restored int
	Verified int
	Skipped  int
	Refused  int
	Failed   int
	Left     int
	Warnings int
	Behind   int   // databases that are there, but older than the newest state that is known of
	Bytes    int64 // of restored databases

	// Stopped is why the restore ended before its end: a disk without room, a
	// storage that refuses, or the end of the context; nil: it did not.
	Stopped error

	// First is the first failure, of FirstPath.
	First     error
	FirstPath string
}

// Done is how many databases are there.
func (s *FleetRestoreSummary) Done() int { return s.Restored + s.Verified }

// FleetRestoreProgress is a moment of a fleet restore.
type FleetRestoreProgress struct {
	Total, Finished, Failed int   // databases
	Bytes                   int64 // of databases that are there
	TotalBytes              int64 // of all databases whose size is known
	UnknownSizes            int   // databases whose size is not
	Deleted                 int   // databases left out because their file was deleted
}

// FleetRestore restores many databases in one process. It is made by
// NewFleetRestore; Load and then Run or Rows are called once, by one goroutine.
//
// What it holds in memory does not depend on the databases: 32 bytes for each
// one, 16 for each one that an earlier run has restored, and what
// FleetRestoreOptions.Parallelism says. The entries, and the lists of their
// files, lie in temporary files.
//
// A database gets its name only when it is complete, its checksums are right
// and its content is on the disk. Databases are synced in groups: that a group
// is written down in the journal before its files get their names is why a run
// that was killed at any moment can be told from a file of somebody else.
type FleetRestore struct {
	opt     FleetRestoreOptions
	root    string // absolute
	spool   *fleetSpool
	items   []fleetItem
	tree    *fleetTree
	journal *fleetJournal
	run     string // names the temporary files of this run
	space   *fleetAccount
	tokens  chan struct{} // one for each request that may be in flight

	seen     int      // entries of the source
	listable int      // items that Lister can list
	borders  []string // replicas that are fleetRange of them apart
	lists    *fleetLists

	next     atomic.Int64 // of items
	stop     context.CancelCauseFunc
	placed   chan *fleetPlaced
	refusals atomic.Int64

	finished, failed, bytes atomic.Int64
	totalBytes              int64
	unknownSizes            int
	deleted                 int // left out

	mu      sync.Mutex // guards summary, and calls of Report
	summary FleetRestoreSummary
}

// NewFleetRestore checks the options. It touches nothing.
func NewFleetRestore(opt FleetRestoreOptions) (*FleetRestore, error) {
	if opt.Root == "" || opt.Entries == nil || opt.Open == nil {
		return nil, errors.New("restore fleet: root, entries and open are required")
	}
	root, err := filepath.Abs(opt.Root)
	if err != nil {
		return nil, fmt.Errorf("restore fleet: %w", err)
	}
	if opt.Parallelism <= 0 {
		opt.Parallelism = DefaultFleetRestoreParallelism
	}
	if opt.Order == "" {
		opt.Order = FleetRestoreByName
	}
	if opt.JournalDir == "" {
		opt.JournalDir = filepath.Join(root, FleetRestoreJournalName)
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.knobs.space == nil {
		opt.knobs.space = freeSpace
	}
	if opt.knobs.linger == 0 {
		opt.knobs.linger = 100 * time.Millisecond
	}
	if opt.knobs.step == nil {
		opt.knobs.step = func(string) {}
	}
	return &FleetRestore{opt: opt, root: root}, nil
}

// Load reads the entries and puts those that match in order. It writes nothing
// below the root.
func (r *FleetRestore) Load(ctx context.Context) (err error) {
	if r.spool, err = newFleetSpool(); err != nil {
		return err
	}
	for e, err := range r.opt.Entries {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.seen++
		if r.opt.Match != nil && !r.opt.Match(e) {
			continue
		}
		if r.opt.leavesOut(e) {
			r.deleted++
			continue
		}
		if e.Problem == "" {
			if _, err := fleetTarget(e.Path); err != nil {
				e.Problem = err.Error()
			}
		}
		r.sampleReplica(e)
		off, err := r.spool.append(e)
		if err != nil {
			return err
		}
		r.items = append(r.items, fleetItem{offset: off, key: fleetKey(e, r.opt.Order), hash: fleetHash(e.Path)})
		r.countSize(e, 1)
	}
	if err := r.spool.flush(); err != nil {
		return err
	}
	if err := r.findDoubles(); err != nil {
		return err
	}
	sortFleet(r.items)
	r.summary.Total = len(r.items)
	return nil
}

// Close forgets the entries.
func (r *FleetRestore) Close() error {
	if r.spool == nil {
		return nil
	}
	return errors.Join(r.spool.Close(), r.lists.Close())
}

// Progress tells how far Run is. It may be called at any time after Load, by
// any goroutine.
func (r *FleetRestore) Progress() FleetRestoreProgress {
	return FleetRestoreProgress{
		Total: len(r.items), Finished: int(r.finished.Load()), Failed: int(r.failed.Load()),
		Bytes: r.bytes.Load(), TotalBytes: r.totalBytes, UnknownSizes: r.unknownSizes, Deleted: r.deleted,
	}
}

// Rows calls fn for what Run would restore, in its order, until it returns
// false.
func (r *FleetRestore) Rows(fn func(e *FleetRestoreEntry, target string) bool) error {
	for _, it := range r.items {
		e, err := r.entry(it)
		if err != nil {
			return err
		}
		if !fn(e, r.targetPath(e)) {
			return nil
		}
	}
	return nil
}

// targetPath returns where an entry is put; empty if that is nowhere.
func (r *FleetRestore) targetPath(e *FleetRestoreEntry) string {
	target, err := fleetTarget(e.Path)
	if err != nil {
		return ""
	}
	return filepath.Join(r.root, filepath.FromSlash(target))
}

// Run restores. The error is one of the whole, such as a journal that cannot be
// written; what became of the databases is in the summary. A run that ended
// early, or was killed, is continued by another one with the same options: what
// it restored is verified by its checksum and not fetched again. When nothing
// is left to do the journal is removed.
func (r *FleetRestore) Run(ctx context.Context) (sum FleetRestoreSummary, err error) {
	if err := r.begin(); err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, r.journal.Close(), r.tree.Close()) }()
	runCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r.stop = stop
	r.listFleet(runCtx)

	var workers, committer sync.WaitGroup
	for range r.opt.Parallelism {
		r.tokens <- struct{}{}
		workers.Go(func() { r.work(runCtx) })
	}
	var commitErr error
	committer.Go(func() { commitErr = r.commitAll() })
	workers.Wait()
	close(r.placed)
	committer.Wait()
	r.leave()

	r.mu.Lock()
	sum = r.summary
	r.mu.Unlock()
	sum.Stopped = context.Cause(runCtx)
	if commitErr != nil {
		return sum, commitErr
	}
	complete := sum.Total == sum.Done()+sum.Skipped && sum.Behind == 0
	return sum, r.journal.end(r.run, complete && !r.journal.hasOthers(r.items))
}

// begin opens what is written to.
func (r *FleetRestore) begin() (err error) {
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	r.run = hex.EncodeToString(id[:])
	if r.tree, err = openFleetTree(r.root); err != nil {
		return err
	}
	r.journal, err = openFleetJournal(r.opt.JournalDir, r.run, fleetJournalHead{Source: r.opt.Source, Timestamp: r.opt.Timestamp})
	if err != nil {
		return errors.Join(err, r.tree.Close())
	}
	r.space = newFleetAccount(r.opt.Reserve, r.opt.knobs.space)
	r.tokens = make(chan struct{}, r.opt.Parallelism)
	r.placed = make(chan *fleetPlaced, fleetBatch)
	return nil
}

// leave reports what was not tried.
func (r *FleetRestore) leave() {
	for i := min(r.next.Load(), int64(len(r.items))); i < int64(len(r.items)); i++ {
		e, err := r.entry(r.items[i])
		if err != nil {
			e = &FleetRestoreEntry{}
		}
		r.note(&FleetRestoreRow{Path: e.Path, Target: r.targetPath(e), Status: FleetRestoreLeft, Err: err})
	}
}

// note counts and reports an outcome.
func (r *FleetRestore) note(row *FleetRestoreRow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.summary
	switch row.Status {
	case FleetRestored:
		s.Restored++
		s.Bytes += row.Bytes
	case FleetRestoreVerified:
		s.Verified++
	case FleetRestoreSkipped:
		s.Skipped++
	case FleetRestoreRefused:
		s.Refused++
	case FleetRestoreFailed:
		s.Failed++
	case FleetRestoreLeft:
		s.Left++
	}
	bad := row.Status == FleetRestoreRefused || row.Status == FleetRestoreFailed
	if bad && s.First == nil {
		s.First, s.FirstPath = row.Err, row.Path
	}
	if row.Warning != "" {
		s.Warnings++
	}
	if row.Behind && !bad && row.Status != FleetRestoreLeft {
		s.Behind++
	}
	if row.Status != FleetRestoreLeft {
		r.finished.Add(1)
	}
	if bad {
		r.failed.Add(1)
	} else {
		r.bytes.Add(row.Bytes)
	}
	if r.opt.Report != nil {
		r.opt.Report(row)
	}
}
