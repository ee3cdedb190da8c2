package file

// MaxKnownDirs is the bound of one half of what a DirTable remembers.
const MaxKnownDirs = maxKnownDirs

// DirTable is the table of durable folders.
type DirTable = dirTable

// NewDirTable returns a table that calls fsync to make a folder durable.
func NewDirTable(fsync func(dir string) error) *DirTable { return &dirTable{fsync: fsync} }

// Sync makes the names in a folder durable.
func (t *dirTable) Sync(dir string) error { return t.sync(dir) }

// Add remembers a folder and those above it as durable.
func (t *dirTable) Add(dir string) error { return t.syncNames(t.unknown(dir), 0, t.moment()) }

// Moment and SyncSince are sync, in two steps.
func (t *dirTable) Moment() uint64 { return t.moment() }

// SyncSince makes the names durable that were there at a moment.
func (t *dirTable) SyncSince(dir string, since uint64) error { return t.syncSince(dir, since) }

// Knows reports whether a folder is remembered.
func (t *dirTable) Knows(dir string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.knowsLocked(dir)
}

// Len returns how many folders are remembered.
func (t *dirTable) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.known) + len(t.older)
}

// NewReplicaClientWithDirs returns a client with a table of its own.
func NewReplicaClientWithDirs(path string, t *DirTable) *ReplicaClient {
	c := NewReplicaClient(path)
	c.dirs = t
	return c
}
