package litestream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/internal/loglimit"
	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/scan"
)

// TenantClients makes the storage clients of a fleet.
type TenantClients struct {
	// Tenant returns the client of one database's replica.
	Tenant func(*Tenant) (ReplicaClient, error)
	// Root is a client of the folder that all replicas lie in. Where it is an
	// ObjectClient it keeps the mark by which another or an emptied replica is
	// known.
	Root ReplicaClient
}

// A MultiDBManager replicates all databases that match patterns. It scans for
// changed ones, opens as many at a time as may be hot, lets go of those that
// are replicated, and keeps a record of the others. The exported fields are
// settings, which after Open only Reconfigure may change. Its methods are safe for
// concurrent use.
type MultiDBManager struct {
	Levels            CompactionLevels
	SnapshotInterval  time.Duration
	SnapshotRetention time.Duration
	L0Retention       time.Duration
	RetentionEnabled  bool
	// ValidationInterval is the time between two rounds of checks that the files
	// of each level join, of replicas that changed; 0: none.
	ValidationInterval time.Duration
	VerifyCompaction   bool               // list each level after it was written, and check the same
	SyncInterval       time.Duration      // least time between two uploads of a database
	Metrics            *AggregatedMetrics // nil counts nothing
	Logger             *slog.Logger

	live      atomic.Pointer[fleetSettings]
	store     *Store
	clients   TenantClients
	scanner   *scan.Scanner // used by the loop alone
	reg       *registry.Registry
	mode      *tenantMode
	shared    *sharedState
	metrics   *AggregatedMetrics
	logger    *slog.Logger      // behind logLimit
	logLimit  *loglimit.Handler // what is said of each of many databases
	now       func() time.Time
	startedAt time.Time
	knobs     knob.Fleet

	run    context.Context // of everything; done when Close ran out of patience
	cancel context.CancelFunc
	stop   context.CancelFunc // of the loop
	wg     sync.WaitGroup
	wake   chan struct{} // capacity 1: there may be something to do
	rounds rounds        // of the loop, and files that scans looked at
	// scanAsked is for who wants to wait for a scan. The loop closes what it is sent.
	scanAsked chan chan<- struct{}
	// swapAsked is for who changes the settings.
	swapAsked chan settingsSwap

	bindDelay backoff.Backoff // used by the loop alone, like bindLog
	bindLog   backoff.Limiter
	bindErr   error // of the first contact

	// yield says which hot databases give up their places as soon as they are
	// replicated; see yields.
	yield atomic.Int32

	mu             sync.Mutex // guards what follows; never held across I/O
	table          *dbTable
	queue          promotionQueue
	hot            map[uint32]*DynamicDB
	reasons        map[uint32]*tenantFailure
	commonReasons  map[string]error  // by class: of one of those databases
	unsent         map[uint32]error  // why uploads of hot databases fail
	paths          map[uint64]uint32 // replica paths, where the template does not keep them apart
	upkeep         *upkeepQueue
	catalog        *fleetCatalog
	removals       *catalogRemovals
	yieldSet       time.Time             // when yield was chosen
	underway       map[uint32]*upkeepRun // maintenance that runs
	upkeepFailures map[uint32]uint8      // in a row
	rival          rivalNote
	validation     fleetValidation
	drill          fleetDrill
	sameBoot       bool // as when the registry was written
	bound          bool // the replica is known to be the one of the registry
	empty          bool // and held nothing at the start
	otherReplica   bool // and it is not the one that the registry was about
	bindAt         time.Time
	started        bool          // databases may become hot
	once           bool          // a single pass, whose maintenance is what was asked for
	stopping       bool          // what is left is replicated, and then the process ends
	stoppedAt      time.Time     // when that was decided, by the clock of the databases
	ended          bool          // what is still open has to be let go
	idle           chan struct{} // closed when nothing is hot or queued, while stopping
	scans          scanTotals
}

// stagedMemory bounds the small files that wait for their upload in memory. At
// a few hundred bytes for a commit of a small database it is seldom reached.
const stagedMemory = 8 << 20

// NewMultiDBManager returns a manager that runs its databases in a store. It
// does nothing before Open.
func NewMultiDBManager(cfg MultiDBConfig, store *Store, clients TenantClients) (*MultiDBManager, error) {
	tenants, err := NewTenantMap(cfg)
	if err != nil {
		return nil, err
	}
	scanner, err := tenants.scanner()
	if err != nil {
		return nil, err
	}
	m := &MultiDBManager{
		Levels:            DefaultCompactionLevels(),
		SnapshotInterval:  DefaultSnapshotInterval,
		SnapshotRetention: DefaultSnapshotRetention,
		L0Retention:       DefaultL0Retention,
		RetentionEnabled:  true,
		SyncInterval:      DefaultSyncInterval,
		Logger:            slog.New(slog.DiscardHandler),
		store:             store,
		clients:           clients,
		scanner:           scanner,
		now:               time.Now,
		wake:              make(chan struct{}, 1),
		rounds:            newRounds(),
		scanAsked:         make(chan chan<- struct{}),
		swapAsked:         make(chan settingsSwap),
		table:             newDBTable(),
		hot:               make(map[uint32]*DynamicDB),
		reasons:           make(map[uint32]*tenantFailure),
		commonReasons:     make(map[string]error),
		unsent:            make(map[uint32]error),
		upkeep:            newUpkeepQueue(),
		underway:          make(map[uint32]*upkeepRun),
		upkeepFailures:    make(map[uint32]uint8),
		idle:              make(chan struct{}),
		bindDelay:         backoff.Backoff{Min: time.Second, Max: maxTenantRetryIfIn},
	}
	m.live.Store(&fleetSettings{cfg: cfg, tenants: tenants})
	return m, nil
}

