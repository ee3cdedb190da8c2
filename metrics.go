package litestream

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics holds every collector of this package. Names and labels are those of
// Litestream v0.5 (compat.md section 10), and our own where it has none.
type Metrics struct {
	dbSize, walSize, txid, diskFull          *prometheus.GaugeVec
	walBytes, syncN, syncErrorN, syncSeconds *prometheus.CounterVec
	ckptN, ckptErrorN, ckptSeconds           *prometheus.CounterVec
	captureN                                 *prometheus.CounterVec
	auditFailures                            prometheus.Counter
	l0Files                                  *prometheus.GaugeVec
	opN, opBytes, opErrorN                   *prometheus.CounterVec
	opSeconds                                *prometheus.HistogramVec
}

// NewMetrics makes the collectors and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "litestream_" + name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "litestream_" + name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	m.dbSize = gauge("db_size", "Size of the database file in bytes at the last sync.", "db")
	m.walSize = gauge("wal_size", "End of the captured write-ahead log in bytes.", "db")
	m.txid = gauge("txid", "Newest captured transaction.", "db")
	m.diskFull = gauge("disk_full", "1 while staging fails for lack of space.", "db")
	m.walBytes = counter("total_wal_bytes", "Bytes of write-ahead log turned into LTX files.", "db")
	m.syncN = counter("sync_count", "Sync passes.", "db")
	m.syncErrorN = counter("sync_error_count", "Sync passes that failed.", "db")
	m.syncSeconds = counter("sync_seconds", "Time spent in sync passes.", "db")
	m.ckptN = counter("checkpoint_count", "Checkpoints tried.", "db", "mode")
	m.ckptErrorN = counter("checkpoint_error_count", "Checkpoints that failed.", "db", "mode")
	m.ckptSeconds = counter("checkpoint_seconds", "Time spent in checkpoints.", "db", "mode")
	m.captureN = counter("capture_count", "Captures by kind (tail, diff, full, none) and by the reason of a diff.", "kind", "reason")
	m.l0Files = gauge("l0_retention_files_total", "Level-0 files by what retention says of them.", "db", "status")
	m.opN = counter("replica_operation_total", "Requests to the replica's storage.", "replica_type", "operation")
	m.opBytes = counter("replica_operation_bytes", "Bytes moved to and from the replica's storage.", "replica_type", "operation")
	m.opErrorN = counter("replica_operation_errors_total", "Requests that failed.", "replica_type", "operation", "code")
	m.opSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "litestream_replica_operation_duration_seconds", Help: "Duration of requests.",
		Buckets: []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60},
	}, []string{"replica_type", "operation"})
	m.auditFailures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "litestream_audit_failure_count", Help: "Snapshots that found a page that differs from what was replicated.",
	})
	reg.MustRegister(m.opSeconds, m.auditFailures)
	return m
}

// ObserveOperation counts a request of a storage client.
func (m *Metrics) ObserveOperation(replicaType, op string, bytes int64, d time.Duration, code string) {
	m.opN.WithLabelValues(replicaType, op).Inc()
	if bytes > 0 {
		m.opBytes.WithLabelValues(replicaType, op).Add(float64(bytes))
	}
	m.opSeconds.WithLabelValues(replicaType, op).Observe(d.Seconds())
	if code != "" {
		m.opErrorN.WithLabelValues(replicaType, op, code).Inc()
	}
}

// dbMetrics are the series of one database. Nil counts nothing.
type dbMetrics struct {
	m                                   *Metrics
	path                                string
	dbSize, walSize, txid, diskFull     prometheus.Gauge
	wal, syncN, syncErrorN, syncSeconds prometheus.Counter
}

// database makes the series of a database, at zero.
func (m *Metrics) database(path string) *dbMetrics {
	if m == nil {
		return nil
	}
	return &dbMetrics{
		m: m, path: path,
		dbSize: m.dbSize.WithLabelValues(path), walSize: m.walSize.WithLabelValues(path),
		txid: m.txid.WithLabelValues(path), diskFull: m.diskFull.WithLabelValues(path),
		wal: m.walBytes.WithLabelValues(path), syncN: m.syncN.WithLabelValues(path),
		syncErrorN: m.syncErrorN.WithLabelValues(path), syncSeconds: m.syncSeconds.WithLabelValues(path),
	}
}

// close removes the series of a database that is no longer replicated.
func (d *dbMetrics) close() {
	if d == nil {
		return
	}
	match := prometheus.Labels{"db": d.path}
	for _, v := range []*prometheus.GaugeVec{d.m.dbSize, d.m.walSize, d.m.txid, d.m.diskFull} {
		v.DeletePartialMatch(match)
	}
	for _, v := range []*prometheus.CounterVec{
		d.m.walBytes, d.m.syncN, d.m.syncErrorN, d.m.syncSeconds, d.m.ckptN, d.m.ckptErrorN, d.m.ckptSeconds,
	} {
		v.DeletePartialMatch(match)
	}
}

// synced records a pass.
func (d *dbMetrics) synced(db *DB, start, end time.Time, err error) {
	if d == nil {
		return
	}
	d.syncN.Inc()
	d.syncSeconds.Add(end.Sub(start).Seconds())
	d.dbSize.Set(float64(db.st.seen.Main.Size))
	d.walSize.Set(float64(db.st.cursor.End()))
	d.txid.Set(float64(db.st.txid))
	if err != nil && !errors.Is(err, errViewMoved) && !errors.Is(err, errAwaitReplica) && !errors.Is(err, errSuspended) {
		d.syncErrorN.Inc()
	}
	if errors.Is(err, ErrDiskFull) {
		d.diskFull.Set(1)
	} else {
		d.diskFull.Set(0)
	}
}

func (d *dbMetrics) walBytes(n int64) {
	if d != nil {
		d.wal.Add(float64(n))
	}
}

func (d *dbMetrics) captured(kind, reason string) {
	if d != nil {
		d.m.captureN.WithLabelValues(kind, reason).Inc()
	}
}

func (d *dbMetrics) checkpointed(mode string, took time.Duration, err error) {
	if d == nil {
		return
	}
	d.m.ckptN.WithLabelValues(d.path, mode).Inc()
	d.m.ckptSeconds.WithLabelValues(d.path, mode).Add(took.Seconds())
	if err != nil {
		d.m.ckptErrorN.WithLabelValues(d.path, mode).Inc()
	}
}

func (d *dbMetrics) auditFailed() {
	if d != nil {
		d.m.auditFailures.Inc()
	}
}

// l0Retention records what a pass found; the label is the base file name
// (compat.md section 10).
func (m *Metrics) l0Retention(name string, st L0RetentionStats) {
	if m == nil {
		return
	}
	m.l0Files.WithLabelValues(name, "eligible").Set(float64(st.Eligible))
	m.l0Files.WithLabelValues(name, "not_compacted").Set(float64(st.NotCompacted))
	m.l0Files.WithLabelValues(name, "too_recent").Set(float64(st.TooRecent))
}
