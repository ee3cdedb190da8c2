package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDoctor_URL(t *testing.T) {
	dir := testFolder(t)
	got := runCommand(t, "doctor", "-quick", "file://"+dir+"/new/r")
	want := "file://" + dir + `/new/r
  ok       connect        answers, first after T
  ok       put            10 files of 4 KiB, T each
  ok       list           10 files with their times, T
  ok       read           whole files and parts, T each
  ok       replace        a file is replaced at once
  ok       second writer  is refused: a file is never overwritten by accident
  ok       named objects  what multi-db keeps beside the databases
  ok       delete         15 files at once
  ok       clean up       nothing is left behind
Everything works.
`
	times := regexp.MustCompile(`[0-9.]+m?s\b`)
	if diff := cmp.Diff(result{0, want, ""}, result{got.code, times.ReplaceAllString(got.stdout, "T"), got.stderr}, cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("doctor (-want +got):\n%s", diff)
	}
	if _, err := os.Stat("new"); err == nil {
		t.Error("the folder of the replica was made and left")
	}

	writeFile(t, "blocked", "x")
	got = runCommand(t, "doctor", "file://"+dir+"/blocked")
	if got.code != 1 || !strings.HasSuffix(got.stderr, "Error: one check failed\n") && !strings.Contains(got.stderr, "checks failed") ||
		!strings.Contains(got.stdout, "failed   connect") || !strings.Contains(got.stdout, "not a directory") {
		t.Errorf("a file for a folder: %+v", got)
	}
}

func TestDoctor_JSON(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, "c.yml", `dbs:
  - path: a.db
    replica: {type: file, path: `+dir+`/r/a}
  - path: b.db
    replica: {type: file, path: `+dir+`/r/b}
  - dir: d
    pattern: "*.db"
    replica: {type: file, path: `+dir+`/r2/d}
multi-db:
  enabled: true
  patterns: ["/nowhere/*/x.db"]
  state-dir: `+dir+`/state
  replica-template: {type: file, path: "`+dir+`/fleet/root/{{path}}"}
`)
	got := runCommand(t, "doctor", "-json", "-quick", "-config", "c.yml")
	var out struct {
		Replicas []struct {
			Replica, Type, Status string
			Databases             []string
			Checks                []struct{ Name, Status, Text string }
			Speed                 map[string]float64
		}
	}
	if err := json.Unmarshal([]byte(got.stdout), &out); err != nil || got.code != 0 || got.stderr != "" {
		t.Fatalf("err=%v, %+v", err, got)
	}
	type line struct {
		replica, user string
		checks        int
	}
	var lines []line
	for _, r := range out.Replicas {
		lines = append(lines, line{strings.TrimPrefix(r.Replica, "file://"+dir), strings.TrimPrefix(r.Databases[0], dir), len(r.Checks)})
		if r.Type != "file" || r.Status != "ok" || r.Speed["put_ms"] <= 0 {
			t.Errorf("replica %+v, want ok", r)
		}
	}
	want := []line{
		{"/r/a", "/a.db", 9}, {"/r/b", "/b.db", 6}, // it differs in the path alone
		{"/r2/d", "/d", 9}, {"/fleet/root", "multi-db", 9},
	}
	if diff := cmp.Diff(want, lines, cmp.AllowUnexported(line{})); diff != "" {
		t.Errorf("replicas (-want +got):\n%s", diff)
	}
	for _, folder := range []string{"r", "r2", "fleet", "state"} {
		if _, err := os.Stat(folder); err == nil {
			t.Errorf("folder %s was left", folder)
		}
	}

	got = runCommand(t, "doctor", "-quick", "-config", "c.yml", "b.db")
	if got.code != 0 || !strings.Contains(got.stdout, "/r/b\n  replica of: "+dir+"/b.db\n") || strings.Contains(got.stdout, "/r/a") {
		t.Errorf("one database: %+v", got)
	}
	got = runCommand(t, "doctor", "-quick", "-config", "c.yml", "/nowhere/p/x.db")
	if got.code != 0 || !strings.Contains(got.stdout, "/fleet/root\n  replica of: multi-db\n") {
		t.Errorf("database found by pattern: %+v", got)
	}
}

