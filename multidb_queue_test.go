package litestream

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// queueModel is promotionQueue done the slow way.
type queueModel struct {
	entries []modelQueued
	turn    int
}

type modelQueued struct {
	queued
	until time.Time // zero: not delayed
}

func (m *queueModel) find(idx uint32) int {
	return slices.IndexFunc(m.entries, func(e modelQueued) bool { return e.idx == idx })
}

func (m *queueModel) push(idx uint32, class queueClass, since time.Time) {
	if i := m.find(idx); i >= 0 {
		e := &m.entries[i]
		e.class = class
		if since.Before(e.since) {
			e.since = since
		}
		return
	}
	m.entries = append(m.entries, modelQueued{queued: queued{idx: idx, class: class, since: since}})
}

func (m *queueModel) delay(idx uint32, class queueClass, since, until time.Time) {
	m.push(idx, class, since)
	m.entries[m.find(idx)].until = until
}

func (m *queueModel) hasten(idx uint32, until time.Time) {
	if i := m.find(idx); i >= 0 && m.entries[i].until.After(until) {
		m.entries[i].until = until
	}
}

func (m *queueModel) remove(idx uint32) bool {
	i := m.find(idx)
	if i >= 0 {
		m.entries = slices.Delete(m.entries, i, i+1)
	}
	return i >= 0
}

// head returns the oldest entry of a class that is not delayed.
func (m *queueModel) head(class queueClass) (modelQueued, bool) {
	var of []modelQueued
	for _, e := range m.entries {
		if e.class == class && e.until.IsZero() {
			of = append(of, e)
		}
	}
	if len(of) == 0 {
		return modelQueued{}, false
	}
	return slices.MinFunc(of, func(a, b modelQueued) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.idx, b.idx))
	}), true
}

func (m *queueModel) pop(now time.Time) (queued, bool) {
	for i := range m.entries {
		if e := &m.entries[i]; !e.until.After(now) {
			e.until = time.Time{}
		}
	}
	changed, anyChanged := m.head(queueChanged)
	first, anyFirst := m.head(queueFirst)
	e := changed
	switch {
	case !anyChanged && !anyFirst:
		return queued{}, false
	case anyChanged && anyFirst && m.turn < 3:
		m.turn++
	case anyFirst:
		e = first
		fallthrough
	default:
		m.turn = 0
	}
	m.remove(e.idx)
	return e.queued, true
}

// nextDelay returns when the next delay runs out.
func (q *promotionQueue) nextDelay() (time.Time, bool) {
	if q.delayed.n == 0 {
		return time.Time{}, false
	}
	return time.Unix(0, q.delayed.at(0).key), true
}

// counts returns what Len, Delayed, nextDelay and Oldest have to be.
func (m *queueModel) counts(now time.Time) string {
	var waiting, delayed int
	var next time.Time
	oldest := now
	for _, e := range m.entries {
		if e.until.IsZero() {
			waiting++
			if e.since.Before(oldest) {
				oldest = e.since
			}
			continue
		}
		delayed++
		if next.IsZero() || e.until.Before(next) {
			next = e.until
		}
	}
	return fmt.Sprintln(waiting, delayed, next.UnixNano(), !next.IsZero(), now.Sub(oldest))
}

