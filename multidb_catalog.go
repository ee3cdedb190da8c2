package litestream

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
	"github.com/benbjohnson/litestream/internal/catalog"
)

const (
	// catalogInterval is the least time between two writes of the catalog.
	catalogInterval = time.Minute
	// maxCatalogPause is the longest pause after writes that failed.
	maxCatalogPause = 15 * time.Minute
	// catalogGrace is how long objects are kept that no head names any more, for
	// those who read by an older one.
	catalogGrace = 10 * time.Minute
	// catalogTimeout bounds one write, and catalogStopTimeout the last one.
	catalogTimeout     = 10 * time.Minute
	catalogStopTimeout = 10 * time.Second
)

// Where the entry of a database stands, beside the layers that this process
// wrote over the base, which count from markBase+1.
const (
	markNone  = 0   // nowhere: there is none
	markBase  = 1   // in the base, or in what was found at the start
	markDirty = 255 // it has to be written
)

// catalogRecord is what the writer of the catalog knows of a database beside
// its record. There are 100,000 of them.
type catalogRecord struct {
	earliest unixSeconds // oldest restorable time
	proven   unixSeconds // by a drill
	owner    uint16      // number in owners, plus one; 0: not known
	mark     uint8
}

// fleetCatalog writes the catalog of a fleet (docs/formats/catalog.md). A write
// happens when something changed, and needs no memory for each database but a
// catalogRecord. Its fields are guarded by the manager's lock, but for those of
// the write that runs.
type fleetCatalog struct {
	records slab[catalogRecord]
	// removed are the databases whose replicas were deleted, and where that
	// stands.
	removed map[string]uint8
	owners  []catalog.Owner
	ownerNo map[catalog.Owner]uint16

	epoch   string
	dirty   int  // entries with markDirty
	stale   bool // what lies there may be another one, although nothing is dirty
	reload  bool // it holds what nobody else knows any more, and is read before it is replaced
	running bool
	off     bool      // none is written
	dueAt   time.Time // no write before
	delay   backoff.Backoff
	log     backoff.Limiter
	every   time.Duration

	w catalogWriter
}

// newFleetCatalog returns the writer of a configuration's catalog. It is off
// where the replica keeps no objects.
func newFleetCatalog(cfg *MultiDBConfig, root ReplicaClient, every time.Duration) *fleetCatalog {
	if every <= 0 {
		every = catalogInterval
	}
	folder, template := splitTemplate(cfg.ReplicaPath)
	c := &fleetCatalog{
		removed: make(map[string]uint8), ownerNo: make(map[catalog.Owner]uint16), every: every,
		delay: backoff.Backoff{Min: every, Max: max(every, maxCatalogPause)},
	}
	c.w = catalogWriter{id: catalogID(template, cfg.Hostname), folder: folder, template: template, host: cfg.Hostname, process: randomID()}
	oc, ok := root.(ObjectClient)
	c.off = !ok
	c.w.objects = oc
	return c
}

// splitTemplate cuts the template of replica paths behind the folder that all
// replicas lie in.
func splitTemplate(template string) (folder, rest string) {
	literal, _, _ := strings.Cut(template, "{{")
	n := strings.LastIndexByte(literal, '/') + 1
	return template[:n], template[n:]
}

// catalogID tells the catalogs of one folder apart: those of hosts that
// replicate to places of their own in it.
func catalogID(template, hostname string) string {
	if !strings.Contains(template, "{{"+variableHostname+"}}") {
		hostname = ""
	}
	sum := sha256.Sum256([]byte(template + "\x00" + hostname))
	return hex.EncodeToString(sum[:8])
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// at returns the record of a database.
func (c *fleetCatalog) at(i uint32) *catalogRecord {
	c.records.make(i)
	return c.records.at(i)
}

// touchCatalogLocked makes a database's entry one to be written, if it has been
// replicated.
func (m *MultiDBManager) touchCatalogLocked(i uint32, s *DBState) {
	if s.txid > 0 {
		m.catalog.touch(i)
	}
}

// touch makes a database's entry one to be written.
func (c *fleetCatalog) touch(i uint32) {
	if r := c.at(i); r.mark != markDirty {
		r.mark = markDirty
		c.dirty++
	}
}

// found takes note of a database that was replicated by an earlier process,
// which wrote the catalog, too.
func (c *fleetCatalog) found(i uint32, f *tenantFiles) {
	*c.at(i) = catalogRecord{earliest: f.earliest(), mark: markBase}
}

// noteFiles takes note of what is known of a database's files.
func (c *fleetCatalog) noteFiles(i uint32, f *tenantFiles) {
	r, at := c.at(i), f.earliest()
	if at == 0 || r.earliest == at || r.earliest != 0 && f.first {
		return // what could be restored can be, as long as the first file is there
	}
	r.earliest = at
	if r.mark != markNone {
		c.touch(i)
	}
}

// remove takes note that the replica of a database was deleted.
func (c *fleetCatalog) remove(i uint32, path string) {
	c.drop(i)
	if c.removed[path] != markDirty {
		c.dirty++
	}
	c.removed[path] = markDirty
}

// forget drops the record of a database whose replica stays.
func (c *fleetCatalog) forget(i uint32) {
	c.reload = c.reload || c.at(i).mark != markNone
	c.drop(i)
}

// drop drops the record of a database of which nothing lies on the replica.
func (c *fleetCatalog) drop(i uint32) {
	r := c.at(i)
	if r.mark == markDirty {
		c.dirty--
	}
	*r = catalogRecord{}
}

// setOwner takes note of a file's owner, as long as there are not too many.
func (c *fleetCatalog) setOwner(i uint32, o catalog.Owner) {
	n, ok := c.ownerNo[o]
	if !ok {
		if len(c.owners) == 1<<16-1 {
			return
		}
		c.owners = append(c.owners, o)
		n = uint16(len(c.owners))
		c.ownerNo[o] = n
	}
	c.at(i).owner = n
}

// earliest returns the oldest time that is surely restorable, 0 if that is not
// known.
func (f *tenantFiles) earliest() unixSeconds {
	switch {
	case f.snapshots > 0:
		return unixSeconds(max(f.oldestAt, 0))
	case f.first:
		return unixSeconds(max(f.base.at, 0))
	default:
		return 0
	}
}

// catalogDue starts a write if one is due.
func (m *MultiDBManager) catalogDue() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.catalogWantedLocked() || m.now().Before(m.catalog.dueAt) {
		return
	}
	m.startCatalogLocked(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, catalogTimeout)
		defer cancel()
		m.writeCatalog(ctx)
	})
}

