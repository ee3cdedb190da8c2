// Package workpool runs short tasks of many databases on a bounded number of
// goroutines, which are started on demand and stop when idle.
package workpool

import (
	"container/heap"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// idleTimeout is how long a worker waits for its next task before it ends. It
// outlives the pauses of a one-second rhythm, so that a steady load does not
// start goroutines all the time.
const idleTimeout = 1500 * time.Millisecond

// Up to startAtOnce workers start with the first task that finds none idle.
// Each further one only if the oldest ready task has waited for growAfter since
// a worker started: a burst of short tasks is done by then, and needs neither
// the goroutines nor what the tasks would open at a time, such as connections.
// Where tasks take long, all workers run within a second.
const (
	startAtOnce = 8
	growAfter   = 10 * time.Millisecond
)

// Task is a piece of work. Run must return soon after its ctx is done. A panic
// in Run is not recovered: it is a bug and ends the process.
type Task struct {
	// Key names what the task works on; it must be comparable. Two tasks of
	// one pool with the same key never run at the same time.
	Key any

	// Kind tells apart tasks of one key that do not replace each other. While
	// a task waits, another of the same key and kind is not queued again.
	Kind string

	Run func(ctx context.Context)
}

// Stats is what a pool does now and has done so far.
type Stats struct {
	Workers   int           // goroutines, busy or waiting for work
	Busy      int           // tasks that run now
	Queued    int           // tasks that wait, for a worker or for their key
	Started   uint64        // tasks that have begun to run
	Coalesced uint64        // submissions that a queued task covered
	Waited    time.Duration // sum over started tasks of the time from Submit to Run
}

// Pool runs tasks on at most a fixed number of goroutines, oldest submission
// first. A key that has more work waits behind nothing but its own running
// task, and never keeps a worker waiting. Keys of different pools are
// independent. It is safe for concurrent use.
type Pool struct {
	name   string
	max    int
	run    context.Context // of every task; done when Close ran out of patience
	cancel context.CancelFunc
	done   chan struct{} // closed when the pool is closed and no worker is left

	// mu guards the fields below. It is never held while a task runs.
	mu      sync.Mutex
	closed  bool
	seq     uint64           // of the newest submission
	keys    map[any]*keyWork // keys with a queued or a running task
	ready   itemHeap         // the oldest task of each key that is not running
	idle    []*worker        // waiting for work, the longest first
	workers int
	growing *time.Timer // runs grow; nil: not armed
	stats   Stats       // Workers is not kept here
}

// item is a queued task.
type item struct {
	task  Task
	seq   uint64
	since time.Time
}

// keyWork is the work of one key. Either its task runs, or the first of
// waiting stands in Pool.ready.
type keyWork struct {
	running bool
	waiting []*item // in order of submission, each kind once
}

// worker is a goroutine. next has room for one item so that handing over work
// never blocks; nil tells an idle worker to end.
type worker struct {
	next chan *item
}

// New returns a pool of at most maxWorkers goroutines, at least one. It starts
// none before the first Submit.
func New(name string, maxWorkers int) *Pool {
	//nolint:forbidigo // the pool is the root of its tasks' contexts; Close ends them
	run, cancel := context.WithCancel(context.Background())
	return &Pool{
		name: name, max: max(1, maxWorkers), run: run, cancel: cancel,
		done: make(chan struct{}), keys: make(map[any]*keyWork),
	}
}

// Name returns the name of the pool.
func (p *Pool) Name() string { return p.name }

// Submit queues a task and never blocks. It returns false after Close. If a
// task of the same key and kind is queued, that one stands for both: it starts
// after this call, and so sees everything that happened before.
func (p *Pool) Submit(t Task) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	k := p.keys[t.Key]
	if k == nil {
		k = &keyWork{}
		p.keys[t.Key] = k
	}
	for _, it := range k.waiting {
		if it.task.Kind == t.Kind {
			p.stats.Coalesced++
			return true
		}
	}
	p.seq++
	it := &item{task: t, seq: p.seq, since: time.Now()}
	k.waiting = append(k.waiting, it)
	p.stats.Queued++
	if !k.running && len(k.waiting) == 1 {
		heap.Push(&p.ready, it)
		p.dispatchLocked()
	}
	return true
}

// Stats returns a consistent snapshot.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Workers = p.workers
	return s
}

// Close refuses new tasks, lets the queued and the running ones finish, and
// returns when no goroutine is left. When ctx is done it drops what is still
// queued and cancels the context of the running tasks; it still waits for
// them. The error names how many tasks were dropped. Close may be called more
// than once.
func (p *Pool) Close(ctx context.Context) error {
	defer p.cancel()
	p.mu.Lock()
	p.closed = true
	for _, w := range p.idle {
		w.next <- nil
	}
	p.idle = nil
	p.closeDoneLocked()
	p.mu.Unlock()

	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	dropped := p.drop()
	p.cancel()
	<-p.done
	if dropped > 0 {
		return fmt.Errorf("close pool %s: %d queued tasks dropped: %w", p.name, dropped, context.Cause(ctx))
	}
	return nil
}

