package litestream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics holds every collector of this package. Names and labels are those of
// Litestream v0.5, and our own where it has none.
type Metrics struct {
	dbs                            *dbCollector
	ckptN, ckptErrorN, ckptSeconds *prometheus.CounterVec
	captureN                       *prometheus.CounterVec
	auditFailures                  prometheus.Counter
	validationN                    *prometheus.CounterVec
	validationOK, validationAt     *prometheus.GaugeVec
	opN, opBytes                   *prometheus.CounterVec
	opErrorN                       *boundedCounter // what a service answers could be anything
	opSeconds                      *prometheus.HistogramVec
}

// NewMetrics makes the collectors and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{dbs: newDBCollector()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "litestream_" + name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "litestream_" + name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	m.ckptN = counter("checkpoint_count", "Checkpoints tried.", "db", "mode")
	m.ckptErrorN = counter("checkpoint_error_count", "Checkpoints that failed.", "db", "mode")
	m.ckptSeconds = counter("checkpoint_seconds", "Time spent in checkpoints.", "db", "mode")
	m.captureN = counter("capture_count", "Captures by kind (tail, diff, full, none) and by the reason of a diff.", "kind", "reason")
	m.validationN = counter("validation_checks_total", "Checks that the files of a level join, by result (success, invalid, error).", "db", "level", "result")
	m.validationOK = gauge("last_validation_success", "1 if the files of the level joined in the last validation.", "db", "level")
	m.validationAt = gauge("last_validation_success_timestamp_seconds", "When the files of the level last were found to join.", "db", "level")
	m.opN = counter("replica_operation_total", "Requests to the replica's storage.", "replica_type", "operation")
	m.opBytes = counter("replica_operation_bytes", "Bytes moved to and from the replica's storage.", "replica_type", "operation")
	m.opErrorN = &boundedCounter{
		vec: counter("replica_operation_errors_total", "Requests that failed.", "replica_type", "operation", "code"),
	}
	m.opSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "litestream_replica_operation_duration_seconds", Help: "Duration of requests.",
		Buckets: []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60},
	}, []string{"replica_type", "operation"})
	m.auditFailures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "litestream_audit_failure_count", Help: "Snapshots that found a page that differs from what was replicated.",
	})
	reg.MustRegister(m.dbs, m.opSeconds, m.auditFailures)
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
		m.opErrorN.inc(replicaType, op, code)
	}
}
