package litestream

import (
	"sync"
	"sync/atomic"
	"time"

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
	// at is when it was staged, in nanoseconds since the epoch. What an earlier
	// process staged counts from the start of this one.
	at int64
}

// stage is the queue of captured files between a database, which adds to it,
// and its replica, which takes from it. It is safe for concurrent use.
type stage struct {
	mu     sync.Mutex   // guards the rest; never held across I/O
	budget *stageBudget // may be nil
	files  []stagedFile
	bytes  int64    // of files
	acked  ltx.TXID // newest TXID that the replica acknowledged
	// givenUp counts how often files left the queue unsent, so that their
	// TXIDs are used again for something else.
	givenUp int

	sending bool // an upload of what waits goes on
	// mark is how many files may wait while it does. It follows the queue down,
	// and each new file takes it down by one more, so that a long queue gets
	// shorter although files are added.
	mark int
}

// leastMark is what may wait behind nothing: the file that is being sent. One
// more follows it, so that the upload does not wait for the next capture.
const leastMark = 1

// sendAll begins and ends an upload of everything that waits.
func (s *stage) sendAll(begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending, s.mark = begun, max(leastMark, len(s.files))
}

// queueTime is how long a file may wait for those before it. Storage that takes
// hundreds of files a second has a queue then that never runs empty, and slow
// storage one of a file or two.
const queueTime = 100 * time.Millisecond

// ahead reports whether files are added faster than the upload that goes on
// takes them. Whatever is captured later then goes along in one file.
func (s *stage) ahead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sending && len(s.files) > s.mark && time.Now().UnixNano()-s.files[0].at > int64(queueTime)
}

// share counts what waits here against a bound that others share.
func (s *stage) share(b *stageBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.bytes
	s.chargeLocked(-n)
	s.budget = b
	s.chargeLocked(n)
}

// chargeLocked counts bytes that were staged, or left.
func (s *stage) chargeLocked(n int64) {
	s.budget.charge(s.bytes, s.bytes+n)
	s.bytes += n
}

// add appends a captured file.
func (s *stage) add(f stagedFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.at = time.Now().UnixNano()
	s.files = append(s.files, f)
	s.mark = max(leastMark, s.mark-1)
	s.chargeLocked(f.Size)
}

// reset replaces the queue, after its files were compared with the replica.
func (s *stage) reset(acked ltx.TXID, files []stagedFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Now().UnixNano()
	if len(s.files) > 0 {
		at = s.files[0].at // it does not wait for less long because the storage is asked again
	}
	s.acked, s.files = acked, files
	s.givenUp++
	var bytes int64
	for i := range s.files {
		s.files[i].at = at
		bytes += s.files[i].Size
	}
	s.chargeLocked(bytes - s.bytes)
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
	s.chargeLocked(-s.files[0].Size)
	s.files = s.files[1:]
	if len(s.files) == 0 {
		s.files = nil
	}
	s.mark = max(leastMark, min(s.mark, len(s.files)))
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
	if len(dropped) > 0 {
		s.givenUp++
	}
	for _, f := range dropped {
		s.chargeLocked(-f.Size)
	}
	newest = s.acked
	if keep > 0 {
		newest = s.files[keep-1].TXID
	}
	return dropped, newest
}

// history returns a number that stays the same while no file leaves the queue
// unsent: until then a TXID means one thing only.
func (s *stage) history() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.givenUp
}

// pending returns the number of files and bytes that wait.
func (s *stage) pending() (n int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files), s.bytes
}

// oldest returns when the file that waits for longest was staged, or the zero
// time if none waits.
func (s *stage) oldest() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) == 0 {
		return time.Time{}
	}
	return time.Unix(0, s.files[0].at)
}

// over reports whether this database has to stop staging.
func (s *stage) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.budget.over(s.bytes)
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
	limit   int64
	used    atomic.Int64
	holders atomic.Int64 // databases with a staged file
}

// charge records that one database's use went from old to now.
func (b *stageBudget) charge(old, now int64) {
	if b == nil {
		return
	}
	b.used.Add(now - old)
	switch {
	case old == 0 && now > 0:
		b.holders.Add(1)
	case old > 0 && now == 0:
		b.holders.Add(-1)
	}
}

// over reports whether the bound is passed and a database with so many staged
// bytes has to stop. At least one holds its equal share or more; those stop.
// The others, and one that has nothing staged, go on: a replica that is down
// for good must not end the backups of the rest.
func (b *stageBudget) over(own int64) bool {
	if b == nil || b.limit <= 0 || own == 0 || b.used.Load() <= b.limit {
		return false
	}
	return own >= b.limit/max(1, b.holders.Load())
}
