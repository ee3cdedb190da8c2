package litestream_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"gopkg.in/yaml.v3"

	litestream "github.com/benbjohnson/litestream"
)

// syntheticFleet is the state of a fleet with that many groups.
func syntheticFleet(projects, databases int) litestream.FleetStats {
	st := litestream.FleetStats{
		Hot: 1000, HotLimit: 1000, Cold: 99_000,
		Databases: map[litestream.FleetState]int{
			{Tier: "cold", State: "unknown"}: 10, {Tier: "cold", State: "clean"}: 98_000,
			{Tier: "cold", State: "queued"}: 890, {Tier: "cold", State: "failed"}: 100,
			{Tier: "hot", State: "hot"}: 1000, {Tier: "none", State: "gone"}: 5,
		},
		Failed:             map[string]int{"locked": 60, "not-a-database": 40},
		Queue:              litestream.FleetQueue{Changed: 800, First: 90, Delayed: 100},
		OldestUnreplicated: 12500 * time.Millisecond,
		Pools:              make(map[string]litestream.FleetPool),
		Connections: litestream.FleetConnections{
			Limit: 1000, Open: 12, InUse: 3, Waiting: 5, Waits: 7, WaitTime: 2500 * time.Millisecond,
			Timeouts: 1, Evictions: 4, Held: 2, Pinned: 1, Leftovers: 6,
		},
		StagedBytes: 1 << 20, StagedLimit: 1 << 30, TableBytes: 12_000_000, MaintenanceQueue: 17,
		OldestProven: 90 * time.Second, Unproven: 4,
	}
	for _, name := range []string{"monitor", "snapshot", "replica"} {
		st.Pools[name] = litestream.FleetPool{Limit: 100, Workers: 20, Busy: 10, Queued: 5}
	}
	for p := range projects {
		for d := range databases {
			st.Groups = append(st.Groups, litestream.FleetGroup{
				Project: fmt.Sprintf("project-%05d", p), Database: fmt.Sprintf("database-%05d", d),
				Hot: 10, Queued: 5, Branches: 3, Size: int64(p+1) << 20,
			})
		}
	}
	return st
}

// series returns the value of each gauge and counter as text of its labels.
func series(tb testing.TB, reg prometheus.Gatherer) map[string]float64 {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := strings.TrimPrefix(f.GetName(), "litestream_multidb_")
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				got[name] = h.GetSampleSum()
			}
		}
	}
	return got
}

