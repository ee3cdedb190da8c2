package litestream

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/superfly/ltx"
)

// SnapshotDue reports whether a database at position pos needs a snapshot:
// there is none, or a boundary of the interval has passed since the newest was
// made and there is something new. The schedule hangs on the time of the stored
// snapshot and on absolute boundaries, so a restart of the process neither
// delays nor repeats one. newest is nil if there is none; delay is the
// database's phase.
func SnapshotDue(now time.Time, newest *ltx.FileInfo, pos ltx.TXID, interval, delay time.Duration) bool {
	if pos == 0 || interval <= 0 {
		return false
	}
	if newest == nil {
		return true
	}
	lvl := CompactionLevel{Level: SnapshotLevel, Interval: interval}
	return newest.MaxTXID < pos && newest.CreatedAt.Before(lvl.prevAt(now, delay))
}

// SnapshotDue reports whether the database at position pos needs a snapshot.
// It lists the snapshots at first use and makes no request afterwards.
func (c *Compactor) SnapshotDue(ctx context.Context, pos ltx.TXID, interval time.Duration) (bool, error) {
	newest, err := c.NewestSnapshot(ctx)
	if err != nil {
		return false, err
	}
	return SnapshotDue(c.Now(), newest, pos, interval, phase(c.Path, interval)), nil
}

// NewestSnapshot returns the snapshot with the highest TXID, nil if there is
// none. It lists the snapshots at first use.
func (c *Compactor) NewestSnapshot(ctx context.Context) (*ltx.FileInfo, error) {
	if err := c.loadLevels(ctx, []int{SnapshotLevel}); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	files := c.state[SnapshotLevel].files
	if len(files) == 0 {
		return nil, nil
	}
	return infosOf(SnapshotLevel, files[len(files)-1:])[0], nil
}

// WriteSnapshot uploads a snapshot of the database at position pos and notes
// it. r is a whole LTX file of the range 1 to pos.
func (c *Compactor) WriteSnapshot(ctx context.Context, pos ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	info, err := c.client.WriteLTXFile(ctx, SnapshotLevel, 1, pos, r)
	if err != nil {
		c.Invalidate() // whether it arrived is unknown
		return nil, fmt.Errorf("upload snapshot: %w", err)
	}
	c.NoteSnapshot(info)
	return info, nil
}
