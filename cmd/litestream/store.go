package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

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
	set := cfg.storeSettings()
	s := litestream.NewStore(dbs, set.Levels)
	for _, dc := range cfg.Dirs {
		dc.running = cfg.storeDir(ctx, dc, logger)
		s.Dirs = append(s.Dirs, dc.running)
		client, err := newReplicaClient(dc.Replica)
		if err != nil {
			return nil, err
		}
		logger.Info("replicating directory to", append(dc.Replica.logArgs(client), "dir", dc.Dir)...)
	}
	s.SnapshotInterval, s.SnapshotRetention = set.SnapshotInterval, set.SnapshotRetention
	s.L0Retention, s.L0RetentionCheckInterval = set.L0Retention, set.L0RetentionCheckInterval
	s.RetentionEnabled = set.RetentionEnabled
	s.ShutdownSyncTimeout, s.ShutdownSyncInterval = set.ShutdownSyncTimeout, set.ShutdownSyncInterval
	s.ValidationInterval = max(orDefault(cfg.Validation.Interval, 0), 0)
	s.VerifyCompaction = cfg.VerifyCompaction
	s.MaxStagedBytes = cfg.maxStagedBytes()
	s.Metrics = litestream.NewMetrics(reg)
	s.Logger = logger.With("system", "store")
	if cfg.MultiDB == nil || !cfg.MultiDB.Enabled {
		return s, nil
	}
	return newMultiDBManager(cfg, s, reg, logger)
}

// fleetGCPercent makes the garbage collector spend a little more time for less
// memory: with databases by the hundred thousand the records are most of what
// lives, and they hold nothing that it has to follow.
const fleetGCPercent = 30

// newMultiDBManager puts the databases that patterns find beside those of a
// store.
func newMultiDBManager(cfg *Config, s *litestream.Store, reg prometheus.Registerer, logger *slog.Logger) (runner, error) {
	c := cfg.MultiDB
	settings, root, err := c.manager()
	if err != nil {
		return nil, err
	}
	s.MonitorWorkers, s.SnapshotWorkers = settings.Limits.MonitorWorkers, settings.Limits.SnapshotWorkers
	s.ReplicaWorkers, s.Connections = settings.Limits.ReplicaWorkers, settings.Limits.Connections
	s.ConnectionDescriptors = max(2*settings.MaxHotDatabases-settings.Limits.S3Connections, settings.MaxHotDatabases)
	s.ConnectionIdleTimeout = settings.ConnectionIdleTimeout
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(fleetGCPercent)
	}
	m, err := litestream.NewMultiDBManager(settings, s, litestream.TenantClients{Tenant: c.client, Root: root})
	if err != nil {
		return nil, err
	}
	set := cfg.fleetSettings()
	m.Levels, m.SnapshotInterval, m.SnapshotRetention = set.Levels, set.SnapshotInterval, set.SnapshotRetention
	m.L0Retention, m.RetentionEnabled = set.L0Retention, set.RetentionEnabled
	m.ValidationInterval, m.VerifyCompaction = s.ValidationInterval, s.VerifyCompaction
	m.SyncInterval = c.ReplicaTemplate.syncInterval()
	m.Metrics = litestream.NewAggregatedMetrics(reg, 0)
	m.Logger = logger.With("system", "multi-db")
	c.base.SetLogger(m.Logger)
	logger.Info("multi-db", "patterns", len(settings.Patterns), "state_dir", settings.StateDir,
		"max_hot_databases", settings.MaxHotDatabases, "scan_interval", settings.ScanInterval)
	logger.Info("replicating to", append(c.ReplicaTemplate.logArgs(root), "template", settings.ReplicaPath)...)
	return m, nil
}

func compactionLevels(configured []*LevelConfig) litestream.CompactionLevels {
	levels := litestream.CompactionLevels{{Level: 0}}
	for i, level := range configured {
		levels = append(levels, &litestream.CompactionLevel{Level: i + 1, Interval: level.Interval})
	}
	return levels
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
	db.Checksums, db.AllowNetworkFS = cfg.checksums(dc), dc.AllowNetworkFS
	db.Logger = logger

	r := litestream.NewReplicaWithClient(db, client)
	r.SyncInterval = dc.Replica.syncInterval()
	r.MaxSyncLTXFiles = max(orDefault(dc.Replica.MaxSyncLTXFiles, r.MaxSyncLTXFiles), 0)
	client.SetLogger(logger.With("db", dc.Path))
	db.Replica = r
	return db, nil
}
