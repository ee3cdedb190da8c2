package litestream

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/benbjohnson/litestream/internal/osfile"
)

// removalsFile names, in the state directory, databases whose replicas were
// deleted and which the catalog may still name. The registry forgets them at
// once, the catalog is written a minute later: without the file, an entry that
// nobody else knows would stay for ever, with nothing to restore.
const removalsFile = "catalog-removed"

// catalogRemovals is that file. It is safe for concurrent use.
type catalogRemovals struct {
	file string

	mu    sync.Mutex // guards the rest, and the file; it is held across writes of it
	token string     // of the catalog that the file is about
	paths map[string]bool
}

// load returns what the file names, and of another catalog nothing.
func (r *catalogRemovals) load(token string) (paths []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.token, r.paths = token, make(map[string]bool)
	b, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read what the catalog has to lose: %w", err)
	}
	rest, ok := bytes.CutPrefix(b, []byte(token))
	if !ok {
		return nil, r.write()
	}
	for line := range strings.Lines(string(rest)) {
		if path, err := strconv.Unquote(strings.TrimSpace(line)); err == nil { // else it is torn, and was not counted on
			r.paths[path] = true
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// add keeps in mind that a database has to leave the catalog.
func (r *catalogRemovals) add(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paths[path] {
		return nil
	}
	if len(r.paths) == 0 {
		r.paths = map[string]bool{path: true}
		return r.write()
	}
	f, err := os.OpenFile(r.file, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note what the catalog has to lose: %w", err)
	}
	_, err = f.WriteString(strconv.Quote(path) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("note what the catalog has to lose: %w", err)
	}
	r.paths[path] = true
	return nil
}

// settle takes note of what has left the catalog.
func (r *catalogRemovals) settle(paths []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.paths)
	for _, path := range paths {
		delete(r.paths, path)
	}
	if len(r.paths) == n {
		return nil
	}
	return r.write()
}

// write replaces the file.
func (r *catalogRemovals) write() error {
	if len(r.paths) == 0 {
		if err := os.Remove(r.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget what the catalog had to lose: %w", err)
		}
		return nil
	}
	var b bytes.Buffer
	b.WriteString(r.token)
	for path := range r.paths {
		b.WriteString(strconv.Quote(path) + "\n")
	}
	temp := r.file + ".tmp"
	f, err := osfile.Create(temp, 0o600)
	if err == nil {
		_, err = f.Write(b.Bytes())
		if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
			err = osfile.Rename(temp, r.file)
		}
	}
	if err != nil {
		return fmt.Errorf("note what the catalog has to lose: %w", err)
	}
	return nil
}

// noteRemoval is called when a replica was deleted, before the registry forgets
// the database.
func (m *MultiDBManager) noteRemoval(path string) error {
	m.mu.Lock()
	off := m.catalog.off
	m.mu.Unlock()
	if off {
		return nil
	}
	return m.removals.add(path)
}

// loadRemovals takes over what an earlier process did not take off the catalog.
func (m *MultiDBManager) loadRemovals() {
	m.mu.Lock()
	token, bound := m.catalog.token(), m.bound
	m.mu.Unlock()
	if !bound {
		return
	}
	paths, err := m.removals.load(token)
	if err != nil {
		m.logger.Warn("the catalog may name databases whose replicas were deleted", "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, path := range paths {
		if c := m.catalog; c.removed[path] != markDirty {
			c.removed[path] = markDirty
			c.dirty++
		}
	}
}

// settleRemovals takes note of the removals that were written.
func (m *MultiDBManager) settleRemovals(written []string) {
	if len(written) == 0 {
		return
	}
	if err := m.removals.settle(written); err != nil {
		m.logger.Warn("the next process takes databases off the catalog once more", "error", err)
	}
}

// newCatalogRemovals returns the file of a state directory.
func newCatalogRemovals(stateDir string) *catalogRemovals {
	return &catalogRemovals{file: filepath.Join(stateDir, removalsFile)}
}
