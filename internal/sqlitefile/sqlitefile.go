// Package sqlitefile knows what a SQLite database looks like from outside: its
// header, the names beside it, what stat tells, who holds locks on it and what
// file system it lies on. It never opens a file that SQLite may have open in
// this process: closing any descriptor of a database drops all POSIX locks
// this process holds on it, SQLite's own included (SQLite documentation, "How
// To Corrupt An SQLite Database File", section 2.2). Callers hand in an open
// file where bytes are needed.
package sqlitefile

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/osfile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// HeaderSize is the size of the database header in bytes (SQLite file format,
// section 1.3).
const HeaderSize = 100

// minUsable is the fewest bytes of a page that SQLite accepts.
const minUsable = 480

// Magic begins every database that is not encrypted.
const Magic = "SQLite format 3\x00"

// Errors of reading a header.
var (
	ErrEmpty  = errors.New("database file is empty")
	ErrFormat = errors.New("file is not a SQLite database")
)

// A Header is what replication needs of the first 100 bytes of a database.
type Header struct {
	PageSize   uint32
	WAL        bool   // the read version says write-ahead log
	PageN      uint32 // size in pages; valid only if SizeValid
	SizeValid  bool   // the change counter says that PageN is up to date
	AutoVacuum bool
}

// ReadHeader reads the header of an open database. It returns ErrEmpty for a
// file without a byte, and an error that wraps ErrFormat for anything that
// SQLite would not open either, an encrypted database included.
func ReadHeader(r io.ReaderAt) (Header, error) {
	var b [HeaderSize]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, fmt.Errorf("read database header: %w", err)
	}
	if n == 0 {
		return Header{}, ErrEmpty
	}
	return ParseHeader(b[:n])
}

// ParseHeader decodes a database header.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: only %d bytes", ErrFormat, len(b))
	}
	if string(b[:len(Magic)]) != Magic {
		return Header{}, fmt.Errorf("%w: no header string (encrypted, or another format)", ErrFormat)
	}
	size := uint32(binary.BigEndian.Uint16(b[16:]))
	if size == 1 {
		size = 65536
	}
	if size < 512 || size&(size-1) != 0 {
		return Header{}, fmt.Errorf("%w: page size %d", ErrFormat, size)
	}
	switch reserved := uint32(b[20]); {
	case b[19] > 2:
		return Header{}, fmt.Errorf("%w: read version %d", ErrFormat, b[19])
	case b[21] != 64 || b[22] != 32 || b[23] != 32:
		return Header{}, fmt.Errorf("%w: payload fractions %d, %d, %d", ErrFormat, b[21], b[22], b[23])
	case size-reserved < minUsable:
		return Header{}, fmt.Errorf("%w: page size %d with %d reserved", ErrFormat, size, reserved)
	}
	pageN := binary.BigEndian.Uint32(b[28:])
	return Header{
		PageSize:   size,
		WAL:        b[19] == 2,
		PageN:      pageN,
		SizeValid:  pageN > 0 && binary.BigEndian.Uint32(b[24:]) == binary.BigEndian.Uint32(b[92:]),
		AutoVacuum: binary.BigEndian.Uint32(b[52:]) != 0,
	}, nil
}

// PageCount returns the database's size in pages when no log holds a commit:
// the header's field if the change counter vouches for it, else the file's
// length (SQLite file format, section 1.3.7).
func (h Header) PageCount(fileSize int64) uint32 {
	if h.SizeValid {
		return h.PageN
	}
	return uint32((fileSize + int64(h.PageSize) - 1) / int64(h.PageSize))
}

// WALPath names the write-ahead log that SQLite keeps beside a database.
func WALPath(db string) string { return db + "-wal" }

// SHMPath names the log's index, which our own code never opens.
func SHMPath(db string) string { return db + "-shm" }

// JournalPath names the rollback journal.
func JournalPath(db string) string { return db + "-journal" }

