// Package ltxfile stages LTX files in a local folder: a file is complete and
// durable under its name, or it is not there.
//
// Names and write protocol are those of Litestream v0.5:
// <min>-<max>.ltx.tmp, fsync, rename, fsync of the folder.
package ltxfile

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/osfile"
)

// TempSuffix ends the name of every file that is not complete.
const TempSuffix = ".tmp"

// Dir is a folder of LTX files, such as <meta>/ltx/0. It holds nothing open
// and may be used concurrently, as long as one range has one writer.
type Dir struct {
	path     string
	dirMode  os.FileMode
	fileMode os.FileMode
	uid, gid int
	volatile bool
	memory   *Memory // nil: everything is a file
	within   string  // the folder that has to be there; empty: none
	fs       fileSystem
}

// New returns the folder at path, which is made when the first file is
// staged. The process umask applies to the modes. uid and gid become owner of
// new files and folders as far as the process may do that; -1 leaves them.
func New(path string, dirMode, fileMode os.FileMode, uid, gid int) Dir {
	return Dir{path: filepath.Clean(path), dirMode: dirMode, fileMode: fileMode, uid: uid, gid: gid, fs: osFS{}}
}

// Volatile returns the folder for files that no later process reads: nothing
// is synced.
func (d Dir) Volatile() Dir {
	d.volatile = true
	return d
}

// InMemory returns the folder with its small files kept in memory. It has to be
// volatile.
func (d Dir) InMemory(m *Memory) Dir {
	d.memory = m
	return d
}

// Within returns the folder with a limit to what is made when it is missing:
// only what lies below base.
func (d Dir) Within(base string) Dir {
	d.within = filepath.Clean(base)
	return d
}

// Name returns the path of the folder.
func (d Dir) Name() string { return d.path }

// Path returns where the file of a range lies.
func (d Dir) Path(minTXID, maxTXID ltx.TXID) string {
	return filepath.Join(d.path, ltx.FormatFilename(minTXID, maxTXID))
}

// Info describes one staged file.
type Info struct {
	Min, Max ltx.TXID
	Size     int64 // bytes
	ModTime  time.Time
}

// List returns the complete files in ascending order of Min, then Max. Other
// names are skipped; a missing folder is empty.
func (d Dir) List() ([]Info, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list staged files: %w", err)
	}
	infos := make([]Info, 0, len(entries))
	if d.memory != nil {
		infos = append(infos, d.memory.list()...)
	}
	for _, e := range entries {
		minTXID, maxTXID, ok := parseName(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the folder was read
		} else if err != nil {
			return nil, fmt.Errorf("list staged files: %w", err)
		}
		infos = append(infos, Info{Min: minTXID, Max: maxTXID, Size: fi.Size(), ModTime: fi.ModTime()})
	}
	slices.SortFunc(infos, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Min, b.Min), cmp.Compare(a.Max, b.Max))
	})
	return infos, nil
}

// parseName returns the range in the name of an LTX file.
func parseName(name string) (minTXID, maxTXID ltx.TXID, ok bool) {
	minTXID, maxTXID, err := ltx.ParseFilename(name)
	return minTXID, maxTXID, err == nil && minTXID > 0 && minTXID <= maxTXID
}

// Open opens a complete file for reading. A missing one is fs.ErrNotExist.
func (d Dir) Open(minTXID, maxTXID ltx.TXID) (Reader, error) {
	if d.memory != nil {
		if r := d.memory.open(ltx.FormatFilename(minTXID, maxTXID)); r != nil {
			return r, nil
		}
	}
	f, err := osfile.Open(d.Path(minTXID, maxTXID))
	if err != nil {
		return nil, fmt.Errorf("open staged file: %w", err)
	}
	return f, nil
}

// Remove deletes the file of a range. A missing one is no error. A file may
// come back after a loss of power; it is then older than the newest one or
// already uploaded, and verified before anyone believes it.
func (d Dir) Remove(minTXID, maxTXID ltx.TXID) error {
	if d.memory != nil && d.memory.remove(ltx.FormatFilename(minTXID, maxTXID)) {
		return nil
	}
	return d.remove(d.Path(minTXID, maxTXID))
}

// RemoveAll deletes every LTX file of the folder, complete or not, and the
// folder unless something else lies in it. A missing folder is no error.
func (d Dir) RemoveAll() error {
	if d.memory != nil && !d.memory.clear() {
		return nil
	}
	entries, err := os.ReadDir(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove staged files: %w", err)
	}
	var errs []error
	kept := 0
	for _, e := range entries {
		if _, _, err := ltx.ParseFilename(strings.TrimSuffix(e.Name(), TempSuffix)); err != nil || e.IsDir() {
			kept++
			continue
		}
		errs = append(errs, d.remove(filepath.Join(d.path, e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if kept > 0 {
		return d.syncDir(d.path)
	}
	if err := d.remove(d.path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(d.path))
}

func (d Dir) syncDir(path string) error {
	if d.volatile {
		return nil
	}
	if err := d.fs.SyncDir(path); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// CleanTemp deletes every file below root whose name ends in TempSuffix: what
// a stopped process left unfinished. A missing root is no error. Symbolic
// links are not followed.
func CleanTemp(root string) error {
	var errs []error
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			return nil
		}
		if e.Type().IsRegular() && strings.HasSuffix(e.Name(), TempSuffix) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return nil
	})
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("clean temporary files: %w", err)
	}
	return nil
}

// Verify reads a staged file to its end and returns its header and trailer. The
// error names what is wrong; one that could not be read is a *fs.PathError.
func (d Dir) Verify(minTXID, maxTXID ltx.TXID) (_ ltx.Header, _ ltx.Trailer, err error) {
	f, err := d.Open(minTXID, maxTXID)
	if err != nil {
		return ltx.Header{}, ltx.Trailer{}, fmt.Errorf("verify ltx file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()

	dec := ltx.NewDecoder(NewGuard(bufio.NewReaderSize(f, bufferBytes)))
	dec.SetRetainPageIndex(false)
	if err := dec.Verify(); err != nil {
		return ltx.Header{}, ltx.Trailer{}, fmt.Errorf("verify ltx file %s: %w", d.Path(minTXID, maxTXID), err)
	}
	return dec.Header(), dec.Trailer(), nil
}
