package workpool_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/workpool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func closePool(t *testing.T, p *workpool.Pool) {
	t.Helper()
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPool_BoundAndIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("monitor", 3)
		if got := p.Stats().Workers; got != 0 || p.Name() != "monitor" {
			t.Fatalf("new pool: %d workers, name %q", got, p.Name())
		}
		var now, peak atomic.Int64
		for i := range 10 {
			p.Submit(workpool.Task{Key: i, Run: func(context.Context) {
				peak.Store(max(peak.Load(), now.Add(1)))
				time.Sleep(time.Second)
				now.Add(-1)
			}})
		}
		synctest.Wait()
		if s := p.Stats(); s.Workers != 3 || s.Busy != 3 || s.Queued != 7 {
			t.Fatalf("under load: %+v", s)
		}
		time.Sleep(4*time.Second + time.Millisecond)
		synctest.Wait()
		// Waves of three begin at 0, 1, 2 and 3 s, the last one alone.
		want := workpool.Stats{Workers: 3, Started: 10, Waited: 3*time.Second + 6*time.Second + 3*time.Second}
		got := p.Stats()
		got.Workers = 3 // two of them may have timed out already
		if diff := cmp.Diff(want, got); diff != "" || peak.Load() != 3 {
			t.Fatalf("peak=%d, stats (-want +got):\n%s", peak.Load(), diff)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := p.Stats().Workers; got != 0 {
			t.Fatalf("%d workers after the idle timeout, want 0", got)
		}
		ran := false
		p.Submit(workpool.Task{Key: 1, Run: func(context.Context) { ran = true }})
		synctest.Wait()
		if !ran || p.Stats().Workers != 1 {
			t.Fatalf("after a pause: ran=%v, %d workers", ran, p.Stats().Workers)
		}
		closePool(t, p)
		if got := p.Stats().Workers; got != 0 {
			t.Fatalf("%d workers after close", got)
		}
	})
}

// A burst of short tasks is done by a few workers, and tasks that take long get
// all there may be.
func TestPool_Grows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("p", 100)
		defer closePool(t, p)
		burst := func(n int, d time.Duration) {
			for i := range n {
				p.Submit(workpool.Task{Key: i, Run: func(context.Context) { time.Sleep(d) }})
			}
			synctest.Wait()
		}
		burst(30, time.Millisecond)
		if got := p.Stats(); got.Workers != 8 || got.Busy != 8 {
			t.Errorf("at the start of a short burst: %+v, want 8 workers", got)
		}
		time.Sleep(workpool.GrowAfter)
		synctest.Wait()
		if got := p.Stats(); got.Started != 30 || got.Busy > 0 || got.Workers != 8 {
			t.Errorf("after a short burst: %+v, want all 30 done by 8 workers", got)
		}
		burst(500, time.Minute)
		for want := 8; want <= 100; want++ {
			if got := p.Stats(); got.Workers != want || got.Busy != want {
				t.Fatalf("%d workers, of which %d are busy, want %d", got.Workers, got.Busy, want)
			}
			time.Sleep(workpool.GrowAfter)
			synctest.Wait()
		}
		if got := p.Stats(); got.Workers != 100 {
			t.Errorf("%d workers, want no more than 100", got.Workers)
		}
	})
}

// While a few tasks hang, others begin within moments.
func TestPool_GrowsPastHangingTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("p", 100)
		defer closePool(t, p)
		for i := range 50 {
			p.Submit(workpool.Task{Key: i, Run: func(context.Context) { time.Sleep(time.Hour) }})
		}
		time.Sleep(50 * workpool.GrowAfter)
		begin := time.Now()
		var waited time.Duration
		p.Submit(workpool.Task{Key: "other", Run: func(context.Context) { waited = time.Since(begin) }})
		time.Sleep(time.Minute)
		synctest.Wait()
		if waited > 2*workpool.GrowAfter {
			t.Errorf("a task behind 50 that hang waited %v", waited)
		}
	})
}

func TestPool_ReusesWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("p", 100)
		for i := range 50 {
			p.Submit(workpool.Task{Key: i, Run: func(context.Context) {}})
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if got := p.Stats().Workers; got != 1 {
			t.Fatalf("%d workers for one task a second, want 1", got)
		}
		closePool(t, p)
	})
}

func TestPool_CoalesceAndSerialize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("p", 8)
		var log []string // no lock: tasks of one key exclude each other
		submit := func(kind, name string) {
			p.Submit(workpool.Task{Key: "db", Kind: kind, Run: func(context.Context) {
				time.Sleep(time.Second)
				log = append(log, name)
			}})
		}
		submit("sync", "sync1")
		synctest.Wait() // it runs
		submit("sync", "sync2")
		submit("sync", "sync3") // covered by sync2
		submit("checkpoint", "checkpoint1")
		submit("sync", "sync4")             // covered by sync2
		submit("checkpoint", "checkpoint2") // covered by checkpoint1
		if s := p.Stats(); s.Queued != 2 || s.Busy != 1 || s.Coalesced != 3 || s.Workers != 1 {
			t.Fatalf("stats: %+v", s)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]string{"sync1", "sync2", "checkpoint1"}, log); diff != "" {
			t.Fatalf("order (-want +got):\n%s", diff)
		}
		closePool(t, p)
	})
}

