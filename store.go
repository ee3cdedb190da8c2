package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/backoff"
	"github.com/benbjohnson/litestream/internal/knob"
)

// Default sizes of a store's worker pools.
const (
	DefaultMonitorWorkers  = 100
	DefaultSnapshotWorkers = 50
	DefaultReplicaWorkers  = 200
)

// DefaultPinnedDatabases is how many small databases stay pinned, with four
// descriptors and a connection each, while applications use them.
const DefaultPinnedDatabases = 1000

// A Store replicates many databases on bounded pools of workers: no goroutine,
// timer or connection belongs to one database alone. The exported fields are
// settings, which after Open only Reconfigure may change. Its methods are safe
// for concurrent use.
type Store struct {
	Levels                   CompactionLevels
	SnapshotInterval         time.Duration
	SnapshotRetention        time.Duration
	L0Retention              time.Duration // 0 keeps level 0 for ever
	L0RetentionCheckInterval time.Duration
	RetentionEnabled         bool
	ValidationInterval       time.Duration // between two checks that the files of each level join; 0: none
	VerifyCompaction         bool          // list each level after it was written, and check the same
	ShutdownSyncTimeout      time.Duration // per database; 0 is a single try
	ShutdownSyncInterval     time.Duration
	MaxStagedBytes           int64 // of all databases; 0 is no bound
	PinnedDatabases          int   // how many small ones in use stay pinned between two looks; 0 is no bound
	MonitorWorkers           int
	SnapshotWorkers          int
	ReplicaWorkers           int
	Connections              int // SQLite connections over databases found by pattern; 0 stands for the most there can be
	ConnectionDescriptors    int // files that those may hold open; 0 is no bound
	ConnectionIdleTimeout    time.Duration
	Dirs                     []*DirConfig // folders whose databases are replicated, too
	Metrics                  *Metrics     // nil counts nothing
	Logger                   *slog.Logger

	resources *SharedResourceManager
	sched     *scheduler
	cancel    context.CancelFunc
	// tasks is done when Close has no more time for the looks and uploads under
	// way, uploads when it has none for these.
	tasks, uploads         context.Context
	stopTasks, stopUploads context.CancelFunc
	wg                     sync.WaitGroup

	knobs   knob.Store
	outages outageLog // of the storages of all databases

	live atomic.Pointer[StoreSettings] // in force since prepare

	changing keyedLock // by path; who starts, stops or removes a database

	mu      sync.Mutex // guards what follows; never held across I/O
	dbs     map[string]*managedDB
	stopped map[string]*stoppedDB
	places  map[[32]byte]string // of the replicas of databases not found by pattern; nil: not known
	list    []*DB               // given to NewStore
	open    bool

	dirs *dirMonitor // nil before it is prepared
}

// managedDB is a database with what the store keeps of it.
type managedDB struct {
	db        *DB
	compactor *Compactor // nil without a replica
	tasks     [taskKinds]scheduled
	removed   bool         // guarded by the scheduler
	ready     bool         // connected with everything; guarded by the store
	tenant    tenantEvents // nil unless the database was found by pattern

	sync, upload, maintain, validate failures // each used by one task at a time
	problems                         string   // found by the last validation; used by that task
	moved                            int      // snapshots in a row that a change disturbed; used by that task
	// uploadFailing is set by the upload task; whoever stages a file reads it.
	uploadFailing atomic.Bool
	looking       atomic.Bool // a look runs
	held          atomic.Bool // the next look waits for an upload
	// lookedAt is when a look last succeeded, or when the database came to the
	// store, in nanoseconds since the epoch.
	lookedAt atomic.Int64

	life    sync.Mutex // orders the begin of a task and the end of all
	ended   context.Context
	endNow  context.CancelFunc
	running sync.WaitGroup // tasks
}

// failures spaces out what fails and how often that is logged.
type failures struct {
	delay backoff.Backoff
	log   backoff.Limiter
}

// maxRetryDelay bounds the pause between two attempts of anything.
const maxRetryDelay = 5 * time.Minute

// NewStore returns a store of databases with the default settings.
func NewStore(dbs []*DB, levels CompactionLevels) *Store {
	return &Store{
		Levels:                   levels,
		SnapshotInterval:         DefaultSnapshotInterval,
		SnapshotRetention:        DefaultSnapshotRetention,
		L0Retention:              DefaultL0Retention,
		L0RetentionCheckInterval: DefaultL0RetentionCheckInterval,
		RetentionEnabled:         true,
		ShutdownSyncTimeout:      DefaultShutdownSyncTimeout,
		ShutdownSyncInterval:     DefaultShutdownSyncInterval,
		MaxStagedBytes:           DefaultMaxStagedBytes,
		PinnedDatabases:          DefaultPinnedDatabases,
		MonitorWorkers:           DefaultMonitorWorkers,
		SnapshotWorkers:          DefaultSnapshotWorkers,
		ReplicaWorkers:           DefaultReplicaWorkers,
		Logger:                   slog.New(slog.DiscardHandler),
		list:                     dbs,
		dbs:                      make(map[string]*managedDB),
		stopped:                  make(map[string]*stoppedDB),
	}
}

