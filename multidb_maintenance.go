package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"github.com/superfly/ltx"
)

// maxTenantCompactionInputs bounds the files of one merge. Each takes a few
// kilobytes of memory while it runs, and many databases are merged at a time.
const maxTenantCompactionInputs = 64

// errNoProgress means that what was due is still due.
var errNoProgress = errors.New("maintenance changed nothing although something was due")

// tenantMaintainer runs the maintenance of all databases of a fleet. Its fields
// do not change; it is safe for concurrent use.
type tenantMaintainer struct {
	Settings   maintenanceSettings
	StagingDir string                     // see Compactor.StagingDir
	Logger     *slog.Logger               // nil: nothing is logged
	Now        func() time.Time           // nil: time.Now
	OnVerified func(level int, err error) // see Compactor
}

// tenantTarget is one database whose maintenance is due.
type tenantTarget struct {
	Path   string // of the database
	Client ReplicaClient
	Files  tenantFiles // what is known when the run begins

	// Note applies a change to what the caller knows by now. Level-0 files may
	// be uploaded, and noted by the caller, while a run is under way; two runs
	// of one database must not be.
	Note func(change func(*tenantFiles))

	// Snapshot takes a snapshot of the database, waits until its position is
	// acknowledged, uploads and returns it. Nil: the database is deleted.
	Snapshot func(ctx context.Context) (*ltx.FileInfo, error)

	// Local copies of level-0 files; see Compactor. Both may be nil.
	LocalFile   func(level int, minTXID, maxTXID ltx.TXID) (io.ReadCloser, error)
	DeleteLocal func(level int, minTXID, maxTXID ltx.TXID) error
}

// maxMaintenanceRounds bounds how often a run plans: what it lists or uploads
// may show that more is due.
const maxMaintenanceRounds = 4

// run does what is due. What it learns is told through Note as it goes, so that
// nothing is lost if it fails half way. Afterwards nothing is due until later,
// or it returns an error and may be called again after a pause.
func (t *tenantMaintainer) run(ctx context.Context, target tenantTarget) error {
	if err := target.Client.Init(ctx); err != nil {
		return fmt.Errorf("maintain %s: init replica client: %w", target.Path, err)
	}
	r := &maintenanceRun{t: t, tenantTarget: target, start: target.Files.pos, now: t.now}
	r.listed = &listedReplica{ReplicaClient: target.Client}
	if gone := r.Snapshot == nil; r.Files.gone != gone {
		r.note(func(f *tenantFiles) { f.noteGone(gone) })
	}
	for range maxMaintenanceRounds {
		p := r.plan()
		if p.idle() {
			return nil
		}
		if err := r.do(ctx, p); err != nil {
			return fmt.Errorf("maintain %s: %w", r.Path, err)
		}
	}
	return fmt.Errorf("maintain %s: %w", r.Path, errNoProgress)
}

// deleteReplica deletes everything that was replicated of a database, and what
// lies beside it.
func (t *tenantMaintainer) deleteReplica(ctx context.Context, path string, client ReplicaClient) error {
	err := client.DeleteAll(ctx)
	if err == nil {
		err = deleteRemnants(ctx, client)
	}
	if err != nil {
		return fmt.Errorf("delete the replica of %s, which is gone: %w", path, err)
	}
	t.logger().Info("replica of a deleted database was deleted", "db", path)
	return nil
}

// deletedDue returns when the replica of a database that is gone since goneAt
// is deleted; zero is never.
func deletedDue(goneAt time.Time, retention time.Duration) time.Time {
	if goneAt.IsZero() || retention <= 0 {
		return time.Time{}
	}
	return goneAt.Add(retention)
}

func (t *tenantMaintainer) now() time.Time {
	if t.Now == nil {
		return time.Now()
	}
	return t.Now()
}

func (t *tenantMaintainer) logger() *slog.Logger {
	if t.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return t.Logger
}

