package registry

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// ErrChanged means that the owner of a registry started or stopped while it
// was read, so that what was read may be of two moments. Opening the reader
// again helps.
var ErrChanged = errors.New("registry was opened or closed by its owner meanwhile; try again")

// A Reader reads a registry that may be in use, or was left by an owner that
// was killed. It takes no lock that hinders the owner, and neither makes nor
// changes a file of the directory. It is safe for concurrent use.
type Reader struct {
	path string
	temp string                 // directory of a copy; empty: none was needed
	at   sqlitefile.Fingerprint // of a file that is read without locks; zero: with locks, or a copy

	mu sync.Mutex
	r  *reads // nil when closed
}

// OpenReader opens the registry of a state directory for reading. If there is
// none, the error is fs.ErrNotExist. In the owner's own process a reader is
// opened after Open, never before it: connections of one process share the
// -shm, and the first one decides whether it can be written.
func OpenReader(ctx context.Context, dir string) (*Reader, error) {
	path, err := filepath.Abs(filepath.Join(dir, FileName))
	if err != nil {
		return nil, fmt.Errorf("resolve state directory: %w", err)
	}
	// Between the look at the files and their opening the owner may start or
	// stop. That is over after a few looks.
	const attempts = 5
	for i := 1; ; i++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r := &Reader{path: path}
		err := r.open(ctx)
		if err == nil {
			return r, nil
		}
		err = errors.Join(err, r.Close())
		if errors.Is(err, fs.ErrNotExist) && i == attempts {
			return nil, fmt.Errorf("read registry: %w; has replicate run with this state-dir?", err)
		} else if i == attempts {
			return nil, fmt.Errorf("read registry %s: %w", path, err)
		}
	}
}

// open chooses how to read. SQLite opens a log-mode database through its -shm,
// and would make one that is missing (its documentation of WAL mode, "Read-Only
// Databases"), so:
//   - without a log the main file is all there is, and is read as a file that
//     nobody changes, which is checked after each call;
//   - with a log and its -shm, in use or left by an owner that was killed, the
//     -shm is read and not written;
//   - with a log only, a copy is read.
func (r *Reader) open(ctx context.Context) (err error) {
	before, err := sqlitefile.Take(r.path)
	if err != nil {
		return err
	}
	_, err = os.Stat(r.path + shmSuffix)
	switch {
	case before.WAL.Size == 0:
		r.at = before
		r.r, err = openReads(r.path, "mode=ro&immutable=1")
	case err == nil:
		r.r, err = openReads(r.path, "mode=ro&readonly_shm=1")
	case errors.Is(err, fs.ErrNotExist):
		err = r.openCopy(before)
	}
	if err != nil {
		return err
	}
	return r.verify(ctx)
}

// openCopy reads a private copy of the file and its log.
func (r *Reader) openCopy(before sqlitefile.Fingerprint) (err error) {
	if r.temp, err = os.MkdirTemp("", "litestream-registry-"); err != nil {
		return err
	}
	to := filepath.Join(r.temp, FileName)
	if err := errors.Join(copyFile(to, r.path), copyFile(to+walSuffix, r.path+walSuffix)); err != nil {
		return err
	}
	if after, err := sqlitefile.Take(r.path); err != nil {
		return err
	} else if after != before {
		return ErrChanged
	}
	r.r, err = openReads(to, "mode=rw")
	return err
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() // only read from
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// verify returns ErrChanged if a file that is read without locks is not what
// it was when the reader was opened.
func (r *Reader) verify(ctx context.Context) error {
	if err := ctx.Err(); err != nil || r.at == (sqlitefile.Fingerprint{}) {
		return err
	}
	now, err := sqlitefile.Take(r.path)
	if err != nil {
		return err
	}
	if now != r.at {
		return ErrChanged
	}
	return nil
}

// use runs fn, which reads. What fn finds in a file that changed under it is
// no damage, so that ErrChanged goes before its error.
func (r *Reader) use(ctx context.Context, fn func(*reads) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.r == nil {
		return fmt.Errorf("read registry: %w", ErrClosed)
	}
	err := fn(r.r)
	if verr := r.verify(ctx); verr != nil {
		err = verr
	}
	if err != nil {
		return fmt.Errorf("read registry %s: %w", r.path, err)
	}
	return nil
}

// Info returns what the registry says of itself: Clean is false while its
// owner runs, and SameBoot always.
func (r *Reader) Info(ctx context.Context) (info Info, err error) {
	err = r.use(ctx, func(c *reads) error {
		row, err := c.info(ctx)
		info = row.Info
		return err
	})
	return info, err
}

// Summary returns what the owner's last SetSummary stored; nil: nothing yet.
func (r *Reader) Summary(ctx context.Context) (b []byte, err error) {
	err = r.use(ctx, func(c *reads) error {
		dest := make([]driver.Value, 1)
		return c.each(ctx, "SELECT data FROM summary", dest, func() error {
			b, _ = dest[0].([]byte)
			return nil
		})
	})
	return b, err
}

// Load calls fn with each row, by ascending ID, all of one moment. Damaged
// rows are skipped. The record and its Files are valid during the call; Path
// and Reason stay. fn must not call the reader.
func (r *Reader) Load(ctx context.Context, fn func(*Record) error) error {
	return r.use(ctx, func(c *reads) error {
		_, err := c.load(ctx, fn)
		return err
	})
}

// ByPath returns the row of a path, and whether there is one. It reads all
// rows' paths, for which 100,000 take some ten milliseconds.
func (r *Reader) ByPath(ctx context.Context, path string) (rec Record, ok bool, err error) {
	err = r.use(ctx, func(c *reads) error {
		row := newRow()
		return c.byPath.rows(ctx, row.dest, func() error {
			ok = ok || row.decode(&rec)
			return nil
		}, []byte(path))
	})
	return rec, ok, err
}

// Ledger returns the ledger of a row, nil if there is none or it is damaged.
func (r *Reader) Ledger(ctx context.Context, id uint32) (b []byte, err error) {
	err = r.use(ctx, func(c *reads) error {
		b, err = c.ledger(ctx, id)
		return err
	})
	return b, err
}

// Close ends reading. It may be called twice.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.r != nil {
		err = r.r.close()
		r.r = nil
	}
	if r.temp != "" {
		err = errors.Join(err, os.RemoveAll(r.temp))
		r.temp = ""
	}
	return err
}