func TestDoctor_Errors(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, "empty.yml", "dbs: []\n")
	writeFile(t, "bad.yml", "dbs:\n  - path: a.db\n    replica:\n      type: file\n      sync-interval: 0s\n      path: r\n")
	for _, tt := range []struct {
		name string
		args string
		code int
		want string
	}{
		{"Nothing", "", 2, "Error: replica URL or configuration file required: " + dir + "/missing.yml does not exist\nTry: litestream doctor s3://bucket/path\n"},
		{"NoURL", "s3:/bucket/p", 2, "Error: s3:/bucket/p is no replica URL, and no database of a configuration: " + dir + "/missing.yml does not exist\nTry: litestream doctor s3://bucket/path\n"},
		{"Flag", "-bogus", 2, "flag provided but not defined: -bogus\nError: flag provided but not defined: -bogus\n"},
		{"TooMany", "a b", 2, "Error: too many arguments\n"},
		{"ProvidersAndMore", "-providers a", 2, "Error: too many arguments\n"},
		{"URLAndConfig", "-config empty.yml s3://b/p", 2, "Error: cannot specify a replica URL and the -config flag\n"},
		{"Scheme", "bogus://b/p", 2, "Error: unknown replica type in config: \"bogus\"\n"},
		{"NoBucket", "s3:///p", 2, "Error: bucket required for s3 replica\n"},
		{"NoConfig", "-config none.yml", 1, "Error: config file not found: " + dir + "/none.yml\n"},
		{"NoReplica", "-config empty.yml", 1, "Error: the configuration has no replica\n"},
		{"Unlisted", "-config empty.yml x.db", 2, "Error: database not found in config: " + dir + "/x.db\n"},
		{"KeyAndLine", "-config bad.yml", 1, "Error: " + dir + "/bad.yml: dbs[0].replica.sync-interval (line 5): must be greater than 0 (got 0s)\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := runCommand(t, append([]string{"doctor"}, strings.Fields(tt.args)...)...)
			if got.code != tt.code || got.stderr != tt.want {
				t.Errorf("got %d, %q\nwant %d, %q", got.code, got.stderr, tt.code, tt.want)
			}
		})
	}
}

// A signal ends a run that waits for a server, and is an error.
func TestDoctor_Interrupted(t *testing.T) {
	testFolder(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	c := make(chan os.Signal, 1)
	c <- os.Interrupt
	var stdout, stderr bytes.Buffer
	a := &app{stdout: &stdout, stderr: &stderr, signals: func() (<-chan os.Signal, func()) { return c, func() {} }}
	code := a.main(t.Context(), []string{"doctor", "s3://bucket/db?endpoint=http://" + ln.Addr().String()})
	if code != 1 || !strings.Contains(stderr.String(), "Error: interrupted by interrupt\n") || !strings.Contains(stdout.String(), "not tried: interrupted") {
		t.Errorf("got %d, %q, %q", code, stdout.String(), stderr.String())
	}
}

func TestDoctor_Providers(t *testing.T) {
	testFolder(t)
	got := runCommand(t, "doctor", "-providers")
	if got.code != 0 || !strings.HasPrefix(got.stdout, "service ") || !strings.Contains(got.stdout, "\ncloudflare-r2  *.r2.cloudflarestorage.com ") {
		t.Errorf("%+v", got)
	}
	got = runCommand(t, "doctor", "-providers", "-json")
	var rows []map[string]string
	if err := json.Unmarshal([]byte(got.stdout), &rows); err != nil || len(rows) < 10 || rows[0]["service"] != "tigris" || rows[0]["part-size"] != "16 MiB" {
		t.Errorf("err=%v, %+v", err, got)
	}
}

// The path that a scratch folder is made from is that of the client.
func TestReplicaConfig_ClientPath(t *testing.T) {
	dir := testFolder(t)
	for _, tt := range []struct{ yaml, want string }{
		{"{type: file, path: r}", filepath.Join(dir, "r")},
		{"{url: 'file:///a/b'}", "/a/b"},
		{"{url: 's3://b/p/q?region=x'}", "p/q"},
		{"{url: 's3://b'}", "."},
		{"{type: s3, bucket: b, path: p/}", "p/"},
		{"{url: 'gs://b/p'}", "p"},
		{"{url: 'abs://a@c/p'}", "p"},
		{"{url: 'sftp://u@h/p'}", "/p"},
		{"{type: sftp, host: h, user: u, path: p}", "p"},
		{"{url: 'oss://b/p'}", "p"},
		{"{url: 'webdav://h/p'}", "/p"},
		{"{type: webdav, webdav-url: 'http://h/x', path: p}", "p"},
		{"{url: 'nats://h/b'}", ""},
		{"{url: 'nats://h/b/p/q'}", "p/q"},
		{"{type: nats, bucket: b, path: p}", ""},
	} {
		cfg, err := parseConfig([]byte("dbs: [{path: x.db, replica: "+tt.yaml+"}]"), false)
		if err != nil {
			t.Fatalf("%s: %v", tt.yaml, err)
		}
		if got := cfg.DBs[0].Replica.clientPath(); got != tt.want {
			t.Errorf("%s: path %q, want %q", tt.yaml, got, tt.want)
		}
	}
}
