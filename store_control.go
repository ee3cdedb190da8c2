package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// Errors of what is asked for a database by its path.
var (
	// ErrDatabaseNotFound means that nothing replicates the path.
	ErrDatabaseNotFound = errors.New("database not found")

	// ErrDatabaseExists means that a database has just this replica already.
	ErrDatabaseExists = errors.New("database is replicated there already")

	// ErrDatabaseNotOpen means that replication of the database was stopped.
	ErrDatabaseNotOpen = errors.New("database not open")
)

// errNoPosition is upstream's word for a database that has no data yet.
var errNoPosition = errors.New("replica sync: no position, waiting for data")

// SyncResult is what a sync on demand did.
type SyncResult struct {
	Before ltx.TXID // captured before
	TXID   ltx.TXID // captured now
	Acked  ltx.TXID // newest that the replica acknowledged
}

// DBInfo is what a store says of one database.
type DBInfo struct {
	Path       string
	Stopped    bool // by StopDB, until StartDB
	Replicated bool // it has a replica
	Active     bool // somebody works on it now
	LastSync   time.Time
	Status     DBStatus
}

// stoppedDB is a database between StopDB and StartDB.
type stoppedDB struct {
	next *DB // with the same settings, not opened yet
	info DBInfo
}

// keyedLock lets one caller at a time work on a path. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex // guards held
	held map[string]chan struct{}
}

// lock waits for a path until ctx is done.
func (l *keyedLock) lock(ctx context.Context, path string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		other, busy := l.held[path]
		if !busy {
			if l.held == nil {
				l.held = make(map[string]chan struct{})
			}
			mine := make(chan struct{})
			l.held[path] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, path)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another request about %s: %w", path, context.Cause(ctx))
		}
	}
}

