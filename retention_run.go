package litestream

import (
	"context"
	"fmt"

	"github.com/superfly/ltx"
)

// maxDeleteBatch is how many files one call of DeleteLTXFiles is given: as many
// as S3 deletes with one request.
const maxDeleteBatch = 1000

// EnforceL0Retention deletes level-0 files that no promised position needs,
// on the replica first and then their local copies, and returns how many. It
// makes no request when none has become eligible. With RetentionEnabled off
// only the local copies go.
func (c *Compactor) EnforceL0Retention(ctx context.Context) (n int, err error) {
	if c.L0Retention <= 0 {
		return 0, nil
	}
	if err := c.load(ctx, 0); err != nil {
		return 0, err
	}
	c.mu.Lock()
	remove, stats := l0Retention{
		l0:        infosOf(0, c.state[0].files),
		l1:        coversOf(1, c.state[1].files),
		snapshots: coversOf(SnapshotLevel, c.state[SnapshotLevel].files),
		now:       c.Now(),
		retention: c.L0Retention,
		grace:     c.Grace,
	}.plan()
	c.mu.Unlock()

	if c.OnL0Retention != nil {
		c.OnL0Retention(stats)
	}
	n, err = c.remove(ctx, remove)
	if n > 0 {
		c.mu.Lock()
		c.pruneLocked(1)
		c.mu.Unlock()
		c.logger.Debug("l0 retention enforced", "db", c.Path, "deleted", n)
	}
	return n, err
}

// EnforceSnapshotRetention deletes snapshots and files of the levels 1 to 8
// that no promised position needs, and returns how many. It lists the levels
// only when a snapshot may have become unnecessary, and once per process.
func (c *Compactor) EnforceSnapshotRetention(ctx context.Context) (n int, err error) {
	if c.SnapshotRetention <= 0 || !c.RetentionEnabled {
		return 0, nil
	}
	if err := c.load(ctx, 0); err != nil {
		return 0, err
	}
	if !c.mayExpire() {
		return 0, nil
	}
	c.mu.Lock()
	files := infosOf(0, c.state[0].files)
	files = append(files, infosOf(SnapshotLevel, c.state[SnapshotLevel].files)...)
	c.mu.Unlock()
	above, err := c.listForRetention(ctx)
	if err != nil {
		return 0, err
	}
	files = append(files, above...)

	remove := snapshotRetention{
		files:       files,
		now:         c.Now(),
		retention:   c.SnapshotRetention,
		l0Retention: c.L0Retention,
		grace:       c.Grace,
	}.plan()
	n, err = c.remove(ctx, remove)
	if err != nil {
		return n, err
	}
	c.mu.Lock()
	c.swept = true
	c.mu.Unlock()
	return n, nil
}

// mayExpire reports whether a file above level 0 can have become unnecessary:
// the second snapshot is older than what is promised, so that the first is no
// longer the base. The first pass of a process also finishes what an earlier
// one left over.
func (c *Compactor) mayExpire() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	snapshots := c.state[SnapshotLevel].files
	n := 1
	if !c.swept {
		n = 0
	}
	if len(snapshots) <= n {
		return false
	}
	horizon := c.Now().Add(-c.SnapshotRetention - c.Grace)
	return snapshots[n].createdAt <= horizon.UnixMilli()
}

// listForRetention lists the levels between 0 and the snapshots, except those
// that are not configured and were found empty before.
func (c *Compactor) listForRetention(ctx context.Context) (files []*ltx.FileInfo, err error) {
	var levels []int
	c.mu.Lock()
	for level := MaxCompactionLevel; level > 0; level-- {
		if !c.empty[level] {
			levels = append(levels, level)
		}
	}
	c.mu.Unlock()
	byLevel, err := c.listLevels(ctx, levels)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, level := range levels {
		files = append(files, byLevel[level]...)
		c.empty[level] = len(byLevel[level]) == 0 && c.Levels.Level(level) == nil
	}
	return files, nil
}

// remove deletes files in their order and returns how many are gone. What it
// could not delete is tried again by the next pass.
func (c *Compactor) remove(ctx context.Context, files []*ltx.FileInfo) (n int, err error) {
	for len(files) > 0 {
		batch := nextDeleteBatch(files)
		if c.RetentionEnabled {
			if err := c.client.DeleteLTXFiles(ctx, batch); err != nil {
				return n, fmt.Errorf("delete %d files of level %d: %w", len(batch), batch[0].Level, err)
			}
		}
		for _, f := range batch {
			if c.DeleteLocal != nil {
				if err := c.DeleteLocal(f.Level, f.MinTXID, f.MaxTXID); err != nil {
					return n, fmt.Errorf("delete local copy: %w", err)
				}
			}
			c.mu.Lock()
			c.forgetLocked(f)
			c.mu.Unlock()
			n++
		}
		files = files[len(batch):]
	}
	return n, nil
}

// nextDeleteBatch returns the first files up to the limit of one request.
// Snapshots are not mixed with others: they have to be gone first.
func nextDeleteBatch(files []*ltx.FileInfo) []*ltx.FileInfo {
	n := 1
	for n < len(files) && n < maxDeleteBatch &&
		(files[n].Level == SnapshotLevel) == (files[0].Level == SnapshotLevel) {
		n++
	}
	return files[:n]
}
