//go:build !linux

package scan

import (
	"errors"

	"golang.org/x/sys/unix"
)

// openSearchOnly is Linux's alone: elsewhere directories must be readable.
const openSearchOnly = 0

// readNames calls fn for each name of an open directory.
func readNames(fd int, buf []byte, fn func(name []byte, typ uint8)) error {
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || n <= 0 {
			return err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			fn([]byte(name), unix.DT_UNKNOWN)
		}
	}
}
