package litestream

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// DefaultMetricLabelCap is how many projects, and how many databases of
	// projects, have series of their own.
	DefaultMetricLabelCap = 1000

	// maxEventSeries bounds the series of one counter of events. What events
	// are labelled with is made by this program, except for the codes of a
	// storage service, which could be anything.
	maxEventSeries = 100

	// otherLabel stands for all values beyond a cap.
	otherLabel = "other"
)

// AggregatedMetrics counts what happens to a fleet, without a series for each
// of its databases: their number is bounded, whatever the number of databases.
// Its methods may be called concurrently, and on nil, which counts nothing.
type AggregatedMetrics struct {
	fleet *fleetCollector

	promotions, demotions, walN, replicatedN prometheus.Counter
	auditFailures                            prometheus.Counter
	scanNew, scanChanged, scanDeleted        prometheus.Counter
	scanFiles, scanSkipped, scanErrors       prometheus.Gauge
	scanUnmatched, scanEnd                   prometheus.Gauge
	lag, scanSeconds                         prometheus.Histogram
	captureN, maintenanceN, failureN         *boundedCounter
	validationN                              *boundedCounter
	invalid                                  prometheus.Gauge
	verifyErrors                             prometheus.Counter
	catalogN, catalogRequestN                *boundedCounter
	catalogBytes                             prometheus.Counter
	catalogEnd, drillFailed                  prometheus.Gauge
	drillN                                   *boundedCounter
	drillRequests, drillBytes                prometheus.Counter
}

// scanStats is what one scan of all files saw.
type scanStats struct {
	End       time.Time
	Files     int // that match
	New       int // of these, seen for the first time
	Changed   int // of these, known and not as they were
	Deleted   int // known, and not there any more
	Skipped   int // devices, pipes, sockets and links that are not followed
	Errors    int // files and directories that could not be looked at
	Unmatched int // patterns that matched nothing

	sizes scanSizes
}

// NewAggregatedMetrics makes the collectors and registers them. labelCap bounds
// how many projects, and how many databases of projects, have series of their
// own; 0 stands for DefaultMetricLabelCap.
func NewAggregatedMetrics(reg prometheus.Registerer, labelCap int) *AggregatedMetrics {
	if labelCap <= 0 {
		labelCap = DefaultMetricLabelCap
	}
	m := &AggregatedMetrics{fleet: newFleetCollector(labelCap)}
	reg.MustRegister(m.fleet)
	m.makeCounters(reg)
	m.makeScanMetrics(reg)
	m.lag = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    multiDBPrefix + "replication_lag_seconds",
		Help:    "Time from a change to the acknowledgement of its upload.",
		Buckets: []float64{.1, .25, .5, 1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 900, 3600},
	})
	reg.MustRegister(m.lag)
	return m
}

