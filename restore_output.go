package litestream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// restoreTempSuffix ends the name under which a database is restored until it
// is complete, as in Litestream v0.5.
const restoreTempSuffix = ".tmp"

// sidecarSuffixes end the names of the files that SQLite keeps beside a
// database. They belong to one database only: mixed with another they change
// or destroy it.
var sidecarSuffixes = []string{"-wal", "-shm", "-journal"}

// CheckRestoreOutput reports whether a restore may write path: nothing, or an
// empty file, stands there, and SQLite left nothing beside it. With force only
// what cannot be replaced, such as a directory, is refused. The error is
// ErrOutputExists and names the file and the remedy.
func CheckRestoreOutput(path string, force bool) error {
	if path == "" {
		return errors.New("output path required")
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return fmt.Errorf("%w: %s is a directory (give the path of the database file)", ErrOutputExists, path)
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is not a regular file (give another path)", ErrOutputExists, path)
	case err == nil && info.Size() > 0 && !force:
		return fmt.Errorf("%w: %s (restore to another path, or replace it with -force)", ErrOutputExists, path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("check output: %w", err)
	}
	if force {
		return nil
	}
	for _, suffix := range sidecarSuffixes {
		if _, err := os.Lstat(path + suffix); err == nil {
			return fmt.Errorf("%w: %s was left by SQLite and would mix with the restored database (move it away, or delete it with -force)",
				ErrOutputExists, path+suffix)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("check output: %w", err)
		}
	}
	return nil
}

// outputError explains an error of writing the restored database.
func outputError(verb string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return fmt.Errorf("%s restored database: %w", verb, err)
}

// restoreOutput is a database that is being restored. Until commit it has a
// temporary name, and abort removes it.
type restoreOutput struct {
	path  string
	force bool
	f     *os.File // nil after commit and abort

	volatile bool // nothing is synced
}

// createRestoreOutput creates the temporary file and the folders above it. A
// file of a restore that was killed is taken over; one that another process is
// writing is refused.
func createRestoreOutput(path string, force bool) (*restoreOutput, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("create output folder: %w", err)
	}
	temp := path + restoreTempSuffix
	for {
		f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o666)
		if err != nil {
			return nil, outputError("create", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			err = fmt.Errorf("lock %s: %w", temp, err)
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = fmt.Errorf("another restore to %s is running", path)
			}
			return nil, errors.Join(err, f.Close())
		}
		// The file may have got its final name between open and lock.
		same, err := sameFile(f, temp)
		if err == nil && same {
			return &restoreOutput{path: path, force: force, f: f}, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("check %s: %w", temp, err)
		}
	}
}

// sameFile reports whether path still leads to f.
func sameFile(f *os.File, path string) (bool, error) {
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

// temp returns the name of the unfinished file.
func (o *restoreOutput) temp() string { return o.path + restoreTempSuffix }

// reset drops what an earlier attempt wrote.
func (o *restoreOutput) reset() error {
	if err := o.f.Truncate(0); err != nil {
		return outputError("empty", err)
	}
	return nil
}

// sync makes the content durable.
func (o *restoreOutput) sync() error {
	if err := o.f.Sync(); err != nil {
		return outputError("sync", err)
	}
	return nil
}

// commit gives the database its final name. What stands there is looked at
// once more, because an application may have created a database meanwhile.
// With force, the old database is replaced only now, when the new one is
// complete. Its sidecars go first: a crash in between must not leave the new
// database with the old log.
func (o *restoreOutput) commit() error {
	if err := CheckRestoreOutput(o.path, o.force); err != nil {
		return err
	}
	dir := filepath.Dir(o.path)
	if o.force {
		removed, err := removeSidecars(o.path)
		if err != nil {
			return err
		}
		if removed {
			if err := syncFolder(dir); err != nil {
				return err
			}
		}
	}
	if err := os.Rename(o.temp(), o.path); err != nil {
		return outputError("rename", err)
	}
	f := o.f
	o.f = nil
	err := f.Close()
	if !o.volatile {
		err = errors.Join(err, syncFolder(dir))
	}
	if err != nil {
		return outputError("close", err)
	}
	return nil
}

// abort removes the unfinished file. After commit it does nothing.
func (o *restoreOutput) abort() error {
	if o.f == nil {
		return nil
	}
	f := o.f
	o.f = nil
	// Remove before the lock ends with the close, so that it is our own.
	if err := errors.Join(os.Remove(o.temp()), f.Close()); err != nil {
		return fmt.Errorf("remove unfinished restore: %w", err)
	}
	return nil
}

// removeSidecars deletes what SQLite left beside a database.
func removeSidecars(path string) (removed bool, err error) {
	for _, suffix := range sidecarSuffixes {
		err := os.Remove(path + suffix)
		if err == nil {
			removed = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("remove old sidecar: %w", err)
		}
	}
	return removed, nil
}

// syncFolder makes renames and removals in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}
