package litestream

import (
	"math"
	"time"
)

// queueClass is what a database waits for.
type queueClass uint8

const (
	queueChanged queueClass = iota // its changes
	queueFirst                     // its first backup
	queueClasses
)

// firstBackupShare: one of so many pops is a first backup while both classes
// wait. Changes go first, because somebody is waiting for them, but a busy
// fleet must not keep a new database without any backup.
const firstBackupShare = 4

// queued is a database that waits.
type queued struct {
	idx   uint32 // in the table of databases
	class queueClass
	since time.Time // when the change was seen that it waits for
}

// promotionQueue holds the databases that wait for a place among the hot ones,
// oldest first within each class, and those that have to wait until some time
// before they may. A database is in it once. It is not safe for concurrent use.
type promotionQueue struct {
	ready   [queueClasses]queueHeap // by since
	delayed queueHeap               // by until
	places  slab[queuePlace]        // by idx
	turn    int                     // pops of changes since a first backup that waited all the time
}

// queuePlace says where an entry is: which heap, and at which position of it
// plus one. The zero place is nowhere.
type queuePlace uint32

const (
	placeBits    = 2
	placeDelayed = queuePlace(queueClasses)
)

// queueEntry is 24 bytes, because all 100,000 databases may wait at once.
type queueEntry struct {
	key   int64 // what the heap is ordered by, Unix nanoseconds
	since int64
	idx   uint32
	class queueClass
}

// queueHeap is a binary heap, the smallest key first; among equal ones the
// smallest idx, so that the order does not depend on what happened before.
type queueHeap struct {
	entries slab[queueEntry]
	n       int
}

func (h *queueHeap) at(i int) *queueEntry { return h.entries.at(uint32(i)) }

func (h *queueHeap) less(i, j int) bool {
	a, b := h.at(i), h.at(j)
	if a.key != b.key {
		return a.key < b.key
	}
	return a.idx < b.idx
}

// below counts the keys up to a limit at a node and below it: no child is
// smaller than its parent.
func (h *queueHeap) below(i int, limit int64) int {
	if i >= h.n || h.at(i).key > limit {
		return 0
	}
	return 1 + h.below(2*i+1, limit) + h.below(2*i+2, limit)
}

// queueNanos keeps times within what an int64 of nanoseconds can say.
func queueNanos(t time.Time) int64 {
	switch s := t.Unix(); {
	case s < 0:
		return 0
	case s >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	default:
		return t.UnixNano()
	}
}

// Push makes a database wait. If it waits already, the older of the times
// counts and the class is the one given now; if it is delayed, it stays so
// until its time has come. To cut a delay short, Remove it first.
func (q *promotionQueue) Push(idx uint32, class queueClass, since time.Time) {
	e := queueEntry{idx: idx, class: class, since: queueNanos(since)}
	if h, pos, ok := q.find(idx); ok {
		old := h.at(pos)
		e.since = min(e.since, old.since)
		if h == &q.delayed {
			e.key = old.key
			*old = e
			return
		}
		q.take(h, pos)
	}
	e.key = e.since
	q.put(&q.ready[class], e)
}

// Delay makes a database wait, but not be handed out before until. It takes
// the place of whatever was known of it, except for an older since.
func (q *promotionQueue) Delay(idx uint32, class queueClass, since, until time.Time) {
	e := queueEntry{idx: idx, class: class, since: queueNanos(since), key: queueNanos(until)}
	if h, pos, ok := q.find(idx); ok {
		e.since = min(e.since, h.at(pos).since)
		q.take(h, pos)
	}
	q.put(&q.delayed, e)
}

// Hasten ends a delay at until, if that is sooner than it would.
func (q *promotionQueue) Hasten(idx uint32, until time.Time) {
	h, pos, ok := q.find(idx)
	if !ok || h != &q.delayed || h.at(pos).key <= queueNanos(until) {
		return
	}
	e := q.take(h, pos)
	e.key = queueNanos(until)
	q.put(h, e)
}

// Remove forgets a database and reports whether it was waiting or delayed.
func (q *promotionQueue) Remove(idx uint32) bool {
	h, pos, ok := q.find(idx)
	if ok {
		q.take(h, pos)
	}
	return ok
}