// find returns what the store keeps of a database of its own: one that was
// found by pattern is the fleet's.
func (s *Store) find(path string) (*managedDB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m, stopped := s.dbs[path], s.stopped[path]; {
	case m != nil && m.tenant == nil && m.ready:
		return m, nil
	case stopped != nil:
		return nil, fmt.Errorf("%w: %s", ErrDatabaseNotOpen, path)
	default:
		return nil, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
}

// DBInfo returns what is known of a database without any I/O. The error is
// ErrDatabaseNotFound.
func (s *Store) DBInfo(path string) (DBInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m, stopped := s.dbs[path], s.stopped[path]; {
	case stopped != nil:
		return stopped.info, nil
	case m != nil && m.tenant == nil:
		return m.info(), nil
	default:
		return DBInfo{}, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
}

// DBInfos returns what is known of the databases of the store, sorted by path,
// without those that were found by pattern.
func (s *Store) DBInfos() []DBInfo {
	s.mu.Lock()
	running := make([]*managedDB, 0, len(s.dbs))
	for _, m := range s.dbs {
		if m.tenant == nil && m.ready {
			running = append(running, m)
		}
	}
	a := make([]DBInfo, 0, len(running)+len(s.stopped))
	for _, st := range s.stopped {
		a = append(a, st.info)
	}
	s.mu.Unlock()
	for _, m := range running {
		a = append(a, m.info())
	}
	slices.SortFunc(a, func(a, b DBInfo) int { return strings.Compare(a.Path, b.Path) })
	return a
}

func (m *managedDB) info() DBInfo {
	db := m.db
	i := DBInfo{Path: db.Path(), Replicated: db.Replica != nil, Active: len(db.exec) > 0, Status: db.Status()}
	if db.Replica != nil {
		i.LastSync = db.Replica.LastSyncAt()
	}
	return i
}

// SyncDB captures what was committed to a database before the call and, with
// wait, returns when its replica holds that.
func (s *Store) SyncDB(ctx context.Context, path string, wait bool) (SyncResult, error) {
	m, err := s.find(filepath.Clean(path))
	if err != nil {
		return SyncResult{}, err
	}
	return syncNow(ctx, m.db, wait)
}

// syncNow captures what was committed to an open database before the call and,
// with wait, brings it to its replica.
func syncNow(ctx context.Context, db *DB, wait bool) (res SyncResult, err error) {
	res.Before = db.Status().TXID
	defer func() {
		st := db.Status()
		res.TXID, res.Acked = st.TXID, st.Acked
	}()
	r := db.Replica
	for {
		err = db.SyncFully(ctx)
		if errors.Is(err, errAwaitReplica) && r != nil {
			// The storage says which position the first capture follows.
			if err = r.Sync(ctx); err == nil {
				continue
			}
		}
		if errors.Is(err, os.ErrClosed) && db.Status().State == SyncStateClosed {
			return res, fmt.Errorf("%w: %s was stopped meanwhile", ErrDatabaseNotOpen, db.path)
		}
		suspended := errors.Is(err, errSuspended)
		if !wait || r == nil || err != nil && !suspended {
			return res, err
		}
		if err := r.Sync(ctx); err != nil {
			return res, err
		}
		if n, _ := db.stage.pending(); n == 0 && !suspended {
			break
		}
		if err := ctx.Err(); err != nil {
			return res, context.Cause(ctx)
		}
	}
	if st := db.Status(); st.TXID == 0 || st.State == SyncStateMissing {
		return res, fmt.Errorf("%w: %s is %s", errNoPosition, db.path, st.State)
	}
	return res, nil
}

// StopDB syncs a database a last time, within ShutdownSyncTimeout and ctx, and
// stops replicating it until StartDB or the end of the process. The database is
// stopped whatever the error says of the last sync. Local work on it that is
// under way is waited for, also beyond ctx. changed is false if it was stopped
// already.
func (s *Store) StopDB(ctx context.Context, path string) (info DBInfo, changed bool, err error) {
	path = filepath.Clean(path)
	unlock, err := s.changing.lock(ctx, path)
	if err != nil {
		return DBInfo{}, false, err
	}
	defer unlock()
	m, err := s.find(path)
	if errors.Is(err, ErrDatabaseNotOpen) {
		info, err = s.DBInfo(path)
		return info, false, err
	} else if err != nil {
		return DBInfo{}, false, err
	}
	s.mu.Lock()
	if s.dbs[path] != m {
		s.mu.Unlock()
		return DBInfo{}, false, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
	delete(s.dbs, path)
	st := &stoppedDB{next: m.db.renew(), info: m.info()}
	st.info.Stopped = true
	s.stopped[path] = st
	s.mu.Unlock()
	err = s.end(ctx, m)
	last := m.info()
	s.mu.Lock()
	st.info.Status, st.info.LastSync = last.Status, last.LastSync
	info = st.info
	s.mu.Unlock()
	return info, true, err
}

// StartDB begins to replicate a database that StopDB stopped. changed is false
// if it was not.
func (s *Store) StartDB(ctx context.Context, path string) (info DBInfo, changed bool, err error) {
	path = filepath.Clean(path)
	unlock, err := s.changing.lock(ctx, path)
	if err != nil {
		return DBInfo{}, false, err
	}
	defer unlock()
	info, err = s.DBInfo(path)
	if err != nil || !info.Stopped {
		return info, false, err
	}
	if !s.isOpen() {
		return DBInfo{}, false, fmt.Errorf("start database %s: store: %w", path, os.ErrClosed)
	}
	s.mu.Lock()
	st := s.stopped[path]
	s.mu.Unlock()
	st.next.presume(info.Status.TXID)
	m, err := s.manage(ctx, st.next)
	if err != nil {
		return DBInfo{}, false, err
	}
	s.start(m)
	info.Stopped = false
	return info, true, nil
}

// end syncs a database a last time, ends all its tasks and closes it. Another
// DB of the same file may be opened afterwards.
func (s *Store) end(ctx context.Context, m *managedDB) error {
	s.sched.remove(m)
	err := s.finalSync(ctx, m)
	m.endTasks()
	s.outages.forgetDB(m)
	return errors.Join(err, m.db.Close(context.WithoutCancel(ctx)))
}

// beginTask notes that a task of a database runs; ok is false if the database
// has ended already. A look or an upload is one of thousands a second: its
// context is the database's own. Maintenance ends with its pool, too, which the
// store leaves alone where it closes.
func (m *managedDB) beginTask(ctx context.Context, kind taskKind) (_ context.Context, done func(), ok bool) {
	m.life.Lock()
	defer m.life.Unlock()
	if m.ended.Err() != nil {
		return ctx, nil, false
	}
	m.running.Add(1)
	if kind == taskSync || kind == taskUpload {
		return m.ended, m.running.Done, true
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(m.ended, cancel)
	return ctx, func() { stop(); cancel(); m.running.Done() }, true
}

// endTasks ends the tasks of a database that run and keeps others from
// beginning.
func (m *managedDB) endTasks() {
	m.life.Lock()
	m.endNow()
	m.life.Unlock()
	m.running.Wait()
}

// renew returns a database with the same settings and replica that was not
// opened yet.
func (db *DB) renew() *DB {
	n := NewDB(db.path)
	n.MonitorInterval, n.CheckpointInterval = db.MonitorInterval, db.CheckpointInterval
	n.MinCheckpointPageN, n.TruncatePageN = db.MinCheckpointPageN, db.TruncatePageN
	n.BusyTimeout, n.MaxSyncWALBytes = db.BusyTimeout, db.MaxSyncWALBytes
	n.Checksums, n.AllowNetworkFS, n.Logger = db.Checksums, db.AllowNetworkFS, db.Logger
	n.metaPath, n.knobs = db.metaPath, db.knobs
	if r := db.Replica; r != nil {
		n.Replica = NewReplicaWithClient(n, r.Client)
		n.Replica.SyncInterval, n.Replica.MaxSyncLTXFiles, n.Replica.Logger = r.SyncInterval, r.MaxSyncLTXFiles, r.Logger
		n.Replica.L0Retention, n.Replica.l0Retention = r.L0Retention, r.l0Retention
	}
	return n
}

// presume says which position a database has that was not looked at yet.
func (db *DB) presume(txid ltx.TXID) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.status.TXID = txid
}

// RegisterDB begins to replicate one more database, until the process ends or
// UnregisterDB. One whose file another path of the store leads to, or whose
// replica another database has, is an error that names that one. One that the
// store has already with that replica is ErrDatabaseExists.
func (s *Store) RegisterDB(ctx context.Context, db *DB) error {
	// One at a time, so that two of them do not get the same replica.
	unlock, err := s.changing.lock(ctx, "")
	if err != nil {
		return err
	}
	defer unlock()
	own, err := sqlitefile.Stat(db.Path())
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may come into being later
		return err
	}
	dest := db.Replica.Identity()
	for _, other := range s.all() {
		if other.Path() == db.Path() {
			return registeredAlready(db, other)
		}
		if other.Replica != nil && other.Replica.Identity() == dest {
			return fmt.Errorf("replica %s belongs to database %s: two databases in one replica would overwrite each other", db.Replica.Location(), other.Path())
		}
		if p, err := sqlitefile.Stat(other.Path()); err == nil && p.ID == own.ID {
			return fmt.Errorf("%s %w", db.Path(), secondPath(other.Path()))
		}
	}
	return s.AddDB(ctx, db)
}

// registeredAlready returns why a database cannot be registered that the store
// has.
func registeredAlready(db, have *DB) error {
	if have.Replica == nil {
		return fmt.Errorf("%s is open without a replica already: unregister it first", db.Path())
	} else if have.Replica.Identity() != db.Replica.Identity() {
		return fmt.Errorf("%s is replicated to %s already: unregister it first, to replicate it to %s", db.Path(), have.Replica.Location(), db.Replica.Location())
	}
	return fmt.Errorf("%w: %s", ErrDatabaseExists, db.Path())
}

// all returns the databases of the store and those that were stopped.
func (s *Store) all() []*DB {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := make([]*DB, 0, len(s.dbs)+len(s.stopped))
	for _, m := range s.dbs {
		a = append(a, m.db)
	}
	for _, st := range s.stopped {
		a = append(a, st.next)
	}
	return a
}

// FindReplica returns the replica of a database, whether it is stopped or not,
// or nil.
func (s *Store) FindReplica(path string) *Replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.dbs[path]; m != nil && m.tenant == nil {
		return m.db.Replica
	} else if st := s.stopped[path]; st != nil {
		return st.next.Replica
	}
	return nil
}

// UnregisterDB is StopDB for good. The replica stays. One that the store does
// not have is ErrDatabaseNotFound.
func (s *Store) UnregisterDB(ctx context.Context, path string) (DBInfo, error) {
	path = filepath.Clean(path)
	info, _, err := s.StopDB(ctx, path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.stopped[path]; st != nil {
		delete(s.stopped, path)
		info, s.places = st.info, nil
	}
	return info, err
}

// SyncAllResult is what a sync of many databases did.
type SyncAllResult struct {
	Databases int // that had to be looked at
	Synced    int
	Failed    int
	Left      int     // not done when the time was up
	Errors    []error // the first few of those that failed; each names its database
}

// syncAllWorkers is how many databases are synced at a time on demand.
const syncAllWorkers = 32

// maxSyncAllErrors is how many failures are kept of a sync of many databases.
const maxSyncAllErrors = 10

// SyncAll is SyncDB for every database that is not stopped. One that fails
// keeps no other from being synced. When ctx is done the rest is left.
func (s *Store) SyncAll(ctx context.Context, wait bool) SyncAllResult {
	var paths []string
	for _, i := range s.DBInfos() {
		if !i.Stopped {
			paths = append(paths, i.Path)
		}
	}
	return syncEach(ctx, paths, func(ctx context.Context, path string) error {
		_, err := s.SyncDB(ctx, path, wait)
		if err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
		if errors.Is(err, errNoPosition) || errors.Is(err, ErrDatabaseNotFound) || errors.Is(err, ErrDatabaseNotOpen) {
			return nil // there is nothing to bring anywhere
		}
		return err
	})
}

// together calls functions at the same time.
func together(fns ...func()) {
	var wg sync.WaitGroup
	for _, fn := range fns {
		wg.Go(fn)
	}
	wg.Wait()
}

// syncEach syncs many databases, several at a time.
func syncEach[T any](ctx context.Context, list []T, sync1 func(context.Context, T) error) SyncAllResult {
	res := SyncAllResult{Databases: len(list)}
	var (
		mu   sync.Mutex // guards res and next
		next int
		wg   sync.WaitGroup
	)
	take := func() (i int, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(list) || ctx.Err() != nil {
			return 0, false
		}
		next++
		return next - 1, true
	}
	for range min(syncAllWorkers, len(list)) {
		wg.Go(func() {
			for i, ok := take(); ok; i, ok = take() {
				err := sync1(ctx, list[i])
				mu.Lock()
				switch {
				case err == nil:
					res.Synced++
				case ctx.Err() != nil:
					res.Left++
				default:
					res.Failed++
				}
				if err != nil && len(res.Errors) < maxSyncAllErrors {
					res.Errors = append(res.Errors, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	res.Left += len(list) - next
	return res
}
