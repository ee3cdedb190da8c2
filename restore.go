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
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"

	v03 "github.com/benbjohnson/litestream/internal/v03"
)

// DefaultRestoreParallelism is how many requests a restore has in flight.
const DefaultRestoreParallelism = 8

// RestoreOptions says what to restore and where. NewRestoreOptions returns the
// defaults.
type RestoreOptions struct {
	// OutputPath is where the database goes. Required.
	OutputPath string

	// TXID is the exact position to restore, Timestamp the moment before which
	// everything restored was created. Both zero mean the newest position.
	TXID      ltx.TXID
	Timestamp time.Time

	// Parallelism is how many requests read ahead at the same time; 0 means
	// DefaultRestoreParallelism. Memory grows with it (2 MiB each).
	Parallelism int

	// Force replaces an existing database and deletes the -wal, -shm and
	// -journal beside it, once the new database is complete.
	Force bool

	// IntegrityCheck is run before the database gets its name.
	IntegrityCheck IntegrityCheckMode

	// SkipV03Check leaves out the quick check that a backup of Litestream v0.3
	// gets even without IntegrityCheck, because the format has no checksum of
	// the database.
	SkipV03Check bool

	// Follow keeps the database up to date after the restore: Restore applies
	// what arrives on the replica every FollowInterval (0 means
	// DefaultFollowInterval) until ctx ends, which is no error then. A
	// database that was followed before goes on at its position, which lies
	// beside it in a file that ends in "-txid". It must be read only; see
	// ErrFollowModified. Not together with TXID or Timestamp.
	Follow         bool
	FollowInterval time.Duration

	// LedgerPath, if set, is where a page ledger of the restored database is
	// left, marked as of LedgerReplica, so that the first capture on the
	// database is a diff. Failing to write it only costs that diff.
	LedgerPath    string
	LedgerReplica [32]byte

	// Progress, if set, is called from one goroutine, at most ten times a
	// second, and once more at the end. It must not block for long.
	Progress func(RestoreProgress)

	// Logger receives what a restore decides; nil discards it.
	Logger *slog.Logger

	// volatile: the database is read and removed again, so that nothing of it
	// need be on the disk.
	volatile bool

	knobs restoreKnobs
}

// restoreKnobs are what only tests change.
type restoreKnobs struct {
	fetch        fetchKnobs
	replanDelays []time.Duration // before each new plan after a file vanished
	followLook   time.Duration   // in place of followLookInterval
	followStep   func(name string) error
}

// NewRestoreOptions returns options with every default filled in.
func NewRestoreOptions() RestoreOptions {
	return RestoreOptions{
		Parallelism: DefaultRestoreParallelism,
		knobs: restoreKnobs{
			fetch: fetchKnobs{
				chunkBytes:  2 << 20,
				retryDelays: []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second},
				stall:       30 * time.Second,
			},
			replanDelays: []time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second},
		},
	}
}

// withDefaults fills in what is not set.
func (opt RestoreOptions) withDefaults() RestoreOptions {
	if opt.Parallelism <= 0 {
		opt.Parallelism = DefaultRestoreParallelism
	}
	if opt.knobs.fetch.chunkBytes == 0 {
		opt.knobs = NewRestoreOptions().knobs
	}
	opt.knobs.fetch.parallelism = opt.Parallelism
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return opt
}

// RestoreResult describes a restored database.
type RestoreResult struct {
	TXID      ltx.TXID  // 0 for a backup of Litestream v0.3
	Timestamp time.Time // when the restored state was captured
	PageN     uint32
	PageSize  uint32          // bytes
	Bytes     int64           // size of the database
	Plan      []*ltx.FileInfo // files that were restored, in the order they apply
	V03       []V03File       // the same for a backup of Litestream v0.3

	IntegrityCheck IntegrityCheckMode // what was run
}

// RestorePhase is what a restore is doing.
type RestorePhase string

// Phases of a restore, in their order. Planning comes again when a file of the
// plan vanished.
const (
	RestorePlanning RestorePhase = "planning"
	RestoreReading  RestorePhase = "restoring"
	RestoreSyncing  RestorePhase = "syncing"
	RestoreChecking RestorePhase = "checking"
	RestoreDone     RestorePhase = "done"
)

// RestoreProgress is a moment of a restore.
type RestoreProgress struct {
	Phase      RestorePhase
	BytesDone  int64 // of the plan's files, as they are on the replica
	BytesTotal int64 // 0 until there is a plan
	Files      int   // of the plan
}

// progress is written by the goroutines of a restore and read by one reporter.
type progress struct {
	phase atomic.Value // RestorePhase
	bytes atomic.Int64
	total atomic.Int64
	files atomic.Int64
}

