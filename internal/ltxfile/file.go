package ltxfile

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/superfly/ltx"
)

const bufferBytes = 32 << 10

// errDone is the answer of a File after Commit or Abort.
var errDone = errors.New("staged file is finished")

// File is an LTX file that is being staged. Nothing is visible under its name
// before Commit. It is not safe for concurrent use.
type File struct {
	dir      Dir
	min, max ltx.TXID
	done     bool
	mem      []byte    // while f is nil: what was written
	f        writeFile // nil while the file is small and kept in memory
	buf      *bufio.Writer
	size     int64
	err      error // first failure; the file cannot be completed any more
}

// Create begins to stage the file of a range under a temporary name. The
// folder is made when it is missing. The caller ends it with Commit or Abort.
func (d Dir) Create(minTXID, maxTXID ltx.TXID) (*File, error) {
	f := &File{dir: d, min: minTXID, max: maxTXID}
	if d.memory != nil {
		return f, nil
	}
	return f, f.create()
}

// create begins the file in the folder.
func (f *File) create() error {
	d, name := f.dir, f.Name()
	w, err := d.fs.Create(name+TempSuffix, d.fileMode)
	if errors.Is(err, os.ErrNotExist) {
		if err := d.mkdir(d.path); err != nil {
			return fmt.Errorf("stage %s: %w", name, classify(err))
		}
		w, err = d.fs.Create(name+TempSuffix, d.fileMode)
	}
	if err != nil {
		return fmt.Errorf("stage %s: %w", name, classify(err))
	}
	d.chown(name + TempSuffix)
	f.f = w
	f.buf, _ = fileBuffers.Get().(*bufio.Writer)
	f.buf.Reset(w)
	return nil
}

// spill moves what was written from memory to the folder.
func (f *File) spill() error {
	f.dir.memory.spilled()
	if err := f.create(); err != nil {
		return err
	}
	b := f.mem
	f.mem = nil
	if _, err := f.buf.Write(b); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), classify(err))
	}
	return nil
}

var fileBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferBytes) }}

// finish gives the buffer back.
func (f *File) finish() {
	f.done = true
	if f.buf != nil {
		f.buf.Reset(nil)
		fileBuffers.Put(f.buf)
	}
	f.f, f.buf, f.mem = nil, nil, nil
}

// Write appends to the file. After an error every further call fails, and so
// does Commit.
func (f *File) Write(p []byte) (int, error) {
	switch {
	case f.done:
		return 0, errDone
	case f.f == nil && len(f.mem)+len(p) <= maxMemoryFile:
		f.mem = append(f.mem, p...)
		f.size += int64(len(p))
		return len(p), nil
	case f.f == nil:
		if err := f.spill(); err != nil {
			f.err = err
			return 0, err
		}
	}
	n, err := f.buf.Write(p)
	f.size += int64(n)
	if err != nil {
		f.err = fmt.Errorf("write %s: %w", f.Name(), classify(err))
		return n, f.err
	}
	return n, nil
}

// Size returns how many bytes have been written.
func (f *File) Size() int64 { return f.size }

// Name returns the path that the file has after Commit.
func (f *File) Name() string { return f.dir.Path(f.min, f.max) }

// Commit makes the file durable under its name, replacing one that is there; in
// a volatile folder, just visible.
// After an error the name holds what it held before, or nothing; the caller
// stages the range again.
func (f *File) Commit() error {
	if f.done {
		return errDone
	}
	if f.f == nil && f.err == nil {
		if f.dir.memory.put(ltx.FormatFilename(f.min, f.max), slices.Clip(f.mem)) {
			f.finish()
			return nil
		}
		if err := f.spill(); err != nil {
			return errors.Join(err, f.Abort())
		}
	}
	if err := f.seal(); err != nil {
		return errors.Join(err, f.Abort())
	}
	f.finish()
	name := f.Name()
	if err := f.dir.fs.Rename(name+TempSuffix, name); err != nil {
		err = fmt.Errorf("rename %s: %w", name, classify(err))
		return errors.Join(err, f.dir.remove(name+TempSuffix))
	}
	if f.dir.volatile {
		return nil
	}
	if err := f.dir.fs.SyncDir(f.dir.path); err != nil {
		// The caller takes the range for not staged and will fill it anew, so
		// that the name must not offer this content to an upload meanwhile.
		err = fmt.Errorf("sync folder of %s: %w", name, classify(err))
		return errors.Join(err, f.dir.remove(name))
	}
	return nil
}

// seal writes what is buffered, syncs and closes.
func (f *File) seal() error {
	if f.err != nil {
		return f.err
	}
	if err := f.buf.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), classify(err))
	}
	if !f.dir.volatile {
		if err := f.f.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", f.Name(), classify(err))
		}
	}
	if err := f.f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", f.Name(), classify(err))
	}
	return nil
}

// Abort deletes the unfinished file. After Commit, and when called again, it
// does nothing, so that it may be deferred.
func (f *File) Abort() error {
	if f.done {
		return nil
	}
	if f.f == nil {
		f.finish()
		return nil
	}
	// The file is thrown away, and Commit may have closed it already.
	_ = f.f.Close()
	f.finish()
	return f.dir.remove(f.Name() + TempSuffix)
}

// remove deletes one file; a missing one is no error.
func (d Dir) remove(name string) error {
	if err := d.fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// mkdir makes a folder and the missing ones above it, each durable in its
// parent, as far as they may be made.
func (d Dir) mkdir(path string) error {
	err := d.fs.Mkdir(path, d.dirMode)
	if parent := filepath.Dir(path); errors.Is(err, os.ErrNotExist) && parent != path && parent != d.within {
		if err := d.mkdir(parent); err != nil {
			return err
		}
		err = d.fs.Mkdir(path, d.dirMode)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	d.chown(path)
	if d.volatile {
		return nil
	}
	return d.fs.SyncDir(filepath.Dir(path))
}

// chown gives a new file or folder to the configured owner. It is a courtesy
// that an unprivileged process cannot pay, so that a failure is no error.
func (d Dir) chown(path string) {
	if d.uid >= 0 || d.gid >= 0 {
		_ = d.fs.Chown(path, d.uid, d.gid)
	}
}
