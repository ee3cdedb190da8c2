package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/benbjohnson/litestream/internal/scan"
)

// DirScanInterval is the time between two scans of the folders that are
// watched. The scan is what counts; what the system tells of changes only
// makes them known sooner.
const DirScanInterval = 15 * time.Second

// dirDebounce is the time from the first of some changes until they are looked
// at together: most files are made, filled and renamed within it.
const dirDebounce = 250 * time.Millisecond

// dirMonitor keeps the databases of folders in a store. One goroutine owns all
// but what mu guards.
type dirMonitor struct {
	store    *Store
	dirs     []*DirConfig // all in force
	logger   *slog.Logger
	interval time.Duration // between scans

	dbs     map[string]*dirDB   // by path
	places  map[[32]byte]string // destinations of replicas, and whose they are
	refused map[string]string   // why a file was refused, as it was logged
	unread  map[string]string   // the same of folders
	changed map[string]struct{} // paths of which the system told
	watch   dirWatch
	swaps   chan *dirSwap
	swap    *dirSwap // under way

	stop context.CancelFunc
	wg   sync.WaitGroup

	mu   sync.Mutex // guards left
	left []*dirDB   // whose removal from the store has ended
	wake chan struct{}
}

// dirDB is a database of a folder in the store.
type dirDB struct {
	path    string
	dir     *DirConfig
	place   [32]byte
	leaving bool // is being closed; the store does not have it any more
	err     error
}

func newDirMonitor(s *Store) *dirMonitor {
	m := &dirMonitor{
		store: s, dirs: s.Dirs, logger: s.Logger, interval: DirScanInterval,
		dbs: make(map[string]*dirDB), places: make(map[[32]byte]string),
		refused: make(map[string]string), unread: make(map[string]string),
		changed: make(map[string]struct{}), wake: make(chan struct{}, 1),
		swaps: make(chan *dirSwap),
	}
	if s.knobs.DirScanInterval > 0 {
		m.interval = s.knobs.DirScanInterval
	}
	m.watch = dirWatch{logger: s.Logger, add: s.knobs.DirWatch, known: make(map[string]bool)}
	m.notePlaces()
	return m
}

// notePlaces notes where the replicas of the store's databases lie.
func (m *dirMonitor) notePlaces() {
	clear(m.places)
	for _, d := range m.dbs { // also one that is leaving the store
		if d.place != ([32]byte{}) {
			m.places[d.place] = d.path
		}
	}
	for _, db := range m.store.DBs() {
		if place, ok := placeOf(db); ok {
			m.places[place] = db.Path()
		}
	}
}

// placeOf identifies where a database's replica lies, if its client tells.
func placeOf(db *DB) (place [32]byte, ok bool) {
	if db.Replica == nil {
		return place, false
	}
	if _, ok := db.Replica.Client.(Locator); !ok {
		return place, false
	}
	return db.Replica.Identity(), true
}

// find looks into all folders before anything runs. A database that has an
// entry of its own as well, or lies in two folders, is an error here: nobody
// could tell which settings are meant.
func (m *dirMonitor) find(ctx context.Context) ([]*DB, error) {
	var found []*DB
	for _, c := range m.dirs {
		seen, err := c.walk(ctx, nil)
		if err != nil {
			return nil, err
		}
		m.reportUnread(seen)
		n := 0
		for _, path := range seen.files {
			if ok, err := isSQLiteFile(path); err == nil && !ok {
				continue // one that cannot be read is the database's own failure, told and tried again
			}
			db, err := m.admit(c, path)
			if errors.Is(err, errSecondPath) {
				m.refuse(c, path, err)
				continue
			} else if err != nil {
				return nil, err
			}
			found = append(found, db)
			n++
		}
		if n == 0 && !c.Watch {
			return nil, errors.Join(fmt.Errorf("no SQLite databases found in directory %s with pattern %s", c.Path, c.Pattern), seen.err())
		}
		m.logger.Info("found databases in directory", "dir", c.Path, "count", n, "watch", c.Watch)
	}
	return found, nil
}

// admit makes the database of a file and notes it, unless it is replicated
// already or would share a destination.
func (m *dirMonitor) admit(c *DirConfig, path string) (*DB, error) {
	if d := m.dbs[path]; d != nil {
		return nil, fmt.Errorf("database %s is found in directory %s (pattern %s) and in %s (pattern %s): change one of the two", path, d.dir.Path, d.dir.Pattern, c.Path, c.Pattern)
	}
	if m.store.FindDB(path) != nil {
		return nil, fmt.Errorf("database %s is replicated already and lies in directory %s with pattern %s: remove one of the two", path, c.Path, c.Pattern)
	}
	if target, err := filepath.EvalSymlinks(path); err == nil && target != path && (m.dbs[target] != nil || m.store.FindDB(target) != nil) {
		return nil, fmt.Errorf("database %s in directory %s %w", path, c.Path, secondPath(target))
	}
	db, err := c.NewDB(path)
	if err != nil {
		return nil, fmt.Errorf("database %s in directory %s: %w", path, c.Path, err)
	}
	d := &dirDB{path: path, dir: c}
	if place, ok := placeOf(db); ok {
		if other, ok := m.places[place]; ok {
			return nil, fmt.Errorf("databases %s and %s have the same replica destination and would overwrite each other", other, path)
		}
		d.place, m.places[place] = place, path
	}
	m.dbs[path] = d
	return db, nil
}

