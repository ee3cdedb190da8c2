package litestream

import (
	"context"

	"github.com/superfly/ltx"
)

// TenantPosition is what Detach returns.
type TenantPosition = tenantPosition

// ErrNotCovered is the answer of Detach while something is not acknowledged.
var ErrNotCovered = errNotCovered

// SweepStaging calls sweepStaging.
var SweepStaging = sweepStaging

// NewTenantDB returns a database of a fleet whose state lies in stateDir.
func NewTenantDB(path, stateDir string) *DB {
	return newTenantDB(path, &tenantMode{stateDir: stateDir})
}

// Seed calls seed.
func (db *DB) Seed(txid ltx.TXID, ledger []byte) error { return db.seed(txid, ledger) }

// SeedEmpty calls seedEmpty.
func (db *DB) SeedEmpty() error { return db.seedEmpty() }

// SeedUnconfirmed calls seedUnconfirmed.
func (db *DB) SeedUnconfirmed(txid ltx.TXID, ledger []byte) error {
	return db.seedUnconfirmed(txid, ledger)
}

// Detach calls detach.
func (db *DB) Detach(ctx context.Context) (TenantPosition, error) { return db.detach(ctx) }

// Demotable calls demotable.
func (db *DB) Demotable() bool { return db.demotable() }

// ManageTenant returns what a store keeps of a hot database.
func ManageTenant(s *Store, db *DB) any { return s.newManaged(db) }

// SetFleetMetrics sets where the database counts.
func (db *DB) SetFleetMetrics(m *AggregatedMetrics) { db.tenant.metrics = m }

// RemoveTenantLedger calls removeTenantLedger.
var RemoveTenantLedger = removeTenantLedger
