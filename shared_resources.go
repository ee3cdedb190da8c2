package litestream

import (
	"context"
	"errors"
	"time"

	"github.com/benbjohnson/litestream/internal/pagesum"
	"github.com/benbjohnson/litestream/internal/workpool"
)

// ResourceLimits bound what all databases of a process use together. A zero
// field has no bound, or the default where there has to be one.
type ResourceLimits struct {
	MonitorWorkers        int
	SnapshotWorkers       int
	ReplicaWorkers        int
	Connections           int // SQLite connections over databases found by pattern
	Descriptors           int // files that those connections may hold open
	ConnectionIdleTimeout time.Duration
	MaxStagedBytes        int64 // of databases that are named in the configuration
	PinnedDatabases       int   // of these, that stay pinned between two looks
}

// SharedResourceManager owns what all databases of a process share: the worker
// pools, the SQLite connections over databases found by pattern, and the
// memory of page ledgers and staging. It is safe for concurrent use.
type SharedResourceManager struct {
	// Monitors look at databases, Snapshots write whole or merged files,
	// Replicas upload what was captured.
	Monitors, Snapshots, Replicas *WorkerPool
	Connections                   *ConnectionPool

	shared *sharedState
}

// NewSharedResourceManager returns a manager. It starts nothing before the
// first task.
func NewSharedResourceManager(limits ResourceLimits) *SharedResourceManager {
	return &SharedResourceManager{
		Monitors:  newWorkerPool("monitor", limits.MonitorWorkers),
		Snapshots: newWorkerPool("snapshot", limits.SnapshotWorkers),
		Replicas:  newWorkerPool("replica", limits.ReplicaWorkers),
		Connections: NewConnectionPool(ConnectionPoolOptions{
			MaxConnections: limits.Connections, MaxDescriptors: limits.Descriptors, IdleTimeout: limits.ConnectionIdleTimeout,
		}),
		shared: &sharedState{
			ledgers: pagesum.NewBudget(0), staged: &stageBudget{limit: limits.MaxStagedBytes},
			inodes: newInodeTable(), pins: newPinLimit(limits.PinnedDatabases),
		},
	}
}

// tenants returns the shared state for databases found by pattern: staging has
// a bound of its own, the rest is one for the process.
func (r *SharedResourceManager) tenants(maxStagedBytes int64) *sharedState {
	s := *r.shared
	s.staged = &stageBudget{limit: maxStagedBytes}
	return &s
}

// A WorkerPool runs short tasks of many databases on a bounded number of
// goroutines. Tasks of one database never run at the same time in it. It is
// safe for concurrent use.
type WorkerPool struct {
	pool  *workpool.Pool
	limit int
}

func newWorkerPool(name string, workers int) *WorkerPool {
	return &WorkerPool{pool: workpool.New(name, workers), limit: max(workers, 1)}
}

// PoolTask is work for a WorkerPool: a MonitorTask, SnapshotTask or
// ReplicaTask.
type PoolTask interface{ task() workpool.Task }

// MonitorTask looks at a database and captures what changed.
type MonitorTask struct {
	Key any // what it works on
	Run func(context.Context)
}

// SnapshotTask is maintenance of a database's replica: a snapshot, compaction
// or retention. Kind tells them apart.
type SnapshotTask struct {
	Key  any
	Kind string
	Run  func(context.Context)
}

// ReplicaTask uploads what was captured of a database.
type ReplicaTask struct {
	Key any
	Run func(context.Context)
}

func (t MonitorTask) task() workpool.Task {
	return workpool.Task{Key: t.Key, Kind: "sync", Run: t.Run}
}

func (t SnapshotTask) task() workpool.Task {
	return workpool.Task{Key: t.Key, Kind: t.Kind, Run: t.Run}
}

func (t ReplicaTask) task() workpool.Task {
	return workpool.Task{Key: t.Key, Kind: "upload", Run: t.Run}
}

// Submit queues a task, oldest first, and never blocks. It is false after
// Close. A task whose like is queued already is covered by that one.
func (p *WorkerPool) Submit(t PoolTask) bool { return p.pool.Submit(t.task()) }

// Stats returns what the pool does now and has done so far.
func (p *WorkerPool) Stats() workpool.Stats { return p.pool.Stats() }

// Close ends the pool: see workpool.Pool.Close.
func (p *WorkerPool) Close(ctx context.Context) error { return p.pool.Close(ctx) }

// abandon ends the pool without waiting for its queue: what is left out is
// done some other time.
func (p *WorkerPool) abandon(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return p.pool.Close(ctx)
}

// Close ends the pools of looks and uploads once their queues are empty, or
// when ctx is done.
func (r *SharedResourceManager) Close(ctx context.Context) error {
	return errors.Join(r.Monitors.Close(ctx), r.Replicas.Close(ctx), r.Connections.Close())
}

// connections returns how the pool of SQLite connections is used.
func (r *SharedResourceManager) connections() FleetConnections {
	st := r.Connections.Stats()
	return FleetConnections{
		Limit: st.Capacity, Open: st.Open, InUse: st.InUse, Waiting: st.Waiting, Waits: st.Waits, WaitTime: st.WaitTime,
		Timeouts: st.Timeouts, Evictions: st.Evictions, Held: st.Held, Pinned: st.Pinned, Leftovers: st.Leftovers,
	}
}

// pools returns what the worker pools do, by name.
func (r *SharedResourceManager) pools() map[string]FleetPool {
	a := make(map[string]FleetPool)
	for _, p := range []*WorkerPool{r.Monitors, r.Snapshots, r.Replicas} {
		st := p.Stats()
		a[p.pool.Name()] = FleetPool{
			Limit: p.limit, Workers: st.Workers, Busy: st.Busy, Queued: st.Queued, Started: st.Started, Waited: st.Waited,
		}
	}
	return a
}
