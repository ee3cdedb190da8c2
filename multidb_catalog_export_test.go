package litestream

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/catalog"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// CatalogState returns how many entries are to be written, and whether they are
// being written.
func (m *MultiDBManager) CatalogState() (dirty int, running bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.catalog.dirty, m.catalog.running
}

// FillTable loads a manager with databases of these paths that were replicated,
// in place of Open. CloseTable ends that.
func (m *MultiDBManager) FillTable(ctx context.Context, paths func(yield func(dir, name string) bool)) error {
	if err := m.store.Open(ctx); err != nil {
		return err
	}
	if err := m.prepare(ctx, bindTimeout); err != nil {
		return errors.Join(err, m.store.Close(ctx))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now().Unix()
	var failed error
	paths(func(dir, name string) bool {
		i, err := m.table.Add(dir, []byte(name))
		if err != nil {
			failed = err
			return false
		}
		s := m.table.At(i)
		size := 4096 * (3 + rng.Int64N(1<<uint(rng.IntN(14))))
		m.table.SetFingerprint(i, &sqlitefile.Fingerprint{Main: wal.Print{ID: wal.FileID{Ino: uint64(i) + 1}, Size: size, Mtime: 1}}, true)
		s.state, s.txid = TenantClean, ltx.TXID(1+rng.Int64N(1<<uint(rng.IntN(16))))
		s.syncedAt = unixSeconds(now - rng.Int64N(30*86400))
		m.catalog.at(i).earliest = s.syncedAt - unixSeconds(rng.Int64N(86400))
		m.catalog.setOwner(i, catalog.Owner{Mode: 0o640, UID: 1000 + uint32(i)%3, GID: 1000})
		m.catalog.touch(i)
		return true
	})
	return failed
}

// CloseTable releases what FillTable opened.
func (m *MultiDBManager) CloseTable(ctx context.Context) error {
	m.cancel()
	return errors.Join(m.store.Close(ctx), m.reg.Close(ctx, false))
}

// TouchAll makes every n-th entry of the catalog one to be written, with another
// position.
func (m *MultiDBManager) TouchAll(n uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, s := range m.table.All() {
		if i%n == 0 {
			s.txid++
			s.syncedAt = secondsOf(m.now())
			m.catalog.touch(i)
		}
	}
}

// WriteCatalog brings the catalog up to date, and returns how many requests and
// bytes that took.
func (m *MultiDBManager) WriteCatalog(ctx context.Context) (requests int, bytes int64, err error) {
	n, err := m.catalogUpdate(ctx)
	return n.gets + n.puts + n.deletes, n.bytes, err
}

// ForgetCatalog lets the next write read what lies there, as a new process does.
func (m *MultiDBManager) ForgetCatalog() { m.catalog.w.head = nil }

// SetProven notes when a database was proven.
func (m *MultiDBManager) SetProven(path string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, ok := m.table.FindPath(path); ok {
		m.catalog.at(i).proven = secondsOf(at)
		m.catalog.touch(i)
	}
}