func (m *AggregatedMetrics) makeCounters(reg prometheus.Registerer) {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: multiDBPrefix + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	bounded := func(name, help string, labels ...string) *boundedCounter {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: multiDBPrefix + name, Help: help}, labels)
		reg.MustRegister(v)
		return &boundedCounter{vec: v}
	}
	m.promotions = counter("promotions_total", "Databases that became hot.")
	m.demotions = counter("demotions_total", "Databases that became cold.")
	m.walN = counter("wal_bytes_total", "Bytes of write-ahead log turned into LTX files.")
	m.replicatedN = counter("replicated_bytes_total", "Bytes of LTX files whose upload was acknowledged, without those of maintenance.")
	m.auditFailures = counter("audit_failures_total", "Snapshots that found a page that differs from what was replicated.")
	m.captureN = bounded("captures_total", "Captures by kind (tail, diff, snapshot, none) and by why it was no tail.", "kind", "reason")
	m.maintenanceN = bounded("maintenance_actions_total", "Actions of maintenance by kind and result.", "kind", "result")
	m.failureN = bounded("failures_total", "Failed attempts by the class of their reason.", "reason")
	m.validationN = bounded("validation_checks_total", "Validations of replicas by result (success, invalid, error).", "result")
	m.verifyErrors = counter("compaction_verify_errors_total", "Compactions after which the files of the level did not join.")
	m.catalogN = bounded("catalog_writes_total", "Writes of the catalog of all databases by result (ok, error).", "result")
	m.catalogRequestN = bounded("catalog_requests_total", "Requests to the storage for the catalog by operation (GET, PUT, DELETE), which no other metric counts.", "operation")
	m.catalogBytes = counter("catalog_written_bytes_total", "Bytes of the catalog that were written.")
	m.drillN = bounded("drill_checks_total", "Replicas that the drill looked at by what it found (ok, missing-delayed, missing-lost, corrupt, diverged, error).", "result")
	m.drillRequests = counter("drill_requests_total", "Requests to the storage that the drill made, which no other metric counts.")
	m.drillBytes = counter("drill_read_bytes_total", "Bytes that the drill read from the storage.")
	m.scanNew = counter("scan_new_databases_total", "Databases that a scan saw for the first time.")
	m.scanChanged = counter("scan_changed_databases_total", "Databases that a scan found changed.")
	m.scanDeleted = counter("scan_deleted_databases_total", "Databases that a scan found deleted.")
}

func (m *AggregatedMetrics) makeScanMetrics(reg prometheus.Registerer) {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: multiDBPrefix + name, Help: help})
		reg.MustRegister(g)
		return g
	}
	m.invalid = gauge("invalid_databases", "Databases whose last validation found something wrong, or failed.")
	m.drillFailed = gauge("drill_failed_databases", "Databases whose replica the last drill found damaged.")
	m.catalogEnd = gauge("catalog_timestamp_seconds", "When the catalog was last brought up to date.")
	m.scanFiles = gauge("scan_files", "Files that matched a pattern in the last scan.")
	m.scanSkipped = gauge("scan_skipped_files", "Devices, pipes, sockets and links that the last scan did not follow.")
	m.scanErrors = gauge("scan_errors", "Files and directories that the last scan could not look at.")
	m.scanUnmatched = gauge("scan_unmatched_patterns", "Patterns that matched nothing in the last scan.")
	m.scanEnd = gauge("last_scan_timestamp_seconds", "When the last scan ended.")
	m.scanSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    multiDBPrefix + "scan_duration_seconds",
		Help:    "Duration of scans.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60},
	})
	reg.MustRegister(m.scanSeconds)
}

// setSource says where the state of the fleet is asked for, each time that
// somebody collects. Nil takes its series away.
func (m *AggregatedMetrics) setSource(source func() FleetStats) {
	if m == nil {
		return
	}
	if source == nil {
		m.fleet.source.Store(nil)
		return
	}
	m.fleet.source.Store(&source)
}

// promoted counts a database that became hot.
func (m *AggregatedMetrics) promoted() {
	if m != nil {
		m.promotions.Inc()
	}
}

// demoted counts a database that became cold.
func (m *AggregatedMetrics) demoted() {
	if m != nil {
		m.demotions.Inc()
	}
}

// captured counts a capture. kind is one of those of a DB, whose capture of
// everything is called a snapshot here.
func (m *AggregatedMetrics) captured(kind, reason string) {
	if m == nil {
		return
	}
	if kind == "full" {
		kind = "snapshot"
	}
	m.captureN.inc(kind, reason)
}

// walBytes counts bytes of a log that were captured.
func (m *AggregatedMetrics) walBytes(n int64) {
	if m != nil && n > 0 {
		m.walN.Add(float64(n))
	}
}

// replicated records that a change was acknowledged so long after it was made.
func (m *AggregatedMetrics) replicated(lag time.Duration) {
	if m != nil {
		m.lag.Observe(max(0, lag.Seconds()))
	}
}

