//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// figure is something that is measured of a fleet.
type figure struct {
	key  string
	name string // with its unit
	goal string
	how  string // it is taken
}

// fleetFigures are in the order of the report.
var fleetFigures = []figure{
	{"backup_rate", "first backup, databases/s", "≥ 2,000 file, ≥ 500 S3", "number of databases ÷ time from the start of the process until the last one has a file on the replica (file: looked for every 100 ms; S3: seen by a proxy); the databases were synced to the disk before"},
	{"bare_write_rate", "bare durable writes of it, files/s", "", "right after it: three new folders and one file of 2 KB for each of up to 20,000 databases, with the fsyncs that they need, on 200 threads, in the same scratch folder; nothing is read"},
	{"backup_seconds", "first backup, s", "", "the same time"},
	{"backup_peak_mb", "peak memory in the first backup, MB", "", "`VmHWM` after it"},
	{"backup_files", "LTX files after the first backup", "1 per database", "counted in the folder or in the folder of the S3 server"},
	{"backup_requests", "requests per database in the first backup", "", "counted by a proxy in front of the S3 server"},
	{"idle_rss_mb", "memory at rest, MB", "", "`VmRSS` at the end of the idle window"},
	{"record_bytes", "memory per record, bytes", "≤ 240 (aim 120)", "the tool's own figure for its table of databases ÷ number of databases"},
	{"idle_cpu", "CPU at rest, % of a core", "scan + 0.2", "user and system time from `/proc/PID/stat` over the idle window, in which nothing is written"},
	{"idle_fds", "descriptors at rest", "", "entries of `/proc/PID/fd`"},
	{"idle_goroutines", "goroutines at rest", "≤ 400", "`go_goroutines` of `/metrics`"},
	{"idle_requests", "requests at rest", "0", "in the idle window, by the proxy; those for the catalog apart"},
	{"idle_catalog", "requests at rest for the catalog", "", "the same; it is written at most once a minute, after what changed last"},
	{"scan_ms", "scan, ms", "≤ 157 at 100k without logs", "mean of the tool's own scan durations in the idle window"},
	{"bare_ms", "bare calls of a scan, ms", "", "`getdents64` of the directories and `fstatat` of each file on two threads, names at hand, right after the idle window, median of 5"},
	{"bare_stat_ms", "bare `fstatat` only, ms", "", "the same without `getdents64`, for a scan that knows that a directory is unchanged"},
	{"scan_ratio", "scan ÷ bare calls", "≤ 1.5", "the two above"},
	{"metrics_kb", "`/metrics`, KB", "≤ 500", "its answer at rest"},
	{"metrics_series", "`/metrics`, series", "≤ 2,000", "lines of it that are no comment"},
	{"load_commits", "commits per s under load", "", "acknowledged ones; each hot tenant commits at random moments over a connection that stays open"},
	{"load_rss_mb", "memory under load, MB", "≤ 123 (aim 80)", "highest `VmRSS` in the load window, looked at every 500 ms"},
	{"hot_kb", "memory per hot database, KB", "≤ 50", "highest `VmRSS` under load − `VmRSS` at rest, ÷ hot tenants"},
	{"load_cpu", "CPU under load, % of a core", "", "as at rest, over the load window"},
	{"load_fds", "descriptors under load", "≤ 2 × hot", "highest number of entries of `/proc/PID/fd`"},
	{"load_goroutines", "goroutines under load", "≤ 400", "highest `go_goroutines`, asked every 5 s"},
	{"hot_p50", "hot commit to replica, p50, s", "", "from the return of the commit until a file that holds its row has its final name (inotify; S3: until the answer to its upload passes the proxy); a sample of the tenants is watched"},
	{"hot_p99", "hot commit to replica, p99, s", "≤ 2", "the same"},
	{"cold_p50", "cold commit to replica, p50, s", "", "the same for one commit of a tenant that rested, at a random moment; its application stays"},
	{"cold_p99", "cold commit to replica, p99, s", "≤ scan interval + 2", "the same"},
	{"closed_p50", "cold commit and close, p50, s", "", "the same where the application closes its database at once"},
	{"closed_p99", "cold commit and close, p99, s", "≤ scan interval + 2", "the same"},
	{"lag_p99", "p99 of the tool's own lag, ≤ s", "", "bound of the bucket of its histogram, over the load window"},
	{"burst_seconds", "burst: all databases touched in, s", "60", "open, one commit, close, for each database once in random order"},
	{"burst_drain", "burst: until all are on the replica, s", "≤ 600", "from its begin until the last commit is on the replica"},
	{"burst_p50", "burst: commit to replica, p50, s", "", "file: the time in the ctime of the file that holds the row, looked for every few seconds; S3: by the proxy"},
	{"burst_oldest", "burst: oldest wait, s", "", "the longest of these"},
	{"burst_rss_mb", "burst: memory, MB", "", "highest `VmRSS`"},
	{"outage_seconds", "outage in a burst, s", "600", "the replica is away (file: another file lies in its place; S3: the server is stopped) from the middle of a second burst on"},
	{"outage_converged", "outage: from its end until all are on the replica, s", "", "as for the burst"},
	{"outage_oldest", "outage: oldest wait, s", "", "as for the burst"},
	{"outage_rss_mb", "outage: memory, MB", "", "highest `VmRSS`"},
	{"stop_seconds", "stop, s", "", "from SIGTERM to the end of the process"},
	{"restart_seconds", "restart to all clean, s", "≤ 10", "from the start of the process until its metrics tell of a finished scan and of no database that is neither clean nor hot"},
	{"restart_hot", "restart: of these, hot", "", "then; those that are open for maintenance, or changed too shortly before the stop to be sure of them"},
	{"restart_requests", "restart: requests", "≤ 1", "until then, by the proxy"},
	{"restart_rss_mb", "restart: memory, MB", "", "`VmRSS` then"},
	{"peak_mb", "peak memory of all, MB", "", "`VmHWM` before the stop"},
	{"audit_failures", "audit failures", "0", "the tool's own counter: pages that differ from what was replicated"},
	{"restored", "tenants restored", "", "random ones, half of them with commits, after the last stop, with `integrity_check` and a look at every row"},
	{"checked", "acknowledged commits looked for", "", "those of these tenants"},
	{"lost", "of these, lost", "0", "not in the restored database, or not as written"},
	{"unsound", "restores that failed or are wrong", "0", "not restorable, `integrity_check` not ok, another tenant's content, or rows that were never written"},
}

