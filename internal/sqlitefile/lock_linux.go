package sqlitefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// TryShared takes SQLite's SHARED lock on an open database, as a connection
// that begins to read does (SQLite os_unix.c, unixLock): a read lock on the
// PENDING byte, which a writer that waits for its turn does not allow, then
// the shared range. ok is false if somebody is in the way. The lock belongs to
// the descriptor, not to the process: no connection of this process drops it.
func TryShared(f *os.File) (release func() error, ok bool, err error) {
	if ok, err := setLock(f, unix.F_RDLCK, pendingByte, 1); !ok {
		return nil, false, err
	}
	ok, err = setLock(f, unix.F_RDLCK, sharedFirst, sharedSize)
	if _, uerr := setLock(f, unix.F_UNLCK, pendingByte, 1); uerr != nil {
		err = errors.Join(err, uerr)
	}
	if err != nil || !ok {
		return nil, false, err
	}
	return func() error {
		_, err := setLock(f, unix.F_UNLCK, sharedFirst, sharedSize)
		return err
	}, true, nil
}

// setLock sets or clears a lock of the descriptor. It never waits.
func setLock(f *os.File, typ int16, start, size int64) (bool, error) {
	lk := unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: start, Len: size}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("lock database: %w", err)
	}
	return true, nil
}

// fineClocks are the statfs types of file systems that stamp each write with
// the kernel's clock, whose tick is 10 ms at most.
var fineClocks = map[int64]bool{
	0xEF53:     true, // ext4
	0x58465342: true, // xfs
	0x9123683E: true, // btrfs
	0x01021994: true, // tmpfs
	0xF2F52010: true, // f2fs
	0x2FC12FC1: true, // zfs
	0x794C7630: true, // overlayfs, which does not write to network file systems
}

// FineClock reports whether the times of the files in a folder are as fine as
// the kernel's clock tick.
func FineClock(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return fineClocks[int64(st.Type)&0xFFFFFFFF], nil
}

// eachDescriptor calls fn for each number that may be a descriptor of this
// process until it returns false. To list the folder of descriptors costs
// several times as much as to ask for each number below the size of the
// process's table (proc(5), status, FDSize).
func eachDescriptor(fn func(fd int) bool) error {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return listDescriptors(fn)
	}
	_, rest, _ := bytes.Cut(b, []byte("\nFDSize:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	size, err := strconv.Atoi(string(bytes.TrimSpace(line)))
	if err != nil {
		return listDescriptors(fn)
	}
	for fd := range size {
		if !fn(fd) {
			break
		}
	}
	return nil
}
