package litestream

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew renames within a folder and replaces nothing. Where the file system
// cannot refuse by itself, the name is looked at just before.
func renameNew(dir int, from, to string) error {
	err := unix.Renameat2(dir, from, dir, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return renameIfFree(dir, from, to)
}

// syncFleet makes durable what was written on the file system of a folder, the
// files and the names: one request for all of them, which costs little more
// than one for a single file.
func syncFleet(folder *os.File, _ []*fleetPlaced, _ *fleetTree) error {
	if err := ignoringEINTR(func() error { return unix.Syncfs(int(folder.Fd())) }); err != nil {
		return outputError("sync", &os.PathError{Op: "syncfs", Path: folder.Name(), Err: err})
	}
	return nil
}

// syncNames does nothing: syncFleet has the names, too.
func syncNames(*os.File) error { return nil }

func renameIfFree(dir int, from, to string) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, to, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil:
		return fs.ErrExist
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return unix.Renameat(dir, from, dir, to)
}
