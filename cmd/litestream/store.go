package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/benbjohnson/litestream"
)

// newStore builds the store that the configuration describes. It starts
// nothing and makes no request.
func newStore(ctx context.Context, cfg *Config, reg prometheus.Registerer, logger *slog.Logger) (runner, error) {
	dbs := make([]*litestream.DB, 0, len(cfg.DBs))
	for _, dc := range cfg.DBs {
		db, err := newDB(ctx, cfg, dc, logger)
		if err != nil {
			return nil, err
		}
		dbs = append(dbs, db)
		logger.Info("initialized db", "path", dc.Path)
		logger.Info("replicating to", dc.Replica.logArgs(db.Replica.Client)...)
	}
	levels := litestream.CompactionLevels{{Level: 0}}
	for i, level := range cfg.Levels {
		levels = append(levels, &litestream.CompactionLevel{Level: i + 1, Interval: level.Interval})
	}
	s := litestream.NewStore(dbs, levels)
	s.SnapshotInterval = cfg.snapshotInterval()
	s.SnapshotRetention = cfg.snapshotRetention()
	s.L0Retention = orDefault(cfg.L0Retention, s.L0Retention)
	s.L0RetentionCheckInterval = orDefault(cfg.L0RetentionCheckInterval, s.L0RetentionCheckInterval)
	s.RetentionEnabled = orDefault(cfg.Retention.Enabled, s.RetentionEnabled)
	s.ShutdownSyncTimeout = orDefault(cfg.ShutdownSyncTimeout, s.ShutdownSyncTimeout)
	s.ShutdownSyncInterval = orDefault(cfg.ShutdownSyncInterval, s.ShutdownSyncInterval)
	s.MaxStagedBytes = cfg.maxStagedBytes()
	s.Metrics = litestream.NewMetrics(reg)
	s.Logger = logger.With("system", "store")
	return s, nil
}

// newDB builds one database and its replica.
func newDB(ctx context.Context, cfg *Config, dc *DBConfig, logger *slog.Logger) (*litestream.DB, error) {
	client, err := newReplicaClient(dc.Replica)
	if err != nil {
		return nil, err
	}
	if err := client.Init(ctx); err != nil { // checks its options, makes no request
		return nil, fmt.Errorf("replica of %s: %w", dc.Path, err)
	}
	db := litestream.NewDB(dc.Path)
	db.SetMetaPath(dc.MetaPath)
	db.MonitorInterval = orDefault(dc.MonitorInterval, db.MonitorInterval)
	db.CheckpointInterval = orDefault(dc.CheckpointInterval, db.CheckpointInterval)
	db.BusyTimeout = orDefault(dc.BusyTimeout, db.BusyTimeout)
	db.MinCheckpointPageN = orDefault(dc.MinCheckpointPageN, db.MinCheckpointPageN)
	if n := orDefault(dc.TruncatePageN, 0); n != 0 { // 0 stands for the default
		db.TruncatePageN = n
	}
	db.MaxSyncWALBytes = max(orDefault(dc.MaxSyncWALBytes, db.MaxSyncWALBytes), 0)
	db.Checksums = cfg.checksums(dc)
	db.Logger = logger

	r := litestream.NewReplicaWithClient(db, client)
	r.SyncInterval = dc.Replica.syncInterval()
	r.MaxSyncLTXFiles = max(orDefault(dc.Replica.MaxSyncLTXFiles, r.MaxSyncLTXFiles), 0)
	client.SetLogger(logger.With("db", dc.Path))
	db.Replica = r
	return db, nil
}