// TestPromotionQueue_Model compares random operations with the model.
func TestPromotionQueue_Model(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	base := time.Unix(1_800_000_000, 0)
	for round := range 30 {
		var q promotionQueue
		var m queueModel
		now := base
		ids := 1 + rnd.IntN(400)
		span := 1 + rnd.IntN(5000) // few distinct times make ties
		for step := range 1500 {
			idx, class := uint32(rnd.IntN(ids)), queueClass(rnd.IntN(2))
			if rnd.IntN(10) == 0 {
				idx += 1 << 20 // numbers may be far apart
			}
			since := base.Add(time.Duration(rnd.IntN(span)) * time.Millisecond)
			until := now.Add(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			now = now.Add(time.Duration(rnd.IntN(10)) * time.Millisecond)
			switch op := rnd.IntN(10 + 5*(round%3)); {
			case op < 4:
				q.Push(idx, class, since)
				m.push(idx, class, since)
			case op < 6:
				q.Delay(idx, class, since, until)
				m.delay(idx, class, since, until)
				until = now.Add(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				q.Hasten(idx^1, until)
				m.hasten(idx^1, until)
			case op < 7:
				if got, want := q.Remove(idx), m.remove(idx); got != want {
					t.Fatalf("round %d step %d: Remove(%d) = %v, want %v", round, step, idx, got, want)
				}
			default:
				got, ok := q.Pop(now)
				want, wantOK := m.pop(now)
				if ok != wantOK || got.idx != want.idx || got.class != want.class || !got.since.Equal(want.since) {
					t.Fatalf("round %d step %d: Pop = %v %v, want %v %v", round, step, got, ok, want, wantOK)
				}
			}
			next, ok := q.nextDelay()
			got := fmt.Sprintln(q.Len(), q.Delayed(), next.UnixNano(), ok, q.Oldest(now))
			if want := m.counts(now); got != want {
				t.Fatalf("round %d step %d: got %q, want %q", round, step, got, want)
			}
		}
	}
}

// TestPromotionQueue_Share: neither class starves the other, whatever their
// ages and however they arrive.
func TestPromotionQueue_Share(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	base := time.Unix(1_800_000_000, 0)
	var q promotionQueue
	next := uint32(0)
	add := func(class queueClass) {
		q.Push(next, class, base.Add(time.Duration(rnd.IntN(1000))*time.Second))
		next++
	}
	var window []queueClass // pops while both waited all the time
	for range 20_000 {
		for range rnd.IntN(3) {
			add(queueClass(rnd.IntN(2)))
		}
		both := q.ready[queueChanged].n > 0 && q.ready[queueFirst].n > 0
		e, ok := q.Pop(base)
		if !both || !ok {
			window = nil
			continue
		}
		window = append(window, e.class)
		if len(window) < firstBackupShare {
			continue
		}
		last := window[len(window)-firstBackupShare:]
		if !slices.Contains(last, queueFirst) || !slices.Contains(last, queueChanged) {
			t.Fatalf("of %d pops in a row while both classes waited: %v", firstBackupShare, last)
		}
	}
}

func TestPromotionQueue(t *testing.T) {
	base := time.Unix(1_800_000_000, 0)
	at := func(s int) time.Time { return base.Add(time.Duration(s) * time.Second) }
	tests := []struct {
		name string
		fill func(q *promotionQueue)
		now  time.Time
		want []uint32 // in this order
	}{
		{"empty", func(*promotionQueue) {}, at(0), nil},
		{"oldest first", func(q *promotionQueue) {
			q.Push(1, queueChanged, at(3))
			q.Push(2, queueChanged, at(1))
			q.Push(3, queueChanged, at(2))
		}, at(9), []uint32{2, 3, 1}},
		{"ties by number", func(q *promotionQueue) {
			q.Push(7, queueChanged, at(1))
			q.Push(3, queueChanged, at(1))
			q.Push(5, queueChanged, at(1))
		}, at(9), []uint32{3, 5, 7}},
		{"the older time of two counts", func(q *promotionQueue) {
			q.Push(1, queueChanged, at(1))
			q.Push(2, queueChanged, at(2))
			q.Push(1, queueChanged, at(5))
		}, at(9), []uint32{1, 2}},
		{"three changes, then a first backup", func(q *promotionQueue) {
			for i := range uint32(5) {
				q.Push(i, queueChanged, at(5))
				q.Push(10+i, queueFirst, at(1))
			}
		}, at(9), []uint32{0, 1, 2, 10, 3, 4, 11, 12, 13, 14}},
		{"class changes", func(q *promotionQueue) {
			q.Push(1, queueFirst, at(1))
			q.Push(2, queueChanged, at(2))
			q.Push(1, queueChanged, at(3))
		}, at(9), []uint32{1, 2}},
		{"delayed", func(q *promotionQueue) {
			q.Delay(1, queueChanged, at(1), at(20))
			q.Delay(2, queueChanged, at(5), at(9))
			q.Push(3, queueChanged, at(6))
		}, at(9), []uint32{2, 3}},
		{"a change does not cut a delay short", func(q *promotionQueue) {
			q.Delay(1, queueChanged, at(1), at(20))
			q.Push(1, queueChanged, at(2))
		}, at(9), nil},
		{"its removal does", func(q *promotionQueue) {
			q.Delay(1, queueChanged, at(1), at(20))
			q.Remove(1)
			q.Push(1, queueChanged, at(2))
		}, at(9), []uint32{1}},
		{"the later delay counts", func(q *promotionQueue) {
			q.Delay(1, queueChanged, at(1), at(5))
			q.Delay(1, queueChanged, at(1), at(20))
		}, at(9), nil},
		{"times out of range", func(q *promotionQueue) {
			q.Push(1, queueChanged, at(1))
			q.Push(2, queueChanged, time.Time{})
			q.Push(3, queueChanged, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
		}, at(9), []uint32{2, 1, 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var q promotionQueue
			tt.fill(&q)
			var got []uint32
			for {
				e, ok := q.Pop(tt.now)
				if !ok {
					break
				}
				got = append(got, e.idx)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("popped %v, want %v", got, tt.want)
			}
		})
	}
}

func BenchmarkPromotionQueue(b *testing.B) {
	const n = 100_000
	base := time.Unix(1_800_000_000, 0)
	since := make([]time.Time, n)
	rnd := rand.New(rand.NewPCG(1, 0))
	for i := range since {
		since[i] = base.Add(time.Duration(rnd.IntN(1e9)))
	}
	b.ReportAllocs()
	for b.Loop() {
		var q promotionQueue
		for i, t := range since {
			q.Push(uint32(i), queueClass(i%2), t)
		}
		for range since {
			q.Pop(base)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/database")
}
