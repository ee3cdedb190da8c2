package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/control"
)

// controlService does what the control socket is asked for.
type controlService struct {
	config  func() *Config // in force
	store   *litestream.Store
	fleet   *litestream.MultiDBManager // nil without multi-db
	logger  *slog.Logger
	started time.Time
}

// newControlService returns what the socket is about, or nil for a runner that
// cannot be asked.
func newControlService(config func() *Config, r runner, logger *slog.Logger) *controlService {
	s := &controlService{config: config, logger: logger, started: time.Now()}
	switch r := r.(type) {
	case *litestream.Store:
		s.store = r
	case *litestream.MultiDBManager:
		s.store, s.fleet = r.Store(), r
	default:
		return nil
	}
	return s
}

// statusError gives an error the status that upstream answers with.
func statusError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, litestream.ErrDatabaseNotFound):
		return &control.Error{Status: http.StatusNotFound, Err: err}
	case errors.Is(err, litestream.ErrDatabaseNotOpen):
		return &control.Error{Status: http.StatusConflict, Err: err}
	default:
		return err
	}
}

// covers reports whether a path is one of multi-db, as far as names go.
func (s *controlService) covers(path string) bool {
	if s.fleet == nil {
		return false
	}
	_, ok := s.fleet.Covers(path)
	return ok
}

// Info implements control.Service.
func (s *controlService) Info() control.Info {
	n := len(s.store.DBInfos())
	if s.fleet != nil {
		n += s.fleet.TenantCount()
	}
	return control.Info{
		Version: currentVersion(), PID: os.Getpid(), UptimeSeconds: int64(time.Since(s.started) / time.Second),
		StartedAt: s.started.UTC(), DatabaseCount: n,
	}
}

// Cursors of List: behind a path of dbs, or from a number of multi-db on.
const (
	cursorPath   = "p"
	cursorTenant = "t"
)

// List implements control.Service: first the databases of dbs by path, then
// those of multi-db in the order in which they were found.
func (s *controlService) List(ctx context.Context, cursor string, fn func(db *control.Database, next string) error) error {
	var from uint64
	after, ok := strings.CutPrefix(cursor, cursorPath)
	if !ok && cursor != "" {
		var err error
		number, ok := strings.CutPrefix(cursor, cursorTenant)
		if from, err = strconv.ParseUint(number, 10, 32); !ok || err != nil {
			return &control.Error{Status: http.StatusBadRequest, Err: fmt.Errorf("invalid after: %q", cursor)}
		}
	}
	if ok || cursor == "" {
		for _, info := range s.store.DBInfos() {
			if info.Path <= after {
				continue
			}
			if err := fn(listDB(&info), cursorPath+info.Path); err != nil {
				return err
			}
		}
	}
	if s.fleet == nil {
		return nil
	}
	return s.fleet.Tenants(ctx, uint32(from), func(info litestream.TenantInfo, next uint32) error {
		return fn(listTenant(&info), cursorTenant+strconv.FormatUint(uint64(next), 10))
	})
}

func listDB(info *litestream.DBInfo) *control.Database {
	db := &control.Database{Path: info.Path, Status: "replicating"}
	if info.Status.Acked > 0 { // else the replica was only asked
		db.LastSyncAt = timeOrNil(info.LastSync)
	}
	switch {
	case info.Stopped:
		db.Status = "stopped"
	case !info.Replicated:
		db.Status = "open"
	}
	if errors.Is(info.Status.Err, litestream.ErrSecondWriter) {
		db.Error = info.Status.Err.Error()
	}
	return db
}