// Open begins to replicate. A database that is missing or broken, or a replica
// that is away, is no error: they are tried again for as long as the store is
// open. The store runs until Close, whatever happens to ctx.
func (s *Store) Open(ctx context.Context) (err error) {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	dbs := make([]*managedDB, 0, len(s.dbs))
	for _, m := range s.dbs {
		dbs = append(dbs, m)
	}
	s.mu.Unlock()
	if s.ValidationInterval > 0 {
		s.Logger.Info("starting validation monitor", "interval", s.ValidationInterval)
	}
	for _, m := range dbs {
		s.start(m)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.wg.Go(func() { s.sched.loop(run) })
	s.dirs.open(ctx)
	return nil
}

// Prepare readies the store for SyncOnce without starting anything.
func (s *Store) prepare(ctx context.Context) error {
	if len(s.Levels) == 0 {
		s.Levels = DefaultCompactionLevels()
	}
	if err := s.Levels.Validate(); err != nil {
		return err
	}
	s.live.Store(s.fields())
	s.resources = NewSharedResourceManager(ResourceLimits{
		MonitorWorkers: s.MonitorWorkers, SnapshotWorkers: s.SnapshotWorkers, ReplicaWorkers: s.ReplicaWorkers,
		Connections: s.Connections, Descriptors: s.ConnectionDescriptors, ConnectionIdleTimeout: s.ConnectionIdleTimeout,
		MaxStagedBytes: s.MaxStagedBytes, PinnedDatabases: s.PinnedDatabases,
	})
	s.sched = newScheduler(s.submit)
	s.tasks, s.stopTasks = context.WithCancel(context.WithoutCancel(ctx))
	s.uploads, s.stopUploads = context.WithCancel(s.tasks)
	if err := s.manageAll(ctx, s.list); err != nil {
		return err
	}
	s.dirs = newDirMonitor(s)
	found, err := s.dirs.find(ctx)
	if err != nil {
		return err
	}
	if err := s.manageAll(ctx, found); err != nil {
		return err
	}
	s.mu.Lock()
	s.list = append(s.list, found...)
	s.open = true
	s.mu.Unlock()
	return nil
}

func (s *Store) manageAll(ctx context.Context, dbs []*DB) error {
	for _, db := range dbs {
		if _, err := s.manage(ctx, db); err != nil {
			return err
		}
	}
	return nil
}

// newManaged returns what the store keeps of a database, without any task.
func (s *Store) newManaged(db *DB) *managedDB {
	m := &managedDB{db: db}
	m.lookedAt.Store(time.Now().UnixNano())
	m.ended, m.endNow = context.WithCancel(s.tasks)
	for i := range m.tasks {
		m.tasks[i] = scheduled{m: m, kind: taskKind(i), index: -1}
	}
	minDelay := s.minRetryDelay(db)
	for _, f := range []*failures{&m.sync, &m.upload, &m.maintain, &m.validate} {
		f.delay = backoff.Backoff{Min: minDelay, Max: maxRetryDelay}
	}
	return m
}

// manage takes a database into the store.
func (s *Store) manage(ctx context.Context, db *DB) (*managedDB, error) {
	if err := db.Open(ctx); err != nil {
		return nil, fmt.Errorf("open database %s: %w", db.Path(), err)
	}
	m := s.newManaged(db)
	s.mu.Lock()
	_, dup := s.dbs[db.Path()]
	st := s.stopped[db.Path()]
	stopped := st != nil && st.next != db
	if !dup && !stopped {
		s.dbs[db.Path()], s.places = m, nil
	}
	s.mu.Unlock()
	if dup || stopped {
		m.endNow()
	}
	if dup {
		return nil, fmt.Errorf("database %s is replicated already", db.Path())
	} else if stopped {
		return nil, fmt.Errorf("database %s was stopped: start it, or unregister it first", db.Path())
	}
	db.metrics = s.Metrics.database(db.Path())
	if r := db.Replica; r != nil {
		m.compactor = s.newCompactor(db)
		r.onAdopted, r.l0Retention = m.compactor.Invalidate, func() time.Duration { return s.Settings().L0Retention }
		r.onUploaded = func(info *ltx.FileInfo) { s.uploaded(m, info) }
		if ps, ok := r.Client.(PermissionSetter); ok {
			ps.SetPermissions(db.permissions())
		}
		if oc, ok := r.Client.(ObservableClient); ok && s.Metrics != nil {
			oc.SetObserver(s.Metrics)
		}
	}
	s.share(m, s.resources.shared)
	s.mu.Lock()
	m.ready = true
	delete(s.stopped, db.Path()) // it is known all the time, the one way or the other
	s.mu.Unlock()
	return m, nil
}

// share connects a database with what all share.
func (s *Store) share(m *managedDB, shared *sharedState) {
	m.db.shared = shared
	m.db.stage.share(shared.staged)
	m.db.onStaged = func() { s.wantUpload(m) }
}

func (s *Store) newCompactor(db *DB) *Compactor {
	c := NewCompactor(db.Replica.Client, db.Logger)
	c.Path = db.Path()
	c.reconfigure(s.Settings())
	c.StagingDir = db.MetaPath()
	s.tuneCompactor(c)
	c.LocalFile = func(level int, minTXID, maxTXID ltx.TXID) (io.ReadCloser, error) {
		if level != 0 {
			return nil, os.ErrNotExist
		}
		return db.ltxDir().Open(minTXID, maxTXID)
	}
	c.DeleteLocal = func(level int, minTXID, maxTXID ltx.TXID) error {
		if level != 0 {
			return nil
		}
		return db.deleteLocal(maxTXID)
	}
	if s.VerifyCompaction {
		c.OnVerified = func(_ int, err error) { db.metrics.verified(err) }
	}
	c.OnL0Retention = func(st L0RetentionStats) { s.Metrics.l0Retention(filepath.Base(db.Path()), st) }
	return c
}

// start schedules the first tasks of a database: the storage is asked for its
// position, then the database is looked at. The phase spreads the databases.
func (s *Store) start(m *managedDB) {
	now := time.Now()
	if m.db.Replica != nil {
		s.sched.at(now, m, taskUpload)
		s.scheduleValidation(m)
	}
	if m.db.MonitorInterval > 0 {
		s.sched.at(now.Add(phase(m.db.Path(), m.db.MonitorInterval)), m, taskSync)
	}
}

// DBs returns the databases: those given to NewStore, until it is open.
func (s *Store) DBs() []*DB {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return slices.Clone(s.list)
	}
	a := make([]*DB, 0, len(s.dbs))
	for _, m := range s.dbs {
		a = append(a, m.db)
	}
	return a
}

