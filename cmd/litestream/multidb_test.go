package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/s3"
)

const issueConfig = `
multi-db:
  enabled: true
  patterns:
    - "/data/*/databases/*/branches/*/tenants/*.db"
  exclude: ["**/tmp/**"]            # optional
  max-hot-databases: 1000
  scan-interval: 15s
  state-dir: /var/lib/litestream
  replica-template:
    type: s3
    bucket: my-backups
    path: "{{project}}/{{database}}/{{branch}}/{{tenant}}"
    region: us-east-1
    sync-interval: 1s
  write-detection:
    mode: mtime
    hot-duration: 15s
  limits: {connections: 1000, monitor-workers: 100, snapshot-workers: 50, replica-workers: 200, s3-connections: 200}
  connection-idle-timeout: 5s
  deleted-retention: 720h
  checksums: true
  checkpoint: passive
  max-staged-bytes: 2GiB
  allow-network-filesystem: true
  drill: {interval: 168h, budget: 20GB}
  hostname: h
  snapshot: {interval: 12h, retention: 48h}
  levels: [{interval: 1m}]
  l0-retention: 1m
`

func TestMultiDB_Config(t *testing.T) {
	cfg := mustParse(t, issueConfig)
	tenant, err := cfg.MultiDB.tenants.Lookup("/data/p1/databases/d1/branches/main/tenants/t42.db")
	if err != nil || tenant.ReplicaPath != "p1/d1/main/t42" {
		t.Fatalf("got %q, %v", tenant.ReplicaPath, err)
	}
	got := cfg.MultiDB.settings("x")
	want := litestream.NewMultiDBConfig()
	want.Patterns, want.Exclude, want.ReplicaPath, want.Hostname = got.Patterns, got.Exclude, "x", "h"
	want.Checkpoint, want.MaxStagedBytes, want.DeletedRetention = litestream.MultiDBCheckpointPassive, 2<<30, 720*3600*1e9
	want.AllowNetworkFS = true
	want.Drill = litestream.DrillConfig{Interval: 168 * time.Hour, Budget: 20e9}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the issue's values are not the defaults (-want +got):\n%s", diff)
	}

	// Only two keys are required.
	t.Setenv("STATE_DIRECTORY", "/run/x:/run/y")
	cfg = mustParse(t, "sync-interval: 3s\nregion: eu\nmulti-db:\n  patterns: [\"/d/*.db\"]\n  replica-template: {url: \"s3://b/{{tenant}}\"}\n")
	if len(cfg.warnings) > 0 || cfg.MultiDB.Enabled || cfg.MultiDB.StateDir != "/run/x" || cfg.MultiDB.ReplicaTemplate.syncInterval() != 3e9 {
		t.Errorf("got %+v, warnings %s", cfg.MultiDB, warningText(cfg))
	}
}

// The bound of the connections belongs to the tenants' clients; a replica of
// dbs has the default.
func TestMultiDB_S3Connections(t *testing.T) {
	cfg := mustParse(t, `
dbs:
  - path: /x/db
    replica: {url: "s3://b/x"}
multi-db:
  patterns: ["/d/*.db"]
  replica-template: {url: "s3://b/{{tenant}}"}
  limits: {s3-connections: 17}
`)
	tenant, err := cfg.MultiDB.tenants.Lookup("/d/a.db")
	if err != nil {
		t.Fatal(err)
	}
	client, err := cfg.MultiDB.client(&tenant)
	if err != nil {
		t.Fatal(err)
	}
	if got := client.(*s3.ReplicaClient).MaxConns; got != 17 {
		t.Errorf("a tenant's client has %d connections, want 17", got)
	}
	single, err := newReplicaClient(cfg.DBs[0].Replica)
	if err != nil {
		t.Fatal(err)
	}
	if got := single.(*s3.ReplicaClient).MaxConns; got != 0 {
		t.Errorf("a client of dbs has %d connections, want the default", got)
	}
}

