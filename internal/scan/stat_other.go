//go:build !linux || (!amd64 && !arm64 && !riscv64)

package scan

import "golang.org/x/sys/unix"

// fstatat follows links.
func fstatat(fd int, name []byte, st *unix.Stat_t) error {
	return unix.Fstatat(fd, string(name), st, 0)
}
