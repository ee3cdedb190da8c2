package litestream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/superfly/ltx"
)

// stamp is a time in seconds since the epoch, rounded up, 0 if there is none.
// Rounding up makes what is old enough by its stamp old enough by its time.
type stamp int64

func stampOf(t time.Time) stamp {
	if t.IsZero() {
		return 0
	}
	return stamp(t.Add(time.Second - time.Nanosecond).Unix())
}

func (s stamp) time() time.Time { return time.Unix(int64(s), 0).UTC() }

// tenantBase is the base with the highest position.
type tenantBase struct {
	txid ltx.TXID // 0: nothing on the replica leads to the newest position
	size int64    // bytes, which a new snapshot is expected to have as well
	at   stamp
}

// tenantLevel is what of a level no higher one holds yet.
type tenantLevel struct {
	files int
	at    stamp // of the newest
}

// maxFruitless bounds the retention passes that change nothing.
const maxFruitless = 6

// tenantFiles is what is known of one database's files on the replica. The
// zero value is a replica that nothing is known of and nothing was uploaded to.
// It is a value; the methods that begin with note follow what happens.
//
// It never decides alone what is deleted: that is planned from a listing.
type tenantFiles struct {
	known bool // otherwise a listing comes before everything else
	gone  bool // the database is deleted: no snapshot can be taken
	stuck bool // what lies there cannot be merged, and there is no snapshot

	pos      ltx.TXID // newest
	base     tenantBase
	first    bool  // the first file of level 0 lies there
	newSince stamp // first change behind the base

	snapshots int
	oldestAt  stamp // of the oldest of them
	secondAt  stamp // of the second oldest

	// Level 1, or a snapshot in its place, reaches done, since doneAt. mark is
	// an earlier value of done, which level-0 files wait for no longer than
	// that: while a database changes all the time, doneAt never gets old.
	done   ltx.TXID
	doneAt stamp
	mark   ltx.TXID
	markAt stamp

	// Level-0 files behind done.
	pendingSince stamp
	pendingBytes int64

	// Level-0 files up to done, as far as retention has not deleted them.
	// oldest is the first of level 0 that it may delete, 0 if there is none.
	oldest   ltx.TXID
	oldBytes int64

	levels     [MaxCompactionLevel + 1]tenantLevel
	sinceFiles int   // of the levels 1 to 8 that reach beyond the base
	sinceBytes int64 // their size

	// Retention is not tried before rest, and with more than maxFruitless
	// passes that could not do what was due, not before there is a change.
	rest      stamp
	fruitless int
}

// noteUpload tells that a level-0 file was acknowledged.
func (f *tenantFiles) noteUpload(info *ltx.FileInfo, now time.Time) {
	f.gone, f.stuck, f.fruitless = false, false, 0
	if info.MaxTXID <= f.pos {
		return
	}
	if info.MinTXID == 1 {
		// Nothing lay there before, or it would have been followed.
		*f = tenantFiles{
			known: true, pos: info.MaxTXID, done: info.MaxTXID, doneAt: stampOf(now), first: true,
			base: tenantBase{txid: info.MaxTXID, size: info.Size, at: stampOf(now)},
		}
		return
	}
	f.pos = info.MaxTXID
	if f.newSince == 0 {
		f.newSince = stampOf(now)
	}
	f.pendingBytes += info.Size
	if f.pendingSince == 0 {
		f.pendingSince = stampOf(now)
	}
	if f.oldest == 0 {
		f.oldest = info.MinTXID
	}
}

// noteGone tells whether the database was deleted.
func (f *tenantFiles) noteGone(gone bool) { f.gone = gone }

// noteSnapshot tells that a snapshot was acknowledged.
func (f *tenantFiles) noteSnapshot(info *ltx.FileInfo, now time.Time) {
	f.stuck, f.fruitless = false, 0
	f.snapshots++
	switch f.snapshots {
	case 1:
		f.oldestAt = stampOf(now)
	case 2:
		f.secondAt = stampOf(now)
	}
	if info.MaxTXID >= f.base.txid {
		f.base = tenantBase{txid: info.MaxTXID, size: info.Size, at: stampOf(now)}
		f.levels = [len(f.levels)]tenantLevel{}
		f.sinceFiles, f.sinceBytes, f.newSince = 0, 0, 0
		if f.pos > info.MaxTXID {
			f.newSince = stampOf(now)
		}
	}
	f.reach(info.MaxTXID, now)
}