func TestMultiDB_ConfigErrors(t *testing.T) {
	const minimal = "multi-db:\n  patterns: [\"/d/*.db\"]\n  replica-template: {path: \"/r/{{tenant}}\"}\n"
	for _, tt := range []struct{ name, text, want string }{
		{"UnknownKey", minimal + "  scan-intervall: 1s", `multi-db.scan-intervall (line 4): unknown key; did you mean "scan-interval"?`},
		{"UnknownBelow", minimal + "  limits:\n    conections: 1", `multi-db.limits.conections (line 5): unknown key; did you mean "connections"?`},
		{"UnknownReplicaKey", "multi-db:\n  patterns: [/d/*.db]\n  replica-template:\n    path: \"/r/{{tenant}}\"\n    foo: 1", "multi-db.replica-template.foo (line 5): unknown key"},
		{"Repeated", minimal + "  hostname: a\n  hostname: b", "multi-db.hostname (line 5): repeats line 4"},
		{"Duration", minimal + "  scan-interval: 15", "multi-db.scan-interval (line 4): must be a duration such as 500ms, 30s or 24h (got 15)"},
		{"Negative", minimal + "  scan-interval: -1s", "multi-db.scan-interval (line 4): must be greater than 0 (got -1s)"},
		{"DrillInterval", minimal + "  drill: {interval: 5s}", "multi-db.drill.interval (line 4): must be at least 1m0s, or 0 for no drill (got 5s)"},
		{"Limit", minimal + "  limits:\n    s3-connections: 0", "multi-db.limits.s3-connections (line 5): must be greater than 0 (got 0)"},
		{"Mode", minimal + "  write-detection: {mode: inotify}", "multi-db.write-detection.mode (line 4): must be mtime (got inotify)"},
		{"Snapshot", minimal + "  snapshot: {interval: 0s}", "multi-db.snapshot.interval (line 4): must be greater than 0 (got 0s)"},
		{"Levels", minimal + "  levels: [{interval: 0s}]", "multi-db.levels[0].interval (line 4): must be greater than 0 (got 0s)"},
		{"NoTemplate", "multi-db:\n  patterns: [/d/*.db]", "multi-db.replica-template (line 2): is required"},
		{"NoPatterns", "multi-db:\n  replica-template: {path: \"/r/{{tenant}}\"}", "multi-db.patterns (line 2): at least one pattern is required"},
		{"Pattern", "multi-db:\n  patterns:\n    - /d/*.db\n    - /d/[\n  replica-template: {path: \"/r/{{tenant}}\"}", "multi-db.patterns[1] (line 4): has a [ that is not closed before the next / (got /d/[)"},
		{"PatternMap", "multi-db:\n  patterns:\n    - {a: b}\n  replica-template: {path: \"/r/{{tenant}}\"}", "multi-db.patterns[0] (line 3): must be text"},
		{"Exclude", minimal + "  exclude:\n    - tmp/**", "multi-db.exclude[0] (line 5): must be an absolute path or begin with **/ (got tmp/**)"},
		{"Variable", "multi-db:\n  patterns: [/d/*.db]\n  replica-template: {path: \"/r/{{project}}\"}", "multi-db.replica-template.path (line 3): variable {{project}} has no value in pattern /d/*.db, which gives {{tenant}}, {{1}}, {{path}}, {{relpath}} and {{name}} (got /r/{{project}})"},
		{"URLVariable", "multi-db:\n  patterns: [/d/*.db]\n  replica-template: {url: \"s3://b/{{x}}\"}", "multi-db.replica-template.url (line 3): variable {{x}} has no value in pattern /d/*.db, which gives {{tenant}}, {{1}}, {{path}}, {{relpath}} and {{name}} (got {{x}})"},
		{"URLHost", "multi-db:\n  patterns: [/d/*.db]\n  replica-template: {url: \"file://{{x}}/{{tenant}}\"}", `multi-db.replica-template.url (line 3): parse replica URL: invalid character in host name`},
		{"URLQuery", "multi-db:\n  patterns: [/d/*.db]\n  replica-template: {url: \"s3://b/{{tenant}}?region={{x}}\"}", "multi-db.replica-template.url (line 3): variables may stand in the path only (got s3://b/{{tenant}}?region={{x}})"},
		{"BucketVariable", "multi-db:\n  patterns: [/d/*.db]\n  replica-template: {type: s3, bucket: \"{{x}}\", path: \"{{tenant}}\"}", "multi-db.replica-template.bucket (line 3): variables may stand in path and url only (got {{x}})"},
		{"NoBucket", "multi-db:\n  patterns: [/d/*.db]\n  replica-template: {type: s3, path: \"{{tenant}}\"}", "multi-db.replica-template (line 3): bucket required for s3 replica"},
		{"NATSBucket", "multi-db:\n  patterns: [/d/*.db]\n  replica-template: {url: \"nats://h/{{tenant}}\"}", "multi-db.replica-template.url (line 3): variables may not stand in place of the bucket: all databases share one, as in nats://host/bucket/{{tenant}} (got nats://h/{{tenant}})"},
		{"StateDir", minimal + "  state-dir: /d/x.db", "multi-db.patterns[0] (line 2): matches the state directory /d/x.db: move state-dir, or exclude /d/x.db/** (got /d/*.db)"},
		{"BothClaim", "dbs: [{path: /d/a.db, replica: {path: /a}}]\n" + minimal, "dbs[0].path (line 1): pattern /d/*.db (line 3) of multi-db matches the path, too: exclude it there (got /d/a.db)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := parseConfig([]byte(tt.text), false)
			if err == nil {
				t.Fatalf("parsed %q as %+v, want an error", tt.text, cfg.MultiDB)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Fatalf("error of %q (-want +got):\n%s", tt.text, diff)
			}
		})
	}
}

