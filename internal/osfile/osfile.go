// Package osfile opens regular files with one system call.
//
// Package os hands every file that it opens to the poller, which for a regular
// file refuses: five system calls more. They would be a third of what a look
// at a small database costs.
package osfile

import (
	"errors"
	"os"
	"syscall"
)

// Open opens a regular file for reading. Errors are those of os.Open. Reads
// block, and deadlines do not work.
func Open(path string) (*os.File, error) { return open(path, os.O_RDONLY, 0) }

// Create opens a regular file for writing and makes or empties it first. It is
// otherwise as Open.
func Create(path string, mode os.FileMode) (*os.File, error) {
	return open(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
}

func open(path string, flags int, mode os.FileMode) (*os.File, error) {
	for {
		fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC, uint32(mode.Perm()))
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// Rename is os.Rename without a look at what lies at the new path: a folder
// there is the system's error.
func Rename(oldPath, newPath string) error {
	for {
		err := syscall.Rename(oldPath, newPath)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return &os.LinkError{Op: "rename", Old: oldPath, New: newPath, Err: err}
		}
	}
}
