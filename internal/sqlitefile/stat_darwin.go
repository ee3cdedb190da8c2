package sqlitefile

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// getLock does not show the locks of this process.
const getLock = unix.F_GETLK

// NetworkFS returns the name of the network file system that path lies on, or
// an empty string for a local one.
func NetworkFS(path string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "", fmt.Errorf("statfs %s: %w", path, err)
	}
	switch name := unix.ByteSliceToString(st.Fstypename[:]); name {
	case "nfs", "smbfs", "webdav", "afpfs":
		return name, nil
	default:
		return "", nil
	}
}

// HoldShared does nothing here: locks that belong to a descriptor are Linux's.
func HoldShared(*os.File) (release func() error, err error) {
	return func() error { return nil }, nil
}

// TryShared never gets the lock: locks that belong to a descriptor are Linux's.
func TryShared(*os.File) (release func() error, ok bool, err error) { return nil, false, nil }

// FineClock does not know the clocks of this system's file systems.
func FineClock(string) (bool, error) { return false, nil }

func eachDescriptor(fn func(fd int) bool) error { return listDescriptors(fn) }