// TestAggregatedMetrics_Values checks the value of every series, after one
// event of each kind and with a small fleet.
func TestAggregatedMetrics_Values(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := litestream.NewAggregatedMetrics(reg, 0)
	litestream.EveryEvent(m)
	want := map[string]float64{
		"audit_failures_total":                               1,
		`captures_total{kind="snapshot",reason="no-cursor"}`: 1,
		`captures_total{kind="tail",reason=""}`:              1,
		`catalog_requests_total{operation="DELETE"}`:         3,
		`catalog_requests_total{operation="GET"}`:            1,
		`catalog_requests_total{operation="PUT"}`:            3,
		"catalog_timestamp_seconds":                          1_700_000_001.5,
		`catalog_writes_total{result="error"}`:               1,
		`catalog_writes_total{result="ok"}`:                  1,
		"catalog_written_bytes_total":                        400,
		"demotions_total":                                    1,
		`drill_checks_total{result="ok"}`:                    1,
		"drill_failed_databases":                             2,
		"drill_read_bytes_total":                             500,
		"drill_requests_total":                               3,
		`failures_total{reason="locked"}`:                    1,
		"last_scan_timestamp_seconds":                        1_700_000_000.5,
		"invalid_databases":                                  7, "compaction_verify_errors_total": 1, `validation_checks_total{result="invalid"}`: 1,
		`maintenance_actions_total{kind="compact",result="ok"}`: 1,
		"promotions_total":             1,
		"replicated_bytes_total":       300,
		"replication_lag_seconds":      1.5,
		"scan_changed_databases_total": 2,
		"scan_deleted_databases_total": 1,
		"scan_duration_seconds":        0.2,
		"scan_errors":                  5,
		"scan_files":                   100,
		"scan_new_databases_total":     3,
		"scan_skipped_files":           4,
		"scan_unmatched_patterns":      6,
		"wal_bytes_total":              4120,
	}
	if diff := cmp.Diff(want, series(t, reg)); diff != "" {
		t.Errorf("series without a fleet (-want +got):\n%s", diff)
	}

	st := syntheticFleet(2, 1)
	st.Pools = map[string]litestream.FleetPool{"replica": {Limit: 200, Workers: 20, Busy: 10, Queued: 5, Started: 9, Waited: time.Minute}}
	m.SetSource(func() litestream.FleetStats { return st })
	maps.Copy(want, map[string]float64{
		"hot_databases": 1000, "hot_databases_limit": 1000, "cold_databases": 99_000,
		`databases{state="unknown",tier="cold"}`: 10, `databases{state="clean",tier="cold"}`: 98_000,
		`databases{state="queued",tier="cold"}`: 890, `databases{state="failed",tier="cold"}`: 100,
		`databases{state="hot",tier="hot"}`: 1000, `databases{state="gone",tier="none"}`: 5,
		`failed_databases{reason="locked"}`: 60, `failed_databases{reason="not-a-database"}`: 40,
		`queue_length{class="changed"}`: 800, `queue_length{class="first"}`: 90, `queue_length{class="delayed"}`: 100,
		"oldest_unreplicated_change_seconds": 12.5,
		"connections_limit":                  1000, "connections_open": 12, "connections_in_use": 3, "connections_waiting": 5,
		"connection_waits_total": 7, "connection_wait_seconds_total": 2.5, "connection_wait_timeouts_total": 1,
		"connection_evictions_total": 4, "connection_holds_total": 2, "pins_total": 1, "connection_leftover_files_total": 6,
		"staged_bytes": 1 << 20, "staged_bytes_limit": 1 << 30, "table_bytes": 12_000_000,
		"maintenance_queue_length":                        17,
		"drill_oldest_proven_seconds":                     90,
		"drill_unproven_databases":                        4,
		`pool_workers_limit{pool="replica"}`:              200,
		`pool_workers{pool="replica"}`:                    20,
		`pool_busy_workers{pool="replica"}`:               10,
		`pool_queued_tasks{pool="replica"}`:               5,
		`pool_tasks_total{pool="replica"}`:                9,
		`pool_wait_seconds_total{pool="replica"}`:         60,
		`project_active_tenants{project="project-00000"}`: 15, `project_active_tenants{project="project-00001"}`: 15,
		`project_size_bytes{project="project-00000"}`: 1 << 20, `project_size_bytes{project="project-00001"}`: 2 << 20,
		`database_hot_tenants{database="database-00000",project="project-00000"}`: 10,
		`database_hot_tenants{database="database-00000",project="project-00001"}`: 10,
		`database_branches{database="database-00000",project="project-00000"}`:    3,
		`database_branches{database="database-00000",project="project-00001"}`:    3,
	})
	if diff := cmp.Diff(want, series(t, reg)); diff != "" {
		t.Errorf("series of a fleet (-want +got):\n%s", diff)
	}

	m.SetSource(nil)
	if got, ok := series(t, reg)["hot_databases"]; ok {
		t.Errorf("hot_databases=%v without a source, want no series", got)
	}
}

// TestAggregatedMetrics_Nil holds that nobody has to ask whether metrics are
// wanted.
func TestAggregatedMetrics_Nil(*testing.T) {
	litestream.EveryEvent(nil)
	(*litestream.AggregatedMetrics)(nil).SetSource(nil)
}

// fullPage is what /metrics serves for a fleet, everything else that the
// daemon registers included, with each counter of events at its limit if full.
func fullPage(tb testing.TB, st litestream.FleetStats, full bool) (page string, seriesN int) {
	tb.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	requests := litestream.NewMetrics(reg)
	for _, op := range []string{"GET", "PUT", "LIST", "DELETE"} {
		for _, code := range []string{"", "SlowDown", "AccessDenied", "InternalError", "DeadlineExceeded"} {
			requests.ObserveOperation("s3", op, 100, time.Second, code)
		}
	}
	m := litestream.NewAggregatedMetrics(reg, 0)
	litestream.EveryEvent(m)
	for i := range 500 {
		if full {
			m.CountFailure(fmt.Sprint(i))
			m.CountCapture(fmt.Sprint(i))
			m.CountMaintenance(fmt.Sprint(i))
			requests.ObserveOperation("s3", "GET", 0, time.Second, fmt.Sprint(i))
		}
	}
	m.SetSource(func() litestream.FleetStats { return st })

	w := httptest.NewRecorder()
	h := promhttp.InstrumentMetricHandler(reg, promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		tb.Fatalf("/metrics answers %d: %s", w.Code, w.Body)
	}
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			seriesN++
		}
	}
	return w.Body.String(), seriesN
}

