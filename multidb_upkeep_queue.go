package litestream

import "time"

// upkeepQueue holds the databases whose replicas need maintenance some day, by
// when. A database that needs none is not in it. It is not safe for concurrent
// use.
type upkeepQueue struct {
	wait promotionQueue // all of them delayed, each until it is due
}

func newUpkeepQueue() *upkeepQueue { return &upkeepQueue{} }

// set makes a database due at a time, whatever was known before; the zero time
// takes it out.
func (q *upkeepQueue) set(idx uint32, at time.Time) {
	q.remove(idx)
	if !at.IsZero() {
		q.wait.Delay(idx, queueChanged, at, at)
	}
}

func (q *upkeepQueue) remove(idx uint32) { q.wait.Remove(idx) }

// at returns when a database is due, or the zero time.
func (q *upkeepQueue) at(idx uint32) time.Time {
	h, pos, ok := q.wait.find(idx)
	if !ok {
		return time.Time{}
	}
	return time.Unix(0, h.at(pos).key)
}

// pop takes out the database that is due the longest.
func (q *upkeepQueue) pop(now time.Time) (uint32, bool) {
	h := &q.wait.delayed
	if h.n == 0 || h.at(0).key > queueNanos(now) {
		return 0, false
	}
	return q.wait.take(h, 0).idx, true
}

// dueBy returns how many are due at a time.
func (q *upkeepQueue) dueBy(now time.Time) int {
	return q.wait.delayed.below(0, queueNanos(now))
}
