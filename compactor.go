package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/superfly/ltx"
)

// Limits of one compaction and the grace period of retention.
const (
	DefaultMaxCompactionInputs     = 256
	DefaultMaxCompactionInputBytes = 256 << 20
	DefaultRetentionGrace          = 10 * time.Minute
)

// Compactor merges the LTX files of one database into higher levels and
// deletes those that no promised restore point needs. What is on the replica
// is listed once and then followed in memory, so that a database without new
// files costs no request.
//
// The exported fields are set before the first call. Compactions and retention
// passes of one Compactor do not run at the same time, which the scheduler
// sees to; the Note methods, Due and Invalidate may be called at any time.
type Compactor struct {
	// Path is the database's path. It sets the phase of the schedule and is
	// named in the log.
	Path string

	// Levels are the configured levels, DefaultCompactionLevels if unset.
	Levels CompactionLevels

	// LocalFile opens the local copy of a file, which is read in place of the
	// replica's. A copy that is missing or corrupt is no error. May be nil.
	LocalFile func(level int, minTXID, maxTXID ltx.TXID) (io.ReadCloser, error)

	// DeleteLocal deletes the local copy of a file that retention has deleted
	// from the replica. A missing one is no error. May be nil.
	DeleteLocal func(level int, minTXID, maxTXID ltx.TXID) error

	// OnL0Retention is told the outcome of each L0 retention pass. May be nil.
	OnL0Retention func(L0RetentionStats)

	// OnVerified is told after each compaction whether the files of the level
	// join, for which the level is listed. An error tells of those that do not.
	// Nil: nothing is listed.
	OnVerified func(level int, err error)

	// StagingDir holds what is being merged: at most MaxInputBytes and one
	// output. The files have no name, so that none outlives the process. The
	// empty string is the system's folder for temporary files.
	StagingDir string

	// Now is the clock, time.Now if unset.
	Now func() time.Time

	// MaxInputs and MaxInputBytes bound one compaction; what is left over is
	// due at once. A single file may be larger than MaxInputBytes.
	MaxInputs     int
	MaxInputBytes int64

	// L0Retention and SnapshotRetention are how long single positions and the
	// boundaries of level 1 stay restorable; 0 deletes nothing.
	L0Retention       time.Duration
	SnapshotRetention time.Duration

	// Grace is how much longer than promised a restore point is kept, so that
	// a restore that began while it was promised ends well.
	Grace time.Duration

	// RetentionEnabled allows deletions on the replica. Without it, only local
	// copies are deleted.
	RetentionEnabled bool

	client ReplicaClient
	logger *slog.Logger

	// mu guards what is known about the replica. It is not held across I/O.
	mu         sync.Mutex
	state      [SnapshotLevel + 1]levelState
	generation int                       // changes with every Invalidate
	empty      [10]bool                  // levels that are not configured and hold nothing
	swept      bool                      // a snapshot retention pass has run
	verified   [SnapshotLevel + 1]string // what the last verification of a level found
}

// NewCompactor returns a compactor for the database that client stores.
func NewCompactor(client ReplicaClient, logger *slog.Logger) *Compactor {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Compactor{
		Levels:            DefaultCompactionLevels(),
		Now:               time.Now,
		MaxInputs:         DefaultMaxCompactionInputs,
		MaxInputBytes:     DefaultMaxCompactionInputBytes,
		L0Retention:       DefaultL0Retention,
		SnapshotRetention: DefaultSnapshotRetention,
		Grace:             DefaultRetentionGrace,
		RetentionEnabled:  true,
		client:            client,
		logger:            logger,
	}
}

// Due reports whether a level has something to merge and its boundary has
// passed since it was last written. It makes no request; a level that was
// never listed is due.
func (c *Compactor) Due(level int) bool {
	lvl := c.Levels.Level(level)
	if lvl == nil || level == 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	dst, src := &c.state[level], &c.state[level-1]
	if !dst.loaded || !src.loaded {
		return true
	}
	if src.maxTXID <= c.positionLocked(level) {
		return false
	}
	return dst.more || dst.servedAt.Before(lvl.prevAt(c.Now(), phase(c.Path, lvl.Interval)))
}

// Compact merges the files of the level below that dstLevel does not cover yet
// into one file of dstLevel. Nothing is deleted. It returns ErrNoCompaction if
// there is nothing to merge, and an *LTXError that names the file or the gap
// if what is there cannot be merged. A gap is bridged with files of other
// levels where they cover it; behind one that only a snapshot covers the level
// goes on after the snapshot.
func (c *Compactor) Compact(ctx context.Context, dstLevel int) (*ltx.FileInfo, error) {
	if dstLevel < 1 || dstLevel > c.Levels.MaxLevel() {
		return nil, fmt.Errorf("compact into level %d: level is not configured", dstLevel)
	}
	info, err := c.compact(ctx, dstLevel)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrNonContiguous) {
		// Somebody else changed the replica, or the listing missed a file that
		// had just come: look again, once.
		c.Invalidate()
		info, err = c.compact(ctx, dstLevel)
	}
	return info, err
}

// compact is Compact without the second look.
func (c *Compactor) compact(ctx context.Context, dstLevel int) (*ltx.FileInfo, error) {
	if err := c.load(ctx, dstLevel-1); err != nil {
		return nil, err
	}
	for {
		job, err := c.nextJob(ctx, dstLevel)
		if err != nil {
			return nil, err
		}
		info, err := c.runJob(ctx, job)
		var le *LTXError
		for errors.As(err, &le) && job.cutBefore(le) {
			// The files before the damaged one can be merged.
			info, err = c.runJob(ctx, job)
		}
		if err == nil || le == nil || !c.skipDamage(dstLevel) {
			return info, err
		}
		c.logger.Warn("compaction steps over damaged files that a snapshot covers",
			"db", c.Path, "level", dstLevel, "error", err)
	}
}

