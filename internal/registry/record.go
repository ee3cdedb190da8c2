package registry

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/wal"
)

// Limits of a record. What is longer is cut: the reason is for people, and
// maintenance answers files that it cannot read with one listing.
const (
	MaxReasonBytes = 1 << 10
	MaxFilesBytes  = 1 << 10
	MaxDrillBytes  = 1 << 10
)

// Layout of a row's data (docs/formats/registry.md), big-endian.
const (
	flagSettled = 1 << iota
	flagWAL     // the fingerprint has a log
	flagDrill   // a drill has looked at the replica

	printBytes = 5 * 8
	fixedBytes = 2 + 6*8 + printBytes // flags, state, six numbers, main file
	sumBytes   = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns the path, followed by the row's data. One slice holds both,
// because a row is encoded each time that it changes.
func encode(rec *Record) []byte {
	reason := rec.Reason[:min(len(rec.Reason), MaxReasonBytes)]
	files := rec.Files[:min(len(rec.Files), MaxFilesBytes)]
	b := make([]byte, 0, len(rec.Path)+fixedBytes+printBytes+4+len(reason)+len(files)+sumBytes)
	b = append(b, rec.Path...)
	var flags byte
	if rec.Settled {
		flags |= flagSettled
	}
	hasWAL := rec.Fingerprint.WAL != wal.Print{}
	if hasWAL {
		flags |= flagWAL
	}
	drill := rec.Drill[:min(len(rec.Drill), MaxDrillBytes)]
	if !rec.ProvenAt.IsZero() || drill != "" {
		flags |= flagDrill
	}
	b = append(b, flags, rec.State)
	b = binary.BigEndian.AppendUint64(b, rec.Place)
	b = binary.BigEndian.AppendUint64(b, uint64(rec.TXID))
	for _, t := range []time.Time{rec.SyncedAt, rec.Due, rec.ChangedAt, rec.GoneAt} {
		b = binary.BigEndian.AppendUint64(b, uint64(nanos(t)))
	}
	b = appendPrint(b, rec.Fingerprint.Main)
	if hasWAL {
		b = appendPrint(b, rec.Fingerprint.WAL)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(reason)))
	b = append(b, reason...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(files)))
	b = append(b, files...)
	if flags&flagDrill != 0 {
		b = binary.BigEndian.AppendUint64(b, uint64(nanos(rec.ProvenAt)))
		b = binary.BigEndian.AppendUint16(b, uint16(len(drill)))
		b = append(b, drill...)
	}
	return binary.BigEndian.AppendUint32(b, rowSum(rec.ID, b[:len(rec.Path)], b[len(rec.Path):]))
}

// decode fills rec from a row and returns whether the row is what was written.
// Files is a part of data.
func decode(rec *Record, id int64, path, data []byte) bool {
	d, ok := checked(id, path, data)
	if !ok {
		return false
	}
	flags := d[0]
	*rec = Record{ID: uint32(id), Path: string(path), Settled: flags&flagSettled != 0, State: d[1]}
	d = d[2:]
	rec.Place = next(&d)
	rec.TXID = ltx.TXID(next(&d))
	for _, t := range []*time.Time{&rec.SyncedAt, &rec.Due, &rec.ChangedAt, &rec.GoneAt} {
		*t = timeOf(int64(next(&d)))
	}
	rec.Fingerprint.Main = nextPrint(&d)
	if flags&flagWAL != 0 {
		if len(d) < printBytes {
			return false
		}
		rec.Fingerprint.WAL = nextPrint(&d)
	}
	reason, ok := nextBytes(&d)
	if !ok {
		return false
	}
	rec.Reason = string(reason)
	if rec.Files, ok = nextBytes(&d); ok && flags&flagDrill != 0 {
		if len(d) < 8 {
			return false
		}
		rec.ProvenAt = timeOf(int64(next(&d)))
		var drill []byte
		drill, ok = nextBytes(&d)
		rec.Drill = string(drill)
	}
	return ok && len(d) == 0
}

// checked returns data without its checksum if that is right.
func checked(id int64, path, data []byte) ([]byte, bool) {
	n := len(data) - sumBytes
	if n < fixedBytes || id <= 0 || id > 1<<32-1 {
		return nil, false
	}
	return data[:n], rowSum(uint32(id), path, data[:n]) == binary.BigEndian.Uint32(data[n:])
}

func rowSum(id uint32, path, data []byte) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], id)
	sum := crc32.Update(0, castagnoli, b[:])
	sum = crc32.Update(sum, castagnoli, path)
	return crc32.Update(sum, castagnoli, data)
}

func appendPrint(b []byte, p wal.Print) []byte {
	for _, n := range [...]uint64{p.ID.Dev, p.ID.Ino, uint64(p.Size), uint64(p.Mtime), uint64(p.Ctime)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// next takes a number off d, which holds one.
func next(d *[]byte) uint64 {
	n := binary.BigEndian.Uint64(*d)
	*d = (*d)[8:]
	return n
}

func nextPrint(d *[]byte) (p wal.Print) {
	p.ID.Dev, p.ID.Ino = next(d), next(d)
	p.Size, p.Mtime, p.Ctime = int64(next(d)), int64(next(d)), int64(next(d))
	return p
}

// nextBytes takes a length and that many bytes off d. None is nil.
func nextBytes(d *[]byte) ([]byte, bool) {
	if len(*d) < 2 {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(*d))
	*d = (*d)[2:]
	if len(*d) < n {
		return nil, false
	}
	b := (*d)[:n:n]
	*d = (*d)[n:]
	if n == 0 {
		return nil, true
	}
	return b, true
}

// nanos is a time as stored: nanoseconds since the epoch, 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// forgetReplica empties all that a record knows of a replica.
func (rec *Record) forgetReplica() {
	*rec = Record{
		ID: rec.ID, Path: rec.Path, Place: rec.Place, State: rec.State, Reason: rec.Reason,
		ChangedAt: rec.ChangedAt, GoneAt: rec.GoneAt,
	}
}