// Open begins to replicate: the databases of the store, and all that match the
// patterns. A database or a replica that cannot be reached is no error.
//
//nolint:contextcheck // what it starts outlives ctx
func (m *MultiDBManager) Open(ctx context.Context) error {
	if err := m.store.Open(ctx); err != nil {
		return err
	}
	if err := m.prepare(ctx, startBindTimeout); err != nil {
		return errors.Join(err, m.store.Close(ctx))
	}
	m.scan(ctx)
	if err := m.collisions(); err != nil {
		m.cancel()
		return errors.Join(err, m.store.Close(ctx), m.reg.Close(ctx, true))
	}
	m.start()
	loop, stop := context.WithCancel(m.run)
	m.stop = stop
	m.wg.Go(func() { m.loop(loop) })
	return nil
}

// start lets databases become hot.
func (m *MultiDBManager) start() {
	m.mu.Lock()
	m.started = true
	counts := make(map[TenantState]int)
	for _, s := range m.table.All() {
		counts[s.state]++
	}
	m.mu.Unlock()
	m.logger.Info("first scan", "databases", m.table.Len(), "replicated", counts[TenantClean],
		"waiting", counts[TenantQueued], "failed", counts[TenantFailed], "deleted", counts[TenantGone], "duration", m.scans.took)
	m.dispatch()
}

// prepare loads what is known of the databases. The replica has so much time to
// be reached.
func (m *MultiDBManager) prepare(ctx context.Context, patience time.Duration) (err error) {
	m.metrics, m.startedAt = m.Metrics, m.now()
	m.logLimit = loglimit.New(m.Logger.Handler(), m.now)
	m.logger = slog.New(m.logLimit)
	m.run, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	m.catalog = newFleetCatalog(m.cfg(), m.clients.Root, m.knobs.Catalog)
	m.removals = newCatalogRemovals(m.cfg().StateDir)
	if m.reg, err = registry.Open(ctx, m.cfg().StateDir, registry.Options{Logger: m.logger, BootID: m.bootID()}); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.reg.Close(ctx, false))
		}
	}()
	if err := sweepStaging(m.cfg().StateDir); err != nil {
		return err
	}
	writer, err := loadWriterID(m.cfg().StateDir)
	if err != nil {
		return err
	}
	m.mode = &tenantMode{
		writer:      writer,
		connections: m.store.resources.Connections, metrics: m.metrics, stateDir: m.cfg().StateDir,
		checkpoint: m.cfg().Checkpoint == MultiDBCheckpointPassive,
		staged:     ltxfile.NewMemoryBudget(stagedMemory),
	}
	m.shared = m.store.resources.tenants(m.cfg().MaxStagedBytes)
	set := *m.live.Load()
	set.upkeeper = m.maintainer(m.fields())
	m.live.Store(&set)
	if err := m.clients.Root.Init(ctx); err != nil {
		return fmt.Errorf("init replica: %w", err)
	}
	if m.bindErr = m.bind(ctx, patience); m.bindErr != nil {
		m.unbound(m.bindErr)
	}
	if err := m.load(ctx); err != nil {
		return err
	}
	m.checkCatalog()
	m.metrics.setSource(m.stats)
	return nil
}

// Pauses of the loop.
const (
	tickInterval = time.Second
	// flushAt is how many changed records are written without waiting for the
	// next tick.
	flushAt = 4096
)

// loop scans, and does what is due in between, until ctx is done.
func (m *MultiDBManager) loop(ctx context.Context) {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	next := time.NewTimer(m.cfg().ScanInterval)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			began := m.now()
			m.scan(ctx)
			next.Reset(max(m.cfg().ScanInterval-m.now().Sub(began), m.cfg().ScanInterval/10))
		case done := <-m.scanAsked:
			m.scan(ctx)
			close(done)
		case swap := <-m.swapAsked:
			busy := m.swap(swap.to, swap.scanner)
			if len(busy) == 0 {
				m.scan(ctx)
				next.Reset(m.cfg().ScanInterval)
			}
			swap.done <- busy
		case <-tick.C:
			m.tick(ctx)
		case <-m.wake:
			m.flush(ctx)
		case <-m.rounds.asked:
		}
	}
}

// tick does what is due.
func (m *MultiDBManager) tick(ctx context.Context) {
	m.rebind(ctx)
	m.dispatch()
	m.maintainDue()
	m.validateDue()
	m.drillDue()
	m.catalogDue()
	if err := m.store.resources.Connections.Sweep(m.now()); err != nil {
		m.logger.Warn("close idle connections", "error", err)
	}
	m.flush(ctx)
	m.logLimit.Flush(ctx, false)
}

