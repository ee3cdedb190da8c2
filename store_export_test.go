package litestream

import "context"

// Prepare readies a store without starting anything.
func (s *Store) Prepare(ctx context.Context) error { return s.prepare(ctx) }

// Snapshot takes a snapshot of a database and uploads it.
func (s *Store) Snapshot(ctx context.Context, db *DB) error {
	return s.snapshot(ctx, s.dbs[db.Path()])
}
