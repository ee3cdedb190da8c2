package scan

import (
	"errors"

	"golang.org/x/sys/unix"
)

// openat opens a directory, again if a signal got in the way.
func openat(fd int, name string, flags int) (int, error) {
	for {
		n, err := unix.Openat(fd, name, flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// typeOf asks for the type of a name where the directory does not tell it.
func typeOf(fd int, name []byte) uint8 {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, string(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return unix.DT_REG // gone, or to be reported if it matches
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return unix.DT_DIR
	case unix.S_IFLNK:
		return unix.DT_LNK
	case unix.S_IFREG:
		return unix.DT_REG
	default:
		return unix.DT_FIFO
	}
}
