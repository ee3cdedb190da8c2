package metamorphic

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/knob"
)

// Settings of a fleet's manager under test.
type managerConfig struct {
	Data, Replica, State, Log string
	Seed                      uint64
	Boot                      byte // of the machine
	Faults                    string

	MaxHot            int
	Checkpoint        string
	Scan, HotFor      time.Duration
	Monitor, Sync     time.Duration
	IdleConnections   time.Duration
	MaxStagedBytes    int64
	Checksums         bool
	Levels            []time.Duration // intervals from level 1 on
	Snapshot          time.Duration
	SnapshotRetention time.Duration
	L0Retention       time.Duration
	DeletedRetention  time.Duration
	Grace             time.Duration
}

// runManager is the child process that replicates a fleet. It obeys lines like
// runReplicator does.
func runManager(cfg managerConfig) error {
	logFile, err := os.OpenFile(cfg.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	s := &managerServer{
		cfg: cfg, network: newBadNetwork(cfg.Seed), reg: prometheus.NewRegistry(),
		logger: slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: slog.LevelDebug})).With("pid", os.Getpid()),
	}
	var f faults
	if err := f.parse(cfg.Faults); err != nil {
		return err
	}
	s.network.rates.Store(&f)
	if err := s.open(context.Background()); err != nil {
		return err
	}
	return obey(s.do)
}

type managerServer struct {
	cfg     managerConfig
	network *badNetwork
	reg     *prometheus.Registry
	logger  *slog.Logger
	m       *litestream.MultiDBManager
}

func (s *managerServer) client(path string) *faultyClient {
	return &faultyClient{file.NewReplicaClient(path), s.network}
}

func (s *managerServer) open(ctx context.Context) error {
	cfg := s.cfg
	c := litestream.NewMultiDBConfig()
	c.Patterns, c.ReplicaPath, c.StateDir = []string{cfg.Data + "/{{tenant}}.db"}, "{{tenant}}", cfg.State
	c.MaxHotDatabases, c.ScanInterval, c.HotDuration = cfg.MaxHot, cfg.Scan, cfg.HotFor
	c.ConnectionIdleTimeout, c.DeletedRetention = cfg.IdleConnections, cfg.DeletedRetention
	c.Checkpoint = cfg.Checkpoint
	c.Checksums, c.MaxStagedBytes = cfg.Checksums, cfg.MaxStagedBytes
	c.Limits = litestream.MultiDBLimits{Connections: 3, MonitorWorkers: 4, SnapshotWorkers: 2, ReplicaWorkers: 4, S3Connections: 4}
	store := litestream.NewStore(nil, nil)
	store.MonitorWorkers, store.SnapshotWorkers, store.ReplicaWorkers = 4, 2, 4
	store.Connections, store.ConnectionIdleTimeout = 3, cfg.IdleConnections
	store.Logger = s.logger
	store.Tune(knob.Store{RetryDelay: 20 * time.Millisecond})
	m, err := litestream.NewMultiDBManager(c, store, litestream.TenantClients{
		Root: s.client(cfg.Replica),
		Tenant: func(t *litestream.Tenant) (litestream.ReplicaClient, error) {
			return s.client(filepath.Join(cfg.Replica, t.ReplicaPath)), nil
		},
	})
	if err != nil {
		return err
	}
	m.Tune(knob.Fleet{Monitor: cfg.Monitor, Grace: cfg.Grace, RetryMax: 500 * time.Millisecond, BootID: [16]byte{1 + cfg.Boot}})
	m.Levels = litestream.CompactionLevels{{Level: 0}}
	for i, d := range cfg.Levels {
		m.Levels = append(m.Levels, &litestream.CompactionLevel{Level: i + 1, Interval: d})
	}
	m.SnapshotInterval, m.SnapshotRetention, m.L0Retention = cfg.Snapshot, cfg.SnapshotRetention, cfg.L0Retention
	m.SyncInterval, m.Logger, m.Metrics = cfg.Sync, s.logger, litestream.NewAggregatedMetrics(s.reg, 0)
	s.m = m
	return m.Open(ctx)
}

func (s *managerServer) do(verb, arg string) (string, error) {
	switch verb {
	case "faults":
		var f faults
		err := f.parse(arg)
		s.network.rates.Store(&f)
		return "", err
	case "metrics":
		return s.metrics()
	case "close":
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := s.m.Close(ctx)
		if err != nil {
			return "", err
		}
		return s.audit()
	default:
		return "", fmt.Errorf("unknown order %q", verb)
	}
}

// metrics are what was done, by kind, and what failed.
func (s *managerServer) metrics() (string, error) {
	families, err := s.reg.Gather()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "litestream_multidb_")
		switch name {
		case "maintenance_actions_total", "failures_total", "promotions_total":
		default:
			continue
		}
		for _, m := range f.GetMetric() {
			b.WriteString(name)
			for _, l := range m.GetLabel() {
				b.WriteString("," + strings.ReplaceAll(l.GetValue(), " ", "-"))
			}
			fmt.Fprintf(&b, "=%v ", m.GetCounter().GetValue())
		}
	}
	return b.String(), nil
}

func (s *managerServer) audit() (string, error) {
	return counterOf(s.reg, "litestream_multidb_audit_failures_total")
}
