//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Metrics of the multi-db mode that are read here.
const (
	metricDatabases    = "litestream_multidb_databases"
	metricTableBytes   = "litestream_multidb_table_bytes"
	metricScanSeconds  = "litestream_multidb_scan_duration_seconds"
	metricLag          = "litestream_multidb_replication_lag_seconds"
	metricAuditFailure = "litestream_multidb_audit_failures_total"
)

// metricsPage is one answer of /metrics.
type metricsPage struct {
	values map[string]float64 // by name and labels, as they stand there
	bytes  int
}

// parseMetrics reads the text format of Prometheus. Lines that are no sample
// are skipped.
func parseMetrics(text string) *metricsPage {
	p := &metricsPage{values: make(map[string]float64), bytes: len(text)}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			p.values[line[:at]] = v
		}
	}
	return p
}

// sum adds up the series of a name that have all the given labels, each in the
// form name="value".
func (p *metricsPage) sum(name string, labels ...string) (sum float64) {
	for series, v := range p.values {
		n, rest, _ := strings.Cut(series, "{")
		if n == name && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			sum += v
		}
	}
	return sum
}

// text lists the series of a name that are not 0, in order.
func (p *metricsPage) text(name string) string {
	var lines []string
	for series, v := range p.values {
		if n, _, _ := strings.Cut(series, "{"); n == name && v != 0 {
			lines = append(lines, fmt.Sprintf("%s %v", series, v))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// mean returns the mean of what a histogram observed since an earlier page, and
// how many observations that were.
func (p *metricsPage) mean(name string, before *metricsPage) (mean, n float64) {
	n = p.sum(name+"_count") - before.sum(name+"_count")
	if n <= 0 {
		return 0, 0
	}
	return (p.sum(name+"_sum") - before.sum(name+"_sum")) / n, n
}

// bound returns the upper bound of the bucket in which the quantile q of what a
// histogram without labels observed since an earlier page lies.
func (p *metricsPage) bound(name string, q float64, before *metricsPage) float64 {
	type bucket struct{ le, n float64 }
	var buckets []bucket
	for series, v := range p.values {
		le, ok := strings.CutPrefix(series, name+`_bucket{le="`)
		if !ok {
			continue
		}
		if le, err := strconv.ParseFloat(strings.TrimSuffix(le, `"}`), 64); err == nil {
			buckets = append(buckets, bucket{le, v - before.values[series]})
		}
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return int(math.Copysign(1, a.le-b.le)) })
	if len(buckets) == 0 {
		return 0
	}
	all := buckets[len(buckets)-1].n
	for _, b := range buckets {
		if b.n >= q*all {
			return b.le
		}
	}
	return math.Inf(1)
}

// get asks the HTTP server of a process.
func get(ctx context.Context, addr, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", path, res.Status)
	}
	return string(b), err
}

// scrape reads the metrics of a process.
func scrape(ctx context.Context, addr string) (*metricsPage, error) {
	text, err := get(ctx, addr, "/metrics")
	if err != nil {
		return nil, err
	}
	return parseMetrics(text), nil
}

// saveProfiles writes the heap and goroutine profiles of a process into a
// folder; an empty one means no.
func saveProfiles(ctx context.Context, addr, dir, name string) error {
	if dir == "" {
		return nil
	}
	for file, path := range map[string]string{
		"heap.pb.gz":     "/debug/pprof/heap",
		"goroutines.txt": "/debug/pprof/goroutine?debug=1",
	} {
		content, err := get(ctx, addr, path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name+"-"+file), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
