package litestream

import (
	"math/bits"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// logPrint is a wal.Print without the device. Most databases that rest have no
// log, so that it is not part of the record.
type logPrint struct {
	ino   uint64 // of a free one: the next free one, plus one
	size  int64
	mtime int64
	ctime int64
}

// devicePair are the devices of a database and its log.
type devicePair struct{ main, log uint64 }

// deviceTable numbers the pairs of devices that occur. There are as many as
// file systems are mounted, so none is ever forgotten.
type deviceTable struct {
	pairs []devicePair
	index map[devicePair]uint32
	last  uint32 // the one that was asked for last
}

func (d *deviceTable) number(p devicePair) uint32 {
	if int(d.last) < len(d.pairs) && d.pairs[d.last] == p {
		return d.last
	}
	i, ok := d.index[p]
	if !ok {
		if d.index == nil {
			d.index = make(map[devicePair]uint32)
		}
		i = uint32(len(d.pairs))
		d.pairs = append(d.pairs, p)
		d.index[p] = i
	}
	d.last = i
	return i
}

// Matches reports whether a database's fingerprint is the one that was set
// last. Nothing matches a record without one. An empty log counts as none.
func (t *dbTable) Matches(i uint32, fp *sqlitefile.Fingerprint) bool {
	s := t.At(i)
	if s == nil || !s.has(tenantPrinted) {
		return false
	}
	if s.mtime != fp.Main.Mtime || s.size != fp.Main.Size || s.ino != fp.Main.ID.Ino || s.ctime != fp.Main.Ctime {
		return false
	}
	dev := t.devices.pairs[s.devices]
	if dev.main != fp.Main.ID.Dev {
		return false
	}
	if s.wal == 0 {
		return fp.WAL.Size == 0
	}
	l := t.logs.at(s.wal - 1)
	return l.mtime == fp.WAL.Mtime && l.size == fp.WAL.Size && l.ino == fp.WAL.ID.Ino &&
		l.ctime == fp.WAL.Ctime && dev.log == fp.WAL.ID.Dev
}

// SetFingerprint keeps what was taken before the last acknowledged capture, and
// whether it was older than the clock margin then. The zero fingerprint drops
// the one that is kept. It also makes the record the owner of the file's inode,
// unless another one is.
func (t *dbTable) SetFingerprint(i uint32, fp *sqlitefile.Fingerprint, settled bool) {
	s := t.At(i)
	if s == nil {
		return
	}
	t.dropFingerprint(s)
	if fp.Main == (wal.Print{}) {
		return
	}
	t.ClaimInode(i, fp.Main.ID)
	devices := devicePair{main: fp.Main.ID.Dev}
	if fp.WAL.Size != 0 {
		devices.log = fp.WAL.ID.Dev
		s.wal = t.newLog() + 1
		*t.logs.at(s.wal - 1) = logPrint{fp.WAL.ID.Ino, fp.WAL.Size, fp.WAL.Mtime, fp.WAL.Ctime}
	}
	s.devices = t.devices.number(devices)
	s.ino, s.size, s.mtime, s.ctime = fp.Main.ID.Ino, fp.Main.Size, fp.Main.Mtime, fp.Main.Ctime
	s.set(tenantPrinted, true)
	s.set(tenantSettled, settled)
}

// Fingerprint returns what SetFingerprint was given, or the zero one.
func (t *dbTable) Fingerprint(i uint32) (fp sqlitefile.Fingerprint) {
	s := t.At(i)
	if s == nil || !s.has(tenantPrinted) {
		return fp
	}
	dev := t.devices.pairs[s.devices]
	fp.Main = wal.Print{ID: wal.FileID{Dev: dev.main, Ino: s.ino}, Size: s.size, Mtime: s.mtime, Ctime: s.ctime}
	if s.wal != 0 {
		l := t.logs.at(s.wal - 1)
		fp.WAL = wal.Print{ID: wal.FileID{Dev: dev.log, Ino: l.ino}, Size: l.size, Mtime: l.mtime, Ctime: l.ctime}
	}
	return fp
}

// dropFingerprint keeps the inode, and who owns it.
func (t *dbTable) dropFingerprint(s *DBState) {
	s.size, s.mtime, s.ctime = 0, 0, 0
	s.flags &^= tenantPrinted | tenantSettled
	if s.wal != 0 {
		*t.logs.at(s.wal - 1) = logPrint{ino: uint64(t.logsFree)}
		t.logsFree, s.wal = s.wal, 0
	}
}

func (t *dbTable) newLog() uint32 {
	if t.logsFree != 0 {
		i := t.logsFree - 1
		t.logsFree = uint32(t.logs.at(i).ino)
		return i
	}
	i := t.logN
	t.logs.make(i)
	t.logN++
	return i
}

// ClaimInode notes which file lies at the path of record i now. A record whose
// file was another one loses its fingerprint: what it told of is not there any
// more. One record owns an inode; if that is not i, it is returned with false.
// It may be about to give it up: a scan meets the new name of a renamed file
// before it knows that the old one is gone, so that only an owner that the scan
// has seen is one that counts.
func (t *dbTable) ClaimInode(i uint32, id wal.FileID) (owner uint32, ok bool) {
	s := t.At(i)
	if s == nil {
		return 0, false
	}
	if s.flags&(tenantOwner|tenantPrinted) != 0 && t.inodeOf(i) != id {
		t.dropFingerprint(s)
		t.disown(i, s)
	}
	if s.has(tenantOwner) {
		return i, true
	}
	if owner, ok := t.FindInode(id); ok {
		return owner, false
	}
	if !s.has(tenantPrinted) {
		s.ino, s.devices = id.Ino, t.devices.number(devicePair{main: id.Dev})
	}
	s.set(tenantOwner, true)
	t.inodes.put(hashInode(id), i, t.hashOwner)
	return i, true
}

// ReleaseInode gives up the inode that a record owns, because its file is gone.
// The fingerprint stays.
func (t *dbTable) ReleaseInode(i uint32) {
	if s := t.At(i); s != nil {
		t.disown(i, s)
	}
}

func (t *dbTable) disown(i uint32, s *DBState) {
	if s.has(tenantOwner) {
		t.inodes.remove(t.hashOwner(i), i, t.hashOwner)
		s.set(tenantOwner, false)
	}
}

// FindInode returns the record that owns an inode.
func (t *dbTable) FindInode(id wal.FileID) (i uint32, ok bool) {
	h := hashInode(id)
	i, pos, ok := t.inodes.next(h, t.inodes.seek(h))
	for ok && t.inodeOf(i) != id {
		i, pos, ok = t.inodes.next(h, pos)
	}
	return i, ok
}

func (t *dbTable) inodeOf(i uint32) wal.FileID {
	s := t.records.at(i)
	return wal.FileID{Dev: t.devices.pairs[s.devices].main, Ino: s.ino}
}

func (t *dbTable) hashOwner(i uint32) uint64 { return hashInode(t.inodeOf(i)) }

func hashInode(id wal.FileID) uint64 {
	hi, lo := bits.Mul64(id.Ino^0x9E3779B97F4A7C15, id.Dev^0xD1B54A32D192ED03)
	return hi ^ lo
}

// Size returns the size of a database and its log in bytes, as of its
// fingerprint.
func (t *dbTable) Size(s *DBState) int64 {
	if s.wal == 0 {
		return s.size
	}
	return s.size + t.logs.at(s.wal-1).size
}
