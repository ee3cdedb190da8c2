//go:build !linux

package litestream

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew renames within a folder unless the name is taken.
func renameNew(dir int, from, to string) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, to, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil:
		return fs.ErrExist
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return unix.Renameat(dir, from, dir, to)
}

// syncFleet makes durable what was written: the content of each file. The names
// are for syncNames.
func syncFleet(_ *os.File, files []*fleetPlaced, tree *fleetTree) error {
	for _, p := range files {
		if err := p.sync(tree); err != nil {
			return outputError("sync", err)
		}
	}
	return nil
}

// syncNames makes the names in a folder durable.
func syncNames(folder *os.File) error {
	if err := folder.Sync(); err != nil {
		return outputError("sync the folder of", err)
	}
	return nil
}

func (p *fleetPlaced) sync(tree *fleetTree) error {
	folder, err := tree.open(p.dir)
	if err != nil {
		return err
	}
	defer folder.release()
	f, err := folder.openFile(p.temp, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
