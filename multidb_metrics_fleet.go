package litestream

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const multiDBPrefix = "litestream_multidb_"

// FleetStats is the state of all databases found by pattern at one moment. It
// holds sums only, so that it is cheap to make at any size of the fleet.
type FleetStats struct {
	Hot      int // databases that are synced all the time
	HotLimit int // max-hot-databases
	Cold     int // databases that are there and not hot

	Databases map[FleetState]int // all that are known; states without any are 0
	Failed    map[string]int     // databases that failed, by the class of the reason
	Queue     FleetQueue

	// OldestUnreplicated is the age of the oldest change that no upload holds
	// yet; 0 if there is none.
	OldestUnreplicated time.Duration

	Pools       map[string]FleetPool // by name
	Connections FleetConnections

	StagedBytes, StagedLimit int64 // captured and not uploaded
	TableBytes               int64 // memory of the records of all databases
	MaintenanceQueue         int   // databases with maintenance to do now

	// Drilled says that there is a drill. OldestProven is how long ago the last
	// proof is of the database that waits the longest, Unproven how many have none.
	Drilled      bool
	OldestProven time.Duration
	Unproven     int

	Groups []FleetGroup // each project and database once
}

// FleetState says where databases stand. Tier is "hot", "cold", or "none" where
// the file is gone; State is the name of a TenantState.
type FleetState struct{ Tier, State string }

// FleetQueue counts databases that wait to become hot.
type FleetQueue struct {
	Changed int `json:"changed"` // that were replicated before
	First   int `json:"first"`   // that wait for their first backup
	Delayed int `json:"delayed"` // that failed and wait for their next attempt
}

// FleetPool is the state of a pool of workers.
type FleetPool struct {
	Limit   int // most workers at a time
	Workers int // goroutines
	Busy    int // of these, at work
	Queued  int // tasks that wait

	Started uint64        // tasks that began to run
	Waited  time.Duration // sum over these of the time before
}

// FleetConnections is the state of the pool of SQLite connections. Limit, Open,
// InUse and Waiting are as of now, the rest counts from the start.
type FleetConnections struct {
	Limit, Open, InUse, Waiting int

	Waits     uint64 // that found no place free
	WaitTime  time.Duration
	Timeouts  uint64 // waits that ended without a connection
	Evictions uint64 // of idle connections, for somebody who waited
	Held      uint64 // databases that a connection was kept open over
	Pinned    uint64 // read transactions that were held longer than one look
	Leftovers uint64 // files that lay beside a database after a connection was closed
}

// FleetGroup sums up the databases of one project and database. The names are
// empty where the pattern has no such variable.
type FleetGroup struct {
	Project, Database string
	Hot, Queued       int
	Branches          int
	Size              int64 // bytes of files and logs
}

// fleetSeries are the series of which there is one.
var fleetSeries = []struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*FleetStats) float64
}{
	{
		"hot_databases", "Databases that are synced all the time.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.Hot) },
	},
	{
		"hot_databases_limit", "Most databases that are hot at a time.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.HotLimit) },
	},
	{
		"cold_databases", "Databases that are there and not hot.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.Cold) },
	},
	{
		"oldest_unreplicated_change_seconds", "Age of the oldest change that is not replicated, 0 if there is none.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return max(0, s.OldestUnreplicated.Seconds()) },
	},
	{
		"connections_limit", "Most SQLite connections at a time.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Limit) },
	},
	{
		"connections_open", "SQLite connections that are open.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Open) },
	},
	{
		"connections_in_use", "SQLite connections at work.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.Connections.InUse) },
	},
	{
		"connections_waiting", "Tasks that wait for a SQLite connection.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Waiting) },
	},
	{
		"connection_waits_total", "Waits for a SQLite connection.", prometheus.CounterValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Waits) },
	},
	{
		"connection_wait_seconds_total", "Time spent in waits for a SQLite connection.", prometheus.CounterValue,
		func(s *FleetStats) float64 { return s.Connections.WaitTime.Seconds() },
	},
	{
		"connection_wait_timeouts_total", "Waits for a SQLite connection that were given up.", prometheus.CounterValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Timeouts) },
	},
	{
		"connection_evictions_total", "Idle SQLite connections closed to make room.", prometheus.CounterValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Evictions) },
	},
	{
		"connection_holds_total", "Times that a connection was kept open over a database because its diffs are dear.", prometheus.CounterValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Held) },
	},
	{
		"pins_total", "Times that the log of a database was pinned because its diffs are dear.", prometheus.CounterValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Pinned) },
	},
	{
		"connection_leftover_files_total", "Files that lay beside a database after a connection was closed with nobody else there.", prometheus.CounterValue,
		func(s *FleetStats) float64 { return float64(s.Connections.Leftovers) },
	},
	{
		"staged_bytes", "Bytes of LTX files that are captured and not uploaded.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.StagedBytes) },
	},
	{
		"staged_bytes_limit", "Most bytes of LTX files that wait for their upload.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.StagedLimit) },
	},
	{
		"table_bytes", "Memory of the records of all databases.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.TableBytes) },
	},
	{
		"maintenance_queue_length", "Databases with maintenance to do now.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.MaintenanceQueue) },
	},
	{
		"drill_oldest_proven_seconds", "How long ago the last proof is of the database that waits the longest for another.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return max(0, s.OldestProven.Seconds()) },
	},
	{
		"drill_unproven_databases", "Databases that were replicated and never proven restorable by a drill.", prometheus.GaugeValue,
		func(s *FleetStats) float64 { return float64(s.Unproven) },
	},
}

