package litestream

import (
	"errors"
	"log/slog"
	"os"
	"runtime"
	"syscall"

	"github.com/fsnotify/fsnotify"
)

// dirWatch has the system tell of changes in folders. Whatever it misses is
// found by the next scan, so that no failure of it is an error. It is used by
// one goroutine.
type dirWatch struct {
	logger  *slog.Logger
	watcher *fsnotify.Watcher // nil where the system has none left
	add     func(dir string) error
	known   map[string]bool // folders that were entered; true: watched

	events <-chan fsnotify.Event
	errors <-chan error

	lost                bool // events, since the last scan
	limited, overflowed bool // was logged
}

// open begins to watch. Elsewhere than on Linux that would mean to open the
// databases, and to close them again: that drops this process's locks on them.
func (w *dirWatch) open() {
	if runtime.GOOS != "linux" {
		return
	}
	var err error
	if w.watcher, err = fsnotify.NewWatcher(); err != nil {
		w.warn("changes in directories are found by scans only", err)
		return
	}
	w.events, w.errors = w.watcher.Events, w.watcher.Errors
	if w.add == nil {
		w.add = w.watcher.Add
	}
}

func (w *dirWatch) close() {
	if w.watcher == nil {
		return
	}
	if err := w.watcher.Close(); err != nil {
		w.logger.Debug("close watcher", "error", err)
	}
}

func (w *dirWatch) isKnown(dir string) bool { _, ok := w.known[dir]; return ok }

// enter watches a folder that is about to be read, so that nothing falls
// between. It is repeated at each scan: a watch that was lost, because another
// folder took the name, comes back that way.
func (w *dirWatch) enter(dir string) {
	w.known[dir] = false
	if w.watcher == nil {
		return
	}
	err := w.add(dir)
	switch {
	case err == nil:
		w.known[dir] = true
	case isGone(err), errors.Is(err, os.ErrPermission): // the walk tells
	case !w.limited:
		w.limited = true
		hint := ""
		if errors.Is(err, syscall.ENOSPC) {
			hint = "the limit of watches is reached: raise fs.inotify.max_user_watches"
		}
		w.logger.Warn("not every directory can be watched: changes in the others are found by scans only",
			"dir", dir, "scan_interval", DirScanInterval, "error", err, "hint", hint)
	}
}

// forget ends the watches of a folder and of those below: the system goes on to
// report what happens in them under the old path, wherever they are moved to.
func (w *dirWatch) forget(dir string) {
	for path := range w.known {
		if path == dir || isBelow(dir, path) {
			w.drop(path)
		}
	}
}

// keep ends the watches of the folders that are not wanted any more.
func (w *dirWatch) keep(wanted func(dir string) bool) {
	for path := range w.known {
		if !wanted(path) {
			w.drop(path)
		}
	}
}

func (w *dirWatch) drop(dir string) {
	if w.known[dir] {
		// It fails where the system has ended the watch by itself.
		if err := w.watcher.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
			w.logger.Debug("end watch", "dir", dir, "error", err)
		}
	}
	delete(w.known, dir)
}

// dropGone forgets the folders that are gone: before a scan, because a folder
// that was moved is not watched under its new name while it is under the old
// one. After events were lost, any folder may be another one.
func (w *dirWatch) dropGone() {
	for path := range w.known {
		if _, err := os.Lstat(path); isGone(err) || w.lost {
			w.drop(path)
		}
	}
	w.lost = false
}

// failed is told of an error of the watcher; a scan follows.
func (w *dirWatch) failed(err error) {
	w.lost = true
	if w.overflowed {
		return
	}
	w.overflowed = true
	w.warn("changes in directories came faster than they could be read: a scan finds them", err)
}

func (w *dirWatch) warn(msg string, err error) {
	w.logger.Warn(msg, "scan_interval", DirScanInterval, "error", err) //nolint:sloglint // a constant of the caller
}