// maintenanceRun is one run for one database. Its Files follow what the run
// itself does.
type maintenanceRun struct {
	tenantTarget
	t      *tenantMaintainer
	now    func() time.Time
	start  ltx.TXID // newest position when the run began
	listed *listedReplica
	healed bool // a snapshot was taken because of what cannot be merged
}

func (r *maintenanceRun) note(change func(*tenantFiles)) {
	change(&r.Files)
	r.Note(change)
}

func (r *maintenanceRun) plan() maintenancePlan {
	return r.Files.plan(r.t.Settings, r.Path, r.now())
}

// do does what a plan says. That one thing fails keeps no other from being done.
func (r *maintenanceRun) do(ctx context.Context, p maintenancePlan) error {
	if p.list {
		return r.list(ctx)
	}
	var errs []error
	if p.retain {
		errs = append(errs, r.retain(ctx))
	}
	if p.snapshot {
		errs = append(errs, r.snapshot(ctx))
	}
	for _, level := range p.compact {
		err := r.compact(ctx, level)
		errs = append(errs, err)
		if err != nil || r.healed {
			break
		}
	}
	if len(p.compact) > 0 && r.listed.loaded {
		r.noteListing()
	}
	return errors.Join(errs...)
}

// list lists the replica, once in a run.
func (r *maintenanceRun) list(ctx context.Context) error {
	if r.listed.loaded {
		return nil
	}
	if err := r.listed.load(ctx); err != nil {
		return err
	}
	r.noteListing()
	return nil
}

func (r *maintenanceRun) noteListing() {
	now := r.now()
	r.note(func(f *tenantFiles) { f.noteListing(r.listed.tree, r.start, now) })
}

// snapshot takes a snapshot.
func (r *maintenanceRun) snapshot(ctx context.Context) error {
	info, err := r.Snapshot(ctx)
	if err != nil {
		return err
	}
	now := r.now()
	noted := *info
	noted.Level = SnapshotLevel
	r.listed.add(&noted)
	r.note(func(f *tenantFiles) { f.noteSnapshot(&noted, now) })
	r.t.logger().Debug("snapshot complete", "db", r.Path, "txid", noted.MaxTXID.String(), "size", noted.Size)
	return nil
}

// compact merges all that a level does not hold yet. Where that is impossible a
// snapshot makes it unnecessary.
func (r *maintenanceRun) compact(ctx context.Context, level int) error {
	err := r.tryCompact(ctx, level, level == 1 && !r.listed.loaded)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrNonContiguous) {
		// Somebody else changed the replica, or the listing missed a file that
		// had just come: look again, once.
		r.listed.loaded = false
		err = r.tryCompact(ctx, level, false)
	}
	if _, damaged := errors.AsType[*LTXError](err); !damaged {
		return err
	}
	if r.Snapshot == nil {
		r.note((*tenantFiles).noteStuck)
		return err
	}
	r.t.logger().Warn("files cannot be merged, a snapshot makes them unnecessary", "db", r.Path, "error", err)
	r.healed = true
	return r.snapshot(ctx)
}

// tryCompact merges what lies there. Level 0 needs no listing as long as its
// files are as they were noted.
func (r *maintenanceRun) tryCompact(ctx context.Context, level int, asNoted bool) error {
	c := r.compactor()
	pending := r.Files.pos - r.Files.done
	if asNoted && pending <= maxTenantCompactionInputs && r.Files.pendingBytes <= c.MaxInputBytes {
		c.seed(r.pendingFiles(), r.Files.done)
	} else {
		if err := r.list(ctx); err != nil {
			return err
		}
		c.seed(levelsOf(r.listed.tree), r.Files.base.txid)
	}
	for {
		info, err := c.compact(ctx, level)
		if errors.Is(err, ErrNoCompaction) {
			return nil
		} else if err != nil {
			return err
		}
		if level == 1 {
			now := r.now()
			r.note(func(f *tenantFiles) { f.noteCompacted(info, now) })
		}
	}
}