// flush writes the records that changed.
func (m *MultiDBManager) flush(ctx context.Context) {
	if m.reg.Pending() == 0 {
		return
	}
	if err := m.reg.Flush(ctx); err != nil && ctx.Err() == nil {
		m.logger.Error("write registry: it is tried again; after a crash more has to be looked at", "error", err)
	}
}

// put queues a record for the registry.
func (m *MultiDBManager) put(rec registry.Record, ledger []byte) {
	m.reg.Put(rec, ledger)
	if m.reg.Pending() >= flushAt {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// crowded reports whether databases wait for a place among the hot ones.
func (m *MultiDBManager) crowded() bool { return m.yield.Load() != yieldNone }

// looksAgain reports whether a database that is let go because others wait is
// compared once more afterwards, by the next scan. At the end there is none.
func (m *MultiDBManager) looksAgain() bool { return m.crowded() && m.stoppingSince().IsZero() }

// stoppingSince returns when the process was asked to end, or the zero time.
func (m *MultiDBManager) stoppingSince() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.stopping {
		return time.Time{}
	}
	return m.stoppedAt
}

// Close stops replicating: what changed is looked for once more, and all that
// is hot or waits is synced, oldest change first, until ctx is done. The error
// tells what was left.
func (m *MultiDBManager) Close(ctx context.Context) error {
	if m.reg == nil {
		return m.store.Close(ctx)
	}
	var err error
	if m.stop != nil {
		m.stop()
		m.wg.Wait()
		err = m.drain(ctx)
	} else { // SyncOnce has looked for changes, and nothing runs that could follow another look
		err = m.abandonRest(ctx)
	}
	m.closeCatalog(ctx)
	m.cancel()
	m.metrics.setSource(nil)
	m.putSummary() // of what was left, and nothing is hot any more
	err = errors.Join(err, m.store.Close(ctx), m.reg.Close(context.WithoutCancel(ctx), true))
	m.logLimit.Flush(ctx, true)
	return err
}

// drain replicates what is left and lets everything go.
func (m *MultiDBManager) drain(ctx context.Context) error {
	stop := context.AfterFunc(ctx, m.cancel)
	defer stop()
	m.rebind(ctx)
	m.scan(ctx)
	m.mu.Lock()
	m.stopping, m.stoppedAt = true, time.Now()
	m.yield.Store(yieldAll)
	m.retryUnsentLocked()
	m.checkIdleLocked()
	open, bound := m.hotLocked(), m.bound
	m.mu.Unlock()
	for _, d := range open {
		d.lookAgain()
	}
	m.dispatch()
	if bound {
		select {
		case <-m.idle:
		case <-ctx.Done():
		}
	}
	return m.abandonRest(ctx)
}

// leaveTimeout bounds how long the end waits for looks that are under way.
const leaveTimeout = 2 * time.Second

// abandonRest lets go of what could not be replicated in time.
func (m *MultiDBManager) abandonRest(ctx context.Context) error {
	m.mu.Lock()
	m.ended = true
	open := m.hotLocked()
	waiting, bound, unsent := m.queue.Len(), m.bound, m.unsentLocked()
	m.mu.Unlock()
	var errs []error
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	for _, d := range open {
		if err := d.Close(grace); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, unsent...)
	left := waiting + len(errs)
	switch {
	case left == 0:
		return nil
	case !bound:
		errs = append(errs, errors.New("the replica could not be reached"))
	case ctx.Err() != nil:
		errs = append(errs, context.Cause(ctx))
	}
	m.logger.Warn("not everything is replicated: it is at the next start",
		"databases", left, "not_looked_at", waiting)
	return fmt.Errorf("%d databases are not replicated up to their last change, they are at the next start: %w", left, summarize(errs))
}

// SyncOnce scans once and replicates every database that changed, in place of
// Open. Close releases what it left open.
//
//nolint:contextcheck // what it starts ends with it, by a context of its own
func (m *MultiDBManager) SyncOnce(ctx context.Context, opt SyncOnceOptions) error {
	err := m.store.SyncOnce(ctx, opt)
	if ctx.Err() != nil {
		return err
	}
	if perr := m.prepare(ctx, bindTimeout); perr != nil {
		return errors.Join(err, perr)
	}
	m.mu.Lock()
	m.started, m.once = true, true
	bound := m.bound
	m.mu.Unlock()
	if !bound {
		return errors.Join(err, fmt.Errorf("replicate once: the replica cannot be reached: %w", m.bindErr))
	}
	loop, stop := context.WithCancel(m.run)
	m.wg.Go(func() { m.store.sched.loop(loop) })
	defer func() { stop(); m.wg.Wait() }()
	err = errors.Join(err, m.drain(ctx), m.failuresOnce())
	if ctx.Err() == nil && (opt.ForceSnapshot || opt.EnforceRetention) {
		err = errors.Join(err, m.maintainAll(ctx, opt))
	}
	return err
}