func TestPool_OldestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("p", 1)
		var order []string
		submit := func(key, name string) {
			p.Submit(workpool.Task{Key: key, Kind: name, Run: func(context.Context) {
				time.Sleep(time.Second)
				order = append(order, name)
			}})
		}
		submit("a", "a1")
		synctest.Wait()
		submit("a", "a2") // its key is busy, and it is older than b1 when a1 ends
		submit("b", "b1")
		submit("a", "a3")
		submit("c", "c1")
		closePool(t, p)
		if diff := cmp.Diff([]string{"a1", "a2", "b1", "a3", "c1"}, order); diff != "" {
			t.Fatalf("order (-want +got):\n%s", diff)
		}
	})
}

func TestPool_BusyKeyHoldsNoWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("p", 2)
		release := make(chan struct{})
		p.Submit(workpool.Task{Key: "slow", Run: func(context.Context) { <-release }})
		synctest.Wait()
		p.Submit(workpool.Task{Key: "slow", Run: func(context.Context) {}})
		ran := 0
		for i := range 20 {
			p.Submit(workpool.Task{Key: i, Run: func(context.Context) { ran++ }})
		}
		synctest.Wait()
		if ran != 20 {
			t.Fatalf("%d of 20 others ran beside a slow key", ran)
		}
		close(release)
		closePool(t, p)
	})
}

func TestPool_CloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("p", 1)
		ran := 0
		for i := range 5 {
			p.Submit(workpool.Task{Key: i % 2, Kind: string(rune('a' + i)), Run: func(ctx context.Context) {
				time.Sleep(time.Second)
				if ctx.Err() == nil {
					ran++
				}
			}})
		}
		closePool(t, p)
		closePool(t, p)
		if ran != 5 {
			t.Fatalf("%d of 5 tasks ran to their end", ran)
		}
		if p.Submit(workpool.Task{Key: 1, Run: func(context.Context) { t.Error("ran after close") }}) {
			t.Fatal("submit after close accepted")
		}
	})
}

func TestPool_CloseOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := workpool.New("replica", 1)
		start := time.Now()
		p.Submit(workpool.Task{Key: 1, Run: func(ctx context.Context) {
			<-ctx.Done()
			time.Sleep(2 * time.Second) // it takes a moment to let go
		}})
		for i := range 3 {
			p.Submit(workpool.Task{Key: i, Kind: "queued", Run: func(context.Context) { t.Error("dropped task ran") }})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := p.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "pool replica: 3 queued tasks dropped") {
			t.Fatalf("err=%v", err)
		}
		if got := time.Since(start); got != 7*time.Second {
			t.Fatalf("close took %v, want 5 s of patience and 2 s to let go", got)
		}
		if s := p.Stats(); s.Workers != 0 || s.Busy != 0 || s.Queued != 0 {
			t.Fatalf("after close: %+v", s)
		}
		closePool(t, p)
	})
}

func TestPool_CloseUnused(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := workpool.New("p", 0)
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestPool_Random submits for 10,000 keys from several goroutines. No key may
// run twice at a time, and after each submission its key must run once more.
func TestPool_Random(t *testing.T) {
	const keyN = 10_000
	submits := 200_000
	if testing.Short() {
		submits = 50_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	type state struct {
		running   atomic.Bool
		submitted atomic.Int64 // counted before Submit
		seen      atomic.Int64 // of submitted, as the last run saw it
	}
	keys := make([]state, keyN)
	p := workpool.New("p", 16)
	var (
		wg   sync.WaitGroup
		runs atomic.Uint64
	)
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for range submits / 4 {
				key := rnd.IntN(keyN)
				if rnd.IntN(2) == 0 {
					key %= 10 // a few are much in demand
				}
				k := &keys[key]
				k.submitted.Add(1)
				ok := p.Submit(workpool.Task{Key: key, Kind: [2]string{"a", "b"}[rnd.IntN(2)], Run: func(context.Context) {
					if k.running.Swap(true) {
						t.Errorf("key %d runs twice", key)
					}
					k.seen.Store(k.submitted.Load())
					runs.Add(1)
					k.running.Store(false)
				}})
				if !ok {
					t.Error("submit refused")
				}
			}
		})
	}
	wg.Wait()
	closePool(t, p)
	for i := range keys {
		if got, want := keys[i].seen.Load(), keys[i].submitted.Load(); got != want {
			t.Fatalf("key %d: last run saw %d of %d submissions", i, got, want)
		}
	}
	s := p.Stats()
	if s.Started != runs.Load() || s.Started+s.Coalesced != uint64(submits) {
		t.Fatalf("%d runs, %d submissions, stats %+v", runs.Load(), submits, s)
	}
}

func BenchmarkPool_Submit(b *testing.B) {
	p := workpool.New("p", 4)
	run := func(context.Context) {}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		p.Submit(workpool.Task{Key: i % 1000, Kind: "sync", Run: run})
		i++
	}
	if err := p.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
}