// Stat returns the print of a file. It never opens it.
func Stat(path string) (wal.Print, error) {
	var st unix.Stat_t // os.Stat allocates one, and a first backup asks for each file often
	err := unix.Stat(path, &st)
	for errors.Is(err, unix.EINTR) {
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return wal.Print{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return wal.Print{}, fmt.Errorf("stat %s: not a regular file", path)
	}
	return PrintOf(&st), nil
}

// StatFile returns the print of an open file.
func StatFile(f *os.File) (wal.Print, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return wal.Print{}, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return PrintOf(&st), nil
}

// PrintOf returns the print that a stat holds.
func PrintOf(st *unix.Stat_t) wal.Print {
	return wal.Print{
		ID:    wal.FileID{Dev: uint64(st.Dev), Ino: st.Ino},
		Size:  st.Size,
		Mtime: st.Mtim.Nano(),
		Ctime: st.Ctim.Nano(),
	}
}

// A Fingerprint tells whether a database may have changed since it was taken:
// a commit touches only the log, a checkpoint only the main file.
type Fingerprint struct {
	Main wal.Print
	WAL  wal.Print // zero if there is no log, or an empty one
}

// Take returns the fingerprint of a database. An empty log counts as none,
// because SQLite makes and removes empty ones without a change.
func Take(path string) (Fingerprint, error) {
	var fp Fingerprint
	var err error
	if fp.Main, err = Stat(path); err != nil {
		return fp, err
	}
	fp.WAL, err = Stat(WALPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fp, err
	}
	if fp.WAL.Size == 0 {
		fp.WAL = wal.Print{}
	}
	return fp, nil
}

// Settled reports whether both files were last touched more than margin before
// now. A younger fingerprint proves nothing: a second change within one tick
// of the file system's clock would leave it as it is.
func (fp Fingerprint) Settled(now time.Time, margin time.Duration) bool {
	return settled(fp.Main, now, margin) && settled(fp.WAL, now, margin)
}

// Settled is Fingerprint.Settled for one file.
func Settled(p wal.Print, now time.Time, margin time.Duration) bool {
	return settled(p, now, margin)
}

func settled(p wal.Print, now time.Time, margin time.Duration) bool {
	limit := now.Add(-margin).UnixNano()
	return p.Mtime < limit && p.Ctime < limit
}

// HotJournal reports whether a rollback journal with a live header lies beside
// the database: a transaction is under way, or was interrupted and has to be
// rolled back by whoever opens the database next. A truncated or zeroed
// journal is a finished one (SQLite file format, section 3).
func HotJournal(path string) (bool, error) {
	f, err := osfile.Open(JournalPath(path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("open journal: %w", err)
	}
	defer f.Close() // only read from
	var b [8]byte
	if n, err := f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read journal: %w", err)
	} else if n < len(b) {
		return false, nil
	}
	return b != [8]byte{}, nil
}

// Bytes of a database file that SQLite's locks stand on (SQLite os.h; they lie
// in the page that is never stored).
const (
	pendingByte  = 0x40000000
	reservedByte = pendingByte + 1
	sharedFirst  = pendingByte + 2
	sharedSize   = 510
	lockBytes    = 2 + sharedSize
)

// Locked reports whether anybody holds any of SQLite's locks on the open
// database file. On Linux the locks of this process show too.
func Locked(f *os.File) (bool, error) {
	lk, err := holder(f, pendingByte, lockBytes)
	return lk.Type != unix.F_UNLCK, err
}

// Reserved reports whether a connection has begun to write to the open
// database file.
func Reserved(f *os.File) (bool, error) {
	lk, err := holder(f, reservedByte, 1)
	return lk.Type != unix.F_UNLCK, err
}

// holder returns one of the locks in a range, of type F_UNLCK if there is none.
func holder(f *os.File, start, size int64) (unix.Flock_t, error) {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: start, Len: size}
	if err := unix.FcntlFlock(f.Fd(), getLock, &lk); err != nil {
		return unix.Flock_t{Type: unix.F_UNLCK}, fmt.Errorf("query locks: %w", err)
	}
	return lk, nil
}

// InUse reports whether this process has the open file open a second time,
// while somebody holds one of SQLite's locks on it. Then the lock may be this
// process's, and closing f would drop it.
func InUse(f *os.File) (bool, error) {
	lk, err := holder(f, pendingByte, lockBytes)
	if err != nil || lk.Type == unix.F_UNLCK {
		return false, err
	}
	if lk.Pid == int32(os.Getpid()) {
		return true, nil
	}
	// Others hold locks, which hide those that this process may hold as well.
	self, err := StatFile(f)
	if err != nil {
		return false, err
	}
	found := false
	err = eachDescriptor(func(fd int) bool {
		if fd == int(f.Fd()) {
			return true
		}
		var st unix.Stat_t // of a number that is not open: no match
		found = unix.Fstat(fd, &st) == nil && PrintOf(&st).ID == self.ID
		return !found
	})
	return found, err
}

// listDescriptors calls fn for each descriptor of this process until it
// returns false.
func listDescriptors(fn func(fd int) bool) error {
	dir, err := os.Open("/dev/fd")
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && !fn(fd) {
			break
		}
	}
	return nil
}

// BootID identifies the running boot of the machine. It is zero where the
// system does not tell; a cursor that carries zero is worth nothing after the
// process ended.
func BootID() [16]byte {
	var id [16]byte
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""))
	if err == nil && len(raw) == len(id) {
		copy(id[:], raw)
	}
	return id
}
