package litestream

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/registry"
)

// The drill proves that replicas restore: one after the other, those first whose
// last proof is the oldest, as fast as the promised interval wants and at most
// as fast as the budget allows. A database is restored to a scratch file, which
// SQLite checks; a large one is read, page by page, but not written.

const (
	// minDrillInterval is the shortest interval that may be configured.
	minDrillInterval = time.Minute
	// drillShare is the part of the interval in which all have their turn; the
	// rest is left for those that have to be tried again.
	drillShare = 0.7
	// drillRestoreBytes is up to which size a database is restored; larger ones
	// are read.
	drillRestoreBytes = 256 << 20
	// maxDrills is how many run at a time, so that drillRestoreBytes bounds what
	// they need of the disk.
	maxDrills = 4
	// drillBatch is how many databases are queued with one look at all records.
	drillBatch = 1024
)

// fleetDrill is the state of the drill. The manager's lock guards it.
type fleetDrill struct {
	queue  []uint32  // the longest unproven first
	more   bool      // there are others beside those in the queue
	refill time.Time // when the queue is made anew, so that n is true
	n      int       // databases that were replicated, at the last refill
	late   bool      // one of them is about to be unproven for the whole interval
	credit float64   // drills that may begin now
	bytes  float64   // what of the budget may be spent now; below 0: of later
	at     time.Time

	running map[uint32]bool
	retry   map[uint32]time.Time   // not before
	tried   map[uint32]unixSeconds // the last look, of those that it did not prove
	found   map[uint32]string      // what the last look at a replica found wrong
}

// forget drops a database whose number may be given to another one.
func (d *fleetDrill) forget(i uint32) {
	delete(d.retry, i)
	delete(d.tried, i)
	delete(d.found, i)
}

// restart begins with other settings: nothing is saved up from before, but what
// was spent ahead of an earlier budget stays spent.
func (d *fleetDrill) restart(old DrillConfig) {
	d.queue, d.more, d.refill, d.at, d.credit = nil, false, time.Time{}, time.Time{}, 0
	if d.bytes = min(d.bytes, 0); old.Budget == 0 {
		d.bytes = 0 // it was not bounded
	}
}

// grow adds what the time since the last call allows.
func (d *fleetDrill) grow(cfg DrillConfig, now time.Time) {
	passed := tickInterval
	if !d.at.IsZero() {
		passed = min(max(now.Sub(d.at), 0), cfg.Interval)
	}
	d.at = now
	rate := float64(d.n) / (drillShare * cfg.Interval.Seconds())
	if d.late {
		rate *= 2
	}
	d.credit = min(d.credit+rate*passed.Seconds(), max(maxDrills, rate*passed.Seconds()))
	perSecond := float64(cfg.Budget) / (24 * time.Hour).Seconds()
	d.bytes = min(d.bytes+perSecond*passed.Seconds(), perSecond*time.Hour.Seconds())
}

// drillDue begins the drills that it is time for. It is called once in each tick
// of the loop, and when one has ended.
func (m *MultiDBManager) drillDue() {
	cfg := m.cfg().Drill
	if cfg.Interval <= 0 {
		return
	}
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	d := &m.drill
	d.grow(cfg, now)
	for m.bound && !m.stopping && !m.once && len(d.running) < maxDrills && (cfg.Budget == 0 || d.bytes > 0) {
		if !now.Before(d.refill) || len(d.queue) == 0 && d.more {
			m.refillDrillLocked(cfg, now)
		}
		if len(d.queue) == 0 || d.credit < 1 {
			return
		}
		i := d.queue[0]
		d.queue = d.queue[1:]
		if s := m.table.At(i); s == nil || s.txid == 0 || s.has(tenantDoomed) || d.running[i] {
			continue
		}
		d.credit--
		if d.running == nil {
			d.running, d.retry, d.found = make(map[uint32]bool), make(map[uint32]time.Time), ensure(d.found)
			d.tried = make(map[uint32]unixSeconds)
		}
		d.running[i] = true
		m.store.resources.Snapshots.Submit(SnapshotTask{Key: drilling{i}, Kind: "drill", Run: func(ctx context.Context) {
			m.drillTenant(ctx, i)
		}})
	}
}

// drilling is the key of a drill.
type drilling struct{ i uint32 }

func ensure(a map[uint32]string) map[uint32]string {
	if a == nil {
		return make(map[uint32]string)
	}
	return a
}