// sent counts an acknowledged upload of so many bytes.
func (m *AggregatedMetrics) sent(n int64) {
	if m != nil {
		m.replicatedN.Add(float64(n))
	}
}

// scanned records a scan that came to its end after d.
func (m *AggregatedMetrics) scanned(d time.Duration, st scanStats) {
	if m == nil {
		return
	}
	m.scanSeconds.Observe(d.Seconds())
	m.scanEnd.Set(float64(st.End.UnixMilli()) / 1000)
	m.scanFiles.Set(float64(st.Files))
	m.scanSkipped.Set(float64(st.Skipped))
	m.scanErrors.Set(float64(st.Errors))
	m.scanUnmatched.Set(float64(st.Unmatched))
	m.scanNew.Add(float64(st.New))
	m.scanChanged.Add(float64(st.Changed))
	m.scanDeleted.Add(float64(st.Deleted))
}

// auditFailed counts a snapshot that found a page which differs from what was
// replicated.
func (m *AggregatedMetrics) auditFailed() {
	if m != nil {
		m.auditFailures.Inc()
	}
}

// maintained counts an action of maintenance.
func (m *AggregatedMetrics) maintained(kind, result string) {
	if m != nil {
		m.maintenanceN.inc(kind, result)
	}
}

// validated counts a validation; so many databases are not valid now.
func (m *AggregatedMetrics) validated(result string, invalid int) {
	if m != nil {
		m.validationN.inc(result)
		m.invalid.Set(float64(invalid))
	}
}

// drilled counts a look of the drill; so many replicas are damaged now.
func (m *AggregatedMetrics) drilled(result string, requests, bytes int64, failed int) {
	if m != nil {
		m.drillN.inc(result)
		m.drillRequests.Add(float64(requests))
		m.drillBytes.Add(float64(bytes))
		m.drillFailed.Set(float64(failed))
	}
}

// catalogWritten counts an attempt to bring the catalog up to date.
func (m *AggregatedMetrics) catalogWritten(n catalogCounts, at time.Time, err error) {
	if m == nil {
		return
	}
	for op, count := range map[string]int{"GET": n.gets, "PUT": n.puts, "DELETE": n.deletes} {
		m.catalogRequestN.add(float64(count), op)
	}
	m.catalogBytes.Add(float64(n.bytes))
	if err != nil {
		m.catalogN.inc("error")
		return
	}
	m.catalogN.inc("ok")
	m.catalogEnd.Set(float64(at.UnixMilli()) / 1000)
}

// verified counts a verification of a compaction.
func (m *AggregatedMetrics) verified(err error) {
	if m != nil && err != nil {
		m.verifyErrors.Inc()
	}
}

// failed counts a failed attempt. reason is a class, such as the keys of
// FleetStats.Failed, never the text of an error.
func (m *AggregatedMetrics) failed(reason string) {
	if m != nil {
		m.failureN.inc(reason)
	}
}

// boundedCounter is a counter with labels whose first maxEventSeries
// combinations of values have series of their own. All others share one.
type boundedCounter struct {
	vec *prometheus.CounterVec

	mu     sync.Mutex // guards series
	series map[string]prometheus.Counter
}

func (c *boundedCounter) inc(values ...string) { c.add(1, values...) }

func (c *boundedCounter) add(n float64, values ...string) {
	for i, v := range values {
		values[i] = metricLabel(v)
	}
	key := strings.Join(values, "\xff") // which no label holds: it is not UTF-8
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.series[key]
	if !ok {
		if c.series == nil {
			c.series = make(map[string]prometheus.Counter)
		}
		if len(c.series) >= maxEventSeries {
			for i := range values {
				values[i] = otherLabel
			}
			c.vec.WithLabelValues(values...).Add(n)
			return
		}
		s = c.vec.WithLabelValues(values...)
		c.series[key] = s
	}
	s.Add(n)
}
