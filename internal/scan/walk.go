package scan

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/glob"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// walk is one run of Scan: a stack of directories whose subdirectories are
// still to be entered. Taking from its top keeps the number of open
// directories near workers times depth.
type walk struct {
	cfg   *Config
	cache *cache

	mu     sync.Mutex // guards stack, active and err; no I/O under it
	wake   *sync.Cond // stack grew, or the walk ended
	stack  []item
	active int
	err    error
	done   atomic.Bool // err is set

	emit   sync.Mutex // held while fn runs; guards result
	fn     func(*Entry) error
	result Result
}

// item is an open directory and records of subdirectories to be entered.
type item struct {
	dir  *dir
	kids []byte
}

// dir is an open directory.
type dir struct {
	fd     int
	refs   atomic.Int32 // items and kids that need fd
	path   string
	states []glob.States // by pattern
	id     wal.FileID
	parent *dir // its fd may be closed
	beyond bool // reached through a symbolic link that a wildcard matched
}

func (d *dir) release() {
	if d.refs.Add(-1) == 0 {
		_ = unix.Close(d.fd) // of a directory that was read only
	}
}

func newWalk(cfg *Config, c *cache, fn func(*Entry) error) *walk {
	w := &walk{cfg: cfg, cache: c, fn: fn}
	w.wake = sync.NewCond(&w.mu)
	w.result.Matches = make([]int, len(cfg.Patterns))
	return w
}

// run starts the workers and waits for them.
func (w *walk) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { w.stop(context.Cause(ctx)) })
	defer stop()
	first := newWorker(w)
	states := make([]glob.States, len(w.cfg.Patterns))
	for i, p := range w.cfg.Patterns {
		states[i] = p.Start()
	}
	first.enter(nil, "/", kindLiteral, states)
	var wg sync.WaitGroup
	for range w.cfg.Workers - 1 {
		wg.Go(newWorker(w).run)
	}
	first.run()
	wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range w.stack { // left by stop
		it.dir.release()
	}
	return w.err
}

func (w *walk) stop(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.done.Store(true)
	w.wake.Broadcast()
}

func (w *walk) push(it item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stack = append(w.stack, it)
	w.wake.Signal()
}

// next waits for a subdirectory to enter. finished tells that the caller has
// dealt with the one before.
func (w *walk) next(finished bool) (parent *dir, kid record, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if finished {
		w.active--
	}
	for len(w.stack) == 0 && w.active > 0 && w.err == nil {
		w.wake.Wait()
	}
	if len(w.stack) == 0 || w.err != nil {
		w.wake.Broadcast()
		return nil, record{}, false
	}
	top := &w.stack[len(w.stack)-1]
	parent = top.dir
	kid, top.kids = nextRecord(top.kids)
	if len(top.kids) == 0 {
		*top = item{} // its reference goes to the caller
		w.stack = w.stack[:len(w.stack)-1]
	} else {
		parent.refs.Add(1)
	}
	w.active++
	return parent, kid, true
}

func (w *walk) fail(path string, err error) {
	w.emit.Lock()
	defer w.emit.Unlock()
	if w.result.ErrorN++; len(w.result.Errors) < maxErrors {
		w.result.Errors = append(w.result.Errors, &PathError{path, err})
	}
}

// count changes the result.
func (w *walk) count(f func(*Result)) {
	w.emit.Lock()
	defer w.emit.Unlock()
	f(&w.result)
}

// worker is one goroutine of a walk, with what it uses again and again.
type worker struct {
	*walk
	buf     []byte // of the system call that reads names
	scratch []byte // a path or a name
	names   []byte // records of a directory that is not kept
	wals    map[string]struct{}
	walBuf  []byte
	batch   []Entry
	special int
	links   int
}

func newWorker(w *walk) *worker { return &worker{walk: w} }

func (w *worker) run() {
	for finished := false; ; finished = true {
		parent, kid, ok := w.next(finished)
		if !ok {
			return
		}
		name := string(kid.name)
		w.enter(parent, name, kid.kind, w.statesBelow(parent, name))
		parent.release()
	}
}

