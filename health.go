package litestream

import (
	"errors"
	"fmt"
	"time"
)

// CheckHealth returns nil if there is a database, and nothing of any waits for
// its replication for longer than maxAge. Else the error names a database and
// what it waits for. It makes no request and waits for nobody.
func (s *Store) CheckHealth(maxAge time.Duration) error {
	dbs := s.listed()
	if len(dbs) == 0 {
		return errNoDatabases
	}
	return checkHealth(dbs, maxAge)
}

var errNoDatabases = errors.New("there is no database")

// listed returns the databases that were not found by pattern.
func (s *Store) listed() []*managedDB {
	s.mu.Lock()
	defer s.mu.Unlock()
	var a []*managedDB
	for _, m := range s.dbs {
		if m.tenant == nil {
			a = append(a, m)
		}
	}
	return a
}

func checkHealth(dbs []*managedDB, maxAge time.Duration) error {
	var first error
	n := 0
	for _, m := range dbs {
		if err := m.health(maxAge); err != nil {
			if n++; first == nil {
				first = err
			}
		}
	}
	if n > 1 {
		return fmt.Errorf("%w, and %d more databases", first, n-1)
	}
	return first
}

// health returns why a database does not count as replicated.
func (m *managedDB) health(maxAge time.Duration) error {
	now, r := time.Now(), m.db.Replica
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w", m.db.Path(), fmt.Errorf(format, args...))
	}
	st := m.db.Status()
	switch {
	case r == nil:
		return fail("it has no replica")
	case st.State == SyncStateMissing:
		return fail("its file is missing")
	case !r.knows():
		return fail("its replica has not answered yet")
	}
	if at := m.db.stage.oldest(); !at.IsZero() && now.Sub(at) > maxAge {
		return fail("a change waits for its upload since %s", at.UTC().Format(time.RFC3339))
	}
	if m.db.MonitorInterval <= 0 {
		return nil // it is looked at when somebody asks for it
	}
	at := time.Unix(0, m.lookedAt.Load())
	if now.Sub(at) <= max(maxAge, 2*m.db.MonitorInterval) {
		return nil
	}
	if st.Err != nil {
		return fail("no look succeeded since %s: %w", at.UTC().Format(time.RFC3339), st.Err)
	}
	return fail("it was not looked at since %s", at.UTC().Format(time.RFC3339))
}

// CheckHealth returns nil if there is a database, listed or found by pattern,
// and nothing of any waits for its replication for longer than maxAge. One that
// failed counts with its change. It makes no request and waits for nobody.
func (m *MultiDBManager) CheckHealth(maxAge time.Duration) error {
	dbs := m.store.listed()
	if err := checkHealth(dbs, maxAge); err != nil {
		return err
	}
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.bound:
		return errors.New("the replica of multi-db could not be reached yet")
	case now.Sub(m.scans.last) > max(maxAge, 2*m.cfg().ScanInterval):
		return fmt.Errorf("no scan ended since %s", m.scans.last.UTC().Format(time.RFC3339))
	}
	horizon := secondsOf(now.Add(-maxAge))
	var oldest uint32
	var at unixSeconds
	n, present := 0, len(dbs)
	for i, s := range m.table.All() {
		if s.state == TenantGone {
			continue
		}
		present++
		if s.changedAt == 0 || s.changedAt >= horizon {
			continue
		}
		if n++; at == 0 || s.changedAt < at {
			oldest, at = i, s.changedAt
		}
	}
	switch {
	case present == 0:
		return errNoDatabases
	case n == 0:
		return nil
	}
	err := fmt.Errorf("%d databases are not replicated for longer than %s, %s since %s",
		n, maxAge, m.table.Path(oldest), at.Time().Format(time.RFC3339))
	if reason := m.reasonLocked(oldest, m.table.At(oldest)); reason != nil {
		err = fmt.Errorf("%w: %w", err, reason)
	}
	return err
}
