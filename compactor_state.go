package litestream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/superfly/ltx"
)

// span is a file of the replica in 40 bytes: a database that is written every
// second has hundreds at level 0.
type span struct {
	min, max  ltx.TXID
	size      int64 // bytes
	createdAt int64 // milliseconds since the epoch; 0 if unknown
	seenAt    int64 // the same, of when this process first knew the file
}

// levelState is what is known about one level. See pruneLocked for the files
// that it keeps.
type levelState struct {
	loaded   bool
	maxTXID  ltx.TXID
	servedAt time.Time // when the newest file was made
	files    []span    // ascending by max
	more     bool      // a compaction into this level left files over
	skip     ltx.TXID  // end of the files that cannot be merged, as a snapshot covers them
}

// levelSet is a set of levels.
type levelSet [SnapshotLevel + 1]bool

func spanOf(info *ltx.FileInfo) span {
	s := span{min: info.MinTXID, max: info.MaxTXID, size: info.Size}
	if !info.CreatedAt.IsZero() {
		s.createdAt = info.CreatedAt.UnixMilli()
	}
	return s
}

func infosOf(level int, spans []span) []*ltx.FileInfo {
	a := make([]*ltx.FileInfo, len(spans))
	for i, s := range spans {
		a[i] = &ltx.FileInfo{Level: level, MinTXID: s.min, MaxTXID: s.max, Size: s.size}
		if s.createdAt != 0 {
			a[i].CreatedAt = time.UnixMilli(s.createdAt).UTC()
		}
	}
	return a
}

// coversOf returns files with the time from which on they were surely there.
// The time of a listing may be that of the last transaction in the file, which
// says nothing about when it was uploaded.
func coversOf(level int, spans []span) []*ltx.FileInfo {
	a := infosOf(level, spans)
	for i, s := range spans {
		a[i].CreatedAt = time.UnixMilli(max(s.createdAt, s.seenAt)).UTC()
	}
	return a
}

// positionLocked returns the TXID up to which a level needs nothing more from
// the one below. A level begins behind the first file of a database if there
// is a snapshot of the same range: the file holds the whole database, which
// would otherwise be sent once more for every level.
func (c *Compactor) positionLocked(level int) ltx.TXID {
	dst, src := &c.state[level], &c.state[level-1]
	if dst.maxTXID > 0 || len(src.files) == 0 || src.files[0].min > 1 {
		return dst.maxTXID
	}
	for _, s := range c.state[SnapshotLevel].files {
		if s.min == src.files[0].min && s.max == src.files[0].max {
			return s.max
		}
	}
	return dst.maxTXID
}

// snapshotFromLocked returns the end of the first snapshot that ends at txid
// or behind it, 0 if there is none.
func (c *Compactor) snapshotFromLocked(txid ltx.TXID) ltx.TXID {
	for _, s := range c.state[SnapshotLevel].files {
		if s.max >= txid {
			return s.max
		}
	}
	return 0
}

// NoteL0 tells that a level-0 file was uploaded. Every upload has to be noted:
// after the first listing, files that were not are not seen.
func (c *Compactor) NoteL0(info *ltx.FileInfo) { c.note(0, info) }

// NoteSnapshot tells that a snapshot was uploaded.
func (c *Compactor) NoteSnapshot(info *ltx.FileInfo) { c.note(SnapshotLevel, info) }

func (c *Compactor) note(level int, info *ltx.FileInfo) {
	noted := *info
	noted.Level = level
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addLocked(&noted)
}

// addLocked adds a file, or replaces the one of the same range.
func (c *Compactor) addLocked(info *ltx.FileInfo) {
	st, s := &c.state[info.Level], spanOf(info)
	s.seenAt = c.Now().UnixMilli()
	i, _ := slices.BinarySearchFunc(st.files, s, compareSpans)
	if i < len(st.files) && st.files[i].min == s.min && st.files[i].max == s.max {
		st.files[i] = s
	} else {
		st.files = slices.Insert(st.files, i, s)
	}
	if s.max >= st.maxTXID {
		st.maxTXID, st.servedAt = s.max, info.CreatedAt
	}
}

