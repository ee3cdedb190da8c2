package main

import (
	"context"
	"hash/fnv"
	"slices"

	"github.com/benbjohnson/litestream"
)

// replicaHash stands for the path of a replica among those of a catalog.
func replicaHash(replica string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(replica)) // never fails
	return h.Sum64()
}

// findUnlisted compares the catalog that a restore of everything was made by
// with a listing: a catalog that could not be written for a while, or of which
// the last minute is missing, must not make a restore seem complete. It comes
// when all else is there, so that nothing waits for it.
func (s *fleetSource) findUnlisted(ctx context.Context, f *fleetFlags) error {
	lister, ok := s.root.(litestream.ReplicaLister)
	if s.kind != "catalog" || !ok || len(f.globs) > 0 || f.tenant != "" {
		return nil
	}
	slices.Sort(s.known)
	others, unclear := s.others, s.unclear
	defer func() { s.others, s.unclear = others, unclear }()
	err := lister.Replicas(ctx, func(replica string) error {
		if _, found := slices.BinarySearch(s.known, replicaHash(replica)); found {
			return nil
		}
		e := litestream.CatalogEntry{Replica: replica}
		e.Path, _ = s.databasePath(replica)
		if e.Path == "" && s.cfg != nil || s.entry(&e) == nil {
			return nil // of another configuration
		}
		if s.unlisted++; s.unlisted <= maxFleetWarnings {
			s.logger.Error("a replica is not in the catalog, and was not restored", "db", e.Path, "replica", replica)
		}
		return nil
	})
	if err != nil && context.Cause(ctx) == nil {
		s.logger.Warn("the catalog could not be compared with a listing of the replica", "error", err)
	}
	return context.Cause(ctx)
}

// ledger returns where the page ledger of a database goes that is restored to
// its place: nothing is kept for a file of multi-db.
func (s *fleetSource) ledger(e *litestream.FleetRestoreEntry, client litestream.ReplicaClient) (path string, replica [32]byte) {
	if !e.Foreign {
		return "", replica
	}
	return litestream.LedgerPath(s.cfg.db(e.Path).MetaPath), litestream.ReplicaIdentity(client)
}
