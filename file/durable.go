package file

import (
	"errors"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxKnownDirs bounds how many folders a dirTable remembers for sure, at about
// 20 bytes each; it may hold twice as many. One that it forgot costs a few
// syncs that find nothing to do.
const maxKnownDirs = 16 << 10

// dirTable makes the names in folders durable. Writers that wait for the same
// folder share one fsync, and a folder whose own name is durable is remembered,
// so that a file costs two: its own and its folder's. The zero value is ready.
type dirTable struct {
	fsync func(dir string) error // syncDir if nil; set before the first use

	mu sync.Mutex // guards the rest; not held across I/O

	// Folders that are durable themselves, and so are all above them: hashes
	// of their paths. The older half is dropped when the younger one is full.
	known, older map[uint64]struct{}

	running map[string]*syncRound
	ended   map[uint64]endedSync // of folders that were synced lately, by hash; may forget

	moments uint64 // counts what moment and run order
}

// endedSync is what is known of a folder's syncs that are over.
type endedSync struct {
	began  uint64 // moment of the last one that succeeded
	failed uint64 // and of the last one that did not; 0: none
	err    error  // of that
}

// maxEndedSyncs bounds them: what counts are the syncs of the last moments.
const maxEndedSyncs = 2 << 10

// sharedDirs serves all clients: which of them made a folder does not matter.
var sharedDirs dirTable

var dirHashSeed = maphash.MakeSeed()

// syncRound is one fsync of a folder, for all that asked before it began.
type syncRound struct {
	done  chan struct{} // closed at the end
	err   error         // set before done is closed
	began uint64        // the moment; guarded by dirTable.mu
	next  *syncRound    // begins when this one is done; guarded by dirTable.mu
}

// moment returns a time that compares with those at which syncs began.
func (t *dirTable) moment() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.momentLocked()
}

func (t *dirTable) momentLocked() uint64 {
	t.moments++
	return t.moments
}

// sync makes the names durable that are in dir when it is called.
func (t *dirTable) sync(dir string) error { return t.syncSince(dir, t.moment()) }

// syncSince makes the names durable that were in dir at a moment. A sync that
// began after it has done that, for good or not; one that is running and began
// before may have come too early: then the next one counts. Where many wait for
// one folder, as for that of the databases of a fleet, most of them come when
// another's sync has covered theirs.
func (t *dirTable) syncSince(dir string, since uint64) error {
	round := &syncRound{done: make(chan struct{})}
	t.mu.Lock()
	running := t.running[dir]
	ended := t.ended[maphash.String(dirHashSeed, dir)]
	switch {
	case ended.failed > since:
		t.mu.Unlock()
		return ended.err
	case ended.began > since:
		t.mu.Unlock()
		return nil
	case running == nil:
		if t.running == nil {
			t.running = make(map[string]*syncRound)
		}
		t.running[dir] = round
		round.began = t.momentLocked()
		t.mu.Unlock()
	case running.began > since, running.next != nil:
		if running.began <= since {
			running = running.next
		}
		t.mu.Unlock()
		<-running.done
		return running.err
	default:
		running.next = round
		t.mu.Unlock()
		<-running.done
	}
	t.run(round, dir)
	return round.err
}

// run does the fsync of a round, and hands over to the next one.
func (t *dirTable) run(round *syncRound, dir string) {
	if t.fsync != nil {
		round.err = t.fsync(dir)
	} else {
		round.err = syncDir(dir)
	}
	t.mu.Lock()
	t.endLocked(dir, round)
	if round.next != nil {
		t.running[dir] = round.next
		round.next.began = t.momentLocked()
	} else {
		delete(t.running, dir)
	}
	t.mu.Unlock()
	close(round.done)
}

// endLocked remembers how a round ended.
func (t *dirTable) endLocked(dir string, round *syncRound) {
	if t.ended == nil || len(t.ended) >= maxEndedSyncs {
		t.ended = make(map[uint64]endedSync)
	}
	key := maphash.String(dirHashSeed, dir)
	ended := t.ended[key]
	if round.err == nil {
		ended.began = round.began
	} else {
		ended.failed, ended.err = round.began, round.err
	}
	t.ended[key] = ended
}

// unknown returns dir and those above it whose names may not be durable, the
// lowest first.
func (t *dirTable) unknown(dir string) (dirs []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.knowsLocked(dir) {
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dirs = append(dirs, dir)
		dir = parent
	}
	return dirs
}

// syncNames makes the names of folders durable that unknown returned, of which
// the first ones were missing before, and all were there at a moment.
func (t *dirTable) syncNames(dirs []string, missing int, since uint64) error {
	for i, dir := range dirs {
		err := t.syncSince(filepath.Dir(dir), since)
		if err != nil && (i < missing || !isForeign(err)) {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, dir := range dirs {
		t.addLocked(maphash.String(dirHashSeed, dir))
	}
	return nil
}

// isForeign reports whether a folder could not be synced because it is not
// ours: we may pass through it, but not read it.
func isForeign(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EROFS)
}

// forget drops a folder that is gone. It must be called before the folder is
// made again, so that nobody takes the new one's name for durable.
func (t *dirTable) forget(dir string) {
	key := maphash.String(dirHashSeed, dir)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.known, key)
	delete(t.older, key)
}

func (t *dirTable) knowsLocked(dir string) bool {
	key := maphash.String(dirHashSeed, dir)
	if _, ok := t.known[key]; ok {
		return true
	}
	_, ok := t.older[key]
	if ok {
		t.addLocked(key)
	}
	return ok
}

func (t *dirTable) addLocked(key uint64) {
	if t.known == nil {
		t.known = make(map[uint64]struct{})
	}
	t.known[key] = struct{}{}
	if len(t.known) >= maxKnownDirs {
		t.known, t.older = nil, t.known
	}
}

// syncDir makes the names in a folder durable. An os.File would cost twice the
// system calls, to find out that a folder cannot be polled.
func syncDir(dir string) error {
	fd, err := retry(func() (int, error) { return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	_, err = retry(func() (int, error) { return 0, unix.Fsync(fd) })
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return &os.PathError{Op: "sync", Path: dir, Err: err}
	}
	return nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
