//go:build linux && (amd64 || arm64 || riscv64)

package scan

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// fstatat follows links. A zero byte stands behind name, which saves the copy
// that unix.Fstatat makes, twice per database and scan.
func fstatat(fd int, name []byte, st *unix.Stat_t) error {
	_, _, errno := unix.Syscall6(unix.SYS_NEWFSTATAT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(name))), uintptr(unsafe.Pointer(st)), 0, 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.EINTR:
		return fstatat(fd, name, st)
	default:
		return errno
	}
}