// pendingFiles returns the level-0 files that level 1 does not hold. Their
// sizes are not known.
func (r *maintenanceRun) pendingFiles() (levels levelFiles) {
	for txid := r.Files.done + 1; txid <= r.Files.pos; txid++ {
		levels[0] = append(levels[0], &ltx.FileInfo{MinTXID: txid, MaxTXID: txid})
	}
	return levels
}

// compactor returns a compactor for this run.
func (r *maintenanceRun) compactor() *Compactor {
	c := NewCompactor(r.listed, r.t.logger())
	c.Path = r.Path
	c.Levels = r.t.Settings.Levels
	c.LocalFile, c.DeleteLocal = r.LocalFile, r.DeleteLocal
	c.StagingDir = r.t.StagingDir
	c.OnVerified = r.t.OnVerified
	c.SnapshotRetention, c.L0Retention = r.t.Settings.SnapshotRetention, r.t.Settings.L0Retention
	c.Now = r.now
	c.MaxInputs = maxTenantCompactionInputs
	return c
}

// seed tells a compactor what lies on the replica. The levels go on behind
// done, whatever they hold.
func (c *Compactor) seed(levels levelFiles, done ltx.TXID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for level := range levels {
		for _, info := range levels[level] {
			noted := *info
			noted.Level = level
			c.addLocked(&noted)
		}
		st := &c.state[level]
		st.loaded = true
		if level > 0 && level < SnapshotLevel {
			st.maxTXID = max(st.maxTXID, done)
		}
	}
}

// retain deletes what no promised position needs. It may run at any other time
// as well, so that a failure only puts it off.
func (r *maintenanceRun) retain(ctx context.Context) error {
	err := r.list(ctx)
	var first ltx.TXID
	if err == nil {
		first, err = r.deleteFiles(ctx)
	}
	now := r.now()
	if err != nil {
		r.note(func(f *tenantFiles) { f.noteRest(r.t.Settings, now) })
		return err
	}
	r.noteListing()
	r.note(func(f *tenantFiles) { f.noteRetention(first, r.t.Settings, r.Path, now) })
	return nil
}

// deleteFiles plans and deletes, what a restore begins with before the rest. It
// returns the first level-0 file that waits for its age.
func (r *maintenanceRun) deleteFiles(ctx context.Context) (first ltx.TXID, err error) {
	s, now := r.t.Settings, r.now()
	tree := r.listed.tree
	bases, rest := splitBases(snapshotRetention{
		files: tree, now: now, retention: s.SnapshotRetention, l0Retention: s.L0Retention, grace: s.Grace,
		tenant: true,
	}.plan())
	tree = without(tree, bases)
	tree = without(tree, rest)

	settled := r.Files.settled(s, now)
	l0 := l0Retention{now: now, retention: s.L0Retention, grace: s.Grace, snapshotsCount: true}
	for _, f := range tree {
		switch {
		case f.Level == 0 && f.MinTXID > 1:
			l0.l0 = append(l0.l0, f)
		case f.Level == 1 && f.MaxTXID <= settled:
			l0.l1 = append(l0.l1, surelyOld(f))
		case f.Level == SnapshotLevel && f.MaxTXID <= settled:
			l0.snapshots = append(l0.snapshots, surelyOld(f))
		}
	}
	remove, _ := l0.plan()
	horizon := now.Add(-s.L0Retention - s.Grace)
	for i, f := range sortedByMax(l0.l0) {
		if f.MaxTXID > settled || isYoung(f, horizon) || i == len(l0.l0)-1 {
			first = f.MinTXID
			break
		}
	}

	if len(rest) == 0 { // nothing could be left without its base
		bases, remove = nil, append(bases, remove...)
	}
	c := r.compactor()
	for _, files := range [][]*ltx.FileInfo{bases, append(rest, remove...)} {
		if _, err := c.remove(ctx, files); err != nil {
			return 0, err
		}
	}
	return first, nil
}

