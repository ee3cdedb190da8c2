package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// takeLock makes the state directory and locks it. The lock is the open file's
// (flock(2)), so that it ends with the process, however that ends.
func takeLock(dir string) (_ *os.File, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, dirError(dir, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, LockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, dirError(dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("open state directory %s: %w by %s; stop it, or give this one another state-dir", dir, ErrLocked, holder(f))
	} else if err != nil {
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, dirError(dir, err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, dirError(dir, err)
	}
	return f, nil
}

// holder names who wrote the lock file.
func holder(f *os.File) string {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return "process " + pid
	}
	return "another process"
}

// dirError says what to do about a directory that cannot be written.
func dirError(dir string, err error) error {
	todo := "set another state-dir"
	switch {
	case errors.Is(err, fs.ErrPermission):
		todo = fmt.Sprintf("give user id %d write access to it, or %s", os.Geteuid(), todo)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		todo = "make room there, or " + todo
	}
	return fmt.Errorf("write to state directory %s: %w; %s", dir, err, todo)
}
