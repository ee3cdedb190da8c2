package litestream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// fleetFolders is how many folders are kept open for the next database in them.
const fleetFolders = 64

// fleetTree opens folders below the root of a fleet restore, and no others: a
// link that leads out of the root is an error. It is safe for concurrent use.
type fleetTree struct {
	path string
	root *os.Root // nil for "/", which nothing leads out of

	mu      sync.Mutex // guards the rest, and the counts of folders
	folders map[string]*fleetFolder
	devices map[uint64]*fleetFolder // the first of each file system, open until the end
}

// fleetFolder is an open folder. What is done in it is done by names without a
// slash, and so stays in it. release it after use.
type fleetFolder struct {
	tree  *fleetTree
	dir   string // below the root, with slashes
	f     *os.File
	dev   uint64
	uid   int
	gid   int
	users int
}

func openFleetTree(root string) (*fleetTree, error) {
	t := &fleetTree{path: root, folders: make(map[string]*fleetFolder), devices: make(map[uint64]*fleetFolder)}
	if root == "/" {
		return t, nil
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("create output folder: %w", err)
	}
	var err error
	if t.root, err = os.OpenRoot(root); err != nil {
		return nil, fmt.Errorf("open output folder: %w", err)
	}
	return t, nil
}

// Close closes all folders, which nobody uses any more.
func (t *fleetTree) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, f := range t.folders {
		errs = append(errs, f.f.Close())
	}
	clear(t.folders)
	if t.root != nil {
		errs = append(errs, t.root.Close())
	}
	return errors.Join(errs...)
}

// open returns a folder, which must exist.
func (t *fleetTree) open(dir string) (*fleetFolder, error) {
	t.mu.Lock()
	if f := t.folders[dir]; f != nil {
		f.users++
		t.mu.Unlock()
		return f, nil
	}
	t.mu.Unlock()
	const flags = os.O_RDONLY | unix.O_DIRECTORY
	var file *os.File
	var err error
	if t.root != nil {
		file, err = t.root.OpenFile(filepath.FromSlash(dir), flags, 0)
	} else {
		file, err = os.OpenFile(filepath.Join("/", filepath.FromSlash(dir)), flags, 0)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat", Path: file.Name(), Err: err}, file.Close())
	}
	made := &fleetFolder{tree: t, dir: dir, f: file, dev: uint64(st.Dev), uid: int(st.Uid), gid: int(st.Gid), users: 1}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.folders[dir]; f != nil { // somebody was faster
		f.users++
		return f, file.Close()
	}
	t.evictLocked()
	t.folders[dir] = made
	// A file system reports that it could not write what it had taken through
	// descriptors only that were open then: one stays open for all syncs.
	if t.devices[made.dev] == nil {
		t.devices[made.dev] = made
		made.users++
	}
	return made, nil
}

// device returns a folder of a file system that one was opened on, open since
// before anything was written there.
func (t *fleetTree) device(dev uint64) *os.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.devices[dev].f
}

// evictLocked makes room for a folder.
func (t *fleetTree) evictLocked() {
	for dir, f := range t.folders {
		if len(t.folders) < fleetFolders {
			return
		}
		if f.users == 0 {
			delete(t.folders, dir)
			f.f.Close()
		}
	}
}

// make returns a folder, and makes it and those above it if they are missing.
// The lowest one gets the owner that the entry has; the others that of the
// folder they are made in.
func (t *fleetTree) make(dir string, e *FleetRestoreEntry) (*fleetFolder, error) {
	f, err := t.open(dir)
	if !errors.Is(err, fs.ErrNotExist) || dir == "." {
		return f, err
	}
	parent, err := t.make(path.Dir(dir), nil)
	if err != nil {
		return nil, err
	}
	defer parent.release()
	name := path.Base(dir)
	err = ignoringEINTR(func() error { return unix.Mkdirat(int(parent.f.Fd()), name, 0o755) })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, &os.PathError{Op: "mkdir", Path: parent.name(name), Err: err}
	}
	if err == nil && os.Geteuid() == 0 {
		uid, gid := parent.uid, parent.gid
		if e != nil && e.HasOwner {
			uid, gid = e.UID, e.GID
		}
		if err := unix.Fchownat(int(parent.f.Fd()), name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil && !isNotAllowed(err) {
			return nil, &os.PathError{Op: "chown", Path: parent.name(name), Err: err}
		}
	}
	return t.open(dir)
}

// release gives a folder back.
func (f *fleetFolder) release() {
	f.tree.mu.Lock()
	defer f.tree.mu.Unlock()
	f.users--
}

// name returns the whole path of a file in the folder, for messages and for
// SQLite.
func (f *fleetFolder) name(base string) string {
	return filepath.Join(f.tree.path, filepath.FromSlash(f.dir), base)
}

// stat looks at a file itself, not at what a link leads to.
func (f *fleetFolder) stat(base string) (st unix.Stat_t, err error) {
	err = ignoringEINTR(func() error { return unix.Fstatat(int(f.f.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		err = &os.PathError{Op: "stat", Path: f.name(base), Err: err}
	}
	return st, err
}

// inUse reports whether SQLite has files beside a database.
func (f *fleetFolder) inUse(base string) bool {
	return slices.ContainsFunc(sidecarSuffixes, func(suffix string) bool {
		_, err := f.stat(base + suffix)
		return err == nil
	})
}

// openFile opens a file that is no link.
func (f *fleetFolder) openFile(base string, flags int, mode fs.FileMode) (*os.File, error) {
	fd := -1
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.Openat(int(f.f.Fd()), base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.name(base), Err: err}
	}
	return os.NewFile(uintptr(fd), f.name(base)), nil
}

// remove deletes a file. One that is missing is an error.
func (f *fleetFolder) remove(base string) error {
	if err := ignoringEINTR(func() error { return unix.Unlinkat(int(f.f.Fd()), base, 0) }); err != nil {
		return &os.PathError{Op: "remove", Path: f.name(base), Err: err}
	}
	return nil
}

// rename gives a file another name in the folder. Without replace it fails with
// fs.ErrExist where something has that name.
func (f *fleetFolder) rename(from, to string, replace bool) error {
	fd := int(f.f.Fd())
	err := ignoringEINTR(func() error {
		if replace {
			return unix.Renameat(fd, from, fd, to)
		}
		return renameNew(fd, from, to)
	})
	if err != nil {
		return &os.LinkError{Op: "rename", Old: f.name(from), New: f.name(to), Err: err}
	}
	return nil
}

func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
