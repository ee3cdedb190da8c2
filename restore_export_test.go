package litestream

import (
	"context"
	"os"
	"time"

	"github.com/superfly/ltx"
)

// RestoreKnobs are what tests change about a restore.
type RestoreKnobs struct {
	ChunkBytes  int64
	RetryDelays []time.Duration
	Stall       time.Duration
	Replans     []time.Duration

	FollowLook time.Duration           // how often all levels are listed
	FollowStep func(name string) error // called after each step of an update
}

// SetKnobs replaces the sizes and times that users cannot set.
func (opt *RestoreOptions) SetKnobs(k RestoreKnobs) {
	opt.knobs = restoreKnobs{
		fetch:        fetchKnobs{chunkBytes: k.ChunkBytes, retryDelays: k.RetryDelays, stall: k.Stall},
		replanDelays: k.Replans,
		followLook:   k.FollowLook,
		followStep:   k.FollowStep,
	}
}

// PlanRestore is planRestore.
func PlanRestore(levels [SnapshotLevel + 1][]*ltx.FileInfo, txID ltx.TXID, timestamp time.Time) ([]*ltx.FileInfo, error) {
	return planRestore(levels, txID, timestamp)
}

// PlanFollow is planFollow.
func PlanFollow(levels [SnapshotLevel + 1][]*ltx.FileInfo, at ltx.TXID) (files []*ltx.FileInfo, full bool, err error) {
	p, err := planFollow("x.db", levels, at)
	return p.files, p.full, err
}

// ApplyPlan writes the pages of a plan to out, without the care for files
// that Restore takes.
func ApplyPlan(ctx context.Context, client ReplicaClient, plan []*ltx.FileInfo, out *os.File) error {
	opt := NewRestoreOptions().withDefaults()
	return (&applier{out: out}).apply(ctx, client, plan, opt.knobs.fetch, new(progress))
}

// JoinCRC and ShiftPageChecksum expose the arithmetic of checksums.
var JoinCRC = crcJoin

// ShiftPageChecksum returns a page checksum from the CRC of the page.
func ShiftPageChecksum(pgno uint32, crc uint64, pageSize int) ltx.Checksum {
	return newCRCShift(int64(pageSize)).pageChecksum(pgno, crc)
}

// UsesV03 is usesV03.
func UsesV03(levels [SnapshotLevel + 1][]*ltx.FileInfo, files []V03File, timestamp time.Time) bool {
	return usesV03(levels, files, timestamp)
}
