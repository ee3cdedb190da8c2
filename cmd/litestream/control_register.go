package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/control"
)

// conflict is the answer where something else stands in the way.
func conflict(format string, args ...any) error {
	return &control.Error{Status: http.StatusConflict, Err: fmt.Errorf(format, args...)}
}

// Register implements control.Service. What the configuration sets for all
// replicas holds for this one, too.
func (s *controlService) Register(ctx context.Context, path, replicaURL string) (control.StateResponse, error) {
	dc, err := s.registered(path, replicaURL)
	if err != nil {
		return control.StateResponse{}, &control.Error{Status: http.StatusBadRequest, Err: fmt.Errorf("invalid replica url: %w", err)}
	}
	db, err := newDB(ctx, s.config(), dc, s.logger)
	if err != nil {
		return control.StateResponse{}, &control.Error{Status: http.StatusBadRequest, Err: fmt.Errorf("invalid replica url: %w", err)}
	}
	if err := s.checkFleet(ctx, path, db.Replica.Client); err != nil {
		return control.StateResponse{}, err
	}
	if err := s.store.RegisterDB(ctx, db); errors.Is(err, litestream.ErrDatabaseExists) {
		return control.StateResponse{Status: "already_registered", Path: path}, nil
	} else if err != nil {
		return control.StateResponse{}, conflict("%w", err)
	}
	s.logger.Info("added database to replication", "path", path)
	s.logger.Info("replicating to", dc.Replica.logArgs(db.Replica.Client)...)
	return control.StateResponse{Status: "registered", Path: path}, nil
}

// registered returns the entry of dbs that a registration stands for.
func (s *controlService) registered(path, replicaURL string) (*DBConfig, error) {
	if !litestream.IsURL(replicaURL) {
		return nil, fmt.Errorf("replica url scheme required: %s", redactURL(replicaURL))
	}
	if _, err := litestream.NewReplicaClientFromURL(replicaURL); err != nil {
		return nil, err
	}
	rc := &ReplicaConfig{URL: replicaURL}
	if err := rc.normalize("replica", &s.config().ReplicaSettings); err != nil {
		return nil, unwrapConfigError(err)
	}
	if env := os.Getenv("LITESTREAM_S3_ENDPOINT"); rc.replicaType() == replicaTypeS3 && env != "" {
		rc.Endpoint = cmp.Or(rc.Endpoint, env) // that of the URL wins over both
	}
	if err := errors.Join(rc.validate("replica")...); err != nil {
		return nil, unwrapConfigError(err)
	}
	return &DBConfig{Path: path, MetaPath: defaultMetaPath(path), Replica: rc}, nil
}

// errFound ends a search.
var errFound = errors.New("found")

// checkFleet makes sure that multi-db has neither the database nor its replica.
func (s *controlService) checkFleet(ctx context.Context, path string, client litestream.ReplicaClient) error {
	if s.fleet == nil {
		return nil
	}
	if pattern, ok := s.fleet.Covers(path); ok {
		return conflict("%s is replicated already, by pattern %s of multi-db", path, pattern)
	}
	if owner, ok := s.fleet.FindFile(path); ok {
		return conflict("%s is the same file as %s, which multi-db replicates already", path, owner)
	}
	m, dest := s.config().MultiDB, redactedLocation(client)
	if m.base.Type() != client.Type() {
		return nil
	}
	var owner string
	err := s.fleet.Tenants(ctx, 0, func(info litestream.TenantInfo, _ uint32) error {
		t, err := m.tenants.Lookup(info.Path)
		if err != nil {
			return nil //nolint:nilerr // it has no replica
		}
		c, err := m.client(&t)
		if err == nil && redactedLocation(c) == dest {
			owner, err = info.Path, errFound
		}
		return err
	})
	if errors.Is(err, errFound) {
		return conflict("replica %s belongs to database %s of multi-db: two databases in one replica would overwrite each other", dest, owner)
	}
	return err
}

// openControl serves the control socket. Where that is not possible the
// daemon runs without: backups matter more.
func (r *replication) openControl(ctx context.Context) {
	if !r.cfg.Socket.Enabled || r.opts.once {
		return
	}
	service := newControlService(r.config, r.runner, r.logger)
	if service == nil {
		return
	}
	var reload func(context.Context, bool) (control.ReloadReport, error)
	if r.reloader != nil {
		reload = r.reloader.reload
	}
	server := control.NewServer(control.Options{
		Path: cmp.Or(r.cfg.Socket.Path, defaultSocketPath), Permissions: r.cfg.Socket.mode(),
		Service: service, Logger: r.logger.With("system", "server"), ExpandPath: expandPath, Reload: reload,
	})
	if err := server.Open(ctx); err != nil {
		r.logger.Warn("failed to start control server", "error", err)
		return
	}
	r.control = server
}

// closeControl removes the socket and ends the requests under way, with abort
// without waiting for any.
func (r *replication) closeControl(ctx context.Context, abort bool) {
	if r.control == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if abort {
		cancel()
	}
	if err := r.control.Close(ctx); err != nil {
		r.logger.Warn("close control server", "error", err)
	}
}

// mode returns the permissions of the socket.
func (c *SocketConfig) mode() os.FileMode {
	return os.FileMode(orDefault(c.Permissions, defaultSocketPermissions))
}

// validate checks the keys of the control socket.
func (c *SocketConfig) validate() error {
	if p := c.Permissions; p != nil && *p > 0o777 {
		return &configError{
			Field: "socket.permissions", Line: c.keyLine("permissions"), Got: fmt.Sprintf("%#o", *p),
			Reason: "must be permission bits from 0 to 0777, written with a leading zero",
		}
	}
	return nil
}

var _ control.Service = (*controlService)(nil)