func (p *progress) snapshot() RestoreProgress {
	return RestoreProgress{
		Phase:      p.phase.Load().(RestorePhase),
		BytesDone:  min(p.bytes.Load(), p.total.Load()),
		BytesTotal: p.total.Load(),
		Files:      int(p.files.Load()),
	}
}

// report calls fn with p until the returned function is called, and then a
// last time.
func (p *progress) report(fn func(RestoreProgress)) (stop func()) {
	const interval = 100 * time.Millisecond
	if fn == nil {
		return func() {}
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		t := time.NewTicker(interval)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				fn(p.snapshot())
			case <-done:
				fn(p.snapshot())
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// Restore rebuilds a database from a replica alone. The database appears under
// its name only when it is complete, every checksum has been verified and all
// of it is on the disk; after an error nothing is left of it. Constant memory,
// whatever the size of the database and the number of files.
//
// A file that cannot be used is an *LTXError that names it and what is
// restorable without it. Errors of planning are those of CalcRestorePlan, of
// the output those of CheckRestoreOutput; a full disk is ErrDiskFull.
//
// A backup of Litestream v0.3 on the same path is restored where it holds newer
// data for the request, or the only data; its log with a gap is ErrNonContiguous.
func Restore(ctx context.Context, client ReplicaClient, opt RestoreOptions) (res RestoreResult, err error) {
	opt = opt.withDefaults()
	if opt.TXID != 0 && !opt.Timestamp.IsZero() {
		return res, errors.New("restore: give a txid or a timestamp, not both")
	}
	if !opt.Follow {
		return restoreOnce(ctx, client, opt)
	}
	if opt.TXID != 0 || !opt.Timestamp.IsZero() {
		return res, errors.New("restore: cannot follow up to a txid or a timestamp")
	}
	return follow(ctx, client, opt)
}

// restoreOnce is Restore without the following. With Follow set it leaves a
// database that can be followed.
func restoreOnce(ctx context.Context, client ReplicaClient, opt RestoreOptions) (res RestoreResult, err error) {
	if err := CheckRestoreOutput(opt.OutputPath, opt.Force); err != nil {
		return res, err
	}
	rs := &restorer{client: client, opt: opt}
	rs.progress.phase.Store(RestorePlanning)
	defer rs.progress.report(opt.Progress)()

	if err := rs.plan(ctx); err != nil {
		return res, err
	}
	out, err := createRestoreOutput(opt.OutputPath, opt.Force)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, out.abort()) }()
	if rs.sums, err = rs.createSums(); err != nil {
		return res, err
	}
	if rs.sums != nil {
		defer rs.sums.Close()
	}

	db, err := rs.fill(ctx, out)
	if err != nil {
		return res, err
	}
	rs.progress.bytes.Store(rs.progress.total.Load())
	rs.progress.phase.Store(RestoreSyncing)
	if opt.Follow {
		if err := rs.prepareFollow(out, db); err != nil {
			return res, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, forgetFollow(opt.OutputPath))
			}
		}()
	}
	if out.volatile = opt.volatile; !out.volatile {
		if err := out.sync(); err != nil {
			return res, err
		}
	}
	rs.progress.phase.Store(RestoreChecking)
	if err := checkIntegrity(ctx, out.temp(), rs.integrityMode()); err != nil {
		return res, err
	}
	if err := ctx.Err(); err != nil {
		return res, err
	}
	if err := out.commit(); err != nil {
		return res, err
	}
	rs.progress.phase.Store(RestoreDone)
	res = RestoreResult{
		TXID:      rs.target,
		Timestamp: db.at,
		PageN:     db.pageN,
		PageSize:  db.pageSize,
		Bytes:     int64(db.pageN) * int64(db.pageSize),
		Plan:      rs.files,

		IntegrityCheck: rs.integrityMode(),
	}
	switch {
	case rs.v03 != nil:
		res.V03 = rs.v03.Files()
		rs.dropLedger()
	case rs.sums != nil:
		rs.saveLedger(db)
	}
	return res, nil
}

// restored is a database that was written.
type restored struct {
	at       time.Time // of its state
	pageSize uint32
	pageN    uint32
	checksum ltx.Checksum // of all pages; 0 if not from LTX files
}

// restorer is one call of Restore.
type restorer struct {
	client   ReplicaClient
	opt      RestoreOptions
	progress progress
	levels   levelFiles
	files    []*ltx.FileInfo // the plan
	target   ltx.TXID        // the plan's position
	sums     *os.File        // page checksums for the ledger; nil if not wanted
	v03Files []V03File       // the listing of a backup of v0.3
	v03      *v03.Plan       // the plan instead of files; nil if LTX files are restored
	picks    int             // how often the files were those of two writers
	lineage  string          // what was left out of theirs; empty: nothing

	list  func(ctx context.Context) error // fills levels and v03Files; nil: listFormats
	admit func(bytes int64) error         // may refuse the size of the database; nil: all are right
}