// TestMultiDB_Locations holds that `path` and `url` templates name the same
// place, also for names that mean something in a URL.
func TestMultiDB_Locations(t *testing.T) {
	for template, want := range map[string]string{
		`path: "/r/x y/{{tenant}}"`:                                                      "file:///r/x y/a%20%25%3F",
		`url: "file:///r/{{tenant}}"`:                                                    "file:///r/a%20%25%3F",
		`url: "file:///{{tenant}}"`:                                                      "file:///a%20%25%3F",
		`type: s3, bucket: b, path: "p/{{tenant}}"`:                                      "s3://b/p/a%20%25%3F",
		`url: "s3://b/p/{{tenant}}"`:                                                     "s3://b/p/a%20%25%3F",
		`type: abs, bucket: b, account-name: a, path: "p/{{tenant}}"`:                    "abs://a@b/p/a%20%25%3F",
		`url: "abs://a@b/p/{{tenant}}?endpoint=http://h:1/a"`:                            "abs://a@b/p/a%20%25%3F?endpoint=http://h:1/a",
		`type: oss, bucket: b, path: "p/{{tenant}}"`:                                     "oss://b/p/a%20%25%3F",
		`url: "oss://b.oss-cn-beijing.aliyuncs.com/p/{{tenant}}"`:                        "oss://b/p/a%20%25%3F",
		`type: gs, bucket: b, path: "p/{{tenant}}/s"`:                                    "gs://b/p/a%20%25%3F/s",
		`url: "gs://b/p%20q/{{tenant}}"`:                                                 "gs://b/p q/a%20%25%3F",
		`url: "s3://b/p%20q/r%20{{tenant}}/s%21"`:                                        "",
		`url: "s3://b/p%20q/r%20{{tenant}}/s%22"`:                                        `s3://b/p q/r a%20%25%3F/s"`,
		`url: "s3://b/{{tenant}}?endpoint=localhost:9000"`:                               "s3://b/a%20%25%3F?endpoint=http://localhost:9000",
		`url: "s3://arn:aws:s3:eu-1:1:accesspoint/ap/x/{{tenant}}", sign-payload: false`: "s3://arn:aws:s3:eu-1:1:accesspoint/ap/x/a%20%25%3F",
	} {
		cfg, err := parseConfig([]byte("multi-db:\n  patterns: [/d/*.db]\n  replica-template: {"+template+"}"), false)
		if err != nil {
			if want != "" {
				t.Errorf("%s: %v", template, err)
			}
			continue
		}
		client, err := cfg.tenantClient("/d/a %?.db", "")
		if err != nil {
			t.Errorf("%s: %v", template, err)
		} else if got := redactedLocation(client); got != want {
			t.Errorf("%s: got %s, want %s", template, got, want)
		}
	}
}

// fleet writes a configuration for tenants below the working directory and
// some files that its pattern matches.
func fleet(t *testing.T, extra string) (dir string) {
	t.Helper()
	dir = testFolder(t)
	writeFile(t, dir+"/c.yml", "logging: {level: warn}\nmulti-db:\n  patterns: ["+dir+"/data/*/tenants/*.db]\n  state-dir: "+dir+"/state\n"+
		"  replica-template: {path: \""+dir+"/r/{{hostname}}/{{project}}/{{tenant}}\"}\n  hostname: h1\n"+extra)
	for _, name := range []string{"p1/tenants/b.db", "p1/tenants/a.db", "p2/tenants/a b.db", "p2/tenants/x.txt"} {
		writeFile(t, dir+"/data/"+name, "")
	}
	return dir
}

