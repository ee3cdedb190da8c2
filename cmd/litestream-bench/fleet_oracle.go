//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// commitKind tells commits apart whose way to the replica is measured.
type commitKind uint8

const (
	rampCommit      commitKind = iota // a tenant that is being found to be hot; not reported
	hotCommit                         // a tenant that commits every few seconds
	coldCommit                        // one commit after a rest, the application stays
	coldCloseCommit                   // one commit after a rest, the application closes at once
	burstCommit                       // one of a commit to every tenant
	outageCommit                      // the same, with the replica away in the middle
	commitKinds
)

// oracle is the ledger, outside the databases, of what was acknowledged to the
// applications, and of when it was first seen on the replica. The commits of a
// tenant are numbered from 1 on. It is safe for concurrent use; a tenant has
// one writer at a time.
type oracle struct {
	mu      sync.Mutex // guards the rest; no I/O under it
	tenants []tenantLedger
	pending map[int][]ackedCommit // watched ones that are not on the replica yet, oldest first
	delays  [commitKinds][]time.Duration
	acked   int
}

type tenantLedger struct {
	begun, acked uint32 // newest commit that was tried, that was acknowledged
	landed       uint32 // newest commit that was seen on the replica
	landedAt     time.Time
	watched      bool
}

type ackedCommit struct {
	seq  uint32
	kind commitKind
	at   time.Time
}

func newOracle(n int) *oracle {
	return &oracle{tenants: make([]tenantLedger, n), pending: make(map[int][]ackedCommit)}
}

// watch tells that from now on it will be said when commits of a tenant land.
func (o *oracle) watch(tenant int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tenants[tenant].watched = true
}

// begin returns the number of the tenant's next commit. After a failed one it
// is the same again: whether that one counted is not known.
func (o *oracle) begin(tenant int) uint32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := &o.tenants[tenant]
	t.begun = t.acked + 1
	return t.begun
}

// ack records that a commit was acknowledged at a time.
func (o *oracle) ack(tenant int, seq uint32, kind commitKind, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := &o.tenants[tenant]
	t.acked = seq
	o.acked++
	switch {
	case !t.watched:
	case t.landed >= seq: // the replica was faster than the news of the commit
		o.delays[kind] = append(o.delays[kind], max(0, t.landedAt.Sub(at)))
	default:
		o.pending[tenant] = append(o.pending[tenant], ackedCommit{seq: seq, kind: kind, at: at})
	}
}

// land records that all commits up to seq are on the replica since a time.
func (o *oracle) land(tenant int, seq uint32, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := &o.tenants[tenant]
	if seq <= t.landed {
		return
	}
	t.landed, t.landedAt = seq, at
	q := o.pending[tenant]
	for len(q) > 0 && q[0].seq <= seq {
		o.delays[q[0].kind] = append(o.delays[q[0].kind], max(0, at.Sub(q[0].at)))
		q = q[1:]
	}
	if len(q) == 0 {
		delete(o.pending, tenant)
	} else {
		o.pending[tenant] = q
	}
}

// isWatched tells whether the way of a tenant's commits is followed.
func (o *oracle) isWatched(tenant int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tenants[tenant].watched
}

// behind lists, in order, the watched tenants with commits that are not on the
// replica.
func (o *oracle) behind() []int {
	o.mu.Lock()
	defer o.mu.Unlock()
	tenants := make([]int, 0, len(o.pending))
	for i := range o.pending {
		tenants = append(tenants, i)
	}
	slices.Sort(tenants)
	return tenants
}

// isBehind tells whether a watched tenant has commits that are not on the replica.
func (o *oracle) isBehind(tenant int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending[tenant]) > 0
}

// of returns the newest commits of a tenant that were tried and acknowledged.
func (o *oracle) of(tenant int) (begun, acked uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tenants[tenant].begun, o.tenants[tenant].acked
}

// count returns how many commits were acknowledged in all.
func (o *oracle) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked
}

// times returns, in seconds, how long commits of a kind took to the replica.
// One that is not there counts as long as it has waited by now.
func (o *oracle) times(kind commitKind, now time.Time) (s []float64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.delays[kind] {
		s = append(s, d.Seconds())
	}
	for _, q := range o.pending {
		for _, c := range q {
			if c.kind == kind {
				s = append(s, now.Sub(c.at).Seconds())
			}
		}
	}
	return s
}

// token begins the value of a commit in the ledger table. It can be recognised
// in the pages that a replica holds.
func token(tenant int, seq uint32) string { return fmt.Sprintf("<%06d:%d>", tenant, seq) }

// ledgerValue is what a commit writes: its token and something behind it.
func ledgerValue(tenant int, seq uint32) string {
	return token(tenant, seq) + strings.Repeat(".", 40)
}