// plan lists the replica and chooses the files.
func (rs *restorer) plan(ctx context.Context) error {
	rs.progress.phase.Store(RestorePlanning)
	return withoutFalseGaps(func() error { return rs.planOnce(ctx) })
}

func (rs *restorer) planOnce(ctx context.Context) error {
	list := rs.listFormats
	if rs.list != nil {
		list = rs.list
	}
	if err := list(ctx); err != nil {
		return err
	}
	if usesV03(rs.levels, rs.v03Files, rs.opt.Timestamp) {
		return rs.planV03()
	}
	rs.v03 = nil
	files, err := planRestore(rs.levels, rs.opt.TXID, rs.opt.Timestamp)
	if err != nil {
		return rs.v03Txid(ctx, err)
	}
	target := files[len(files)-1].MaxTXID
	if target < rs.target {
		return fmt.Errorf("%w: the replica reached txid %s when the restore began and now ends at %s", ErrTxNotAvailable, rs.target, target)
	}
	rs.setPlan(files)
	return nil
}

// setPlan makes files the plan.
func (rs *restorer) setPlan(files []*ltx.FileInfo) {
	var total int64
	for _, info := range files {
		total += info.Size
	}
	rs.files, rs.target = files, files[len(files)-1].MaxTXID
	rs.progress.bytes.Store(0)
	rs.progress.total.Store(total)
	rs.progress.files.Store(int64(len(files)))
	rs.opt.Logger.Debug("restore plan", "files", len(files), "bytes", total, "txid", rs.target.String())
}

// fill writes the database. A file that compaction or retention removed after
// it was planned leads to a new plan for the same request.
func (rs *restorer) fill(ctx context.Context, out *restoreOutput) (restored, error) {
	for replans := 0; ; replans++ {
		if err := out.reset(); err != nil {
			return restored{}, err
		}
		rs.progress.phase.Store(RestoreReading)
		db, err := rs.apply(ctx, out)
		if err == nil {
			return db, nil
		}
		if picked, perr := rs.pickLineage(ctx, err); perr != nil {
			return restored{}, errors.Join(err, perr)
		} else if picked {
			replans--
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) || replans == len(rs.opt.knobs.replanDelays) {
			return restored{}, rs.withHint(err)
		}
		rs.opt.Logger.Info("file of the restore plan is gone, planning again", "error", err)
		if err := wait(ctx, rs.opt.knobs.replanDelays[replans]); err != nil {
			return restored{}, err
		}
		if replanErr := rs.plan(ctx); replanErr != nil {
			return restored{}, fmt.Errorf("plan again after %w: %w", err, replanErr)
		}
	}
}

// apply writes the files of the plan into an empty file.
func (rs *restorer) apply(ctx context.Context, out *restoreOutput) (restored, error) {
	if rs.v03 != nil {
		return rs.applyV03(ctx, out)
	}
	a := &applier{out: out.f, sums: rs.sums, allow: rs.admit}
	if err := a.apply(ctx, rs.client, rs.files, rs.opt.knobs.fetch, &rs.progress); err != nil {
		return restored{}, err
	}
	return restored{at: time.UnixMilli(a.at).UTC(), pageSize: a.pageSize, pageN: a.commit, checksum: ltx.ChecksumFlag | a.xor}, nil
}

// withHint completes an error about a file with what is restorable without it.
func (rs *restorer) withHint(err error) error {
	var le *LTXError
	if !errors.As(err, &le) || le.Hint != "" || IsPermanent(err) {
		return err
	}
	if errors.Is(err, errWrongPages) { // of a file that the checksums do not tell
		le.Hint = "`litestream verify -level read` tells which file is wrong, and the newest good point"
		return err
	}
	for _, info := range rs.files {
		if info.Level != le.Level || info.MinTXID != le.MinTXID || info.MaxTXID != le.MaxTXID {
			continue
		}
		bad := []*ltx.FileInfo{info}
		if se, ok := errors.AsType[*strangerError](err); ok {
			bad = append(bad, se.prev)
		}
		le.Hint = hintWithout(rs.levels, bad, &rs.opt)
	}
	return err
}

// createSums creates the file in which page checksums are collected. It has no
// name any more when it is returned, so nothing has to clean it up.
func (rs *restorer) createSums() (*os.File, error) {
	if rs.opt.LedgerPath == "" {
		return nil, nil
	}
	dir := filepath.Dir(rs.opt.LedgerPath)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create ledger folder: %w", err)
	}
	f, err := os.CreateTemp(dir, ".restore-*"+restoreTempSuffix)
	if err != nil {
		return nil, fmt.Errorf("create page checksums: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("create page checksums: %w", err), f.Close())
	}
	return f, nil
}
