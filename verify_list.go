package litestream

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/superfly/ltx"
)

// minLTXBytes is what the shortest LTX file has: a header, the end of no
// pages, an empty index with its length, and a trailer.
const minLTXBytes = ltx.HeaderSize + ltx.PageHeaderSize + 1 + 8 + ltx.TrailerSize

// checkListing looks for what a listing shows.
func (v *verification) checkListing() {
	usable := v.levels
	for level := range usable {
		usable[level] = slices.DeleteFunc(slices.Clone(usable[level]), func(info *ltx.FileInfo) bool {
			if info.Size >= minLTXBytes {
				return false
			}
			v.find(VerifyFinding{
				VerifyCorrupt, VerifyList, objectName(info),
				fmt.Sprintf("%d bytes are too short for an ltx file", info.Size),
			}, info)
			return true
		})
	}
	newest := v.newestFile()
	if newest != nil {
		v.res.TXID, v.res.At = newest.MaxTXID, newest.CreatedAt
	}
	v.checkExpected(newest)
	if newest == nil {
		if len(v.res.Findings) == 0 {
			v.find(VerifyFinding{VerifyMissingLost, VerifyList, "replica", "it holds no file: there is no backup"})
		}
		return
	}
	if _, err := planRestore(usable, 0, time.Time{}); err != nil {
		if chain := chainFiles(usable, 0, time.Time{}); len(chain) > 0 {
			v.reached = chain[len(chain)-1].MaxTXID
		}
		v.find(VerifyFinding{VerifyMissingLost, VerifyList, "newest position", err.Error()})
	}
	v.checkPoints(usable)
	if v.opt.Promise != nil {
		v.checkBoundaries(usable)
	}
}

// checkExpected compares the newest position with what others know.
func (v *verification) checkExpected(newest *ltx.FileInfo) {
	now := v.opt.Now()
	var have ltx.TXID
	ends := "the replica is empty"
	if newest != nil {
		have = newest.MaxTXID
		ends = "the replica ends at " + have.String()
	}
	for _, e := range v.expect {
		switch {
		case e.TXID == 0 && e.Through.IsZero():
		case e.TXID > have && !e.At.IsZero() && now.Sub(e.At) < v.opt.Grace:
			v.find(VerifyFinding{
				VerifyMissingDelayed, VerifyList, "newest position",
				fmt.Sprintf("the %s knows txid %s since %s ago and %s: it may not be listed yet", e.Source, e.TXID, now.Sub(e.At).Round(time.Second), ends),
			})
		case e.TXID > have:
			v.find(VerifyFinding{
				VerifyMissingLost, VerifyList, "newest position",
				fmt.Sprintf("the %s knows txid %s%s and %s: what lies between was deleted, or never arrived", e.Source, e.TXID, since(e.At), ends),
			})
		case newest != nil && e.TXID < have && newest.CreatedAt.Before(e.Through.Add(-v.opt.Grace)):
			knows := "it does not know this database"
			if e.TXID > 0 {
				knows = "it ends at txid " + e.TXID.String()
			}
			v.find(VerifyFinding{
				VerifyDiverged, VerifyList, e.Source,
				fmt.Sprintf("%s although the replica reached txid %s at %s", knows, have, newest.CreatedAt.UTC().Format(time.RFC3339)),
			})
		}
	}
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " of " + t.UTC().Format(time.RFC3339)
}

// promise returns what surely has to be restorable; nil if that is not known.
func (v *verification) promise() *levelPromise {
	p := v.opt.Promise
	if p == nil {
		return nil
	}
	return &levelPromise{now: v.opt.Now(), levels: p.Levels, snapshotRetention: p.SnapshotRetention, l0Retention: p.L0Retention}
}

// checkPoints looks for restore points that no chain of files leads to: the
// ends of the files of level 0 and 1.
func (v *verification) checkPoints(usable levelFiles) {
	files := sortedByMax(slices.Concat(usable[:]...))
	restorable := restorablePoints(files)
	v.res.Points = len(restorable)
	promise := v.promise()
	if promise == nil {
		return // what cannot be reached may be left over from an interrupted deletion
	}
	for i := 0; i < len(files); i++ {
		wanted := func(f *ltx.FileInfo) bool {
			return f.Level <= 1 && !restorable[f.MaxTXID] && promise.holds(f)
		}
		if !wanted(files[i]) {
			continue
		}
		first, last, n := files[i], files[i], 1
		for i+1 < len(files) && !restorable[files[i+1].MaxTXID] {
			if i++; wanted(files[i]) {
				last = files[i]
				n++
			}
		}
		v.find(VerifyFinding{
			VerifyMissingLost, VerifyList, objectName(first),
			fmt.Sprintf("files ahead of it are missing: the restore points from txid %s of %s to txid %s (%d files) are lost",
				first.MaxTXID, first.CreatedAt.UTC().Format(time.RFC3339), last.MaxTXID, n),
		})
	}
}

// restorablePoints returns every position that a chain of files ends at. The
// files ascend by MaxTXID.
//
// A chain to a position uses only files that end there or before, and each of
// its files ends at such a position itself. So one pass finds them all.
func restorablePoints(files []*ltx.FileInfo) map[ltx.TXID]bool {
	points := make(map[ltx.TXID]bool, len(files))
	var reached, below ltx.TXID // the two highest positions so far
	for _, f := range files {
		from := reached
		if from == f.MaxTXID {
			from = below
		}
		if points[f.MaxTXID] || f.MinTXID > from+1 || from == 0 && f.MinTXID != 1 {
			continue
		}
		points[f.MaxTXID] = true
		below, reached = reached, f.MaxTXID
	}
	return points
}

// checkBoundaries looks for restore points that are missing between two files
// of level 0 or 1 that are promised both.
func (v *verification) checkBoundaries(usable levelFiles) {
	promise := v.promise()
	for level := range 2 {
		files := slices.Clone(usable[level])
		slices.SortFunc(files, func(a, b *ltx.FileInfo) int { return cmp.Compare(a.MinTXID, b.MinTXID) })
		for _, p := range levelProblems(files) {
			if p.Kind != LevelGap || !promise.holds(p.Prev) || !promise.holds(p.Next) {
				continue
			}
			if level == 1 && v.opt.Promise.Tenant && snapshotWithin(usable[SnapshotLevel], p) {
				continue
			}
			v.find(VerifyFinding{
				VerifyMissingLost, VerifyList, objectName(p.Next),
				fmt.Sprintf("on this level txids %s-%s are missing ahead of it, and with them restore points",
					p.Prev.MaxTXID+1, p.Next.MinTXID-1),
			})
		}
	}
}

// snapshotWithin reports whether a snapshot stands in place of files of level 1.
func snapshotWithin(snapshots []*ltx.FileInfo, gap LevelProblem) bool {
	return slices.ContainsFunc(snapshots, func(f *ltx.FileInfo) bool {
		return f.MaxTXID > gap.Prev.MaxTXID && f.MaxTXID < gap.Next.MaxTXID && f.MaxTXID >= gap.Next.MinTXID-1
	})
}

// newestFile returns a file that reaches the newest position, nil if there is
// none.
func (v *verification) newestFile() (newest *ltx.FileInfo) {
	for _, files := range v.levels {
		for _, info := range files {
			if newest == nil || info.MaxTXID > newest.MaxTXID {
				newest = info
			}
		}
	}
	return newest
}