// fleetCollector makes the series of a fleet's state in one pass when it is
// asked for them. Nothing is kept of them between two passes but which labels
// have series.
type fleetCollector struct {
	source atomic.Pointer[func() FleetStats] // nil: no series

	single                                       []*prometheus.Desc // of fleetSeries
	databases, queue, failed                     *prometheus.Desc
	poolLimit, poolWorkers, poolBusy, poolQueued *prometheus.Desc
	poolTasks, poolWait                          *prometheus.Desc
	projectActive, projectSize                   *prometheus.Desc
	databaseHot, databaseBranches                *prometheus.Desc

	mu                     sync.Mutex // guards the keepers
	reasons, projects, dbs labelKeeper
}

func newFleetCollector(labelCap int) *fleetCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(multiDBPrefix+name, help, labels, nil)
	}
	c := &fleetCollector{
		databases:        desc("databases", "Known databases by tier and state.", "tier", "state"),
		queue:            desc("queue_length", "Databases that wait to become hot: changed, first (backup) or delayed (after a failure).", "class"),
		failed:           desc("failed_databases", "Databases that could not be replicated, by the class of the reason.", "reason"),
		poolLimit:        desc("pool_workers_limit", "Most workers of a pool.", "pool"),
		poolWorkers:      desc("pool_workers", "Workers of a pool.", "pool"),
		poolBusy:         desc("pool_busy_workers", "Workers of a pool that are at work.", "pool"),
		poolQueued:       desc("pool_queued_tasks", "Tasks that wait in front of a pool.", "pool"),
		poolTasks:        desc("pool_tasks_total", "Tasks of a pool that began to run.", "pool"),
		poolWait:         desc("pool_wait_seconds_total", "Time that these tasks waited for a worker.", "pool"),
		projectActive:    desc("project_active_tenants", "Databases of a project that are hot or wait to be.", "project"),
		projectSize:      desc("project_size_bytes", "Bytes of the databases of a project and of their logs.", "project"),
		databaseHot:      desc("database_hot_tenants", "Hot databases by project and database.", "project", "database"),
		databaseBranches: desc("database_branches", "Branches by project and database.", "project", "database"),
		reasons:          labelKeeper{cap: maxEventSeries, other: groupLabels{otherLabel}},
		projects:         labelKeeper{cap: labelCap, other: groupLabels{otherLabel}},
		dbs:              labelKeeper{cap: labelCap, other: groupLabels{otherLabel, otherLabel}},
	}
	for _, s := range fleetSeries {
		c.single = append(c.single, desc(s.name, s.help))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range append(slices.Clone(c.single), c.databases, c.queue, c.failed,
		c.poolLimit, c.poolWorkers, c.poolBusy, c.poolQueued, c.poolTasks, c.poolWait,
		c.projectActive, c.projectSize, c.databaseHot, c.databaseBranches) {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *fleetCollector) Collect(ch chan<- prometheus.Metric) {
	source := c.source.Load()
	if source == nil {
		return
	}
	st := (*source)() // without a lock: it takes those of its owner
	for _, m := range c.collect(&st) {
		ch <- m
	}
}

func (c *fleetCollector) collect(st *FleetStats) (a []prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		a = append(a, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		a = append(a, prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...))
	}
	for i, s := range fleetSeries {
		a = append(a, prometheus.MustNewConstMetric(c.single[i], s.kind, s.value(st)))
	}
	for k, n := range st.Databases {
		gauge(c.databases, float64(n), k.Tier, k.State)
	}
	gauge(c.queue, float64(st.Queue.Changed), "changed")
	gauge(c.queue, float64(st.Queue.First), "first")
	gauge(c.queue, float64(st.Queue.Delayed), "delayed")
	for name, p := range st.Pools {
		gauge(c.poolLimit, float64(p.Limit), name)
		gauge(c.poolWorkers, float64(p.Workers), name)
		gauge(c.poolBusy, float64(p.Busy), name)
		gauge(c.poolQueued, float64(p.Queued), name)
		counter(c.poolTasks, float64(p.Started), name)
		counter(c.poolWait, p.Waited.Seconds(), name)
	}

	failed, projects, dbs := sumGroups(st)
	c.mu.Lock()
	defer c.mu.Unlock()
	for l, s := range c.reasons.keep(failed) {
		gauge(c.failed, float64(s.active), l[0])
	}
	for l, s := range c.projects.keep(projects) {
		gauge(c.projectActive, float64(s.active), l[0])
		gauge(c.projectSize, float64(s.size), l[0])
	}
	for l, s := range c.dbs.keep(dbs) {
		gauge(c.databaseHot, float64(s.hot), l[0], l[1])
		gauge(c.databaseBranches, float64(s.branches), l[0], l[1])
	}
	return a
}