// forget drops what admit noted.
func (m *dirMonitor) forget(d *dirDB) {
	delete(m.dbs, d.path)
	delete(m.places, d.place)
}

// failed returns what the first scan could not look at.
func (m *dirMonitor) failed() error {
	errs := make([]error, 0, len(m.unread))
	for path, text := range m.unread {
		errs = append(errs, fmt.Errorf("read directory %s: %s", path, text))
	}
	return summarize(errs)
}

// open begins to watch, if any folder is to be watched.
func (m *dirMonitor) open(ctx context.Context) {
	if slices.ContainsFunc(m.dirs, (*DirConfig).watched) {
		m.watch.open()
		m.start(ctx)
	}
}

func (m *dirMonitor) start(ctx context.Context) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m.stop = cancel
	m.wg.Go(func() { m.loop(run) })
}

// close ends watching. The databases stay in the store.
func (m *dirMonitor) close() {
	if m.stop == nil {
		return
	}
	m.stop()
	m.wg.Wait()
	m.watch.close()
}

// loop scans, and looks at once at what the system tells of. The first scan
// covers what changed before the folders were watched.
func (m *dirMonitor) loop(ctx context.Context) {
	m.scan(ctx)
	rescan := time.NewTimer(m.interval)
	defer rescan.Stop()
	look := time.NewTimer(time.Hour)
	look.Stop()
	waiting := false // look is set
	hurried := false // rescan is set to come soon
	for {
		select {
		case <-ctx.Done():
			return
		case swap := <-m.swaps:
			m.change(ctx, swap)
		case ev, ok := <-m.watch.events:
			if !ok {
				m.watch.events = nil
			} else if m.note(ev) && !waiting {
				waiting = true
				look.Reset(dirDebounce)
			}
		case err, ok := <-m.watch.errors:
			if !ok {
				m.watch.errors = nil
				continue
			}
			if m.watch.failed(err); !hurried {
				hurried = true
				rescan.Reset(min(time.Second, m.interval))
			}
		case <-look.C:
			waiting = false
			m.look(ctx)
		case <-rescan.C:
			hurried = false
			m.scan(ctx)
			rescan.Reset(m.interval)
		case <-m.wake:
			m.ended(ctx)
		}
	}
}

// note keeps the path of an event that may matter, and reports whether it did.
// Most events are writes to databases that are known, or to their logs.
func (m *dirMonitor) note(ev fsnotify.Event) bool {
	path := ev.Name
	if path == "" || !filepath.IsAbs(path) {
		return false
	}
	if !ev.Has(fsnotify.Create) && !m.watch.isKnown(path) {
		gone := ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename)
		if _, known := m.dbs[path]; known != gone {
			return false // a write to what is known, or the end of what was not
		} else if !known && !m.covered(path) {
			return false
		}
	} else if !scan.IsDatabaseName(filepath.Base(path)) {
		return false
	}
	m.changed[path] = struct{}{}
	return true
}

func (m *dirMonitor) covered(path string) bool {
	return slices.ContainsFunc(m.dirs, func(c *DirConfig) bool { return c.Watch && c.Covers(path) })
}

// look looks at what the system told of: first at what is gone, so that a
// folder that was moved is not taken for two.
func (m *dirMonitor) look(ctx context.Context) {
	paths := make([]string, 0, len(m.changed))
	for path := range m.changed {
		paths = append(paths, path)
	}
	clear(m.changed)
	slices.Sort(paths)
	dir := make(map[string]bool)
	paths = slices.DeleteFunc(paths, func(path string) bool {
		fi, err := os.Lstat(path)
		dir[path] = err == nil && fi.IsDir()
		folder := m.watch.isKnown(path)
		if folder { // it may be another one now, and so may those below
			m.watch.forget(path)
		}
		if isGone(err) || dir[path] {
			m.gone(path, folder)
		}
		return err != nil // else the scan tells
	})
	for _, path := range paths {
		for _, c := range m.dirs {
			switch {
			case !c.Watch:
			case !dir[path]:
				if c.Covers(path) {
					m.consider(ctx, c, path)
				}
			case path == c.Path, c.Recursive && isBelow(c.Path, path) && !c.skipsAny(path):
				m.scanBelow(ctx, c, path)
			}
		}
	}
}

// skipsAny reports whether a folder below Path lies in one that is skipped, or
// is one.
func (c *DirConfig) skipsAny(dir string) bool {
	for ; dir != c.Path; dir = filepath.Dir(dir) {
		if c.skips(dir) {
			return true
		}
	}
	return false
}

// gone closes the database of a path, and those in what was a folder.
func (m *dirMonitor) gone(path string, folder bool) {
	if d := m.dbs[path]; d != nil {
		m.remove(d)
	}
	if !folder {
		return
	}
	for p, d := range m.dbs {
		if isBelow(path, p) && noFile(p) {
			m.remove(d)
		}
	}
}