// drop forgets every queued task.
func (p *Pool) drop() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, k := range p.keys {
		k.waiting = nil
		if !k.running {
			delete(p.keys, key)
		}
	}
	n = p.stats.Queued
	p.ready, p.stats.Queued = nil, 0
	return n
}

// closeDoneLocked reports the end of the last worker to Close.
func (p *Pool) closeDoneLocked() {
	if !p.closed || p.workers > 0 {
		return
	}
	select {
	case <-p.done:
	default:
		close(p.done)
	}
}

// dispatchLocked hands ready tasks to idle and to new workers.
func (p *Pool) dispatchLocked() {
	for len(p.ready) > 0 {
		if n := len(p.idle); n > 0 {
			// The one that became idle last: the others may time out.
			w := p.idle[n-1]
			p.idle = p.idle[:n-1]
			w.next <- p.takeLocked()
		} else if p.workers < min(p.max, startAtOnce) {
			p.startLocked()
		} else {
			if p.workers < p.max && p.growing == nil {
				p.growing = time.AfterFunc(growAfter, p.grow)
			}
			return
		}
	}
}

// startLocked starts a worker with the oldest ready task.
func (p *Pool) startLocked() {
	p.workers++
	go p.work(&worker{next: make(chan *item, 1)}, p.takeLocked())
}

// grow starts one more worker if the workers there are leave a task waiting.
func (p *Pool) grow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.growing = nil
	if len(p.ready) == 0 || p.workers == p.max {
		return
	}
	wait := growAfter - time.Since(p.ready[0].since)
	if wait <= 0 {
		p.startLocked()
		wait = growAfter
	}
	if len(p.ready) > 0 && p.workers < p.max {
		p.growing = time.AfterFunc(wait, p.grow)
	}
}

// takeLocked removes the oldest ready task and marks its key as running.
func (p *Pool) takeLocked() *item {
	it := heap.Pop(&p.ready).(*item)
	k := p.keys[it.task.Key]
	k.running = true
	k.waiting = k.waiting[1:]
	p.stats.Queued--
	p.stats.Busy++
	p.stats.Started++
	p.stats.Waited += time.Since(it.since)
	return it
}

// finishLocked ends the run of a key and makes its next task ready.
func (p *Pool) finishLocked(key any) {
	p.stats.Busy--
	k := p.keys[key]
	k.running = false
	if len(k.waiting) == 0 {
		delete(p.keys, key)
		return
	}
	heap.Push(&p.ready, k.waiting[0])
}

// work is the life of a worker.
func (p *Pool) work(w *worker, it *item) {
	for it != nil {
		it.task.Run(p.run)
		it = p.next(w, it)
	}
}

// next finishes a task and returns another one, for which it waits a while.
// nil ends the worker.
func (p *Pool) next(w *worker, it *item) *item {
	p.mu.Lock()
	p.finishLocked(it.task.Key)
	if len(p.ready) > 0 {
		defer p.mu.Unlock()
		return p.takeLocked()
	}
	if p.closed {
		defer p.mu.Unlock()
		return p.endLocked()
	}
	p.idle = append(p.idle, w)
	p.mu.Unlock()

	if it := p.wait(w); it != nil {
		return it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle, w); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	} else if it := w.handed(); it != nil {
		return it // between the timeout and the lock
	}
	return p.endLocked()
}

// wait returns what an idle worker is handed, or nil if that is nothing.
func (p *Pool) wait(w *worker) *item {
	timer := time.NewTimer(idleTimeout)
	defer timer.Stop()
	select {
	case it := <-w.next:
		return it
	case <-timer.C:
		return nil
	}
}

// handed returns what lies in the hand-over, or nil.
func (w *worker) handed() *item {
	select {
	case it := <-w.next:
		return it
	default:
		return nil
	}
}

// endLocked takes a worker off the count. That happens in the same critical
// section as the decision to end: a Submit in between would trust a worker
// that is no longer there.
func (p *Pool) endLocked() *item {
	p.workers--
	p.closeDoneLocked()
	return nil
}

// itemHeap orders tasks by submission.
type itemHeap []*item

func (h itemHeap) Len() int           { return len(h) }
func (h itemHeap) Less(i, j int) bool { return h[i].seq < h[j].seq }
func (h itemHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is part of heap.Interface.
func (h *itemHeap) Push(x any) { *h = append(*h, x.(*item)) }

// Pop is part of heap.Interface.
func (h *itemHeap) Pop() any {
	a := *h
	n := len(a) - 1
	it := a[n]
	a[n] = nil
	*h = a[:n]
	return it
}