// groupLabels are the values of the labels of a group; a group with one label
// leaves the second empty.
type groupLabels [2]string

// groupSum is what is shown of a group.
type groupSum struct {
	active, hot, branches int
	size                  int64
}

func (s *groupSum) add(o *groupSum) {
	s.active += o.active
	s.hot += o.hot
	s.branches += o.branches
	s.size += o.size
}

// groupSums are groups by their labels. Names that become the same label are
// summed up: a series must not occur twice.
type groupSums map[groupLabels]*groupSum

func (g groupSums) add(l groupLabels, s *groupSum) {
	if have := g[l]; have != nil {
		have.add(s)
	} else {
		sum := *s
		g[l] = &sum
	}
}

// sumGroups sums up the failures by reason, and the groups by project and by
// project and database.
func sumGroups(st *FleetStats) (failed, projects, dbs groupSums) {
	failed = make(groupSums, len(st.Failed))
	for reason, n := range st.Failed {
		failed.add(groupLabels{metricLabel(reason)}, &groupSum{active: n})
	}
	projects, dbs = make(groupSums), make(groupSums, len(st.Groups))
	for _, g := range st.Groups {
		s := groupSum{active: g.Hot + g.Queued, hot: g.Hot, branches: g.Branches, size: g.Size}
		project := metricLabel(g.Project)
		projects.add(groupLabels{project}, &s)
		dbs.add(groupLabels{project, metricLabel(g.Database)}, &s)
	}
	return failed, projects, dbs
}

// labelKeeper decides which groups have series of their own. One that has keeps
// them as long as it exists, so that a series does not come and go with small
// changes of size.
type labelKeeper struct {
	cap   int
	other groupLabels // of what has none of its own
	kept  map[groupLabels]struct{}
}

// keep returns the groups to show. It takes those that had series before, then
// the largest, then the most active ones; the rest becomes one group with the
// label `other`, a group of that very name included. It changes what it is given.
func (k *labelKeeper) keep(groups groupSums) groupSums {
	var rest []groupLabels
	for l := range groups {
		if _, ok := k.kept[l]; !ok {
			rest = append(rest, l)
		}
	}
	for l := range k.kept {
		if groups[l] == nil {
			delete(k.kept, l)
		}
	}
	if k.kept == nil {
		k.kept = make(map[groupLabels]struct{})
	}
	if len(rest) > k.cap-len(k.kept) {
		slices.SortFunc(rest, func(a, b groupLabels) int {
			return cmp.Or(cmp.Compare(groups[b].size, groups[a].size), cmp.Compare(groups[b].active, groups[a].active), slices.Compare(a[:], b[:]))
		})
	}
	free := min(k.cap-len(k.kept), len(rest))
	for _, l := range rest[:free] {
		k.kept[l] = struct{}{}
	}
	for _, l := range rest[free:] {
		s := groups[l]
		delete(groups, l)
		groups.add(k.other, s)
	}
	return groups
}
