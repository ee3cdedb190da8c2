package litestream

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// taskKind is one of the things that are done for a database from time to time.
type taskKind int

const (
	taskSync taskKind = iota
	taskUpload
	taskSnapshot
	taskL0Retention
	taskValidate
	taskCompact // level 1; taskCompact+n-1 is level n
	taskKinds   = int(taskCompact) + MaxCompactionLevel
)

// scheduled is a task of one database and when it is due.
type scheduled struct {
	due   time.Time
	m     *managedDB
	kind  taskKind
	index int // in the heap; -1 if it is not scheduled
}

// scheduler knows when which task is due and hands it over then. One goroutine
// and one timer serve any number of databases. It is safe for concurrent use.
type scheduler struct {
	run func(*managedDB, taskKind) // must not block

	mu   sync.Mutex // guards heap and the index and due of what is in it
	heap taskHeap
	wake chan struct{} // capacity 1: the head has changed

	rounds rounds
}

func newScheduler(run func(*managedDB, taskKind)) *scheduler {
	return &scheduler{run: run, wake: make(chan struct{}, 1), rounds: newRounds()}
}

// at makes a task due at t. If it is scheduled already, the earlier time counts.
func (s *scheduler) at(t time.Time, m *managedDB, kind taskKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.removed {
		return
	}
	item := &m.tasks[kind]
	switch {
	case item.index < 0:
		item.due = t
		heap.Push(&s.heap, item)
	case t.Before(item.due):
		item.due = t
		heap.Fix(&s.heap, item.index)
	default:
		return
	}
	if s.heap[0] == item {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// remove forgets every task of a database, for good.
func (s *scheduler) remove(m *managedDB) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.removed = true
	for i := range m.tasks {
		if item := &m.tasks[i]; item.index >= 0 {
			heap.Remove(&s.heap, item.index)
		}
	}
}

// next takes the first task that is due, or returns how long to wait.
func (s *scheduler) next(now time.Time) (item *scheduled, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heap) == 0 {
		return nil, time.Hour
	}
	if wait = s.heap[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&s.heap).(*scheduled), 0
}

// loop hands over what is due until ctx is done.
func (s *scheduler) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		item, wait := s.next(time.Now())
		if item != nil {
			s.run(item.m, item.kind)
			s.rounds.step()
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		case <-s.rounds.asked:
		}
	}
}

// taskHeap orders tasks by when they are due.
type taskHeap []*scheduled

func (h taskHeap) Len() int           { return len(h) }
func (h taskHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }

func (h taskHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *taskHeap) Push(x any) {
	item := x.(*scheduled)
	item.index = len(*h)
	*h = append(*h, item)
}

// Pop implements heap.Interface.
func (h *taskHeap) Pop() any {
	old := *h
	item := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	item.index = -1
	return item
}
