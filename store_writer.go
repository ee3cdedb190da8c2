package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/benbjohnson/litestream/internal/registry"
)

// TakeOverDB makes this daemon the writer of a database's replica, whoever was
// it: it goes on behind the newest position that lies there with a full copy and
// a snapshot. Another daemon that still writes loses the replica with its next
// upload; if that comes in between, the error is ErrSecondWriter.
func (s *Store) TakeOverDB(ctx context.Context, path string) (res TakeoverResult, err error) {
	path = filepath.Clean(path)
	unlock, err := s.changing.lock(ctx, path)
	if err != nil {
		return res, err
	}
	defer unlock()
	m, err := s.find(path)
	if err != nil {
		return res, err
	}
	if err := m.db.lostErr(); errors.Is(err, ErrSecondWriter) {
		res.Was = err
	} else if err != nil {
		return res, err
	}
	if res.TXID, err = takeOver(ctx, m.db); err != nil {
		return res, err
	}
	s.contacted(m) // looks and maintenance had ended
	err = s.snapshot(ctx, m)
	for try := 1; errors.Is(err, errViewMoved) && try <= movedTooOften && wait(ctx, snapshotPause) == nil; try++ {
		err = s.snapshot(ctx, m) // what disturbed it counts: it is pinned in the end
	}
	if err != nil {
		return res, fmt.Errorf("the replica is taken over, but no snapshot could be taken: %w", err)
	}
	res.Snapshot = res.TXID
	m.db.Logger.Info("replica taken over", "db", path, "txid", res.TXID.String())
	return res, nil
}

// TakeOverOffline lets the next daemon take over the replica of a database with
// that metadata directory, which nobody replicates meanwhile: without local
// state it goes on behind what lies on the replica with a full copy.
func TakeOverOffline(metaPath string) error {
	// The mark goes last: what is left of a try that ended before is no takeover.
	for _, path := range []string{LedgerPath(metaPath), filepath.Join(metaPath, "ltx")} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("take over: %w", err)
		}
	}
	return removeSecondWriter(metaPath)
}

// TakeOverTenantOffline does the same for a database found by pattern, in the
// registry of a state directory that no daemon uses meanwhile. One that it does
// not know is ErrDatabaseNotFound.
func TakeOverTenantOffline(ctx context.Context, stateDir, path string) (err error) {
	if _, err := os.Stat(filepath.Join(stateDir, registry.FileName)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s: there is no registry in %s", ErrDatabaseNotFound, path, stateDir)
	}
	// Without the boot's id the next daemon looks at all databases once, as it
	// would after a reboot, of which this does not know.
	reg, err := registry.Open(ctx, stateDir, registry.Options{})
	if err != nil {
		return err
	}
	clean := reg.Info().Clean
	defer func() { err = errors.Join(err, reg.Close(ctx, clean)) }()
	var found registry.Record
	err = reg.Load(ctx, func(rec *registry.Record) error {
		if rec.Path == path {
			found = registry.Record{ID: rec.ID, Path: rec.Path, Place: rec.Place}
		}
		return nil
	})
	if err != nil {
		return err
	} else if found.ID == 0 {
		return fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
	reg.Put(found, []byte{})
	return reg.Flush(ctx)
}
