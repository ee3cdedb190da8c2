package litestream

import (
	"cmp"
	"slices"

	"github.com/superfly/ltx"
)

// txidRange is a range of TXIDs, both ends included.
type txidRange struct{ min, max ltx.TXID }

// compactionPlan is what one compaction merges.
type compactionPlan struct {
	inputs []*ltx.FileInfo // contiguous, ascending
	more   bool            // the limits left files for another compaction
	gap    txidRange       // TXIDs missing in front of the first usable file
}

// compactionLimits bound the inputs of one compaction.
type compactionLimits struct {
	files int
	bytes int64
}

// planCompaction chooses the inputs of the next file of a level. files are
// those of the level below, in any order; after is the last TXID that the
// level holds, 0 if it is empty. An empty level begins with the first file
// there is: where that one is reachable, its compaction is too.
//
// Of the files that continue the range, the one that reaches furthest is
// taken. At a gap the inputs end; if there are none yet, the gap is reported.
func planCompaction(files []*ltx.FileInfo, after ltx.TXID, limits compactionLimits) compactionPlan {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(a.MinTXID, b.MinTXID), cmp.Compare(a.MaxTXID, b.MaxTXID))
	})

	var p compactionPlan
	pos, started := after, after > 0
	var size int64
	for i := 0; i < len(files); {
		if !started {
			pos, started = files[i].MinTXID-1, true
		}
		best, next := furthest(files, i, pos)
		if best == nil {
			if next < len(files) && len(p.inputs) == 0 {
				p.gap = txidRange{pos + 1, files[next].MinTXID - 1}
			}
			p.more = next < len(files) && len(p.inputs) > 0
			return p
		}
		size += best.Size
		if n := len(p.inputs); n > 0 && (n >= limits.files || size > limits.bytes) {
			p.more = true
			return p
		}
		p.inputs = append(p.inputs, best)
		pos, i = best.MaxTXID, next
	}
	return p
}

// furthest returns the file that extends pos the most among those from i on,
// and the index of the first file that starts behind it.
func furthest(files []*ltx.FileInfo, i int, pos ltx.TXID) (best *ltx.FileInfo, next int) {
	for ; i < len(files) && files[i].MinTXID <= pos+1; i++ {
		if files[i].MaxTXID > pos && (best == nil || files[i].MaxTXID > best.MaxTXID) {
			best = files[i]
		}
	}
	return best, i
}

// bridgeGap returns files of other levels that cover gap, or nil. The files
// may reach over the gap's ends.
func bridgeGap(files []*ltx.FileInfo, gap txidRange) []*ltx.FileInfo {
	var usable []*ltx.FileInfo
	for _, f := range files {
		if f.MaxTXID >= gap.min && f.MinTXID <= gap.max {
			usable = append(usable, f)
		}
	}
	p := planCompaction(usable, gap.min-1, compactionLimits{files: len(usable), bytes: 1<<63 - 1})
	if n := len(p.inputs); n == 0 || p.inputs[n-1].MaxTXID < gap.max {
		return nil
	}
	return p.inputs
}