func TestDatabases_MultiDB(t *testing.T) {
	dir := fleet(t, "dbs: [{path: one.db, replica: {path: /one}}]\n")
	got := runCommand(t, "databases", "-config", "c.yml")
	want := strings.ReplaceAll(`path replica location
$/one.db file
$/data/p1/tenants/a.db file file://$/r/h1/p1/a
$/data/p1/tenants/b.db file file://$/r/h1/p1/b
$/data/p2/tenants/a b.db file file://$/r/h1/p2/a%20b
`, "$", dir)
	var lines []string
	for line := range strings.Lines(got.stdout) {
		lines = append(lines, strings.Join(strings.Fields(line), " ")+"\n")
	}
	if diff := cmp.Diff(want, strings.Join(lines, "")); got.code != 0 || diff != "" {
		t.Errorf("table: %d %s (-want +got):\n%s", got.code, got.stderr, diff)
	}

	got = runCommand(t, "databases", "-config", "c.yml", "-json", "-filter", "a*.db")
	var list []listedDatabase
	if err := json.Unmarshal([]byte(got.stdout), &list); err != nil || len(list) != 2 {
		t.Fatalf("json: %v\n%s%s", err, got.stdout, got.stderr)
	}
	if v := list[1].Variables; v["tenant"] != "a b" || v["project"] != "p2" || v["1"] != "p2" || v["relpath"] != "p2/tenants/a b.db" {
		t.Errorf("variables %v", v)
	}
	again, err := json.MarshalIndent(list, "", "  ")
	if err != nil || string(again)+"\n" != got.stdout {
		t.Errorf("json is not in the form of a list:\n%s", got.stdout)
	}

	for args, want := range map[string]string{"": "4\n", "-filter " + dir + "/data/**": "3\n", "-filter nothing": "0\n", "-json": "{\n  \"count\": 4\n}\n"} {
		if got := runCommand(t, append(strings.Fields("databases -config c.yml -count"), strings.Fields(args)...)...); got.stdout != want {
			t.Errorf("count %s: got %+v, want %s", args, got, want)
		}
	}
	if got := runCommand(t, "databases", "-config", "c.yml", "-filter", "["); got.code != 1 {
		t.Errorf("bad filter: %+v", got)
	}
	if got := runCommand(t, "databases", "-config", "c.yml", "-json", "-filter", "none"); got.stdout != "[]\n" {
		t.Errorf("empty json: %+v", got)
	}
}

// One question to each folder, and none where network file systems are allowed.
func TestDatabases_CheckNetwork(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		var out bytes.Buffer
		var asked []string
		c := &databaseCheck{
			databaseList: &databaseList{cfg: &Config{MultiDB: &MultiDBConfig{AllowNetworkFS: allowed}}}, out: &textFindings{&out},
			networkFS: func(dir string) (string, error) {
				asked = append(asked, dir)
				switch dir {
				case "/gone":
					return "", errors.New("statfs /gone: no such file")
				case "/nfs":
					return "nfs", nil
				default:
					return "", nil
				}
			},
		}
		for _, file := range []string{"/local/a", "/nfs/b", "/nfs/c", "/gone/d", "/local/e"} {
			if err := c.checkNetwork(file); err != nil {
				t.Fatal(err)
			}
		}
		const hint = " lies on the network file system nfs: replicate it on the machine where the files lie, exclude it, or set allow-network-filesystem\n"
		want, dirs, problems := "error: /nfs/b:"+hint+"error: /nfs/c:"+hint+"error: /gone: statfs /gone: no such file\n", "[/local /nfs /gone /local]", 3
		if allowed {
			want, dirs, problems = "", "[]", 0
		}
		if out.String() != want || fmt.Sprint(asked) != dirs || c.errors != problems {
			t.Errorf("allowed=%t: asked %v, %d errors:\n%s", allowed, asked, c.errors, out.String())
		}
	}
}

