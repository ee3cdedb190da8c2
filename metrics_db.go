package litestream

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// Series that each database has from its first moment on.
const (
	seriesDBSize = iota
	seriesWALSize
	seriesTXID
	seriesDiskFull
	seriesWALBytes
	seriesSyncs
	seriesSyncErrors
	seriesSyncSeconds
	seriesVerifyErrors
	seriesN
)

var dbSeries = [seriesN]struct {
	name, help string
	kind       prometheus.ValueType
}{
	seriesDBSize:       {"db_size", "Size of the database file in bytes at the last sync.", prometheus.GaugeValue},
	seriesWALSize:      {"wal_size", "End of the captured write-ahead log in bytes.", prometheus.GaugeValue},
	seriesTXID:         {"txid", "Newest captured transaction.", prometheus.GaugeValue},
	seriesDiskFull:     {"disk_full", "1 while staging fails for lack of space.", prometheus.GaugeValue},
	seriesWALBytes:     {"total_wal_bytes", "Bytes of write-ahead log turned into LTX files.", prometheus.CounterValue},
	seriesSyncs:        {"sync_count", "Sync passes.", prometheus.CounterValue},
	seriesSyncErrors:   {"sync_error_count", "Sync passes that failed.", prometheus.CounterValue},
	seriesSyncSeconds:  {"sync_seconds", "Time spent in sync passes.", prometheus.CounterValue},
	seriesVerifyErrors: {"compaction_verify_error_count", "Compactions after which the files of the level did not join.", prometheus.CounterValue},
}

// dbCollector makes the series of all databases when it is asked for them. A
// database at rest costs its few numbers, not eleven collectors with labels of
// their own, which would be most of its memory.
type dbCollector struct {
	descs  [seriesN]*prometheus.Desc
	l0Desc *prometheus.Desc

	mu  sync.Mutex // guards the maps
	dbs map[string]*dbMetrics
	l0  map[string]L0RetentionStats // by base file name, which several databases may share
}

func newDBCollector() *dbCollector {
	c := &dbCollector{dbs: make(map[string]*dbMetrics), l0: make(map[string]L0RetentionStats)}
	for i, s := range dbSeries {
		c.descs[i] = prometheus.NewDesc("litestream_"+s.name, s.help, []string{"db"}, nil)
	}
	c.l0Desc = prometheus.NewDesc("litestream_l0_retention_files_total",
		"Level-0 files by what retention says of them.", []string{"db", "status"}, nil)
	return c
}

// Describe implements prometheus.Collector.
func (c *dbCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
	ch <- c.l0Desc
}

// Collect implements prometheus.Collector.
func (c *dbCollector) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.collect() {
		ch <- m
	}
}

// collect returns all series, so that nobody waits for their reader.
func (c *dbCollector) collect() []prometheus.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := make([]prometheus.Metric, 0, len(c.dbs)*seriesN+3*len(c.l0))
	for label, d := range c.dbs {
		for i := range d.values {
			a = append(a, prometheus.MustNewConstMetric(c.descs[i], dbSeries[i].kind, d.values[i].load(), label))
		}
	}
	for name, st := range c.l0 {
		for _, v := range []struct {
			status string
			n      int
		}{{"eligible", st.Eligible}, {"not_compacted", st.NotCompacted}, {"too_recent", st.TooRecent}} {
			a = append(a, prometheus.MustNewConstMetric(c.l0Desc, prometheus.GaugeValue, float64(v.n), name, v.status))
		}
	}
	return a
}

// number is a float that is written by one and read by others.
type number struct{ bits atomic.Uint64 }

func (n *number) load() float64     { return math.Float64frombits(n.bits.Load()) }
func (n *number) set(v float64)     { n.bits.Store(math.Float64bits(v)) }
func (n *number) add(delta float64) { n.set(n.load() + delta) }

// dbMetrics are the series of one database. They are written by whoever works
// on the database, one at a time. Nil counts nothing.
type dbMetrics struct {
	m      *Metrics
	label  string
	values [seriesN]number
}