// noteCompacted tells that a file of level 1 was acknowledged.
func (f *tenantFiles) noteCompacted(info *ltx.FileInfo, now time.Time) {
	f.levels[1].files++
	f.levels[1].at = stampOf(now)
	f.sinceFiles++
	f.sinceBytes += info.Size
	f.reach(info.MaxTXID, now)
}

// reach moves done.
func (f *tenantFiles) reach(txid ltx.TXID, now time.Time) {
	if txid <= f.done {
		return
	}
	f.pos = max(f.pos, txid)
	moved := f.pendingBytes
	if n := f.pos - f.done; f.pos > txid {
		moved = int64(float64(moved) * float64(txid-f.done) / float64(n))
	}
	f.oldBytes += moved
	f.pendingBytes -= moved
	f.done, f.doneAt = txid, stampOf(now)
	f.pendingSince = 0
	if f.pos > f.done {
		f.pendingSince = stampOf(now)
	}
	f.advanceMark()
}

// advanceMark moves the mark when no level-0 file waits for it.
func (f *tenantFiles) advanceMark() {
	if f.oldest == 0 || f.mark < f.oldest {
		f.mark, f.markAt = f.done, f.doneAt
	}
}

// noteListing tells what a listing of all levels found. before is the newest
// position that was known when it began: what was uploaded since then may be
// missing from it.
func (f *tenantFiles) noteListing(tree []*ltx.FileInfo, before ltx.TXID, now time.Time) {
	n := tenantFiles{known: true, gone: f.gone, stuck: f.stuck, rest: f.rest, fruitless: f.fruitless}
	levels := levelsOf(tree)
	n.countBases(levels, now)
	n.countLevels(levels, now)
	n.doneAt = stampOf(now)
	if f.done == n.done && f.doneAt > 0 {
		n.doneAt = f.doneAt
	}
	n.mark, n.markAt = n.done, n.doneAt
	if f.mark > 0 && f.mark <= n.done {
		n.mark, n.markAt = f.mark, f.markAt
	}
	n.countL0(levels[0], now)
	if f.pos > n.pos && f.pos > before {
		n.pos = f.pos
		n.changed(stampOf(now))
		n.pendingBytes = max(n.pendingBytes, f.pendingBytes)
		if n.pendingSince == 0 {
			n.pendingSince = stampOf(now)
		}
		if n.oldest == 0 {
			n.oldest = max(before, n.done) + 1
		}
	}
	n.advanceMark()
	if _, err := planRestore(levels, 0, time.Time{}); err != nil && n.pos > 0 {
		n.base.txid = 0
	}
	*f = n
}

// countBases counts what a restore can begin with.
func (f *tenantFiles) countBases(levels levelFiles, now time.Time) {
	for _, file := range levels[0] {
		if file.MinTXID == 1 {
			f.first = true
			f.base = tenantBase{txid: file.MaxTXID, size: file.Size, at: pastStamp(file, now)}
		}
	}
	snapshots := sortedByMax(levels[SnapshotLevel])
	f.snapshots = len(snapshots)
	if f.snapshots > 0 {
		f.oldestAt = pastStamp(snapshots[0], now)
		last := snapshots[f.snapshots-1]
		f.base = tenantBase{txid: last.MaxTXID, size: last.Size, at: pastStamp(last, now)}
	}
	if f.snapshots > 1 {
		f.secondAt = pastStamp(snapshots[1], now)
	}
	f.pos, f.done = f.base.txid, f.base.txid
}

