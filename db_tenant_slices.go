package litestream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// Bounds of the SHARED lock on a database with a rollback journal. No commit
// waits for longer than a slice and one read of viewReadAhead bytes, and the
// application has most of the time between two slices to itself.
const (
	sliceWork  = 10 * time.Millisecond
	sliceTry   = 5 * time.Millisecond // between two tries to get the lock
	slicePause = 2                    // times as long as the last slice
)

// sliceState is what every commit to a database with a rollback journal
// changes (SQLite file format, section 1.3.6).
type sliceState struct {
	counter uint32 // file change counter
	file    wal.Print
}

// sliceLock holds SQLite's SHARED lock on a database for short slices, with a
// lock of our own descriptor: no connection is needed and nothing is created.
// Nil holds nothing. It is not safe for concurrent use.
type sliceLock struct {
	path  string
	main  *os.File
	wait  time.Duration             // how long to try to get the lock
	pause func(time.Duration) error // until later, or the look is cancelled

	state   sliceState
	known   bool         // state is that of the first slice
	release func() error // nil while it is not held
	since   time.Time
	again   time.Time // not before
}

// openSlicedView opens a view that is read under slices of the SHARED lock.
func (db *DB) openSlicedView(ctx context.Context, src viewSource) (*View, error) {
	src.slices = &sliceLock{
		path: db.path, main: src.main, wait: db.BusyTimeout,
		pause: func(d time.Duration) error { return wait(ctx, d) },
	}
	if err := src.slices.warm(); err != nil {
		return nil, err
	}
	if err := src.slices.hold(); err != nil {
		return nil, errors.Join(err, src.slices.drop())
	}
	v, err := openDBView(src)
	if err != nil {
		return nil, errors.Join(err, src.slices.drop())
	}
	db.st.view.busy = true
	return v, nil
}

// warm reads the beginning of the file without a lock, so that the first slice
// finds it in memory.
func (s *sliceLock) warm() error {
	buf := make([]byte, viewReadAhead)
	if _, err := s.main.ReadAt(buf, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read database: %w", err)
	}
	return nil
}

// hold takes the lock, unless it is held, and makes sure that nobody wrote
// since the last slice.
func (s *sliceLock) hold() error {
	if s.release != nil {
		return nil
	}
	if d := time.Until(s.again); d > 0 {
		if err := s.pause(d); err != nil {
			return err
		}
	}
	if err := s.take(); err != nil {
		return err
	}
	if hot, err := sqlitefile.HotJournal(s.path); err != nil {
		return err
	} else if hot {
		writing, err := sqlitefile.Reserved(s.main)
		if err != nil {
			return err
		} else if !writing {
			return fmt.Errorf("%w: a transaction was interrupted and waits to be rolled back", errViewMoved)
		}
	}
	state, err := s.look()
	if err != nil {
		return err
	}
	if s.known && state != s.state {
		return errViewMoved
	}
	s.state, s.known = state, true
	return nil
}

// take gets the lock.
func (s *sliceLock) take() error {
	deadline := time.Now().Add(s.wait)
	for {
		release, ok, err := sqlitefile.TryShared(s.main)
		if err != nil {
			return err
		} else if ok {
			s.release, s.since = release, time.Now()
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: a writer holds it for longer than %s", ErrDatabaseLocked, s.wait)
		}
		if err := s.pause(sliceTry); err != nil {
			return err
		}
	}
}

// look reads the state under the lock.
func (s *sliceLock) look() (sliceState, error) {
	var b [4]byte
	if _, err := s.main.ReadAt(b[:], 24); err != nil {
		return sliceState{}, fmt.Errorf("read database header: %w", err)
	}
	p, err := sqlitefile.StatFile(s.main)
	if err != nil {
		return sliceState{}, fmt.Errorf("stat database: %w", err)
	}
	return sliceState{counter: binary.BigEndian.Uint32(b[:]), file: p}, nil
}

// due reports whether the slice has lasted long enough.
func (s *sliceLock) due() bool {
	return s != nil && s.release != nil && time.Since(s.since) >= sliceWork
}

// end ends the slice. What was read is good if it returns nil: somebody who
// does not mind SQLite's locks may have written over the file.
func (s *sliceLock) end() error {
	if s.release == nil {
		return nil
	}
	state, err := s.look()
	if err == nil && state != s.state {
		err = errViewMoved
	}
	return errors.Join(err, s.drop())
}

// drop lets go of the lock.
func (s *sliceLock) drop() error {
	if s == nil || s.release == nil {
		return nil
	}
	err := s.release()
	s.release = nil
	s.again = time.Now().Add(slicePause * time.Since(s.since))
	return err
}