func listTenant(info *litestream.TenantInfo) *control.Database {
	db := &control.Database{Path: info.Path, Status: "replicating", Tier: info.State.String(), LastSyncAt: timeOrNil(info.SyncedAt)}
	switch {
	case info.Stopped:
		db.Status = "stopped"
	case info.State == litestream.TenantGone:
		db.Status = "deleted"
	case info.State == litestream.TenantFailed:
		db.Status = "failed"
	}
	if info.Err != nil && !info.Stopped {
		db.Error = info.Err.Error()
	}
	return db
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Sync implements control.Service.
func (s *controlService) Sync(ctx context.Context, path string, wait bool) (control.SyncResponse, error) {
	res, err := s.store.SyncDB(ctx, path, wait)
	if errors.Is(err, litestream.ErrDatabaseNotFound) && s.fleet != nil {
		res, err = s.fleet.SyncTenant(ctx, path, wait)
	}
	switch {
	case errors.Is(err, litestream.ErrDatabaseNotFound), errors.Is(err, litestream.ErrDatabaseNotOpen):
		return control.SyncResponse{}, statusError(err)
	case err != nil:
		return control.SyncResponse{}, fmt.Errorf("sync database: %w", err)
	}
	out := control.SyncResponse{Status: "no_change", Path: path, TXID: uint64(res.TXID), ReplicatedTXID: uint64(res.Acked)}
	switch {
	case res.TXID <= res.Before:
	case wait:
		out.Status = "synced"
	default:
		out.Status = "synced_local"
	}
	return out, nil
}

// SyncAll implements control.Service.
func (s *controlService) SyncAll(ctx context.Context, wait bool) (control.SyncAllResponse, error) {
	var res litestream.SyncAllResult
	if s.fleet != nil {
		res = s.fleet.SyncAll(ctx, wait)
	} else {
		res = s.store.SyncAll(ctx, wait)
	}
	out := control.SyncAllResponse{Status: "synced", Databases: res.Databases, Synced: res.Synced, Failed: res.Failed, Left: res.Left}
	if res.Failed+res.Left > 0 {
		out.Status = "incomplete"
	}
	for _, err := range res.Errors {
		out.Errors = append(out.Errors, err.Error())
	}
	return out, nil
}

// Start implements control.Service.
func (s *controlService) Start(ctx context.Context, path string) (control.StateResponse, error) {
	txid, changed, err := s.change(ctx, path, s.store.StartDB, s.fleet.StartTenant)
	if err != nil {
		return control.StateResponse{}, statusError(err)
	}
	return control.StateResponse{Status: statusWord(changed, "started", "already_running"), Path: path, TXID: txid}, nil
}

// Stop implements control.Service.
func (s *controlService) Stop(ctx context.Context, path string) (control.StateResponse, error) {
	txid, changed, err := s.change(ctx, path, s.store.StopDB, s.fleet.StopTenant)
	if err != nil {
		return control.StateResponse{}, statusError(err)
	}
	return control.StateResponse{Status: statusWord(changed, "stopped", "already_stopped"), Path: path, TXID: txid}, nil
}

// change starts or stops a database of dbs, or else one of multi-db, and
// returns its position and whether anything had to be done.
func (s *controlService) change(ctx context.Context, path string,
	db func(context.Context, string) (litestream.DBInfo, bool, error),
	tenant func(context.Context, string) (litestream.TenantInfo, bool, error),
) (txid uint64, changed bool, err error) {
	info, changed, err := db(ctx, path)
	if errors.Is(err, litestream.ErrDatabaseNotFound) && s.covers(path) {
		t, changed, err := tenant(ctx, path)
		return uint64(t.TXID), changed, err
	}
	return uint64(info.Status.TXID), changed, err
}

// TakeOver implements control.Service.
func (s *controlService) TakeOver(ctx context.Context, path string) (control.StateResponse, error) {
	res, err := s.store.TakeOverDB(ctx, path)
	if errors.Is(err, litestream.ErrDatabaseNotFound) && s.covers(path) {
		res, err = s.fleet.TakeOverTenant(ctx, path)
	}
	if err != nil {
		return control.StateResponse{}, statusError(err)
	}
	return control.StateResponse{Status: "taken_over", Path: path, TXID: uint64(res.TXID)}, nil
}

func statusWord(changed bool, yes, no string) string {
	if changed {
		return yes
	}
	return no
}

// Unregister implements control.Service.
func (s *controlService) Unregister(ctx context.Context, path string) (control.StateResponse, error) {
	info, err := s.store.UnregisterDB(ctx, path)
	switch {
	case errors.Is(err, litestream.ErrDatabaseNotFound) && s.covers(path):
		return control.StateResponse{}, conflict("%s is a database of multi-db, which cannot be unregistered: stop it, or exclude it from the pattern", path)
	case errors.Is(err, litestream.ErrDatabaseNotFound):
		return control.StateResponse{Status: "already_unregistered", Path: path}, nil
	case err != nil:
		return control.StateResponse{}, err
	}
	s.logger.Info("removed database from replication", "path", path)
	return control.StateResponse{Status: "unregistered", Path: path, TXID: uint64(info.Status.TXID)}, nil
}

// Purge implements control.Service.
func (s *controlService) Purge(ctx context.Context, path string, force bool) (control.PurgeResponse, error) {
	if _, err := s.store.DBInfo(path); err == nil {
		return control.PurgeResponse{}, conflict("%s is a database of dbs: stop and unregister it, and purge it while no daemon replicates it", path)
	}
	if !s.covers(path) {
		return control.PurgeResponse{}, &control.Error{Status: http.StatusNotFound, Err: fmt.Errorf("%w: %s", litestream.ErrDatabaseNotFound, path)}
	}
	res, err := s.fleet.PurgeTenant(ctx, path, force)
	if errors.Is(err, litestream.ErrNotPurgeable) {
		return control.PurgeResponse{}, conflict("%w", err)
	} else if err != nil {
		return control.PurgeResponse{}, err
	}
	return control.PurgeResponse{
		Path: path, Files: res.Files, V03: res.V03, Unfinished: res.Rest, Bytes: res.Bytes, TXID: uint64(res.Newest),
		Kept: keptVersions(res.Kept),
	}, nil
}

// TXID implements control.Service.
func (s *controlService) TXID(path string) (uint64, error) {
	info, err := s.store.DBInfo(path)
	if errors.Is(err, litestream.ErrDatabaseNotFound) && s.fleet != nil {
		var t litestream.TenantInfo
		t, err = s.fleet.Tenant(path)
		return uint64(t.TXID), statusError(err)
	}
	return uint64(info.Status.TXID), statusError(err)
}

// SyncStatus implements control.Service. Without a path it is about those of
// dbs, and those of multi-db that are hot.
func (s *controlService) SyncStatus(ctx context.Context, path string, fn func(*control.SyncStatus) error) error {
	if path != "" {
		info, err := s.store.DBInfo(path)
		if err == nil {
			return fn(syncStatusDB(&info))
		} else if s.fleet == nil {
			return statusError(err)
		}
		t, err := s.fleet.Tenant(path)
		if err != nil {
			return statusError(err)
		}
		return fn(syncStatusTenant(&t))
	}
	for _, info := range s.store.DBInfos() {
		if err := fn(syncStatusDB(&info)); err != nil {
			return err
		}
	}
	if s.fleet == nil {
		return nil
	}
	return s.fleet.Tenants(ctx, 0, func(t litestream.TenantInfo, _ uint32) error {
		if t.State != litestream.TenantHot {
			return nil
		}
		return fn(syncStatusTenant(&t))
	})
}

func syncStatusDB(info *litestream.DBInfo) *control.SyncStatus {
	st := info.Status
	out := &control.SyncStatus{
		Path: info.Path, Active: info.Active, TXID: uint64(st.TXID), LastSyncedWALOffset: st.WALOffset,
		UpdatedAt: timeOrNil(st.CheckedAt),
	}
	if !st.CheckedAt.IsZero() {
		out.Operation, out.Phase = "sync", "sync_complete"
	}
	if wal, err := os.Stat(info.Path + "-wal"); err == nil {
		out.WALSize = wal.Size()
	}
	if st.Err != nil {
		out.Phase, out.Error = "verify_and_sync", st.Err.Error()
	}
	return out
}

func syncStatusTenant(info *litestream.TenantInfo) *control.SyncStatus {
	out := &control.SyncStatus{Path: info.Path, Active: info.State == litestream.TenantHot, TXID: uint64(info.TXID), UpdatedAt: timeOrNil(info.SyncedAt)}
	if info.Err != nil {
		out.Error = info.Err.Error()
	}
	return out
}
