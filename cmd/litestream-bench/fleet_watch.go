//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ltxWatcher tells, by inotify, when LTX files get their names in some folders.
type ltxWatcher struct {
	file   *os.File
	landed func(tenant int, path string, at time.Time) error
	done   chan struct{}
	err    error // of the end; read after done is closed

	mu   sync.Mutex // guards dirs
	dirs map[int32]watchedDir
}

type watchedDir struct {
	tenant int
	path   string
}

// errWatchLost means that events were dropped, so that times are missing.
var errWatchLost = errors.New("inotify queue overflowed")

// newLTXWatcher starts a watcher. landed is called from one goroutine.
func newLTXWatcher(landed func(tenant int, path string, at time.Time) error) (*ltxWatcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &ltxWatcher{
		file: os.NewFile(uintptr(fd), "inotify"), landed: landed,
		done: make(chan struct{}), dirs: make(map[int32]watchedDir),
	}
	go func() {
		defer close(w.done)
		w.err = w.run()
	}()
	return w, nil
}

// add watches a folder of a tenant.
func (w *ltxWatcher) add(tenant int, path string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	conn, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	wd, addErr := 0, error(nil)
	err = conn.Control(func(fd uintptr) {
		// Either way to give a whole file its name: rename, and link.
		wd, addErr = unix.InotifyAddWatch(int(fd), path, unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_ONLYDIR)
	})
	if err := errors.Join(err, addErr); err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	w.dirs[int32(wd)] = watchedDir{tenant, path}
	return nil
}

func (w *ltxWatcher) run() error {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		at := time.Now()
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			size := int(binary.NativeEndian.Uint32(b[12:]))
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:][:size]), "\x00")
			b = b[unix.SizeofInotifyEvent+size:]
			if mask&unix.IN_Q_OVERFLOW != 0 {
				return errWatchLost
			}
			if err := w.event(wd, name, at); err != nil {
				return err
			}
		}
	}
}

func (w *ltxWatcher) event(wd int32, name string, at time.Time) error {
	w.mu.Lock()
	dir, ok := w.dirs[wd]
	w.mu.Unlock()
	if !ok || !strings.HasSuffix(name, ".ltx") {
		return nil
	}
	return w.landed(dir.tenant, filepath.Join(dir.path, name), at)
}

// failed returns why the watcher ended by itself, if it did.
func (w *ltxWatcher) failed() error {
	select {
	case <-w.done:
		return w.err
	default:
		return nil
	}
}

// close stops the watcher and returns why it ended before, if it did.
func (w *ltxWatcher) close() error {
	err := w.file.Close()
	<-w.done
	return errors.Join(w.err, err)
}