// refillDrillLocked queues those that were proven the longest ago, unless that is
// less than half of the interval. One that could not be proven waits for its turn
// from then on: many of them must not keep the others from theirs.
func (m *MultiDBManager) refillDrillLocked(cfg DrillConfig, now time.Time) {
	d := &m.drill
	type turn struct {
		at unixSeconds // of the last look
		i  uint32
	}
	var due []turn
	fresh := secondsOf(now.Add(-cfg.Interval / 2))
	d.n, d.late = 0, false
	for i, s := range m.table.All() {
		if s.txid == 0 || s.has(tenantDoomed) {
			continue
		}
		d.n++
		proven := m.catalog.at(i).proven
		if proven > fresh || now.Before(d.retry[i]) || d.running[i] {
			continue
		}
		d.late = d.late || proven > 0 && now.Sub(proven.Time()) > cfg.Interval*9/10
		due = append(due, turn{max(proven, d.tried[i]), i})
	}
	slices.SortFunc(due, func(a, b turn) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.i, b.i)) })
	d.queue = d.queue[:0]
	for _, t := range due[:min(len(due), drillBatch)] {
		d.queue = append(d.queue, t.i)
	}
	d.more = len(due) > len(d.queue)
	d.refill = now.Add(min(time.Minute, cfg.Interval/50))
}

