package scan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/glob"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

const (
	batchEntries = 512

	// minCached is the size of records from which on a directory's names are
	// kept: for less, reading them costs about what keeping them does.
	minCached = 256
)

type recordKind byte

const (
	kindFile    recordKind = iota
	kindFileWAL            // a file with a -wal beside it
	kindDir
	kindLink    // a symbolic link to what was not looked at
	kindLiteral // a directory that no wildcard stands for
)

// record is a name in a directory. Records are kept one after another in one
// piece of memory: kind, pattern, name, and a zero byte for the system calls.
type record struct {
	kind    recordKind
	pattern uint16 // of files; noPattern for links that match as directory only
	name    []byte // followed by a zero byte
}

const (
	recordHeader = 3
	noPattern    = 1<<16 - 1
)

func appendRecord(b []byte, r record) []byte {
	b = append(b, byte(r.kind))
	b = binary.LittleEndian.AppendUint16(b, r.pattern)
	b = append(b, r.name...)
	return append(b, 0)
}

func nextRecord(b []byte) (record, []byte) {
	n := recordHeader + bytes.IndexByte(b[recordHeader:], 0)
	return record{recordKind(b[0]), binary.LittleEndian.Uint16(b[1:]), b[recordHeader:n]}, b[n+1:]
}

// listing holds the names of a directory that matter.
type listing struct {
	files []byte // records of files and links
	dirs  []byte // records of directories

	special int // names that match and are no files

	print  wal.Print     // of the directory before it was read
	states []glob.States // that the names were chosen by
	path   string        // so were they by exclude patterns, and links give a directory several paths
	gen    uint32        // scan that used it last
}

// cache holds listings between scans, by the directory's identity.
type cache struct {
	mu  sync.Mutex
	all map[wal.FileID]*listing
	gen uint32
}

func newCache() *cache { return &cache{all: make(map[wal.FileID]*listing)} }

func (c *cache) get(d *dir, p wal.Print) (*listing, bool) {
	if c == nil {
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.all[d.id]
	if l == nil || l.print != p || l.path != d.path || !slices.Equal(l.states, d.states) {
		return nil, false
	}
	l.gen = c.gen
	return l, true
}

func (c *cache) put(d *dir, l *listing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.gen = c.gen
	c.all[d.id] = l
}

// endScan forgets what the scan did not come across.
func (c *cache) endScan() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, l := range c.all {
		if l.gen != c.gen {
			delete(c.all, id)
		}
	}
	c.gen++
}

// read reads the names of a directory. p is its state before.
func (w *worker) read(d *dir, p wal.Print) (*listing, error) {
	now := time.Now()
	w.walBuf = nil // strings in wals may refer to it
	clear(w.wals)
	l := &listing{print: p, states: d.states, path: d.path, files: w.names[:0]}
	if w.buf == nil {
		w.buf = make([]byte, 64<<10)
	}
	err := readNames(d.fd, w.buf, func(name []byte, typ uint8) { w.choose(d, l, name, typ) })
	if err != nil {
		return nil, err
	}
	if w.cfg.Sorted {
		l.files, l.dirs = sortRecords(l.files), sortRecords(l.dirs)
	}
	w.markWALs(l)
	w.names = l.files
	settled := now.UnixNano() - max(p.Mtime, p.Ctime)
	if w.cache != nil && settled > int64(w.cfg.Margin) && len(l.files)+len(l.dirs) >= minCached {
		l.files, l.dirs = bytes.Clone(l.files), bytes.Clone(l.dirs)
		w.cache.put(d, l)
	}
	return l, nil
}

// choose adds a name to the listing if it matters.
func (w *worker) choose(d *dir, l *listing, name []byte, typ uint8) {
	s := unsafe.String(unsafe.SliceData(name), len(name)) // not kept
	if s == "." || s == ".." {
		return
	}
	if typ == unix.DT_UNKNOWN {
		typ = typeOf(d.fd, name)
	}
	switch typ {
	case unix.DT_DIR:
		if w.entersDir(d, s) {
			l.dirs = appendRecord(l.dirs, record{kind: kindDir, name: name})
		}
	case unix.DT_REG, unix.DT_LNK:
		if base, ok := bytes.CutSuffix(name, []byte(walSuffix)); ok {
			w.addWAL(base)
		}
		pattern, ok := w.matchFile(d, s)
		switch {
		case typ == unix.DT_LNK && (ok || w.entersDir(d, s)):
			l.files = appendRecord(l.files, record{kind: kindLink, pattern: pattern, name: name})
		case ok && typ == unix.DT_REG:
			l.files = appendRecord(l.files, record{kind: kindFile, pattern: pattern, name: name})
		}
	default:
		if _, ok := w.matchFile(d, s); ok {
			l.special++
		}
	}
}

// addWAL notes the name of a file that has a -wal.
func (w *worker) addWAL(base []byte) {
	if w.wals == nil {
		w.wals = make(map[string]struct{})
	}
	n := len(w.walBuf)
	w.walBuf = append(w.walBuf, base...)
	kept := w.walBuf[n:] // never written again: read begins with a new buffer
	w.wals[unsafe.String(unsafe.SliceData(kept), len(kept))] = struct{}{}
}