// countLevels counts the files of the levels 1 to 8.
func (f *tenantFiles) countLevels(levels levelFiles, now time.Time) {
	reached := f.base.txid
	for level := MaxCompactionLevel; level > 0; level-- {
		l := &f.levels[level]
		next := reached
		for _, file := range levels[level] {
			if file.MaxTXID > f.base.txid {
				f.sinceFiles++
				f.sinceBytes += file.Size
				f.changed(pastStamp(file, now))
			}
			if file.MaxTXID > reached {
				l.files++
				l.at = max(l.at, pastStamp(file, now))
			}
			next = max(next, file.MaxTXID)
		}
		reached = next
	}
	f.done = max(f.done, reached)
	f.pos = max(f.pos, f.done)
}

// countL0 counts the files of level 0 but the first.
func (f *tenantFiles) countL0(files []*ltx.FileInfo, now time.Time) {
	for _, file := range files {
		f.pos = max(f.pos, file.MaxTXID)
		if file.MinTXID == 1 {
			continue
		}
		if f.oldest == 0 || file.MinTXID < f.oldest {
			f.oldest = file.MinTXID
		}
		if file.MaxTXID <= f.done {
			f.oldBytes += file.Size
			continue
		}
		f.pendingBytes += file.Size
		at := pastStamp(file, now)
		f.changed(at)
		if f.pendingSince == 0 || at < f.pendingSince {
			f.pendingSince = at
		}
	}
}

// changed tells that a file behind the base was made then.
func (f *tenantFiles) changed(at stamp) {
	if f.newSince == 0 || at < f.newSince {
		f.newSince = at
	}
}

// levelsOf sorts a listing of all levels.
func levelsOf(tree []*ltx.FileInfo) (levels levelFiles) {
	for _, file := range tree {
		levels[file.Level] = append(levels[file.Level], file)
	}
	return levels
}

// pastStamp returns when a file was made, now at most, never 0.
func pastStamp(file *ltx.FileInfo, now time.Time) stamp {
	return max(min(stampOf(file.CreatedAt), stampOf(now)), 1)
}

// noteRetention corrects what a retention pass learned beside the listing that
// it leaves behind: first is the first level-0 file that a later pass may
// delete, 0 if there is none.
func (f *tenantFiles) noteRetention(first ltx.TXID, s maintenanceSettings, path string, now time.Time) {
	if first == 0 && f.pos > f.done {
		first = f.done + 1
	}
	f.oldest = first
	f.advanceMark()
	f.rest = 0
	due := f.schedule(s, path).retain
	if due.IsZero() || due.After(now) {
		f.fruitless = 0
		return
	}
	f.noteRest(s, now)
}

// noteRest puts retention off, each time for longer. Nothing is lost if it runs
// later; what cannot be deleted must not be tried all the time.
func (f *tenantFiles) noteRest(s maintenanceSettings, now time.Time) {
	f.rest = stampOf(now.Add(max(s.Grace, s.SnapshotRetention/8, time.Minute) << f.fruitless))
	f.fruitless++
}

// noteStuck tells that what lies there cannot be merged and that no snapshot
// can be taken. Nothing is tried before the database is back.
func (f *tenantFiles) noteStuck() { f.stuck = true }

// tenantFilesVersion begins an encoded tenantFiles; maxTenantFilesSize bounds
// its length in bytes.
const (
	tenantFilesVersion = 1
	maxTenantFilesSize = 199
)

// errTenantFiles is what UnmarshalBinary wraps.
var errTenantFiles = errors.New("record of the files on the replica is invalid")

