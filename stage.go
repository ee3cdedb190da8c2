package litestream

import (
	"sync"
	"sync/atomic"

	"github.com/superfly/ltx"
)

// stagedFile is a level-0 file that the replica has not acknowledged.
type stagedFile struct {
	TXID ltx.TXID
	Size int64
	// attempted says that an upload was begun, so that the replica may hold
	// the file already. From then on it must not change or go away until the
	// outcome is known.
	attempted bool
}

// stage is the queue of captured files between a database, which adds to it,
// and its replica, which takes from it. It is safe for concurrent use.
type stage struct {
	dir    string
	budget *stageBudget // may be nil

	mu    sync.Mutex // guards the rest; never held across I/O
	files []stagedFile
	acked ltx.TXID // newest TXID that the replica acknowledged
}

func newStage(dir string) *stage { return &stage{dir: dir} }

// share counts what waits here against a bound that others share.
func (s *stage) share(b *stageBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		s.budget.add(-f.Size)
		b.add(f.Size)
	}
	s.budget = b
}

// add appends a captured file.
func (s *stage) add(f stagedFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = append(s.files, f)
	s.budget.add(f.Size)
}

// reset replaces the queue, after its files were compared with the replica.
func (s *stage) reset(acked ltx.TXID, files []stagedFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		s.budget.add(-f.Size)
	}
	s.acked, s.files = acked, files
	for _, f := range s.files {
		s.budget.add(f.Size)
	}
}

// begin returns the oldest file and marks it as attempted.
func (s *stage) begin() (stagedFile, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) == 0 {
		return stagedFile{}, false
	}
	s.files[0].attempted = true
	return s.files[0], true
}

// ack records that the replica holds the oldest file.
func (s *stage) ack(txid ltx.TXID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) == 0 || s.files[0].TXID != txid {
		return
	}
	s.budget.add(-s.files[0].Size)
	s.files = s.files[1:]
	if len(s.files) == 0 {
		s.files = nil
	}
	s.acked = txid
}

// dropUnsent takes every file out of the queue whose upload was not begun,
// but for the oldest, which the replica will want first, and returns them and
// the newest TXID that is left.
func (s *stage) dropUnsent() (dropped []stagedFile, newest ltx.TXID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := 0
	for keep < len(s.files) && (keep == 0 || s.files[keep].attempted) {
		keep++
	}
	dropped = s.files[keep:]
	s.files = s.files[:keep:keep]
	for _, f := range dropped {
		s.budget.add(-f.Size)
	}
	newest = s.acked
	if keep > 0 {
		newest = s.files[keep-1].TXID
	}
	return dropped, newest
}

// pending returns the number of files and bytes that wait.
func (s *stage) pending() (n int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		bytes += f.Size
	}
	return len(s.files), bytes
}

// ackedTXID returns the newest acknowledged TXID.
func (s *stage) ackedTXID() ltx.TXID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// stageBudget bounds the bytes that all databases of a process hold staged and
// unsent. It is safe for concurrent use; nil has no bound.
type stageBudget struct {
	limit int64
	used  atomic.Int64
}

func (b *stageBudget) add(n int64) {
	if b != nil {
		b.used.Add(n)
	}
}

// over reports whether the bound is passed.
func (b *stageBudget) over() bool { return b != nil && b.limit > 0 && b.used.Load() > b.limit }

// low reports whether a database that was suspended may capture again.
func (b *stageBudget) low() bool { return b == nil || b.limit <= 0 || b.used.Load() <= b.limit/2 }
