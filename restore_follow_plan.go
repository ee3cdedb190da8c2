package litestream

import (
	"fmt"
	"time"

	"github.com/superfly/ltx"
)

// followPlan is what a followed database gets next.
type followPlan struct {
	files []*ltx.FileInfo // in the order in which they apply; none: nothing is new
	to    ltx.TXID

	// full means that the files do not continue the database but replace it,
	// because transactions in between are not on the replica any more.
	full bool
}

// planFollow chooses the files that bring a database from a position to the
// newest one. Where files in between are missing it takes a snapshot behind
// the gap, if there is one.
//
// ErrNoBackups means an empty replica, ErrFollowResume one that ends before
// the position, ErrNonContiguous a gap that nothing bridges yet.
func planFollow(output string, levels levelFiles, at ltx.TXID) (followPlan, error) {
	var newest ltx.TXID
	var behind *ltx.FileInfo // the first file that does not continue at
	var files []*ltx.FileInfo
	for level, a := range levels {
		for _, info := range a {
			newest = max(newest, info.MaxTXID)
			if info.MinTXID > at+1 && (behind == nil || info.MinTXID < behind.MinTXID) {
				behind = info
			}
		}
		if level < SnapshotLevel {
			files = append(files, a...)
		}
	}
	switch {
	case newest == 0:
		return followPlan{}, ErrNoBackups
	case newest < at:
		return followPlan{}, fmt.Errorf("%w: saved TXID %s is ahead of the replica's latest TXID %s; delete %s and %s to re-restore",
			ErrFollowResume, at, newest, output, output+followTXIDSuffix)
	}
	p := newFollowPlan(extendChain(nil, at, files), at)
	if p.to == newest {
		return p, nil
	}
	if full := newFollowPlan(chainFiles(levels, 0, time.Time{}), 0); full.to > p.to {
		full.full = true
		return full, nil
	}
	if len(p.files) > 0 || behind == nil {
		return p, nil
	}
	return p, fmt.Errorf("%w: missing txids %s-%s before %s on level %d, and no newer snapshot",
		ErrNonContiguous, at+1, behind.MinTXID-1, ltx.FormatFilename(behind.MinTXID, behind.MaxTXID), behind.Level)
}

func newFollowPlan(files []*ltx.FileInfo, at ltx.TXID) followPlan {
	if len(files) > 0 {
		at = files[len(files)-1].MaxTXID
	}
	return followPlan{files: files, to: at}
}