// markWALs turns files whose -wal was seen into kindFileWAL.
func (w *worker) markWALs(l *listing) {
	if len(w.wals) == 0 {
		return
	}
	for rest := l.files; len(rest) > 0; {
		rec, tail := nextRecord(rest)
		if _, ok := w.wals[string(rec.name)]; ok && rec.kind == kindFile {
			rest[0] = byte(kindFileWAL)
		}
		rest = tail
	}
}

func (w *worker) matchFile(d *dir, name string) (pattern uint16, ok bool) {
	if !IsDatabaseName(name) {
		return noPattern, false
	}
	for i, p := range w.cfg.Patterns {
		if p.MatchFile(d.states[i], name) {
			return uint16(i), !w.excludesFile(d, name)
		}
	}
	return noPattern, false
}

// entersDir reports whether something below a subdirectory may match.
func (w *worker) entersDir(d *dir, name string) bool {
	if IsMetaDir(name) {
		return false
	}
	for i, p := range w.cfg.Patterns {
		if p.Enter(d.states[i], name) != 0 {
			return len(w.cfg.Exclude) == 0 || !w.excludes(w.join(d, name))
		}
	}
	return false
}

// excludes reports whether all below a directory is left out.
func (w *worker) excludes(dir string) bool {
	for _, e := range w.cfg.Exclude {
		if e.MatchDir(dir) {
			return true
		}
	}
	return false
}

// excludesFile reports whether a file is left out, for a directory that is not.
func (w *worker) excludesFile(d *dir, name string) bool {
	for _, e := range w.cfg.Exclude {
		if e.MayMatchName(name) && e.Match(w.join(d, name)) {
			return true
		}
	}
	return false
}

// join returns a path that is valid until the next call.
func (w *worker) join(d *dir, name string) string {
	w.scratch = append(appendDir(w.scratch[:0], d.path), name...)
	return unsafe.String(unsafe.SliceData(w.scratch), len(w.scratch))
}

func sortRecords(b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	var all []record
	for rest := b; len(rest) > 0; {
		var r record
		r, rest = nextRecord(rest)
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b record) int { return bytes.Compare(a.name, b.name) })
	out := make([]byte, 0, len(b))
	for _, r := range all {
		out = appendRecord(out, r)
	}
	return out
}

// look takes the prints of a file and of its -wal.
func (w *worker) look(d *dir, rec record) {
	var st unix.Stat_t
	if err := fstatat(d.fd, rec.name, &st); err != nil {
		w.statFailed(d, rec, err)
		return
	}
	e := Entry{Dir: d.path, Name: rec.name, Pattern: int(rec.pattern), Main: sqlitefile.PrintOf(&st)}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		w.special++
		return
	}
	if rec.kind == kindFileWAL {
		w.scratch = append(append(append(w.scratch[:0], rec.name...), walSuffix...), 0)
		err := fstatat(d.fd, w.scratch[:len(w.scratch)-1], &st)
		switch {
		case err == nil:
			e.WAL, e.HasWAL = sqlitefile.PrintOf(&st), true
		case !errors.Is(err, unix.ENOENT):
			w.statFailed(d, rec, err)
			return
		}
	}
	w.add(e)
}

func (w *worker) statFailed(d *dir, rec record, err error) {
	switch {
	case errors.Is(err, unix.ENOENT): // deleted since its name was read
	case errors.Is(err, unix.ELOOP):
		w.links++
	default:
		w.fail(string(appendDir(nil, d.path))+string(rec.name), err)
	}
}

// lookLink deals with a symbolic link and reports whether it leads to a
// directory that has to be entered.
func (w *worker) lookLink(d *dir, rec record) (enter bool) {
	var st unix.Stat_t
	if err := fstatat(d.fd, rec.name, &st); err != nil {
		if w.links++; !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ELOOP) {
			w.links--
			w.statFailed(d, rec, err)
		}
		return false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if !w.entersDir(d, string(rec.name)) {
			return false
		}
		if d.beyond {
			w.links++
		}
		return !d.beyond
	case unix.S_IFREG:
		if rec.pattern == noPattern {
			return false
		}
	default:
		w.special++
		return false
	}
	e := Entry{Dir: d.path, Name: rec.name, Pattern: int(rec.pattern), Linked: true, Main: sqlitefile.PrintOf(&st)}
	// SQLite keeps the log beside the file that the link leads to.
	target, err := filepath.EvalSymlinks(string(appendDir(nil, d.path)) + string(rec.name))
	if err == nil {
		err = unix.Stat(target+walSuffix, &st)
	}
	switch {
	case err == nil:
		e.WAL, e.HasWAL = sqlitefile.PrintOf(&st), true
	case !errors.Is(err, unix.ENOENT):
		w.statFailed(d, rec, err)
		return false
	}
	w.add(e)
	return false
}

func (w *worker) add(e Entry) {
	if w.batch = append(w.batch, e); len(w.batch) == batchEntries {
		w.flush()
	}
}

// flush hands the batch to the caller.
func (w *worker) flush() {
	if len(w.batch) == 0 {
		return
	}
	if err := w.deliver(); err != nil {
		w.stop(err)
	}
	clear(w.batch)
	w.batch = w.batch[:0]
}

func (w *worker) deliver() error {
	w.emit.Lock()
	defer w.emit.Unlock()
	for i := range w.batch {
		if w.done.Load() {
			return nil
		}
		if err := w.fn(&w.batch[i]); err != nil {
			return err
		}
		w.result.Matches[w.batch[i].Pattern]++
	}
	return nil
}
