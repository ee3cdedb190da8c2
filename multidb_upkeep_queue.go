package litestream

import (
	"container/heap"
	"time"
)

// upkeepQueue holds the databases whose replicas need maintenance some day, by
// when. A database that needs none is not in it. It is not safe for concurrent
// use.
type upkeepQueue struct {
	entries map[uint32]*upkeepEntry
	heap    upkeepHeap
}

type upkeepEntry struct {
	at    time.Time
	idx   uint32
	index int // in the heap
}

func newUpkeepQueue() *upkeepQueue {
	return &upkeepQueue{entries: make(map[uint32]*upkeepEntry)}
}

// set makes a database due at a time, whatever was known before; the zero time
// takes it out.
func (q *upkeepQueue) set(idx uint32, at time.Time) {
	if at.IsZero() {
		q.remove(idx)
		return
	}
	if e := q.entries[idx]; e != nil {
		e.at = at
		heap.Fix(&q.heap, e.index)
		return
	}
	e := &upkeepEntry{at: at, idx: idx}
	q.entries[idx] = e
	heap.Push(&q.heap, e)
}

func (q *upkeepQueue) remove(idx uint32) {
	if e := q.entries[idx]; e != nil {
		heap.Remove(&q.heap, e.index)
		delete(q.entries, idx)
	}
}

// at returns when a database is due, or the zero time.
func (q *upkeepQueue) at(idx uint32) time.Time {
	if e := q.entries[idx]; e != nil {
		return e.at
	}
	return time.Time{}
}

// pop takes out the database that is due the longest.
func (q *upkeepQueue) pop(now time.Time) (uint32, bool) {
	if len(q.heap) == 0 || q.heap[0].at.After(now) {
		return 0, false
	}
	e := heap.Pop(&q.heap).(*upkeepEntry)
	delete(q.entries, e.idx)
	return e.idx, true
}

// dueBy returns how many are due at a time.
func (q *upkeepQueue) dueBy(now time.Time) int { return q.heap.dueBy(0, now) }

// upkeepHeap orders entries by when they are due.
type upkeepHeap []*upkeepEntry

// dueBy counts what is due below a node: no child is due before its parent.
func (h upkeepHeap) dueBy(i int, now time.Time) int {
	if i >= len(h) || h[i].at.After(now) {
		return 0
	}
	return 1 + h.dueBy(2*i+1, now) + h.dueBy(2*i+2, now)
}

func (h upkeepHeap) Len() int           { return len(h) }
func (h upkeepHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h upkeepHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *upkeepHeap) Push(x any) {
	e := x.(*upkeepEntry)
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *upkeepHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