// database makes the series of a database, at zero.
func (m *Metrics) database(path string) *dbMetrics {
	if m == nil {
		return nil
	}
	d := &dbMetrics{m: m, label: metricLabel(path)}
	m.dbs.mu.Lock()
	defer m.dbs.mu.Unlock()
	m.dbs.dbs[d.label] = d
	return d
}

// metricLabel is a path as the value of a label, which has to be UTF-8.
func metricLabel(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return strings.Trim(strconv.Quote(path), `"`)
}

// close removes the series of a database that is no longer replicated.
func (d *dbMetrics) close() {
	if d == nil {
		return
	}
	d.m.dbs.mu.Lock()
	if d.m.dbs.dbs[d.label] == d { // nobody took its place
		delete(d.m.dbs.dbs, d.label)
	}
	d.m.dbs.mu.Unlock()
	for _, v := range []*prometheus.CounterVec{d.m.ckptN, d.m.ckptErrorN, d.m.ckptSeconds} {
		for _, mode := range []checkpointMode{checkpointPassive, checkpointTruncate} {
			v.DeleteLabelValues(d.label, string(mode))
		}
	}
	own := prometheus.Labels{"db": d.label}
	d.m.validationN.DeletePartialMatch(own)
	d.m.validationOK.DeletePartialMatch(own)
	d.m.validationAt.DeletePartialMatch(own)
}

// captureEvents counts what happens to the content of a database.
type captureEvents interface {
	captured(kind, reason string)
	walBytes(n int64)
	auditFailed()
}

// events is where this database counts: under its own name, or with the others
// of its fleet. Either may be nil inside, and then counts nothing.
func (db *DB) events() captureEvents {
	if db.tenant != nil {
		return db.tenant.metrics
	}
	return db.metrics
}

// synced records a pass.
func (d *dbMetrics) synced(db *DB, start, end time.Time, err error) {
	if d == nil {
		return
	}
	d.values[seriesSyncs].add(1)
	d.values[seriesSyncSeconds].add(end.Sub(start).Seconds())
	d.values[seriesDBSize].set(float64(db.st.seen.Main.Size))
	d.values[seriesWALSize].set(float64(db.st.cursor.End()))
	d.values[seriesTXID].set(float64(db.st.txid))
	if err != nil && !errors.Is(err, errViewMoved) && !errors.Is(err, errAwaitReplica) {
		d.values[seriesSyncErrors].add(1)
	}
	full := 0.0
	if errors.Is(err, ErrDiskFull) {
		full = 1
	}
	d.values[seriesDiskFull].set(full)
}

func (d *dbMetrics) walBytes(n int64) {
	if d != nil {
		d.values[seriesWALBytes].add(float64(n))
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
	d.m.ckptN.WithLabelValues(d.label, mode).Inc()
	d.m.ckptSeconds.WithLabelValues(d.label, mode).Add(took.Seconds())
	if err != nil {
		d.m.ckptErrorN.WithLabelValues(d.label, mode).Inc()
	}
}

func (d *dbMetrics) auditFailed() {
	if d != nil {
		d.m.auditFailures.Inc()
	}
}

// verified counts a verification of a level. It is called by the task that
// merges, beside those that write the other series.
func (d *dbMetrics) verified(err error) {
	if d != nil && err != nil {
		d.values[seriesVerifyErrors].add(1)
	}
}

// validated records a validation of one level; err is that of the listing.
func (d *dbMetrics) validated(level int, valid bool, err error, now time.Time) {
	if d == nil {
		return
	}
	result, ok, n := "invalid", 0.0, strconv.Itoa(level)
	switch {
	case err != nil:
		result = "error"
	case valid:
		result, ok = "success", 1
		d.m.validationAt.WithLabelValues(d.label, n).Set(float64(now.UnixMilli()) / 1000)
	}
	d.m.validationN.WithLabelValues(d.label, n, result).Inc()
	d.m.validationOK.WithLabelValues(d.label, n).Set(ok)
}

// l0Retention records what a pass found; the label is the base file name,
// as in Litestream v0.5.
func (m *Metrics) l0Retention(name string, st L0RetentionStats) {
	if m == nil {
		return
	}
	m.dbs.mu.Lock()
	defer m.dbs.mu.Unlock()
	m.dbs.l0[metricLabel(name)] = st
}