func TestDatabases_Check(t *testing.T) {
	dir := fleet(t, "")
	if got := runCommand(t, "databases", "-config", "c.yml", "-check", "-filter", "none"); got.code != 0 || got.stdout != "" {
		t.Errorf("nothing wrong: %+v", got)
	}

	writeFile(t, dir+"/data/p3/tenants/odd.db", "x")
	writeFile(t, dir+"/data/p3/tenants/noise.db", strings.Repeat("noise!..", 512))
	writeFile(t, dir+"/data/p3/tenants/good.db", string(testDatabase(t)))
	writeFile(t, dir+"/data/p3/tenants/cut.db", string(testDatabase(t))+"x")
	writeFile(t, dir+"/data/p4/tenants/t.db", "")
	writeFile(t, dir+"/data/p4/tenants/old.db~.db", "")
	writeFile(t, dir+"/one.db", "")
	writeFile(t, dir+"/state", "")
	if err := os.Link(dir+"/one.db", dir+"/data/p5.db"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/c.yml", strings.ReplaceAll(`
dbs: [{path: one.db, replica: {path: r/p4/t}}]
multi-db:
  patterns: ["$/data/*/tenants/{{tenant}}.*", "$/data/{{tenant}}.db", "$/nowhere/*"]
  state-dir: $/state
  replica-template: {path: "$/r/p4/{{tenant}}"}
`, "$", dir))
	got := runCommand(t, "databases", "-config", "c.yml", "-check")
	for _, want := range []string{
		"error: $/state: state directory: $/state is not a directory",
		"warning: $/data/p1/tenants/a.db: is empty",
		"error: $/data/p3/tenants/odd.db: file is not a SQLite database: only 1 bytes: exclude it",
		"warning: $/data/p3/tenants/cut.db: has 8193 bytes",
		"error: $/data/p3/tenants/noise.db: file is not a SQLite database: no header string (encrypted, or another format): exclude it",
		"warning: $/data/p2/tenants/x.txt: has a name",
		"warning: $/nowhere/*: pattern matches no file",
		"error: $/data/p4/tenants/t.db: has the same replica as $/one.db, file://$/r/p4/t",
		"error: $/data/p5.db: is the same file as $/one.db, by a link",
	} {
		if want := strings.ReplaceAll(want, "$", dir); !strings.Contains(got.stdout, want) {
			t.Errorf("no line with %s", want)
		}
	}
	if got.code != 1 || got.stderr != "Error: 5 problems found\n" || strings.Contains(got.stdout, "good.db") {
		t.Errorf("got %d, %s%s", got.code, got.stdout, got.stderr)
	}
	got = runCommand(t, "databases", "-config", "c.yml", "-check", "-json")
	var findings []finding
	if err := json.Unmarshal([]byte(got.stdout), &findings); err != nil || len(findings) < 7 {
		t.Errorf("json: %v\n%s", err, got.stdout)
	}
}

// TestRestore_Tenant replicates a tenant by an entry of `dbs`, removes all its
// directories, and restores it by its path through a pattern.
func TestRestore_Tenant(t *testing.T) {
	dir := fleet(t, "")
	data := testDatabase(t)
	tenant := dir + "/data/p2/tenants/a b.db"
	writeFile(t, tenant, string(data))
	writeFile(t, "one.yml", fmt.Sprintf("dbs: [{path: %q, replica: {path: %q}}]", tenant, dir+"/r/h1/p2/a%20b"))
	a := &app{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), signals: noSignals, newRunner: newStore}
	if code := a.main(t.Context(), []string{"replicate", "-once", "-config", "one.yml"}); code != 0 {
		t.Fatalf("replicate: %s%s", a.stdout, a.stderr)
	}
	before, err := os.ReadFile(tenant)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir + "/data"); err != nil {
		t.Fatal(err)
	}

	if got := runCommand(t, "ltx", "-config", "c.yml", "-level", "all", tenant); got.code != 0 || !strings.Contains(got.stdout, "0000000000000001") {
		t.Errorf("ltx: %+v", got)
	}
	if got := runCommand(t, "restore", "-config", "c.yml", tenant); got.code != 0 {
		t.Fatalf("restore: %+v", got)
	}
	after, err := os.ReadFile(tenant)
	if err != nil || len(after) < len(data) || !bytes.Equal(after[100:], before[100:]) {
		t.Errorf("restored %d bytes, %v; want what was replicated", len(after), err)
	}
	entries, err := os.ReadDir(filepath.Dir(tenant))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the tenant: %v, %v", entries, err)
	}
	if got := runCommand(t, "restore", "-config", "c.yml", "-hostname", "h2", "-o", "x", tenant); got.stderr != "Error: no matching backup files available\n" {
		t.Errorf("other host: %+v", got)
	}
	if got := runCommand(t, "restore", "-config", "c.yml", "-o", "x", dir+"/data/p2/a b.db"); got.stderr != "Error: database not found in config: no multi-db pattern matches the path: "+dir+"/data/p2/a b.db\n" {
		t.Errorf("no tenant: %+v", got)
	}
}

// TestReplicate_MultiDBOnce backs up tenants by the command, restores one by its
// path, and finds nothing to do a second time.
func TestReplicate_MultiDBOnce(t *testing.T) {
	dir := parallelFolder(t)
	writeFile(t, dir+"/c.yml", fmt.Sprintf(`multi-db:
  enabled: true
  patterns: [%[1]s/data/*/tenants/*.db]
  state-dir: %[1]s/state
  replica-template: {type: file, path: "%[1]s/replica/{{project}}/{{tenant}}"}
`, dir))
	for i := range 30 {
		makeDatabase(t, fmt.Sprintf("%s/data/p%d/tenants/t%02d.db", dir, i%3, i), i)
	}
	once := func() {
		t.Helper()
		var stdout, stderr bytes.Buffer
		a := &app{stdout: &stdout, stderr: &stderr, signals: noSignals, newRunner: newStore}
		if code := a.main(t.Context(), []string{"replicate", "-once", "-config", dir + "/c.yml"}); code != 0 {
			t.Fatalf("exit status %d: %s%s", code, stdout.String(), stderr.String())
		}
	}
	once()
	tenant := dir + "/data/p1/tenants/t07.db"
	if got := runCommand(t, "restore", "-config", dir+"/c.yml", "-o", dir+"/out", tenant); got.code != 0 {
		t.Fatalf("restore: %+v", got)
	}
	if got := countRows(t, dir+"/out"); got != 7 {
		t.Errorf("restored %d rows, want 7", got)
	}
	replicas := listFiles(t, dir+"/replica")
	once()
	if got := listFiles(t, dir+"/replica"); !slices.Equal(got, replicas) {
		t.Errorf("a second pass wrote %d files, want none", len(got)-len(replicas))
	}
}

// makeDatabase makes a database at rest with n rows in a table t.
func makeDatabase(t *testing.T, path string, n int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", path+"?_journal_mode=wal")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE t (x)"); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, err := db.Exec("INSERT INTO t VALUES (?)", i); err != nil {
			t.Fatal(err)
		}
	}
}

func countRows(t *testing.T, path string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT COUNT(*) FROM t").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func listFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestDatabases_Memory holds that a list grows with nothing but what it prints.
func TestDatabases_Memory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 10,000 files")
	}
	dir := fleet(t, "")
	for i := range 10_000 {
		if err := os.WriteFile(dir+"/data/p1/tenants/"+strconv.Itoa(i)+".db", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var w countingWriter
	a := &app{stdout: &w, stderr: new(bytes.Buffer), signals: noSignals}
	for _, args := range []string{"databases -config c.yml", "databases -config c.yml -json", "databases -config c.yml -check"} {
		w = countingWriter{}
		if code := a.main(t.Context(), strings.Fields(args)); code != 0 || w.n < 500_000 || w.largest > 64<<10 {
			t.Errorf("%s: status %d, %d bytes, at most %d at once: %s", args, code, w.n, w.largest, a.stderr)
		}
	}
}

type countingWriter struct{ n, largest int }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.n += len(p)
	w.largest = max(w.largest, len(p))
	return len(p), nil
}

func TestDatabases_Unreadable(t *testing.T) {
	dir := fleet(t, "")
	if os.Getuid() == 0 {
		// Root may read everything; a directory whose path is too long is an
		// obstacle for root, too, but not for a scan. A loop in the literal part is.
		writeFile(t, "c.yml", strings.ReplaceAll("multi-db:\n  patterns: [$/loop/*.db]\n  state-dir: $/state\n  replica-template: {path: \"/r/{{tenant}}\"}\n", "$", dir))
		if err := os.Symlink("loop", dir+"/loop"); err != nil {
			t.Fatal(err)
		}
		if got := runCommand(t, "databases", "-config", "c.yml", "-check"); !strings.Contains(got.stdout, "not followed") {
			t.Errorf("got %+v", got)
		}
		return
	}
	if err := syscall.Chmod(dir+"/data/p1/tenants", 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Chmod(dir+"/data/p1/tenants", 0o755) })
	if got := runCommand(t, "databases", "-config", "c.yml"); got.code != 1 || !strings.Contains(got.stderr, "not complete") {
		t.Errorf("got %+v", got)
	}
}