// Pop hands out the next database. While both classes wait, at least one of
// firstBackupShare is a first backup and all others are changes.
func (q *promotionQueue) Pop(now time.Time) (queued, bool) {
	q.wake(now)
	changed, first := &q.ready[queueChanged], &q.ready[queueFirst]
	var h *queueHeap
	switch {
	case changed.n == 0 && first.n == 0:
		return queued{}, false
	case first.n == 0:
		h, q.turn = changed, 0
	case changed.n == 0 || q.turn == firstBackupShare-1:
		h, q.turn = first, 0
	default:
		h = changed
		q.turn++
	}
	e := q.take(h, 0)
	return queued{idx: e.idx, class: e.class, since: time.Unix(0, e.since)}, true
}

// Len returns how many databases wait that are not delayed. A delay that has
// run out ends with the next Pop.
func (q *promotionQueue) Len() int { return q.ready[queueChanged].n + q.ready[queueFirst].n }

// Delayed returns how many databases are delayed.
func (q *promotionQueue) Delayed() int { return q.delayed.n }

// Oldest returns how long the oldest entry that is not delayed has been
// waiting since its change, or 0 if there is none.
func (q *promotionQueue) Oldest(now time.Time) time.Duration {
	oldest := now
	for class := range q.ready {
		if h := &q.ready[class]; h.n > 0 {
			if since := time.Unix(0, h.at(0).key); since.Before(oldest) {
				oldest = since
			}
		}
	}
	return now.Sub(oldest)
}

// wake moves entries whose delay has run out among those that wait.
func (q *promotionQueue) wake(now time.Time) {
	for limit := queueNanos(now); q.delayed.n > 0 && q.delayed.at(0).key <= limit; {
		e := q.take(&q.delayed, 0)
		e.key = e.since
		q.put(&q.ready[e.class], e)
	}
}

func (q *promotionQueue) find(idx uint32) (h *queueHeap, pos int, ok bool) {
	if !q.places.has(idx) || *q.places.at(idx) == 0 {
		return nil, 0, false
	}
	p := *q.places.at(idx)
	pos = int(p>>placeBits) - 1
	if p&(1<<placeBits-1) == placeDelayed {
		return &q.delayed, pos, true
	}
	return &q.ready[p&(1<<placeBits-1)], pos, true
}

// note writes down where the entry at pos is.
func (q *promotionQueue) note(h *queueHeap, pos int) {
	e := h.at(pos)
	p := queuePlace(e.class)
	if h == &q.delayed {
		p = placeDelayed
	}
	*q.places.at(e.idx) = queuePlace(pos+1)<<placeBits | p
}

func (q *promotionQueue) put(h *queueHeap, e queueEntry) {
	q.places.make(e.idx)
	h.entries.make(uint32(h.n))
	*h.at(h.n) = e
	h.n++
	q.note(h, h.n-1)
	q.up(h, h.n-1)
}

// take takes out the entry at pos. A heap that a burst made large gives its
// memory back when it is empty, except for one piece.
func (q *promotionQueue) take(h *queueHeap, pos int) queueEntry {
	e := *h.at(pos)
	*q.places.at(e.idx) = 0
	h.n--
	if pos < h.n {
		*h.at(pos) = *h.at(h.n)
		q.note(h, pos)
		q.down(h, pos)
		q.up(h, pos)
	}
	if h.n == 0 {
		h.entries.truncate(slabLen)
	}
	return e
}

func (q *promotionQueue) swap(h *queueHeap, i, j int) {
	a, b := h.at(i), h.at(j)
	*a, *b = *b, *a
	q.note(h, i)
	q.note(h, j)
}

func (q *promotionQueue) up(h *queueHeap, i int) {
	for i > 0 && h.less(i, (i-1)/2) {
		q.swap(h, i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (q *promotionQueue) down(h *queueHeap, i int) {
	for {
		child := 2*i + 1
		if child >= h.n {
			return
		}
		if child+1 < h.n && h.less(child+1, child) {
			child++
		}
		if !h.less(child, i) {
			return
		}
		q.swap(h, i, child)
		i = child
	}
}