func compareSpans(a, b span) int {
	return cmp.Or(cmp.Compare(a.max, b.max), cmp.Compare(a.min, b.min))
}

// load lists what is not known yet of a level, of those above it that are
// configured, and of the snapshots.
func (c *Compactor) load(ctx context.Context, level int) error {
	levels := []int{SnapshotLevel}
	for l := c.Levels.MaxLevel(); l >= level; l-- {
		levels = append(levels, l)
	}
	return c.loadLevels(ctx, levels)
}

// loadLevels lists those of levels that are not known yet. The highest is to
// come first, because it tells how much of the one below has to be kept.
func (c *Compactor) loadLevels(ctx context.Context, levels []int) error {
	c.mu.Lock()
	generation := c.generation
	levels = slices.DeleteFunc(levels, func(l int) bool { return c.state[l].loaded })
	c.mu.Unlock()
	byLevel, err := c.listLevels(ctx, levels)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return errors.New("list levels: replica changed meanwhile")
	}
	for _, level := range levels {
		c.setLevelLocked(level, byLevel[level])
	}
	return nil
}

func (c *Compactor) setLevelLocked(level int, infos []*ltx.FileInfo) {
	for _, info := range infos {
		if !c.knowsLocked(info) {
			c.addLocked(info)
		}
	}
	c.state[level].loaded = true
	c.pruneLocked(level)
	if level == 0 {
		c.pruneLocked(1)
	}
}

// knowsLocked reports whether a listed file was noted before.
func (c *Compactor) knowsLocked(info *ltx.FileInfo) bool {
	st, s := &c.state[info.Level], spanOf(info)
	_, ok := slices.BinarySearchFunc(st.files, s, compareSpans)
	return ok
}

// listLevels returns the files of levels, by level: with one request where the
// storage can and they are more than one. The others may be there or not.
func (c *Compactor) listLevels(ctx context.Context, levels []int) (byLevel [SnapshotLevel + 1][]*ltx.FileInfo, err error) {
	if t, ok := c.client.(TreeLister); ok && len(levels) > 1 {
		infos, err := t.LTXTree(ctx)
		if err != nil {
			return byLevel, fmt.Errorf("list all levels: %w", err)
		}
		for _, info := range infos {
			byLevel[info.Level] = append(byLevel[info.Level], info)
		}
		return byLevel, nil
	}
	for _, level := range levels {
		if byLevel[level], err = c.list(ctx, level); err != nil {
			return byLevel, err
		}
	}
	return byLevel, nil
}

// list returns the files of one level with the times that cost nothing extra.
func (c *Compactor) list(ctx context.Context, level int) ([]*ltx.FileInfo, error) {
	return listFiles(ctx, c.client, level)
}

// listFiles returns the files of one level, which know it.
func listFiles(ctx context.Context, client ReplicaClient, level int) ([]*ltx.FileInfo, error) {
	infos, err := listLevel(ctx, client, level, 0, false)
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		info.Level = level
	}
	return infos, nil
}

// pruneLocked drops what is not needed of a level. Level 0 and the snapshots
// are kept whole; of the others those files are kept that the next level does
// not hold yet, and at level 1 those that overlap with level 0.
func (c *Compactor) pruneLocked(level int) {
	st := &c.state[level]
	if !st.loaded || level == 0 || level == SnapshotLevel {
		return
	}
	keepAbove := st.maxTXID
	if next := c.Levels.Level(level + 1); next != nil {
		keepAbove = c.state[level+1].maxTXID
	}
	if l0 := c.state[0].files; level == 1 && !c.state[0].loaded {
		return
	} else if level == 1 && len(l0) > 0 {
		keepAbove = min(keepAbove, l0[0].min-1)
	}
	st.files = slices.DeleteFunc(st.files, func(s span) bool { return s.max <= keepAbove })
}

// forgetLocked drops a file that was deleted.
func (c *Compactor) forgetLocked(info *ltx.FileInfo) {
	st, s := &c.state[info.Level], spanOf(info)
	if i, ok := slices.BinarySearchFunc(st.files, s, compareSpans); ok {
		st.files = slices.Delete(st.files, i, i+1)
	}
}