// noFile reports whether nothing lies at a path any more, or a folder.
func noFile(path string) bool {
	fi, err := os.Lstat(path)
	return isGone(err) || err == nil && fi.IsDir()
}

// scan looks into every folder that is watched.
func (m *dirMonitor) scan(ctx context.Context) {
	m.watch.dropGone()
	for path := range m.refused {
		if noFile(path) {
			delete(m.refused, path)
		}
	}
	for _, c := range m.dirs {
		if c.Watch {
			m.scanBelow(ctx, c, c.Path)
		}
	}
}

// scanBelow brings the store up to what lies in a folder, at or below that of
// the configuration.
func (m *dirMonitor) scanBelow(ctx context.Context, c *DirConfig, dir string) {
	seen := &dirScan{}
	var enter func(dir string)
	if c.Watch {
		enter = m.watch.enter
	}
	err := c.walkFrom(ctx, dir, enter, seen)
	switch {
	case ctx.Err() != nil:
		return
	case isGone(err) && dir != c.Path: // and everything in it
	case isGone(err):
		m.report(&scan.PathError{Path: dir, Err: pathCause(err)})
	case err != nil:
		seen.unread = append(seen.unread, &scan.PathError{Path: dir, Err: pathCause(err)})
	}
	seen.end()
	m.reportUnread(seen)
	m.dropGone(c, dir, seen)
	for _, path := range seen.files {
		m.consider(ctx, c, path)
	}
}

// dropGone closes the databases that a walk did not find.
func (m *dirMonitor) dropGone(c *DirConfig, dir string, seen *dirScan) {
	files := make(map[string]struct{}, len(seen.files))
	for _, path := range seen.files {
		files[path] = struct{}{}
	}
	for path, d := range m.dbs {
		if _, ok := files[path]; ok || d.dir != c || d.leaving || !isBelow(dir, path) || seen.unknown(path) {
			continue
		}
		if noFile(path) {
			m.remove(d)
		}
	}
}

// consider takes a file into the store if it is a database and not there yet.
func (m *dirMonitor) consider(ctx context.Context, c *DirConfig, path string) {
	if d := m.dbs[path]; d != nil && (d.dir == c || d.leaving) {
		return
	}
	if ok, err := isSQLiteFile(path); err == nil && !ok {
		return // its next write, or the next scan, has it looked at again
	}
	db, err := m.admit(c, path)
	if err == nil {
		if err = m.store.AddDB(ctx, db); err != nil {
			m.forget(m.dbs[path])
		}
	}
	if err == nil {
		delete(m.refused, path)
		m.logger.Info("database found in directory", "dir", c.Path, "db", path)
		return
	}
	if ctx.Err() == nil {
		m.refuse(c, path, err)
	}
}

// refuse logs once why a file is not replicated.
func (m *dirMonitor) refuse(c *DirConfig, path string, err error) {
	if m.refused[path] == err.Error() {
		return
	}
	m.refused[path] = err.Error()
	m.logger.Error("database in directory is not replicated", "dir", c.Path, "db", path, "error", err)
}

// remove closes a database whose file is gone, with a last upload, beside
// everything else: its replica may hang. The replica and the metadata stay.
func (m *dirMonitor) remove(d *dirDB) {
	if d.leaving || !d.dir.Watch {
		return
	}
	m.logger.Info("database is gone from directory", "dir", d.dir.Path, "db", d.path)
	m.release(d)
}

// release closes a database beside everything else: ended follows.
func (m *dirMonitor) release(d *dirDB) {
	d.leaving = true
	m.store.removeLater(d.path, func(err error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		d.err = err
		m.left = append(m.left, d)
		select {
		case m.wake <- struct{}{}:
		default:
		}
	})
}

// ended follows removals to their end. A file that is there again, or belongs
// to another entry now, was not taken as long as it was still being closed.
func (m *dirMonitor) ended(ctx context.Context) {
	m.mu.Lock()
	left := m.left
	m.left = nil
	m.mu.Unlock()
	for _, d := range left {
		m.forget(d)
		if d.err != nil && !errors.Is(d.err, fs.ErrNotExist) {
			m.logger.Warn("database was closed with an error", "db", d.path, "error", d.err)
		}
		swapped := m.swap.ended(d)
		for _, c := range m.dirs {
			if (c.Watch || swapped) && c.Covers(d.path) {
				m.consider(ctx, c, d.path)
			}
		}
	}
	m.answer()
}

// reportUnread logs which folders cannot be read, each once.
func (m *dirMonitor) reportUnread(seen *dirScan) {
	for _, dir := range seen.dirs {
		delete(m.unread, dir)
	}
	for _, e := range seen.unread {
		m.report(e)
	}
}

func (m *dirMonitor) report(e *scan.PathError) {
	if m.unread[e.Path] != e.Err.Error() {
		m.unread[e.Path] = e.Err.Error()
		m.logger.Error("directory cannot be read: new databases in it are not found", "dir", e.Path, "error", e.Err)
	}
}