// fields calls fn with every number in the order in which they are encoded.
// Positions and times are small numbers if they are told as distances.
func (f *tenantFiles) fields(fn func(v *int64, from int64)) {
	txid := func(v *ltx.TXID, from ltx.TXID) {
		n := int64(*v)
		fn(&n, int64(from))
		*v = ltx.TXID(n)
	}
	at := func(v *stamp, from stamp) {
		n := int64(*v)
		fn(&n, int64(from))
		*v = stamp(n)
	}
	count := func(v *int) {
		n := int64(*v)
		fn(&n, 0)
		*v = int(n)
	}
	txid(&f.pos, 0)
	txid(&f.base.txid, f.pos)
	fn(&f.base.size, 0)
	at(&f.base.at, 0)
	at(&f.newSince, f.base.at)
	count(&f.snapshots)
	at(&f.oldestAt, f.base.at)
	at(&f.secondAt, f.base.at)
	txid(&f.done, f.pos)
	at(&f.doneAt, f.base.at)
	txid(&f.mark, f.pos)
	at(&f.markAt, f.base.at)
	at(&f.pendingSince, f.base.at)
	fn(&f.pendingBytes, 0)
	txid(&f.oldest, f.pos)
	fn(&f.oldBytes, 0)
	count(&f.sinceFiles)
	fn(&f.sinceBytes, 0)
	at(&f.rest, f.base.at)
	count(&f.fruitless)
	for level := 1; level < len(f.levels); level++ {
		count(&f.levels[level].files)
		at(&f.levels[level].at, f.base.at)
	}
}

// Flags of an encoded tenantFiles.
const (
	tenantFilesKnown = 1 << iota
	tenantFilesGone
	tenantFilesStuck
	tenantFilesFirst
)

// MarshalBinary returns the record in less than 200 bytes: a version, flags,
// the numbers as varints of their distance to another one, and a CRC-32. A
// record that is not valid or too long for that is encoded as unknown.
func (f tenantFiles) MarshalBinary() ([]byte, error) {
	if f == (tenantFiles{}) {
		return nil, nil
	}
	var flags byte
	if f.known {
		flags |= tenantFilesKnown
	}
	if f.gone {
		flags |= tenantFilesGone
	}
	if f.stuck {
		flags |= tenantFilesStuck
	}
	if f.first {
		flags |= tenantFilesFirst
	}
	b := append(make([]byte, 0, 96), tenantFilesVersion, flags)
	f.fields(func(v *int64, from int64) {
		if *v == 0 {
			b = append(b, 0) // distances of it would be large
			return
		}
		n := *v - from
		if n >= 0 {
			n++ // 0 is taken
		}
		b = binary.AppendVarint(b, n)
	})
	if len(b)+crc32.Size > maxTenantFilesSize {
		b = append(b[:0], tenantFilesVersion)
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b)), nil
}

// UnmarshalBinary decodes a record; no bytes are a zero one. What is invalid,
// or was encoded as unknown, becomes a record that asks for a listing at once.
func (f *tenantFiles) UnmarshalBinary(b []byte) error {
	*f = tenantFiles{}
	if len(b) == 0 {
		return nil
	}
	n := tenantFiles{}
	err := n.decode(b)
	if err != nil {
		n = tenantFiles{pendingSince: 1}
	}
	*f = n
	return err
}

func (f *tenantFiles) decode(b []byte) error {
	n := len(b) - crc32.Size
	if n < 1 || b[0] != tenantFilesVersion || crc32.ChecksumIEEE(b[:n]) != binary.BigEndian.Uint32(b[n:]) {
		return fmt.Errorf("%w: %d bytes", errTenantFiles, len(b))
	}
	if b = b[1:n]; len(b) == 0 {
		f.pendingSince = 1
		return nil
	}
	flags := b[0]
	f.known, f.gone, f.stuck = flags&tenantFilesKnown != 0, flags&tenantFilesGone != 0, flags&tenantFilesStuck != 0
	f.first = flags&tenantFilesFirst != 0
	b = b[1:]
	valid := true
	f.fields(func(v *int64, from int64) {
		d, size := binary.Varint(b)
		if size <= 0 {
			valid, b = false, nil
			return
		}
		b = b[size:]
		if d > 0 {
			d--
		} else if d == 0 {
			from = 0
		}
		*v = from + d
		valid = valid && *v >= 0
	})
	if !valid || len(b) > 0 || f.done > f.pos || f.base.txid > f.pos || f.mark > f.pos || f.fruitless > maxFruitless+1 {
		return fmt.Errorf("%w: numbers out of range", errTenantFiles)
	}
	return nil
}

// encode returns the form that decode reads.
func (f *tenantFiles) encode() []byte {
	b, _ := f.MarshalBinary() // never fails
	return b
}
