// Package scan finds the files that match a list of patterns, and what stat
// tells of each and of the -wal beside it. It opens directories only, never a
// file: closing a file would drop the locks that this process holds on it.
package scan

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/benbjohnson/litestream/internal/glob"
	"github.com/benbjohnson/litestream/internal/wal"
)

const (
	// defaultMargin covers the tick of file system clocks and small steps of
	// the machine's clock.
	defaultMargin = 2 * time.Second

	// maxErrors bounds the errors that a Result names.
	maxErrors = 100

	// maxWorkers is where more threads stop to help (measured on local disks).
	maxWorkers = 4
)

// ErrRunning means that the scanner's last scan has not ended yet.
var ErrRunning = errors.New("a scan is running already")

// Config says what to look for.
type Config struct {
	Patterns []*glob.Pattern // the first one that matches a path counts
	Exclude  []*glob.Exclude

	// Workers is how many goroutines read directories; 0: up to four.
	Workers int

	// Sorted reports the files of a directory in ascending order, and with one
	// worker all files in the same order each time.
	Sorted bool

	// Cache keeps the names of larger directories between scans and reads a
	// directory again only if its times changed or were younger than Margin
	// when it was read.
	Cache  bool
	Margin time.Duration // 0: two seconds
}

// Entry is a file that matches. It is valid until the callback returns.
type Entry struct {
	Dir     string // shared by the files of a directory
	Name    []byte
	Pattern int       // number of the pattern
	Linked  bool      // Name is a symbolic link; Main and WAL are those of its target
	Main    wal.Print // of the file
	WAL     wal.Print // of the -wal
	HasWAL  bool      // there is a -wal; WAL is zero otherwise
}

// AppendPath appends the file's path to b.
func (e *Entry) AppendPath(b []byte) []byte {
	return append(appendDir(b, e.Dir), e.Name...)
}

// Path returns the file's path.
func (e *Entry) Path() string { return string(e.AppendPath(nil)) }

func appendDir(b []byte, dir string) []byte {
	if b = append(b, dir...); dir != "/" {
		b = append(b, '/')
	}
	return b
}

// PathError is a directory or file that could not be looked at. What lies
// there is unknown; it is not gone.
type PathError struct {
	Path string
	Err  error
}

// Error returns the path and the cause.
func (e *PathError) Error() string { return fmt.Sprintf("scan %s: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e *PathError) Unwrap() error { return e.Err }

// Result is what a scan saw.
type Result struct {
	Dirs     int   // directories entered
	DirsRead int   // of these, whose names were read from disk
	Matches  []int // files reported, by pattern
	Special  int   // matching names of devices, pipes and sockets
	Links    int   // links that were not followed: loops, links behind links, dangling ones

	// Errors are the first of ErrorN paths that could not be looked at.
	Errors []*PathError
	ErrorN int
}

// Scanner finds files again and again. Its methods may be called from several
// goroutines; scans do not overlap.
type Scanner struct {
	cfg     Config
	running sync.Mutex
	cache   *cache // nil without Config.Cache
}

// New returns a scanner. It does nothing yet.
func New(cfg Config) (*Scanner, error) {
	if len(cfg.Patterns) > math.MaxUint16 {
		return nil, fmt.Errorf("more than %d patterns", math.MaxUint16)
	}
	if cfg.Workers <= 0 {
		cfg.Workers = min(runtime.GOMAXPROCS(0), maxWorkers)
	}
	if cfg.Margin <= 0 {
		cfg.Margin = defaultMargin
	}
	s := &Scanner{cfg: cfg}
	if cfg.Cache {
		s.cache = newCache()
	}
	return s, nil
}

// Scan calls fn for every file that matches, from one goroutine at a time. It
// stops at the first error of fn and when ctx ends, and returns that error;
// what cannot be read is part of the result and stops nothing. A second call
// while one runs returns ErrRunning.
func (s *Scanner) Scan(ctx context.Context, fn func(*Entry) error) (Result, error) {
	if !s.running.TryLock() {
		return Result{}, ErrRunning
	}
	defer s.running.Unlock()
	w := newWalk(&s.cfg, s.cache, fn)
	err := w.run(ctx)
	if err == nil && s.cache != nil {
		s.cache.endScan()
	}
	return w.result, err
}
