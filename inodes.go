package litestream

import (
	"errors"
	"fmt"
	"sync"

	"github.com/benbjohnson/litestream/internal/wal"
)

// inodeTable refuses a second path to a database that is replicated already,
// by a symbolic or hard link: two owners of one inode in one process would
// drop each other's locks whenever one closes a descriptor. It is safe for
// concurrent use; nil refuses nothing.
type inodeTable struct {
	mu    sync.Mutex // guards the rest; never held across I/O
	paths map[wal.FileID]string
	final bool // owners stay
}

func newInodeTable() *inodeTable { return &inodeTable{paths: make(map[wal.FileID]string)} }

// claim makes path the owner of an inode.
func (t *inodeTable) claim(id wal.FileID, path string) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if owner, ok := t.paths[id]; ok && owner != path {
		return secondPath(owner)
	}
	t.paths[id] = path
	return nil
}

// release gives an inode up if path owns it.
func (t *inodeTable) release(id wal.FileID, path string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.paths[id] == path && !t.final {
		delete(t.paths, id)
	}
}

// finish lets every owner stay: where all paths are closed, each with a last
// sync, none may take over what another has just closed.
func (t *inodeTable) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = true
}

// errSecondPath means that two paths lead to one file.
var errSecondPath = errors.New("is the same file as")

// secondPathError names the path that owns a file.
type secondPathError struct{ owner string }

// Error implements error.
func (e *secondPathError) Error() string {
	return fmt.Sprintf("%v %s, which is replicated already: remove one of the two, or the link", errSecondPath, e.owner)
}

// Unwrap implements the interface of errors.Is.
func (e *secondPathError) Unwrap() error { return errSecondPath }

// secondPath returns the error that names the path which owns a file.
func secondPath(owner string) error { return &secondPathError{owner} }
