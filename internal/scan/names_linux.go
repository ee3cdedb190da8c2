package scan

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// openSearchOnly opens a directory that need not be readable.
const openSearchOnly = unix.O_PATH

// Offsets in struct linux_dirent64 (getdents(2)).
const (
	direntLen  = 16
	direntType = 18
	direntName = 19
)

// readNames calls fn for each name of an open directory, which is valid until
// fn returns. It does what unix.ReadDirent and ParseDirent do, without a string
// per name and with the type.
func readNames(fd int, buf []byte, fn func(name []byte, typ uint8)) error {
	for {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil || n <= 0 {
			return err
		}
		for b := buf[:n]; len(b) >= direntName; {
			size := int(binary.NativeEndian.Uint16(b[direntLen:]))
			if size < direntName || size > len(b) {
				return unix.EIO
			}
			name := b[direntName:size]
			if i := bytes.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			fn(name, b[direntType])
			b = b[size:]
		}
	}
}