// splitBases parts what a restore can begin with from the rest.
func splitBases(files []*ltx.FileInfo) (bases, rest []*ltx.FileInfo) {
	for _, f := range files {
		if f.Level == SnapshotLevel || f.Level == 0 {
			bases = append(bases, f)
		} else {
			rest = append(rest, f)
		}
	}
	return bases, rest
}

// without returns files without those of another slice, in a new one.
func without(files, remove []*ltx.FileInfo) []*ltx.FileInfo {
	type name struct {
		level    int
		min, max ltx.TXID
	}
	gone := make(map[name]bool, len(remove))
	for _, f := range remove {
		gone[name{f.Level, f.MinTXID, f.MaxTXID}] = true
	}
	return slices.DeleteFunc(slices.Clone(files), func(f *ltx.FileInfo) bool {
		return gone[name{f.Level, f.MinTXID, f.MaxTXID}]
	})
}

// surelyOld returns a file that isYoung never takes for young.
func surelyOld(f *ltx.FileInfo) *ltx.FileInfo {
	old := *f
	old.CreatedAt = time.Time{}
	return &old
}

// listedReplica answers listings from one of all levels, which it keeps up to
// date with what it writes and deletes itself. It is not safe for concurrent
// use.
type listedReplica struct {
	ReplicaClient
	tree   []*ltx.FileInfo
	loaded bool
}

// load lists all levels, with one request where the client can, and again where
// something is missing ahead of the newest position: that would cost a snapshot.
func (r *listedReplica) load(ctx context.Context) error {
	var listErr error
	_ = withoutFalseGaps(func() error { // a gap that stays is found again where it matters
		tree, err := listTree(ctx, r.ReplicaClient)
		if listErr = err; err != nil {
			return err
		}
		r.tree, r.loaded = tree, true
		_, err = planRestore(levelsOf(tree), 0, time.Time{})
		return err
	})
	return listErr
}

// listTree returns the files of all levels.
func listTree(ctx context.Context, client ReplicaClient) (tree []*ltx.FileInfo, err error) {
	if lister, ok := client.(TreeLister); ok {
		if tree, err = lister.LTXTree(ctx); err != nil {
			return nil, fmt.Errorf("list all levels: %w", err)
		}
		return tree, nil
	}
	levels, err := listLevels(ctx, client, false)
	if err != nil {
		return nil, err
	}
	for level, files := range levels {
		for _, f := range files {
			f.Level = level
		}
		tree = append(tree, files...)
	}
	return tree, nil
}

// add notes a file that was written.
func (r *listedReplica) add(info *ltx.FileInfo) {
	if r.loaded {
		r.tree = append(without(r.tree, []*ltx.FileInfo{info}), info)
	}
}

// LTXFiles implements ReplicaClient.
func (r *listedReplica) LTXFiles(ctx context.Context, level int, seek ltx.TXID, _ bool) (ltx.FileIterator, error) {
	if !r.loaded {
		if err := r.load(ctx); err != nil {
			return nil, err
		}
	}
	var files []*ltx.FileInfo
	for _, f := range r.tree {
		if f.Level == level && f.MinTXID >= seek {
			info := *f
			files = append(files, &info)
		}
	}
	return ltx.NewFileInfoSliceIterator(files), nil
}

// WriteLTXFile implements ReplicaClient.
func (r *listedReplica) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, body io.Reader) (*ltx.FileInfo, error) {
	info, err := r.ReplicaClient.WriteLTXFile(ctx, level, minTXID, maxTXID, body)
	if err != nil {
		return nil, err
	}
	noted := *info
	noted.Level = level
	r.add(&noted)
	return info, nil
}

// DeleteLTXFiles implements ReplicaClient.
func (r *listedReplica) DeleteLTXFiles(ctx context.Context, files []*ltx.FileInfo) error {
	if err := r.ReplicaClient.DeleteLTXFiles(ctx, files); err != nil {
		return err
	}
	r.tree = without(r.tree, files)
	return nil
}
