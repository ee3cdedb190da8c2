package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

const statusConfig = `
dbs:
  - {path: DIR/one.db, replica: {path: DIR/r}}
multi-db:
  enabled: true
  patterns: ["DIR/data/*/tenants/*.db"]
  state-dir: DIR/state
  replica-template: {path: "DIR/backup/{{1}}/{{tenant}}"}
`

// statusFolder returns a folder with that configuration.
func statusFolder(t *testing.T) string {
	t.Helper()
	dir := testFolder(t)
	writeFile(t, "c.yml", strings.ReplaceAll(statusConfig, "DIR", dir))
	return dir
}

// openRegistry opens the registry as the daemon does.
func openRegistry(t *testing.T, dir string) *registry.Registry {
	t.Helper()
	reg, err := registry.Open(t.Context(), filepath.Join(dir, "state"), registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reg.Close(t.Context(), true) })
	return reg
}

func flushRegistry(t *testing.T, reg *registry.Registry) {
	t.Helper()
	if err := reg.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// fleetSummary is a summary with an entry of each kind, made long ago.
func fleetSummary(dir string, at time.Time) *litestream.FleetSummary {
	path := func(name string) string { return dir + "/data/p1/tenants/" + name }
	return &litestream.FleetSummary{
		At: at, StartedAt: at.Add(-time.Hour), Hot: 1000, HotLimit: 1000, Cold: 99_000,
		States: map[string]int{"clean": 98_000, "queued": 900, "hot": 1000, "failed": 100, "gone": 0},
		Queue:  litestream.FleetQueue{Changed: 800, First: 100, Delayed: 100}, Unreplicated: 1200,
		Oldest: []litestream.FleetWaiting{
			{Path: path("a.db"), ChangedAt: at.Add(-time.Minute), State: "failed", Reason: "database is locked"},
			{Path: path("b.db"), ChangedAt: at, State: "queued"},
		},
		Failures: []litestream.FleetFailure{
			{Reason: "locked", Count: 60, Examples: []litestream.FleetExample{{Path: path("a.db"), Error: "database is locked"}, {Path: path("c\n.db"), Error: "x"}}},
			{Reason: "empty", Count: 40, Examples: []litestream.FleetExample{{Path: path("d.db"), Error: "no page"}}},
		},
		LargeLogN: 2, LargeLogs: []litestream.FleetLog{{Path: path("e.db"), Size: 70 << 20}},
		DamagedN: 12, Damaged: []litestream.FleetExample{{Path: path("f.db"), Error: "corrupt: 0000/x.ltx is gone"}},
		StagedBytes: 1 << 20, StagedLimit: 1 << 30,
		Scan: litestream.FleetScan{
			EndedAt: at, Seconds: 0.21, Files: 100_000, Errors: 1,
			Examples: []string{"scan /data/x: permission denied"}, Unmatched: []string{"/none/*.db"},
		},
	}
}

var ago = regexp.MustCompile(`\((in )?[0-9hms]+( ago)?\)`)

// steady returns text without what depends on the time and the folder, and
// with single spaces.
func steady(text, dir string, at time.Time) string {
	text = strings.ReplaceAll(text, dir, "DIR")
	text = strings.ReplaceAll(text, at.UTC().Format(time.RFC3339), "TIME")
	text = regexp.MustCompile(`registry written \S+`).ReplaceAllString(text, "registry written NOW")
	text = ago.ReplaceAllString(text, "(${1}AGE${2})")
	return regexp.MustCompile(` {2,}`).ReplaceAllString(regexp.MustCompile(` +\n`).ReplaceAllString(text, "\n"), " ")
}

// TestStatus_Fleet reads the summary while the daemon runs, and after it.
func TestStatus_Fleet(t *testing.T) {
	dir := statusFolder(t)
	reg := openRegistry(t, dir)
	flushRegistry(t, reg)
	got := runCommand(t, "status", "-config", "c.yml")
	want := "database status local txid wal size\nDIR/one.db no database - -\n\n" +
		"multi-db no scan has ended yet\nregistry DIR/state, registry written NOW (AGE ago)\n"
	if diff := cmp.Diff(want, steady(got.stdout, dir, time.Time{})); diff != "" || got.code != 0 {
		t.Errorf("before the first scan: %d %s (-want +got):\n%s", got.code, got.stderr, diff)
	}

	at := time.Now().Add(-2 * time.Minute).UTC().Truncate(time.Second)
	data, err := json.Marshal(fleetSummary(dir, at))
	if err != nil {
		t.Fatal(err)
	}
	reg.SetSummary(data)
	flushRegistry(t, reg)
	before := listing(t, dir)
	got = runCommand(t, "status", "-config", "c.yml")
	want = `database status local txid wal size
DIR/one.db no database - -

multi-db as of TIME (AGE ago); no scan has ended since, with one due each 15s: the daemon does not run, or hangs
databases 1000 hot (at most 1000), 99000 cold
states 98000 clean, 100 failed, 1000 hot, 900 queued
queue 800 changed, 100 wait for their first backup, 100 for another attempt
lag 1200 databases have changes that are not replicated, the oldest from MINUTE (AGE ago)
staged 1.0 MB of at most 1.1 GB
last scan 100000 files in 210ms, 1 files or directories could not be looked at

failed databases, with examples:
reason databases path error
locked 60 DIR/data/p1/tenants/a.db database is locked
 "DIR/data/p1/tenants/c\n.db" x
empty 40 DIR/data/p1/tenants/d.db no page

12 databases whose replica the drill found damaged:
path problem
DIR/data/p1/tenants/f.db corrupt: 0000/x.ltx is gone

oldest changes that are not replicated:
path changed state
DIR/data/p1/tenants/a.db MINUTE (AGE ago) failed: database is locked
DIR/data/p1/tenants/b.db TIME (AGE ago) queued

2 databases with a WAL of 64 MiB or more:
path wal size
DIR/data/p1/tenants/e.db 73 MB

last scan:
scan /data/x: permission denied
matches nothing: /none/*.db
`
	text := strings.ReplaceAll(got.stdout, at.Add(-time.Minute).Format(time.RFC3339), "MINUTE")
	if diff := cmp.Diff(want, steady(text, dir, at)); diff != "" || got.code != 0 {
		t.Errorf("%d %s (-want +got):\n%s", got.code, got.stderr, diff)
	}
	if diff := cmp.Diff(before, listing(t, dir)); diff != "" {
		t.Errorf("status changed files (-before +after):\n%s", diff)
	}

	if err := reg.Close(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	got = runCommand(t, "status", "-json", "-config", "c.yml")
	var all allStatus
	if err := json.Unmarshal([]byte(got.stdout), &all); err != nil || got.code != 0 {
		t.Fatalf("json of %q: %v %s", got.stdout, err, got.stderr)
	}
	if diff := cmp.Diff(fleetSummary(dir, at), all.MultiDB.Summary); diff != "" {
		t.Errorf("summary as json (-want +got):\n%s", diff)
	}
	if len(all.Databases) != 1 || !all.MultiDB.Stopped || all.MultiDB.Age < 119 || time.Since(all.MultiDB.WrittenAt) > time.Minute {
		t.Errorf("got %+v, want one database, stopped, two minutes old", all)
	}
	if got := runCommand(t, "status", "-config", "c.yml"); !strings.Contains(got.stdout, "; the daemon was stopped\n") {
		t.Errorf("after a stop: %s", got.stdout)
	}
}

// listing returns size and time of all files below a folder, but for those of
// the registry's -shm, which this process has open for writing. It opens none:
// to close a file would drop the registry's locks.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		files[path] = ""
		if !strings.HasSuffix(path, "-shm") {
			files[path] = fmt.Sprint(fi.Size(), fi.ModTime())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestStatus_Tenant shows the record of one database.
func TestStatus_Tenant(t *testing.T) {
	dir := statusFolder(t)
	reg := openRegistry(t, dir)
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	name := func(s string) string { return filepath.Join(dir, "data/p1/tenants", s) }
	writeFile(t, name("ok.db"), strings.Repeat("x", 12288))
	writeFile(t, name("hot.db"), "")
	fp, err := sqlitefile.Take(name("ok.db"))
	if err != nil {
		t.Fatal(err)
	}
	reg.Put(registry.Record{ID: 4, Path: name("hot.db"), TXID: 1, SyncedAt: at, Fingerprint: fp, State: uint8(litestream.TenantClean)}, nil)
	reg.Put(registry.Record{
		ID: 1, Path: name("ok.db"), TXID: 18, Fingerprint: fp, SyncedAt: at, Due: at.Add(2 * time.Hour), State: uint8(litestream.TenantClean),
	}, nil)
	reg.Put(registry.Record{
		ID: 2, Path: name("bad.db"), State: uint8(litestream.TenantFailed) | 0x80, Reason: "database\nis locked", ChangedAt: at,
	}, nil)
	reg.Put(registry.Record{ID: 3, Path: name("gone.db"), State: uint8(litestream.TenantGone), TXID: 1, SyncedAt: at, GoneAt: at}, nil)
	flushRegistry(t, reg)
	writeFile(t, name("first.db"), "")
	writeFile(t, name("bad.db"), "")
	writeFile(t, name("bad.db-wal"), strings.Repeat("x", 74160))

	const asOf = "as of registry written NOW (AGE ago)\n"
	for _, tt := range []struct{ path, want string }{
		{"ok.db", "state clean\nreplicated up to txid 0000000000000012, TIME (AGE ago)\nmaintenance due LATER (in AGE)\nsize 12 kB\nwal size 0 B\n" + asOf},
		{"bad.db", "state failed\nreason database; is locked\nreplicated never\nnot replicated since TIME (AGE ago)\nsize 0 B\nwal size 74 kB\n" + asOf},
		{"gone.db", "state gone\nreplicated up to txid 0000000000000001, TIME (AGE ago)\nfile deleted TIME (AGE ago)\nsize no such file\nwal size no such file\n" + asOf},
		{"hot.db", "state clean, changed since: it is hot, or waits for that\nreplicated up to txid 0000000000000001, TIME (AGE ago)\nsize 0 B\nwal size 0 B\n" + asOf},
		{"first.db", "state unknown: no record of it; there is one when its first backup is complete\nreplicated never\nsize 0 B\nwal size 0 B\n" + asOf},
		{"new.db", "state unknown: no record of it\nreplicated never\nsize no such file\nwal size no such file\n" + asOf},
	} {
		got := runCommand(t, "status", "-config", "c.yml", name(tt.path))
		text := strings.ReplaceAll(got.stdout, at.Add(2*time.Hour).Format(time.RFC3339), "LATER")
		id := strings.TrimSuffix(tt.path, ".db")
		want := fmt.Sprintf("database DIR/data/p1/tenants/%s\nreplica file://DIR/backup/p1/%s\n", tt.path, id) + tt.want
		if diff := cmp.Diff(want, steady(text, dir, at)); diff != "" || got.code != 0 {
			t.Errorf("%s: %d %s (-want +got):\n%s", tt.path, got.code, got.stderr, diff)
		}
	}

	got := runCommand(t, "status", "-json", "-config", "c.yml", name("bad.db"))
	var s tenantStatus
	if err := json.Unmarshal([]byte(got.stdout), &s); err != nil {
		t.Fatalf("json of %q: %v", got.stdout, err)
	}
	size, walSize := int64(0), int64(74160)
	want := tenantStatus{
		Database: name("bad.db"), Replica: "file://" + dir + "/backup/p1/bad", Known: true, WrittenAt: s.WrittenAt,
		State: "failed", Reason: "database\nis locked", ChangedAt: at, Size: &size, WALSize: &walSize,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("record as json (-want +got):\n%s", diff)
	}

	// The databases of `dbs` have no record; theirs lies beside them.
	if got := runCommand(t, "status", "-config", "c.yml", filepath.Join(dir, "one.db")); !strings.HasPrefix(got.stdout, "database ") || !strings.Contains(got.stdout, "no database") {
		t.Errorf("a database of dbs: %+v", got)
	}
	got = runCommand(t, "status", "-config", "c.yml", filepath.Join(dir, "other.db"))
	if got.code != 1 || !strings.HasPrefix(got.stderr, "Error: database not found in config: ") {
		t.Errorf("a path that no pattern matches: %+v", got)
	}
}

// TestStatus_NoRegistry holds that figures which are not there are an error,
// unless nothing has to write them.
func TestStatus_NoRegistry(t *testing.T) {
	dir := statusFolder(t)
	got := runCommand(t, "status", "-config", "c.yml")
	if got.code != 1 || !strings.Contains(got.stdout, "one.db") || !strings.Contains(got.stderr, "has replicate run with this state-dir?") {
		t.Errorf("got %+v, want the table and an error", got)
	}
	if got := runCommand(t, "status", "-config", "c.yml", filepath.Join(dir, "data/p1/tenants/x.db")); got.code != 1 {
		t.Errorf("a tenant: %+v, want an error", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); !os.IsNotExist(err) {
		t.Errorf("state directory: %v, want none", err)
	}

	text, err := os.ReadFile("c.yml")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, "c.yml", strings.Replace(string(text), "enabled: true", "enabled: false", 1))
	if got := runCommand(t, "status", "-json", "-config", "c.yml"); got.code != 0 || !strings.HasPrefix(got.stdout, "[\n") {
		t.Errorf("not enabled: %+v, want the list of dbs as ever", got)
	}
}

// TestStatus_ForeignSummary holds that what another version wrote is no crash.
func TestStatus_ForeignSummary(t *testing.T) {
	dir := statusFolder(t)
	reg := openRegistry(t, dir)
	reg.SetSummary([]byte(`{"hot": "many"}`))
	flushRegistry(t, reg)
	got := runCommand(t, "status", "-config", "c.yml")
	if got.code != 1 || !strings.Contains(got.stderr, "was it written by another version?") {
		t.Errorf("got %+v", got)
	}
}