// Invalidate forgets what is known about the replica; the next use lists it.
func (c *Compactor) Invalidate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	c.state = [SnapshotLevel + 1]levelState{}
	c.empty = levelSet{}
}

// compactionJob is one output file and what goes into it.
type compactionJob struct {
	level      int
	minTXID    ltx.TXID // the output begins no lower
	inputs     []*ltx.FileInfo
	more       bool
	generation int
}

// cutBefore shortens the inputs to those before the file that err names. It
// reports whether any are left and something was cut.
func (j *compactionJob) cutBefore(err *LTXError) bool {
	for i, in := range j.inputs {
		if in.Level == err.Level && in.MinTXID == err.MinTXID && in.MaxTXID == err.MaxTXID {
			j.inputs, j.more = j.inputs[:i], true
			return i > 0
		}
	}
	return false
}

// nextJob chooses the inputs of the next file of a level.
func (c *Compactor) nextJob(ctx context.Context, dstLevel int) (compactionJob, error) {
	c.mu.Lock()
	dst, src := &c.state[dstLevel], &c.state[dstLevel-1]
	job := compactionJob{level: dstLevel, minTXID: dst.maxTXID + 1, generation: c.generation}
	after := max(c.positionLocked(dstLevel), dst.skip)
	files := infosOf(dstLevel-1, src.files)
	caughtUp := src.maxTXID <= after
	c.mu.Unlock()
	if caughtUp {
		return job, ErrNoCompaction
	}

	plan := planCompaction(files, after, c.limits())
	if len(plan.inputs) == 0 && plan.gap.min > 0 {
		bridge, err := c.findBridge(ctx, dstLevel, plan.gap)
		if err != nil {
			return job, err
		}
		if len(bridge) == 0 {
			return c.jobAfterGap(job, files, plan.gap)
		}
		plan = planCompaction(append(files, bridge...), after, c.limits())
	}
	if len(plan.inputs) == 0 {
		return job, ErrNoCompaction
	}
	job.inputs, job.more = plan.inputs, plan.more
	return job, nil
}

// jobAfterGap goes on behind a gap that a snapshot covers; for any other it
// returns the error that names the gap.
func (c *Compactor) jobAfterGap(job compactionJob, files []*ltx.FileInfo, gap txidRange) (compactionJob, error) {
	c.mu.Lock()
	covered := c.snapshotFromLocked(gap.max) > 0
	c.mu.Unlock()
	if !covered {
		return job, &LTXError{
			Op: "compact", Level: job.level - 1, MinTXID: gap.min, MaxTXID: gap.max, Err: ErrNonContiguous,
			Hint: "transactions are missing on the replica; the next snapshot heals it",
		}
	}
	c.logger.Warn("compaction goes on behind missing transactions that a snapshot covers",
		"db", c.Path, "level", job.level, "min_txid", gap.min.String(), "max_txid", gap.max.String())
	plan := planCompaction(files, gap.max, c.limits())
	job.inputs, job.more = plan.inputs, plan.more
	return job, nil
}

// limits returns the bounds of one compaction.
func (c *Compactor) limits() compactionLimits {
	return compactionLimits{files: max(c.MaxInputs, 1), bytes: c.MaxInputBytes}
}

// findBridge lists the other levels for files that cover a gap.
func (c *Compactor) findBridge(ctx context.Context, dstLevel int, gap txidRange) ([]*ltx.FileInfo, error) {
	var levels []int
	for level := MaxCompactionLevel; level >= 0; level-- {
		if level != dstLevel && level != dstLevel-1 {
			levels = append(levels, level)
		}
	}
	byLevel, err := c.listLevels(ctx, levels)
	if err != nil {
		return nil, err
	}
	var others []*ltx.FileInfo
	for _, level := range levels {
		others = append(others, byLevel[level]...)
	}
	return bridgeGap(others, gap), nil
}

// runJob merges into a local file, uploads that and notes the outcome.
func (c *Compactor) runJob(ctx context.Context, job compactionJob) (*ltx.FileInfo, error) {
	out, err := c.merge(ctx, job)
	if err != nil {
		return nil, err
	}
	defer out.file.Close()
	if out.used < len(job.inputs) {
		job.more = true
	}

	h := out.header
	body := io.NewSectionReader(out.file, 0, out.size)
	info, err := c.client.WriteLTXFile(ctx, job.level, h.MinTXID, h.MaxTXID, body)
	if err != nil {
		// Whether it arrived is unknown.
		c.Invalidate()
		return nil, fmt.Errorf("upload compacted file: %w", err)
	}
	info.Size = out.size
	c.noteCompacted(job, info)
	c.verifyCompacted(ctx, job.level)
	c.logger.Debug("compaction complete", "db", c.Path, "level", job.level,
		"min_txid", info.MinTXID.String(), "max_txid", info.MaxTXID.String(), "inputs", out.used, "size", info.Size)
	return info, nil
}

// skipDamage lets a level whose next file cannot be merged go on behind the
// next snapshot. It reports false if there is none.
func (c *Compactor) skipDamage(level int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	dst := &c.state[level]
	next := c.snapshotFromLocked(max(c.positionLocked(level), dst.skip) + 1)
	dst.skip = max(dst.skip, next)
	return next > 0
}

// noteCompacted notes a file that was written by compaction.
func (c *Compactor) noteCompacted(job compactionJob, info *ltx.FileInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if job.generation != c.generation {
		return
	}
	noted := *info
	noted.Level = job.level
	c.addLocked(&noted)
	dst := &c.state[job.level]
	dst.servedAt, dst.more, dst.skip = c.Now(), job.more, 0
	c.pruneLocked(job.level - 1)
}