// fleetRun is what was measured of one tool and one size.
type fleetRun struct {
	Tool      string             `json:"tool"`
	Databases int                `json:"databases"`
	Values    map[string]float64 `json:"values"`
	Ended     string             `json:"ended,omitempty"` // why it was not measured to the end
	Notes     []string           `json:"notes,omitempty"`
}

func newFleetRun(tool string, n int) *fleetRun {
	return &fleetRun{Tool: tool, Databases: n, Values: make(map[string]float64)}
}

// set records a figure.
func (r *fleetRun) set(key string, v float64) { r.Values[key] = v }

// fleetReport is a whole run of the fleet benchmark.
type fleetReport struct {
	Machine string      `json:"machine"`
	Replica string      `json:"replica"`
	Note    string      `json:"note"`
	Runs    []*fleetRun `json:"runs"`
}

// markdown is a table with a column for each run, and how figures are taken.
func (r *fleetReport) markdown() string {
	var b strings.Builder
	b.WriteString("| | goal |")
	for _, run := range r.Runs {
		fmt.Fprintf(&b, " %s %s |", run.Tool, thousands(run.Databases))
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---:|", len(r.Runs)) + "\n")
	var shown []figure
	for _, f := range fleetFigures {
		if !slices.ContainsFunc(r.Runs, func(run *fleetRun) bool { _, ok := run.Values[f.key]; return ok }) {
			continue
		}
		shown = append(shown, f)
		fmt.Fprintf(&b, "| %s | %s |", f.name, f.goal)
		for _, run := range r.Runs {
			if v, ok := run.Values[f.key]; ok {
				fmt.Fprintf(&b, " %s |", number(v))
			} else {
				b.WriteString(" – |")
			}
		}
		b.WriteString("\n")
	}
	for _, run := range r.Runs {
		if run.Ended != "" {
			why, _, _ := strings.Cut(run.Ended, "\n") // the tool's log follows; it is in the JSON
			fmt.Fprintf(&b, "\n%s with %s databases ended early: %s\n", run.Tool, thousands(run.Databases), why)
		}
		for _, note := range run.Notes {
			fmt.Fprintf(&b, "\n%s with %s databases: %s\n", run.Tool, thousands(run.Databases), note)
		}
	}
	fmt.Fprintf(&b, "\n%s\n\nHow each figure is taken:\n\n", r.Note)
	for _, f := range shown {
		fmt.Fprintf(&b, "- %s: %s.\n", f.name, f.how)
	}
	return b.String()
}

// writeJSON writes the report to a file; an empty name means no.
func (r *fleetReport) writeJSON(path string) error {
	if path == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