// drillTenant looks at one replica.
func (m *MultiDBManager) drillTenant(ctx context.Context, i uint32) {
	m.mu.Lock()
	path := m.table.Path(i)
	m.mu.Unlock()
	var res VerifyResult
	var counted *countingReplica
	var stored []byte
	var err error
	if path != "" {
		counted, res, err = m.verifyTenant(ctx, i, path)
		if err == nil {
			stored, err = m.reg.Files(ctx, i+1)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := &m.drill
	delete(d.running, i)
	if counted != nil {
		d.bytes -= float64(counted.bytes.Load() + counted.requests.Load()*objectWeight)
	}
	if path == "" || m.table.Path(i) != path || ctx.Err() != nil {
		return // it was forgotten
	}
	m.endDrillLocked(i, path, &res, err, counted)
	m.keepDrillLocked(i, stored, err)
}

// endDrillLocked counts what was found, and logs it if that is new.
func (m *MultiDBManager) endDrillLocked(i uint32, path string, res *VerifyResult, err error, counted *countingReplica) {
	d, now := &m.drill, m.now()
	interval := m.cfg().Drill.Interval
	result, was := string(res.State), d.found[i]
	delete(d.retry, i)
	d.tried[i] = secondsOf(now)
	switch {
	case err != nil:
		result = "error"
		d.retry[i] = now.Add(min(interval/20, time.Hour))
		m.logger.Warn("drill: a replica could not be looked at, it is tried again", "db", path, "error", err)
	case res.State == VerifyOK:
		m.catalog.at(i).proven = secondsOf(now)
		m.touchCatalogLocked(i, m.table.At(i))
		delete(d.found, i)
		delete(d.tried, i)
		if was != "" {
			m.logger.Info("drill: the replica is restorable again", "db", path, "txid", res.TXID.String())
		}
	case res.State == VerifyMissingDelayed:
		d.retry[i] = now.Add(min(interval/20, time.Minute))
	default:
		d.retry[i] = now.Add(min(interval/4, 6*time.Hour))
		d.found[i] = string(res.State) + ": " + res.Summary()
		if was != d.found[i] {
			m.logger.Error("drill: the replica is damaged", "db", path, "state", string(res.State), "problem", res.Summary())
		}
	}
	var requests, bytes int64
	if counted != nil {
		requests, bytes = counted.requests.Load(), counted.bytes.Load()
	}
	m.metrics.drilled(result, requests, bytes, len(d.found))
}

// keepDrillLocked writes the outcome to the registry. The record of a database
// that is hot or maintained is written with what becomes of that.
func (m *MultiDBManager) keepDrillLocked(i uint32, stored []byte, err error) {
	if err != nil || m.hot[i] != nil || m.underway[i] != nil {
		return
	}
	rec := m.recordLocked(i)
	rec.Files = stored
	m.put(rec, nil)
}

// loadDrillLocked takes over what the registry knows of earlier drills.
func (m *MultiDBManager) loadDrillLocked(i uint32, rec *registry.Record) {
	if rec.ProvenAt.IsZero() && rec.Drill == "" {
		return
	}
	m.catalog.at(i).proven = secondsOf(rec.ProvenAt)
	if rec.Drill != "" {
		m.drill.found = ensure(m.drill.found)
		m.drill.found[i] = rec.Drill
	}
}

// verifyTenant restores a database's newest position to a scratch file, or reads
// it if it is large.
func (m *MultiDBManager) verifyTenant(ctx context.Context, i uint32, path string) (*countingReplica, VerifyResult, error) {
	t, err := m.tenants().Lookup(path)
	if err != nil {
		return nil, VerifyResult{}, err
	}
	inner, err := m.clients.Tenant(&t) // not m.client: these requests are counted apart
	if err != nil {
		return nil, VerifyResult{}, err
	}
	identity := ReplicaIdentity(inner)
	client, counted := countReplica(inner)
	settings := m.upkeeper().Settings
	opt := VerifyOptions{
		Level: VerifyRestore, NewestOnly: true, Now: m.now, Logger: m.logger,
		Promise:     &VerifyPromise{Levels: settings.Levels, SnapshotRetention: settings.SnapshotRetention, L0Retention: settings.L0Retention, Tenant: true},
		ScratchPath: filepath.Join(m.mode.scratchDir(), "drill-"+strconv.FormatUint(uint64(i), 10)),
		Expect: func(ctx context.Context) ([]VerifyExpectation, error) {
			return m.expectTenant(ctx, i, path, identity)
		},
	}
	if !settings.RetentionEnabled {
		opt.Promise.SnapshotRetention, opt.Promise.L0Retention = 0, 0
	}
	m.mu.Lock()
	if s := m.table.At(i); s != nil && m.table.Size(s) > drillRestoreBytes {
		opt.Level = VerifyRead
	}
	m.mu.Unlock()
	if err := os.MkdirAll(m.mode.scratchDir(), 0o700); err != nil {
		return counted, VerifyResult{}, fmt.Errorf("create scratch folder: %w", err)
	}
	res, err := Verify(ctx, client, opt)
	return counted, res, err
}

// expectTenant returns what is known of a replica: the acknowledged position,
// and the page ledger that was kept at it.
func (m *MultiDBManager) expectTenant(ctx context.Context, i uint32, path string, identity [32]byte) ([]VerifyExpectation, error) {
	stored, err := m.reg.Ledger(ctx, i+1)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	s, hot := m.table.At(i), m.hot[i] != nil
	if s == nil || m.table.Path(i) != path {
		m.mu.Unlock()
		return nil, nil
	}
	e := VerifyExpectation{Source: "registry", TXID: s.txid, At: s.SyncedAt()}
	m.mu.Unlock()
	if !hot { // else its ledger is being written to
		e.Sums = TenantLedgerSums(m.cfg().StateDir, path, stored, identity)
	}
	return []VerifyExpectation{e}, nil
}

// countingReplica counts requests and the bytes that were read.
type countingReplica struct {
	ReplicaClient
	requests, bytes atomic.Int64
}

// countReplica returns a client that counts, and lists trees where the other does.
func countReplica(inner ReplicaClient) (ReplicaClient, *countingReplica) {
	c := &countingReplica{ReplicaClient: inner}
	if t, ok := inner.(TreeLister); ok {
		return &countingTree{c, t}, c
	}
	return c, c
}

// LTXFiles implements ReplicaClient.
func (c *countingReplica) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	c.requests.Add(1)
	return c.ReplicaClient.LTXFiles(ctx, level, seek, useMetadata)
}

// OpenLTXFile implements ReplicaClient.
func (c *countingReplica) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	c.requests.Add(1)
	r, err := c.ReplicaClient.OpenLTXFile(ctx, level, minTXID, maxTXID, offset, size)
	if err != nil {
		return nil, err
	}
	return &drillReader{r, c}, nil
}

// countingTree is a countingReplica of a client that lists all levels at once.
type countingTree struct {
	*countingReplica
	tree TreeLister
}

// LTXTree implements TreeLister.
func (c *countingTree) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	c.requests.Add(1)
	return c.tree.LTXTree(ctx)
}

type drillReader struct {
	io.ReadCloser
	c *countingReplica
}

// Read implements io.Reader.
func (r *drillReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.c.bytes.Add(int64(n))
	return n, err
}