// TestAggregatedMetrics_Size counts the lines and bytes of the page that
// /metrics serves.
func TestAggregatedMetrics_Size(t *testing.T) {
	for _, tt := range []struct {
		name                string
		projects, databases int
		full                bool
		maxSeries, maxBytes int
	}{
		{"HundredThousandTenants", 10, 10, false, 2000, 500_000},
		{"AtTheCap", 1000, 1, true, 5000, 1_000_000},
		{"BeyondTheCap", 2000, 3, true, 5000, 1_000_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			page, n := fullPage(t, syntheticFleet(tt.projects, tt.databases), tt.full)
			t.Logf("%d series, %d bytes", n, len(page))
			if n >= tt.maxSeries || len(page) >= tt.maxBytes {
				t.Errorf("%d series and %d bytes, want below %d and %d", n, len(page), tt.maxSeries, tt.maxBytes)
			}
			if tt.projects > litestream.DefaultMetricLabelCap != strings.Contains(page, `{project="other"}`) {
				t.Errorf("other project=%v with %d projects", strings.Contains(page, `{project="other"}`), tt.projects)
			}
		})
	}
}

// TestAggregatedMetrics_LabelCap checks who has series of its own: the largest
// first, and then for as long as it is there.
func TestAggregatedMetrics_LabelCap(t *testing.T) {
	group := func(project string, hot int, size int64) litestream.FleetGroup {
		return litestream.FleetGroup{Project: project, Database: "d", Hot: hot, Branches: 1, Size: size}
	}
	reg := prometheus.NewRegistry()
	m := litestream.NewAggregatedMetrics(reg, 2)
	for _, step := range []struct {
		name   string
		groups []litestream.FleetGroup
		want   map[string]float64 // sizes
	}{
		{
			"Larger",
			[]litestream.FleetGroup{group("a", 9, 1), group("b", 0, 3), group("c", 0, 2), group("d", 0, 1)},
			map[string]float64{"b": 3, "c": 2, "other": 2},
		},
		{
			"KeepsItsSeries",
			[]litestream.FleetGroup{group("a", 9, 100), group("b", 0, 3), group("c", 0, 2), group("d", 0, 1)},
			map[string]float64{"b": 3, "c": 2, "other": 101},
		},
		{
			"Gone",
			[]litestream.FleetGroup{group("a", 0, 7), group("b", 0, 3), group("d", 1, 7)},
			map[string]float64{"b": 3, "d": 7, "other": 7},
		}, // d is more active than a
		{
			"Back",
			[]litestream.FleetGroup{group("a", 0, 7), group("b", 0, 3), group("c", 0, 99), group("d", 1, 7)},
			map[string]float64{"b": 3, "d": 7, "other": 106},
		},
		{
			"NoMoreThanTheCap",
			[]litestream.FleetGroup{group("a", 0, 7), group("b", 0, 3)},
			map[string]float64{"a": 7, "b": 3},
		},
		{
			"Namesake",
			[]litestream.FleetGroup{group("a", 0, 7), group("b", 0, 3), group("c", 0, 1), group("other", 0, 5)},
			map[string]float64{"a": 7, "b": 3, "other": 6},
		},
		{"NamesakeWithSeries", []litestream.FleetGroup{group("other", 0, 5)}, map[string]float64{"other": 5}},
		{
			"NotUTF8",
			[]litestream.FleetGroup{group("a\xff", 0, 1), group(`a\xff`, 0, 1), group("", 0, 3)},
			map[string]float64{`a\xff`: 2, "": 3},
		},
	} {
		t.Run(step.name, func(t *testing.T) {
			m.SetSource(func() litestream.FleetStats { return litestream.FleetStats{Groups: step.groups} })
			got := make(map[string]float64)
			for name, v := range series(t, reg) {
				if project, ok := strings.CutPrefix(name, `project_size_bytes{project="`); ok {
					got[strings.ReplaceAll(strings.TrimSuffix(project, `"}`), `\\`, `\`)] = v
				}
			}
			if diff := cmp.Diff(step.want, got); diff != "" {
				t.Errorf("sizes of projects (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAggregatedMetrics_LabelSums compares random fleets, one after the other,
// with their sums: nothing is lost and nothing counted twice.
func TestAggregatedMetrics_LabelSums(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const labelCap = 7
	reg := prometheus.NewRegistry()
	m := litestream.NewAggregatedMetrics(reg, labelCap)
	kept := map[string]bool{}
	for round := range 100 {
		var groups []litestream.FleetGroup
		var size, hot float64
		exists := map[string]bool{}
		for p := range rnd.IntN(20) {
			if rnd.IntN(3) == 0 {
				continue
			}
			g := litestream.FleetGroup{Project: fmt.Sprint(p), Database: fmt.Sprint(rnd.IntN(2)), Hot: rnd.IntN(9), Size: rnd.Int64N(1 << 40)}
			groups, size, hot = append(groups, g), size+float64(g.Size), hot+float64(g.Hot)
			exists[fmt.Sprintf("project_size_bytes{project=%q}", g.Project)] = true
		}
		m.SetSource(func() litestream.FleetStats { return litestream.FleetStats{Groups: groups} })
		own := map[string]bool{}
		for name, v := range series(t, reg) {
			switch family, _, _ := strings.Cut(name, "{"); family {
			case "project_size_bytes":
				size -= v
				if !strings.Contains(name, "other") {
					own[name] = true
				}
			case "database_hot_tenants":
				hot -= v
			}
		}
		if size != 0 || hot != 0 {
			t.Fatalf("round %d: %v bytes and %v hot tenants differ", round, size, hot)
		}
		if want := min(labelCap, len(exists)); len(own) != want {
			t.Fatalf("round %d: %d projects have series, want %d", round, len(own), want)
		}
		for name := range kept {
			if exists[name] && !own[name] {
				t.Fatalf("round %d: %s lost its series", round, name)
			}
		}
		kept = own
	}
}

// TestAggregatedMetrics_BoundedCodes holds that whatever a service answers
// makes a bounded number of series.
func TestAggregatedMetrics_BoundedCodes(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := litestream.NewMetrics(reg)
	for i := range 1000 {
		m.ObserveOperation("s3", "GET", 0, time.Second, fmt.Sprintf("Code\xff%d", i))
	}
	got, own := series(t, reg), 0
	for name := range got {
		if strings.HasPrefix(name, "litestream_replica_operation_errors_total") {
			own++
		}
	}
	other := got[`litestream_replica_operation_errors_total{code="other",operation="other",replica_type="other"}`]
	if own != 101 || other != 900 {
		t.Errorf("%d series, %v beyond the limit, want 101 and 900", own, other)
	}
	if got := got[`litestream_replica_operation_total{operation="GET",replica_type="s3"}`]; got != 1000 {
		t.Errorf("%v requests, want 1000", got)
	}
}

// TestAggregatedMetrics_Concurrent collects while things happen.
func TestAggregatedMetrics_Concurrent(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := litestream.NewAggregatedMetrics(reg, 5)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 50 {
				litestream.EveryEvent(m)
				st := syntheticFleet(4+n%4, 2)
				m.SetSource(func() litestream.FleetStats { return st })
				if _, err := reg.Gather(); err != nil {
					t.Errorf("worker %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if got := series(t, reg)["promotions_total"]; got != 200 {
		t.Errorf("promotions_total=%v, want 200", got)
	}
}

// allFamilies gathers each metric of the fleet and of requests.
func allFamilies(t *testing.T) (fleet, all []string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	m := litestream.NewAggregatedMetrics(reg, 0)
	litestream.EveryEvent(m)
	m.SetSource(func() litestream.FleetStats { return syntheticFleet(1, 1) })
	litestream.NewMetrics(reg).ObserveOperation("s3", "GET", 1, time.Second, "NoSuchKey")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := families[:0]
	for _, f := range families {
		all = append(all, f.GetName())
		if f.GetType().String() == "HISTOGRAM" {
			all = append(all, f.GetName()+"_bucket", f.GetName()+"_sum", f.GetName()+"_count")
		}
		if strings.HasPrefix(f.GetName(), "litestream_multidb_") {
			fleet = append(fleet, f.GetName())
			ours = append(ours, f)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(ours).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	return fleet, all
}

var metricName = regexp.MustCompile(`\blitestream_[a-z0-9_]+`)

// TestAggregatedMetrics_Docs compares the metrics with those of the manual, and
// looks at the alerts that users copy.
func TestAggregatedMetrics_Docs(t *testing.T) {
	fleet, all := allFamilies(t)
	manual, err := os.ReadFile("docs/MULTIDB.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(manual), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := map[string]bool{}
	for _, name := range metricName.FindAllString(section, -1) {
		if strings.HasPrefix(name, "litestream_multidb_") {
			documented[name] = true
		} else if !slices.Contains(all, name) {
			t.Errorf("docs/MULTIDB.md names %s, which does not exist", name)
		}
	}
	if diff := cmp.Diff(fleet, slices.Sorted(maps.Keys(documented))); diff != "" {
		t.Errorf("section Metrics of docs/MULTIDB.md (-there are +documented):\n%s", diff)
	}

	data, err := os.ReadFile("examples/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&rules); err != nil {
		t.Fatalf("examples/alerts.yml: %v", err)
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %q of group %q lacks a name, severity, summary or description", r.Alert, g.Name)
			}
			names := metricName.FindAllString(r.Expr, -1)
			if len(names) == 0 {
				t.Errorf("alert %s looks at nothing", r.Alert)
			}
			for _, name := range names {
				if !slices.Contains(all, name) {
					t.Errorf("alert %s looks at %s, which does not exist", r.Alert, name)
				}
			}
			if !strings.Contains(section, "`"+r.Alert+"`") {
				t.Errorf("alert %s is not in docs/MULTIDB.md", r.Alert)
			}
		}
	}
	if n == 0 {
		t.Error("examples/alerts.yml has no alerts")
	}
}
