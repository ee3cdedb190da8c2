package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/superfly/ltx"
)

// AddDB begins to replicate one more database while the store is open.
func (s *Store) AddDB(ctx context.Context, db *DB) error {
	if !s.isOpen() {
		return fmt.Errorf("add database %s: store: %w", db.Path(), os.ErrClosed)
	}
	m, err := s.manage(ctx, db)
	if err != nil {
		return err
	}
	s.start(m)
	return nil
}

// RemoveDB syncs a database a last time and stops replicating it. Its replica
// stays. The database is let go whatever the error says of the last sync. One
// that the store does not have is os.ErrNotExist.
func (s *Store) RemoveDB(ctx context.Context, path string) error {
	_, err := s.UnregisterDB(ctx, path)
	if errors.Is(err, ErrDatabaseNotFound) {
		return fmt.Errorf("remove database %s: %w", path, os.ErrNotExist)
	}
	return err
}

// removeLater is RemoveDB for who cannot wait: the last sync is a task like
// every upload. done is called once, with how it ended.
func (s *Store) removeLater(path string, done func(error)) {
	s.resources.Replicas.Submit(ReplicaTask{Key: removing(path), Run: func(ctx context.Context) { done(s.RemoveDB(ctx, path)) }})
}

// removing is the key of the task that removes a database.
type removing string

func (s *Store) isOpen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// tenantEvents is told how the tasks of a database that was found by pattern
// end. The calls of one database may overlap.
type tenantEvents interface {
	// synced follows a look, uploaded an attempt to send what is staged.
	synced(err error)
	uploaded(err error)
	// holds reports whether a look that is due has to wait for what is staged.
	holds() bool
}

// addTenant takes a database found by pattern into the store, without any task.
func (s *Store) addTenant(db *DB, shared *sharedState, events tenantEvents) (*managedDB, error) {
	m := s.newManaged(db)
	m.tenant = events
	s.mu.Lock()
	other := s.dbs[db.Path()]
	open := s.open
	if other == nil && open {
		s.dbs[db.Path()] = m
	}
	s.mu.Unlock()
	if other != nil || !open {
		m.endNow()
	}
	switch {
	case !open:
		return nil, fmt.Errorf("add database %s: store: %w", db.Path(), os.ErrClosed)
	case other != nil:
		return nil, fmt.Errorf("database %s is replicated already", db.Path())
	}
	s.share(m, shared)
	return m, nil
}

// placeOwner returns the database, of those that were not found by pattern,
// whose replica lies where a client's does. Of a client that does not tell its
// place nothing is known.
func (s *Store) placeOwner(c ReplicaClient) (path string, ok bool) {
	places := s.namedPlaces()
	if _, located := c.(Locator); !located || len(places) == 0 {
		return "", false
	}
	path, ok = places[ReplicaIdentity(c)]
	return path, ok
}

// namedPlaces returns the databases that were not found by pattern, by the
// places of their replicas. It is not to be changed.
func (s *Store) namedPlaces() map[[32]byte]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.places != nil {
		return s.places
	}
	s.places = make(map[[32]byte]string)
	for _, m := range s.dbs {
		if m.tenant == nil {
			s.notePlaceLocked(m.db)
		}
	}
	for _, st := range s.stopped {
		s.notePlaceLocked(st.next)
	}
	return s.places
}

func (s *Store) notePlaceLocked(db *DB) {
	if place, ok := placeOf(db); ok {
		s.places[place] = db.Path()
	}
}

// dropTenant ends all tasks of a database found by pattern, without waiting for
// those that run: an upload that hangs must not keep a worker for a database
// that was let go.
func (s *Store) dropTenant(m *managedDB) {
	s.sched.remove(m)
	m.endNow()
	s.mu.Lock()
	if s.dbs[m.db.Path()] == m {
		delete(s.dbs, m.db.Path())
	}
	s.mu.Unlock()
}

// look schedules a look at a database at once, and with it the ones to come.
func (s *Store) look(m *managedDB) { s.sched.at(time.Now(), m, taskSync) }

// contact schedules the first contact with the storage; a look follows it.
func (s *Store) contact(m *managedDB) { s.sched.at(time.Now(), m, taskUpload) }

// snapshotTenant writes a snapshot of a database found by pattern, whose
// position it waits for, and returns it.
func (s *Store) snapshotTenant(ctx context.Context, m *managedDB) (info *ltx.FileInfo, err error) {
	if m.db.Replica.awaited() {
		if err := m.db.Replica.Sync(ctx); err != nil {
			return nil, err
		}
	}
	for try := 1; ; try++ {
		err = s.writeSnapshot(ctx, m, func(txid ltx.TXID, r io.Reader) error {
			info, err = m.db.Replica.Client.WriteLTXFile(ctx, SnapshotLevel, 1, txid, r)
			return err
		})
		// What disturbed it counts: the next try holds the database still by
		// other means.
		if !errors.Is(err, errViewMoved) || try > movedTooOften || wait(ctx, snapshotPause) != nil {
			return info, err
		}
	}
}

// snapshotPause is the pause after a snapshot that a change disturbed.
const snapshotPause = 100 * time.Millisecond