// FindDB returns the database of a path, or nil.
func (s *Store) FindDB(path string) *DB {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.dbs[filepath.Clean(path)]; m != nil {
		return m.db
	}
	return nil
}

// Close stops replicating: every database is synced and uploaded once more, in
// parallel, each within ShutdownSyncTimeout and all within ctx. The error tells
// what was left behind. No goroutine of the store is left when it returns.
func (s *Store) Close(ctx context.Context) error {
	if s.dirs != nil {
		s.dirs.close()
	}
	s.mu.Lock()
	open := s.open
	s.open = false
	dbs := make([]*managedDB, 0, len(s.dbs))
	for _, m := range s.dbs {
		dbs = append(dbs, m)
	}
	s.mu.Unlock()
	if !open {
		return nil
	}
	if s.cancel != nil {
		s.cancel()
		s.wg.Wait()
	}
	// Maintenance that is under way is repeated some day.
	if err := s.resources.Snapshots.abandon(ctx); err != nil {
		s.Logger.Debug("maintenance was left for the next start", "error", err)
	}
	// An upload that hangs gets no more time than the last one.
	defer time.AfterFunc(s.Settings().ShutdownSyncTimeout, s.stopUploads).Stop()
	defer s.stopUploads()
	defer s.stopTasks()
	defer context.AfterFunc(ctx, s.stopTasks)()
	s.resources.shared.inodes.finish()
	closed := make([]bool, len(dbs))
	errs := make([]error, len(dbs))
	for i, m := range dbs {
		s.resources.Replicas.Submit(ReplicaTask{Key: closing{m}, Run: func(context.Context) {
			errs[i], closed[i] = s.shutdown(ctx, m), true
		}})
	}
	err := s.resources.Close(ctx)
	for i, m := range dbs {
		if !closed[i] { // ctx was done before its turn
			s.sched.remove(m)
			errs[i] = errors.Join(fmt.Errorf("last sync of %s was not tried: %w", m.db.Path(), context.Cause(ctx)), m.db.Close(ctx))
		}
	}
	return errors.Join(err, summarize(errs))
}

// closing is the key of the task that closes a database. It is not that of the
// uploads, behind one of which it would wait for as long as that hangs.
type closing struct{ m *managedDB }

// summarize joins the first few of many errors and counts the rest.
func summarize(errs []error) error {
	const shown = 5
	var out []error
	n := 0
	for _, err := range errs {
		if err == nil {
			continue
		}
		if n++; n <= shown {
			out = append(out, err)
		}
	}
	if n > shown {
		out = append(out, fmt.Errorf("and %d more databases", n-shown))
	}
	return errors.Join(out...)
}