// catalogWantedLocked reports whether there is something to write, and nobody
// does yet.
func (m *MultiDBManager) catalogWantedLocked() bool {
	c := m.catalog
	return m.bound && !c.off && !c.running && c.epoch != "" && (c.dirty > 0 || c.stale)
}

func (m *MultiDBManager) startCatalogLocked(run func(context.Context)) bool {
	m.catalog.running = m.store.resources.Snapshots.Submit(SnapshotTask{Key: m.catalog, Kind: "catalog", Run: run})
	return m.catalog.running
}

// writeCatalog writes what changed.
func (m *MultiDBManager) writeCatalog(ctx context.Context) {
	n, err := m.catalogUpdate(ctx)
	now := m.now()
	m.mu.Lock()
	c := m.catalog
	c.running = false
	c.dueAt = now.Add(c.every)
	switch {
	case err == nil:
		c.delay.Reset()
	case errors.Is(err, catalog.ErrVersion):
		c.off = true
	case errors.Is(err, errCatalogRival):
		c.dueAt = now.Add(max(c.every, maxCatalogPause))
	default:
		c.dueAt = now.Add(max(c.every, c.delay.Next()))
	}
	say := err != nil && ctx.Err() == nil && !m.store.outages.failed(catalogFailer, err, m.logger) && c.log.Allow(err)
	if err == nil {
		m.store.outages.succeeded(catalogFailer, m.logger)
	}
	m.mu.Unlock()
	m.metrics.catalogWritten(n, now, err)
	switch {
	case errors.Is(err, catalog.ErrVersion):
		m.logger.Error("the catalog on the replica is of a newer version: it is not written by this one", "error", err)
	case errors.Is(err, errCatalogRival): // was said
	case say:
		m.logger.Warn("write catalog: it is tried again; replication goes on", "error", err)
	}
}

// catalogFile says, in the state directory, that nothing of the catalog was left
// to be written when the process ended. It holds of which replica.
const catalogFile = "catalog"

// checkCatalog finds out whether the catalog has to be compared with what is
// known. It is called at the start, and when the replica
// is reached for the first time.
func (m *MultiDBManager) checkCatalog() {
	m.loadRemovals()
	clean := m.reg.Info().Clean
	b, err := os.ReadFile(filepath.Join(m.cfg().StateDir, catalogFile))
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.catalog
	c.stale = err != nil || !clean || string(b) != c.token()
}

// token is what the file in the state directory holds.
func (c *fleetCatalog) token() string { return c.w.id + " " + c.epoch + "\n" }

// closeCatalog writes what is left, at the end.
func (m *MultiDBManager) closeCatalog(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, catalogStopTimeout)
	defer cancel()
	for m.awaitCatalog(ctx) {
	}
	m.mu.Lock()
	c := m.catalog
	whole := m.bound && !c.off && !c.running && c.dirty == 0 && !c.stale
	token := c.token()
	m.mu.Unlock()
	file := filepath.Join(m.cfg().StateDir, catalogFile)
	if !whole {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.logger.Warn("the catalog may be taken for a newer one than it is", "error", err)
		}
		return
	}
	if old, err := os.ReadFile(file); err == nil && string(old) == token {
		return
	}
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		m.logger.Warn("the catalog is compared at the next start", "error", err)
	}
}

// awaitCatalog waits for a write, and starts one if there is something left. It
// is false if there is not, or that write failed.
func (m *MultiDBManager) awaitCatalog(ctx context.Context) (again bool) {
	done := make(chan struct{})
	failed := false
	m.mu.Lock()
	if m.catalog.running {
		// Tasks with one key run one after the other.
		again = m.store.resources.Snapshots.Submit(SnapshotTask{Key: m.catalog, Kind: "catalog end", Run: func(context.Context) { close(done) }})
	} else if ctx.Err() == nil && m.catalogWantedLocked() {
		again = m.startCatalogLocked(func(task context.Context) {
			defer close(done)
			task, cancel := context.WithCancel(task)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			m.writeCatalog(task)
			m.mu.Lock()
			failed = m.catalog.delay.Failing() || m.catalog.off || m.catalog.dirty > 0
			m.mu.Unlock()
		})
	}
	m.mu.Unlock()
	if !again {
		return false
	}
	select {
	case <-done:
		return !failed
	case <-ctx.Done():
		return false
	}
}
