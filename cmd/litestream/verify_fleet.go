package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/registry"
)

// verifyFleet finds the databases of multi-db and what is known of them: the
// catalog and a listing of the replica, and the registry of this host.
type verifyFleet struct {
	cfg    *Config
	logger *slog.Logger
	source string
	sums   bool // page ledgers are compared

	opened  time.Time // when the catalog was read; zero: there is none
	stopped bool      // the daemon of this host stopped in an orderly way
}

// tenantKnowledge is what is known of one database.
type tenantKnowledge struct {
	path    string
	catalog *litestream.CatalogEntry
	record  *registry.Record
	replica string // of one that no path is known of
}

// one returns the target for one path.
func (f *verifyFleet) one(ctx context.Context, dbPath string) (verifyTarget, error) {
	k := &tenantKnowledge{path: dbPath}
	cat, err := f.openCatalog(ctx, true)
	if err != nil {
		return verifyTarget{}, err
	}
	if cat != nil {
		for e := range cat.Entries() {
			if e.Path == dbPath {
				k.catalog = &e
			}
		}
	}
	err = readRegistry(ctx, f.cfg.MultiDB.StateDir, func(r *registry.Reader) error {
		info, err := r.Info(ctx)
		if err != nil {
			return err
		}
		f.stopped = info.Clean
		rec, ok, err := r.ByPath(ctx, dbPath)
		if ok {
			k.record = keptRecord(&rec)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return verifyTarget{}, err
	}
	return f.target(k), nil
}

// openCatalog reads the catalog. With lookOnly a missing one is not rebuilt: nil.
func (f *verifyFleet) openCatalog(ctx context.Context, lookOnly bool) (*litestream.Catalog, error) {
	c := f.cfg.MultiDB
	_, root, err := c.manager()
	if err != nil {
		return nil, err
	}
	folder, err := c.rootFolder()
	if err != nil {
		return nil, err
	}
	at := time.Now()
	cat, err := litestream.OpenCatalog(ctx, root, litestream.CatalogOptions{
		Logger: f.logger, NoRebuild: lookOnly,
		DatabasePath: func(replica string) (string, error) {
			t, err := c.tenants.FindReplica(path.Join(folder, replica))
			if err != nil {
				return "", err
			}
			return t.Path, nil
		},
	})
	if errors.Is(err, litestream.ErrNoCatalog) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if !cat.Rebuilt() {
		f.opened = at
	}
	return cat, nil
}

// all returns the targets for all databases that are known to anybody. What the
// catalog lacks is found by a listing.
func (f *verifyFleet) all(ctx context.Context) ([]verifyTarget, error) {
	known := map[string]*tenantKnowledge{}
	var order []*tenantKnowledge
	add := func(dbPath string) *tenantKnowledge {
		k := known[dbPath]
		if k == nil {
			k = &tenantKnowledge{path: dbPath}
			known[dbPath] = k
			order = append(order, k)
		}
		return k
	}
	var unknown []*tenantKnowledge // replicas that do not tell their database
	cat, err := f.openCatalog(ctx, false)
	if err != nil {
		return nil, err
	}
	f.source = "catalog"
	if cat.Rebuilt() {
		f.source = "replica"
	}
	for e := range cat.Entries() {
		k := &tenantKnowledge{replica: e.Replica}
		if _, err := f.cfg.MultiDB.tenants.Lookup(e.Path); e.Path != "" && err == nil {
			k = add(e.Path)
		} else {
			unknown = append(unknown, k)
		}
		if !cat.Rebuilt() {
			k.catalog = &e
		}
	}
	if !cat.Rebuilt() {
		if err := f.addListed(ctx, add); err != nil {
			return nil, err
		}
	}
	if err := f.addRecords(ctx, add); err != nil {
		return nil, err
	}
	targets := make([]verifyTarget, 0, len(order)+len(unknown))
	for _, k := range order {
		if k.record != nil && (litestream.RecordedDoomed(k.record.State) || k.record.TXID == 0 && k.catalog == nil) {
			continue // it is being deleted, or was never replicated
		}
		targets = append(targets, f.target(k))
	}
	for _, k := range unknown {
		targets = append(targets, f.target(k))
	}
	return targets, nil
}

// addListed adds what a listing of the replica shows.
func (f *verifyFleet) addListed(ctx context.Context, add func(string) *tenantKnowledge) error {
	c := f.cfg.MultiDB
	_, root, err := c.manager()
	if err != nil {
		return err
	}
	folder, err := c.rootFolder()
	if err != nil {
		return err
	}
	lister, ok := root.(litestream.ReplicaLister)
	if !ok {
		return nil
	}
	if err := c.tenants.Invertible(); err != nil {
		f.logger.Warn("replicas that the catalog lacks are not looked for", "reason", err)
		return nil
	}
	if err := root.Init(ctx); err != nil {
		return err
	}
	return lister.Replicas(ctx, func(rel string) error {
		if t, err := c.tenants.FindReplica(path.Join(folder, rel)); err == nil {
			add(t.Path)
		}
		return ctx.Err()
	})
}

// addRecords adds what the registry knows, if there is one here.
func (f *verifyFleet) addRecords(ctx context.Context, add func(string) *tenantKnowledge) error {
	err := readRegistry(ctx, f.cfg.MultiDB.StateDir, func(r *registry.Reader) error {
		info, err := r.Info(ctx)
		if err != nil {
			return err
		}
		f.stopped = info.Clean
		return r.Load(ctx, func(rec *registry.Record) error {
			if _, err := f.cfg.MultiDB.tenants.Lookup(rec.Path); err == nil {
				add(rec.Path).record = keptRecord(rec)
			}
			return nil
		})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil // this is another host
	}
	return err
}

// keptRecord returns what of a record is needed later.
func keptRecord(rec *registry.Record) *registry.Record {
	return &registry.Record{ID: rec.ID, Path: rec.Path, TXID: rec.TXID, SyncedAt: rec.SyncedAt, State: rec.State}
}

// target returns what verifies a database.
func (f *verifyFleet) target(k *tenantKnowledge) verifyTarget {
	c := f.cfg.MultiDB
	set := f.cfg.fleetSettings()
	promise := &litestream.VerifyPromise{Levels: set.Levels, SnapshotRetention: set.SnapshotRetention, L0Retention: set.L0Retention, Tenant: true}
	if !set.RetentionEnabled {
		promise.SnapshotRetention, promise.L0Retention = 0, 0
	}
	t := verifyTarget{name: k.path, promise: promise}
	t.client = func() (litestream.ReplicaClient, error) { return f.cfg.tenantClient(k.path, "") }
	if k.path == "" {
		t.name = k.replica
		t.client = func() (litestream.ReplicaClient, error) {
			folder, err := c.rootFolder()
			if err != nil {
				return nil, err
			}
			return c.clientAt(strings.TrimSuffix(folder, "/") + "/" + k.replica)
		}
	}
	looks := 0 // Verify asks ahead of each look, one after the other
	t.expect = func(ctx context.Context, client litestream.ReplicaClient) ([]litestream.VerifyExpectation, error) {
		if looks++; looks > 1 && k.record != nil {
			if err := f.readRecord(ctx, k); err != nil {
				return nil, err
			}
		}
		return f.expectations(ctx, k, client)
	}
	return t
}

// expectations returns what the catalog and the registry know.
func (f *verifyFleet) expectations(ctx context.Context, k *tenantKnowledge, client litestream.ReplicaClient) (a []litestream.VerifyExpectation, err error) {
	switch {
	case k.catalog != nil:
		a = append(a, litestream.VerifyExpectation{Source: "catalog", TXID: k.catalog.TXID, At: k.catalog.SyncedAt, Through: f.opened})
	case !f.opened.IsZero():
		a = append(a, litestream.VerifyExpectation{Source: "catalog", Through: f.opened})
	}
	if k.record == nil || k.record.TXID == 0 {
		return a, nil
	}
	e := litestream.VerifyExpectation{Source: "registry", TXID: k.record.TXID, At: k.record.SyncedAt}
	if f.stopped && litestream.RecordedState(k.record.State) == litestream.TenantClean {
		e.Through = time.Now() // nobody here has replicated since
	}
	if !f.sums {
		return append(a, e), nil
	}
	err = readRegistry(ctx, f.cfg.MultiDB.StateDir, func(r *registry.Reader) error {
		stored, err := r.Ledger(ctx, k.record.ID)
		e.Sums = litestream.TenantLedgerSums(f.cfg.MultiDB.StateDir, k.path, stored, litestream.ReplicaIdentity(client))
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return append(a, e), nil
}

// readRecord reads the record of a database again, which may have changed.
func (f *verifyFleet) readRecord(ctx context.Context, k *tenantKnowledge) error {
	err := readRegistry(ctx, f.cfg.MultiDB.StateDir, func(r *registry.Reader) error {
		rec, ok, err := r.ByPath(ctx, k.path)
		if ok {
			k.record = keptRecord(&rec)
		} else if err == nil {
			k.record = nil
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
