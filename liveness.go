package litestream

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// rounds tells whether a loop still comes round. It costs nothing until
// somebody asks.
type rounds struct {
	// asked is received from by the loop wherever it waits. It has no buffer:
	// who could send has met the loop there.
	asked chan struct{}
	steps *atomic.Uint64 // done between two waits
}

func newRounds() rounds { return rounds{asked: make(chan struct{}), steps: new(atomic.Uint64)} }

// step notes that the loop gets on without waiting.
func (r rounds) step() { r.steps.Add(1) }

// alive returns nil once the loop has waited or got on, an error if it has
// done neither when ctx is done.
func (r rounds) alive(ctx context.Context, name string) error {
	asked, steps := time.Now(), r.steps.Load()
	select {
	case r.asked <- struct{}{}:
		return nil
	case <-ctx.Done():
	}
	if r.steps.Load() != steps {
		return nil
	}
	return fmt.Errorf("the %s has not got on for %s", name, time.Since(asked).Round(time.Millisecond))
}

// Alive returns nil if the loop that hands out the store's work gets on, and
// an error if it has not until ctx is done: then nothing is replicated any
// more. Replicas that are away or hang do not matter to it. It may be called
// between Open and Close.
func (s *Store) Alive(ctx context.Context) error {
	return s.sched.rounds.alive(ctx, "schedule of the store")
}

// Alive is as that of a Store, for the loop that scans, too. A long scan is
// alive as long as it finds files.
func (m *MultiDBManager) Alive(ctx context.Context) error {
	if err := m.store.Alive(ctx); err != nil {
		return err
	}
	return m.rounds.alive(ctx, "loop that scans for databases")
}

// StatusText says in one line what the store does, for a service manager.
func (s *Store) StatusText() string {
	n := 0
	s.mu.Lock()
	for _, m := range s.dbs {
		if m.tenant == nil {
			n++
		}
	}
	s.mu.Unlock()
	return fmt.Sprintf("replicating %d databases", n)
}

// StatusText is as that of a Store, with the states of the databases that the
// patterns find.
func (m *MultiDBManager) StatusText() string {
	counts := make(map[TenantState]int)
	m.mu.Lock()
	n := m.table.Len()
	for _, s := range m.table.All() {
		counts[s.state]++
	}
	m.mu.Unlock()
	return fmt.Sprintf("%s; %d found by pattern: %d replicated, %d hot, %d waiting, %d failed",
		m.store.StatusText(), n-counts[TenantGone], counts[TenantClean], counts[TenantHot],
		counts[TenantQueued]+counts[TenantUnknown], counts[TenantFailed])
}
