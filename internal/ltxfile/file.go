package ltxfile

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/superfly/ltx"
)

const bufferBytes = 64 << 10

// errDone is the answer of a File after Commit or Abort.
var errDone = errors.New("staged file is finished")

// File is an LTX file that is being staged. Nothing is visible under its name
// before Commit. It is not safe for concurrent use.
type File struct {
	dir      Dir
	min, max ltx.TXID
	f        writeFile // nil after Commit and Abort
	buf      *bufio.Writer
	size     int64
	err      error // first failure; the file cannot be completed any more
}

// Create begins to stage the file of a range under a temporary name. The
// folder is made when it is missing. The caller ends it with Commit or Abort.
func (d Dir) Create(minTXID, maxTXID ltx.TXID) (*File, error) {
	name := d.Path(minTXID, maxTXID)
	if d.fresh {
		if err := d.mkdir(d.path); err != nil {
			return nil, fmt.Errorf("stage %s: %w", name, classify(err))
		}
	}
	f, err := d.fs.Create(name+TempSuffix, d.fileMode)
	if errors.Is(err, os.ErrNotExist) {
		if err := d.mkdir(d.path); err != nil {
			return nil, fmt.Errorf("stage %s: %w", name, classify(err))
		}
		f, err = d.fs.Create(name+TempSuffix, d.fileMode)
	}
	if err != nil {
		return nil, fmt.Errorf("stage %s: %w", name, classify(err))
	}
	d.chown(name + TempSuffix)
	buf, _ := fileBuffers.Get().(*bufio.Writer)
	buf.Reset(f)
	return &File{dir: d, min: minTXID, max: maxTXID, f: f, buf: buf}, nil
}

// fileBuffers are the buffers of finished files: most files are much smaller.
var fileBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferBytes) }}

// finish takes the file and its buffer away.
func (f *File) finish() {
	f.buf.Reset(nil)
	fileBuffers.Put(f.buf)
	f.f, f.buf = nil, nil
}

// Write appends to the file through a buffer.
func (f *File) Write(p []byte) (int, error) {
	if f.f == nil {
		return 0, errDone
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
	if f.f == nil {
		return errDone
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
	if f.f == nil {
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
// parent.
func (d Dir) mkdir(path string) error {
	err := d.fs.Mkdir(path, d.dirMode)
	if errors.Is(err, os.ErrNotExist) && filepath.Dir(path) != path {
		if err := d.mkdir(filepath.Dir(path)); err != nil {
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