func (w *worker) statesBelow(d *dir, name string) []glob.States {
	states := make([]glob.States, len(w.cfg.Patterns))
	for i, p := range w.cfg.Patterns {
		if d.states[i] != 0 {
			states[i] = p.Enter(d.states[i], name)
		}
	}
	return states
}

// enter opens a directory, reports the files in it and puts its subdirectories
// on the stack.
func (w *worker) enter(parent *dir, name string, kind recordKind, states []glob.States) {
	if w.done.Load() {
		return
	}
	d := &dir{path: name, states: states, parent: parent, fd: -1}
	at := unix.AT_FDCWD
	if parent != nil {
		at = parent.fd
		d.path = string(appendDir(nil, parent.path)) + name
		d.beyond = parent.beyond || kind == kindLink
	}
	if kind == kindLiteral && w.excludes(d.path) {
		return
	}
	literals, literal := w.literals(states)
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if literal {
		flags |= openSearchOnly
	}
	if kind == kindDir {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := openat(at, name, flags)
	if err != nil {
		w.openFailed(d, kind, err)
		return
	}
	d.fd = fd
	d.refs.Store(1)
	defer d.release()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		w.fail(d.path, err)
		return
	}
	p := sqlitefile.PrintOf(&st)
	if d.id = p.ID; d.beyond && d.isLoop() {
		w.count(func(r *Result) { r.Links++ })
		return
	}
	if literal {
		w.count(func(r *Result) { r.Dirs++ })
		w.pushKids(d, literals)
		return
	}
	w.list(d, p)
}

// openFailed tells a directory that is no more, or was none, from one that
// cannot be read.
func (w *worker) openFailed(d *dir, kind recordKind, err error) {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return
	case errors.Is(err, unix.ELOOP):
		if kind == kindDir { // became a link since its name was read: the next scan sees it
			return
		}
		w.count(func(r *Result) { r.Links++ })
	default:
		w.fail(d.path, err)
	}
}

// isLoop reports whether the directory is one that it lies in.
func (d *dir) isLoop() bool {
	for p := d.parent; p != nil; p = p.parent {
		if p.id == d.id {
			return true
		}
	}
	return false
}

// literals returns records of the only names that matter in a directory, where
// the patterns leave no choice.
func (w *worker) literals(states []glob.States) (records []byte, ok bool) {
	var names []string
	for i, p := range w.cfg.Patterns {
		if names, ok = p.Literals(states[i], names); !ok {
			return nil, false
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !IsMetaDir(name) {
			records = appendRecord(records, record{kind: kindLiteral, name: []byte(name)})
		}
	}
	return records, true
}

func (w *worker) pushKids(d *dir, kids []byte) {
	if len(kids) > 0 {
		d.refs.Add(1)
		w.push(item{d, kids})
	}
}

// list reports the files of a directory and stacks its subdirectories.
func (w *worker) list(d *dir, p wal.Print) {
	l, ok := w.cache.get(d, p)
	if !ok {
		var err error
		if l, err = w.read(d, p); errors.Is(err, unix.ENOENT) { // deleted since it was opened
			return
		} else if err != nil {
			w.fail(d.path, err)
			return
		}
	}
	w.count(func(r *Result) {
		r.Dirs++
		if !ok {
			r.DirsRead++
		}
	})
	w.special += l.special
	var kids []byte
	for rest := l.files; len(rest) > 0 && !w.done.Load(); {
		var rec record
		rec, rest = nextRecord(rest)
		if rec.kind != kindLink {
			w.look(d, rec)
		} else if w.lookLink(d, rec) {
			kids = appendRecord(kids, rec)
		}
	}
	w.flush()
	if len(kids) > 0 {
		w.pushKids(d, kids)
	}
	if len(l.dirs) > 0 {
		w.pushKids(d, l.dirs)
	}
	w.count(func(r *Result) { r.Special += w.special; r.Links += w.links })
	w.special, w.links = 0, 0
}
