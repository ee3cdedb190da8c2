package ltxfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/benbjohnson/litestream/internal/osfile"
)

// ErrDiskFull means that the file system, or the quota of our user, had no
// room for a staged file. Nothing is lost: the capture is repeated later.
var ErrDiskFull = errors.New("no space left on the local file system")

// fileSystem is the part of an operating system that the write path uses. It
// is the place where tests inject faults.
type fileSystem interface {
	Mkdir(name string, mode os.FileMode) error
	Create(name string, mode os.FileMode) (writeFile, error)
	Rename(oldName, newName string) error
	Remove(name string) error
	Chown(name string, uid, gid int) error
	SyncDir(name string) error
}

// writeFile is a file that is written once from its beginning.
type writeFile interface {
	io.WriteCloser
	Sync() error
}

// osFS is the real file system.
type osFS struct{}

func (osFS) Mkdir(name string, mode os.FileMode) error { return os.Mkdir(name, mode) }

func (osFS) Create(name string, mode os.FileMode) (writeFile, error) {
	f, err := osfile.Create(name, mode)
	if err != nil {
		return nil, err // not f: a nil *os.File in an interface is not nil
	}
	return f, nil
}

func (osFS) Rename(oldName, newName string) error { return osfile.Rename(oldName, newName) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) Chown(name string, uid, gid int) error { return os.Chown(name, uid, gid) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// classify marks the errors that mean a full disk. It is asked at each call
// that can allocate a block: some file systems report only at sync or close.
func classify(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

// FreeBytes returns how many bytes an unprivileged process may still write to
// the file system that holds path. Quotas are not part of it.
func FreeBytes(path string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // the types differ between systems
}
