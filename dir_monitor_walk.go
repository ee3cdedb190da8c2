package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/benbjohnson/litestream/internal/scan"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// DirConfig is a folder whose databases a Store replicates: the files whose
// base name matches a pattern and that begin as an SQLite database does.
type DirConfig struct {
	Path      string // absolute and clean
	Pattern   string // of filepath.Match, for base names
	Recursive bool   // folders below are meant, too; those behind symbolic links are not
	Watch     bool   // what appears, moves or goes later counts; otherwise what is there at the start

	// Skip are folders below Path that hold no databases, such as replicas.
	Skip []string
	// SkipMeta skips folders whose name ends in MetaDirSuffix also where it
	// does not begin with a dot.
	SkipMeta bool

	// NewDB makes the database of a file. An error refuses the file.
	NewDB func(path string) (*DB, error)
}

// Covers reports whether a file of that path would be found, if it existed.
func (c *DirConfig) Covers(path string) bool {
	dir := filepath.Dir(path)
	if !isBelow(c.Path, path) || !c.matches(filepath.Base(path)) || !c.Recursive && dir != c.Path {
		return false
	}
	for ; dir != c.Path; dir = filepath.Dir(dir) {
		if c.skips(dir) {
			return false
		}
	}
	return true
}

// isBelow reports whether a clean path lies below a folder.
func isBelow(dir, path string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func (c *DirConfig) matches(name string) bool {
	ok, err := filepath.Match(c.Pattern, name)
	return err == nil && ok && scan.IsDatabaseName(name)
}

// skips reports whether a folder below Path is not entered.
func (c *DirConfig) skips(dir string) bool {
	name := filepath.Base(dir)
	return scan.IsMetaDir(name) || c.SkipMeta && strings.HasSuffix(name, MetaDirSuffix) || slices.Contains(c.Skip, dir)
}

// Files calls fn for every database that is there now, folder by folder in the
// order of their names. A file that cannot be read counts as one. The error
// joins that of fn, which ends it, and what could not be looked at.
func (c *DirConfig) Files(ctx context.Context, fn func(path string) error) error {
	seen, err := c.walk(ctx, nil)
	if err != nil {
		return err
	}
	for _, path := range seen.files {
		if ok, err := isSQLiteFile(path); err == nil && !ok {
			continue
		}
		if err := errors.Join(ctx.Err(), fn(path)); err != nil {
			return err
		}
	}
	return seen.err()
}

// dirScan is what a walk saw.
type dirScan struct {
	files []string // that match by name, at the end those that are symbolic links
	links []string // the same while the walk goes on
	dirs  []string // that were entered
	// unread are folders that could not be read: what lies there is unknown,
	// not gone.
	unread []*scan.PathError
}

func (s *dirScan) err() error {
	errs := make([]error, 0, len(s.unread))
	for _, e := range s.unread {
		errs = append(errs, e)
	}
	return summarize(errs)
}

// unknown reports whether a path lies where the walk could not look.
func (s *dirScan) unknown(path string) bool {
	return slices.ContainsFunc(s.unread, func(e *scan.PathError) bool { return e.Path == path || isBelow(e.Path, path) })
}

// walk reads the names in the folder, and below. enter, which may be nil, is
// called before a folder is read. The error is that of the folder itself, or
// of ctx.
func (c *DirConfig) walk(ctx context.Context, enter func(dir string)) (*dirScan, error) {
	seen := &dirScan{}
	if err := c.walkFrom(ctx, c.Path, enter, seen); err != nil {
		return nil, fmt.Errorf("cannot scan directory %s: %w", c.Path, pathCause(err))
	}
	seen.end()
	return seen, nil
}

// end puts links behind what they may lead to.
func (s *dirScan) end() { s.files = append(s.files, s.links...) }

// walkFrom adds what it finds at and below a folder.
func (c *DirConfig) walkFrom(ctx context.Context, dir string, enter func(dir string), seen *dirScan) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if enter != nil {
		enter(dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	seen.dirs = append(seen.dirs, dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch typ := e.Type(); {
		case typ.IsDir():
			if !c.Recursive || c.skips(path) {
				continue
			}
			err := c.walkFrom(ctx, path, enter, seen)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil && !isGone(err):
				seen.unread = append(seen.unread, &scan.PathError{Path: path, Err: pathCause(err)})
			}
		case typ.IsRegular() && c.matches(e.Name()):
			seen.files = append(seen.files, path)
		case typ&fs.ModeSymlink != 0 && c.matches(e.Name()):
			seen.links = append(seen.links, path)
		}
	}
	return nil
}

// isGone reports whether an error says that nothing lies at a path.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// pathCause drops the path that the system's error repeats.
func pathCause(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// isSQLiteFile reports whether a regular file, or the one behind a link, begins
// as a database does.
func isSQLiteFile(path string) (ok bool, err error) {
	fi, err := os.Stat(path)
	if isGone(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() || fi.Size() < int64(len(sqlitefile.Magic)) {
		return false, nil
	}
	// It may be another path to a database that is open: a handle does not drop
	// the locks on it.
	h, err := openHandle(path)
	if isGone(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, h.close(true)) }()
	var head [len(sqlitefile.Magic)]byte
	if _, err := h.main.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return string(head[:]) == sqlitefile.Magic, nil
}
