package sqlitefile

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// getLock asks on behalf of the open file, not of the process, so that the
// locks of this process count as somebody's (fcntl(2), Linux 3.15).
const getLock = unix.F_OFD_GETLK

// networkFS maps the statfs types of file systems on which SQLite's locks and
// shared memory do not reach the other machines that mount them.
var networkFS = map[int64]string{
	0x6969:     "nfs",
	0x517B:     "smb",
	0xFE534D42: "smb2",
	0xFF534D42: "cifs",
	0x01021997: "9p",
	0x6A656A63: "virtiofs",
}

// NetworkFS returns the name of the network file system that path lies on, or
// an empty string for a local one.
func NetworkFS(path string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "", fmt.Errorf("statfs %s: %w", path, err)
	}
	return networkFS[int64(st.Type)&0xFFFFFFFF], nil
}

// HoldShared keeps every connection of this process and of others from
// getting the exclusive lock on an open database until release is called.
func HoldShared(f *os.File) (release func() error, err error) {
	set := func(typ int16) error {
		lk := unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: sharedFirst, Len: sharedSize}
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	}
	if err := set(unix.F_RDLCK); err != nil {
		return nil, fmt.Errorf("lock database: %w", err)
	}
	return func() error { return set(unix.F_UNLCK) }, nil
}
