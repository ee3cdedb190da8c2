package ltxfile

import (
	"bytes"
	"io"
	"sync"
	"sync/atomic"
)

// maxMemoryFile is the largest file that a Memory keeps. Most changes of small
// databases are far smaller, and for them a file of the file system costs more
// than everything else.
const maxMemoryFile = 32 << 10

// MemoryBudget bounds what the Memories of a process keep together. It is safe
// for concurrent use; nil has room for nothing.
type MemoryBudget struct {
	limit int64
	used  atomic.Int64
}

// NewMemoryBudget returns a budget of so many bytes.
func NewMemoryBudget(limit int64) *MemoryBudget { return &MemoryBudget{limit: limit} }

// take charges n bytes unless that is too much.
func (b *MemoryBudget) take(n int) bool {
	if b == nil {
		return false
	}
	if b.used.Add(int64(n)) <= b.limit {
		return true
	}
	b.used.Add(int64(-n))
	return false
}

// Memory keeps the small files of one volatile folder in memory. It is safe
// for concurrent use. Files that are too large for it, or for its budget, go
// to the folder, which need not exist before.
type Memory struct {
	budget *MemoryBudget

	mu     sync.Mutex // guards the rest; never held across I/O
	files  map[string][]byte
	onDisk bool // the folder may exist
}

// NewMemory returns an empty one.
func NewMemory(budget *MemoryBudget) *Memory { return &Memory{budget: budget} }

// put keeps a file, or reports that there is no room for it.
func (m *Memory) put(name string, b []byte) bool {
	if !m.budget.take(len(b)) {
		return false
	}
	m.remove(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = make(map[string][]byte, 1)
	}
	m.files[name] = b
	return true
}

// remove drops a file and reports whether it was here.
func (m *Memory) remove(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[name]
	if ok {
		m.budget.used.Add(int64(-len(b)))
		delete(m.files, name)
	}
	return ok
}

// clear drops all files and reports whether there may be others in the folder.
func (m *Memory) clear() (onDisk bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.files {
		m.budget.used.Add(int64(-len(b)))
	}
	m.files = nil
	return m.onDisk
}

// open returns a file for reading, or nil if it is not here.
func (m *Memory) open(name string) *memoryReader {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[name]
	if !ok {
		return nil
	}
	return &memoryReader{bytes.NewReader(b)}
}

func (m *Memory) list() (infos []Info) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, b := range m.files {
		if minTXID, maxTXID, ok := parseName(name); ok {
			infos = append(infos, Info{Min: minTXID, Max: maxTXID, Size: int64(len(b))})
		}
	}
	return infos
}

func (m *Memory) spilled() {
	m.mu.Lock()
	m.onDisk = true
	m.mu.Unlock()
}

// memoryReader reads a file of a Memory. It stays readable after the file was
// removed, as an open file does.
type memoryReader struct{ *bytes.Reader }

// Close implements io.Closer.
func (*memoryReader) Close() error { return nil }

// Reader reads a staged file, at any place.
type Reader interface {
	io.ReadCloser
	io.ReaderAt
	io.Seeker
}
