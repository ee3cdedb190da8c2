package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/testutil"
)

// TestMain fails the run if a test leaves a goroutine behind. In a child
// process of a test it is the command itself.
func TestMain(m *testing.M) {
	if os.Getenv(runMainEnv) != "" {
		main()
	}
	cleanEnv()
	goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8)))
}

// runMainEnv is the variable that makes the test's binary the command.
const runMainEnv = "LITESTREAM_TEST_RUN_MAIN"

// result is what a command line printed and returned.
type result struct {
	code           int
	stdout, stderr string
}

func noSignals() (<-chan os.Signal, func()) { return nil, func() {} }

// runCommand runs a command line in this process.
func runCommand(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{stdout: &stdout, stderr: &stderr, signals: noSignals}
	code := a.main(t.Context(), args)
	return result{code, stdout.String(), stderr.String()}
}

// cleanEnv takes the configuration of the machine out of the environment.
func cleanEnv() {
	for name, value := range map[string]string{"LITESTREAM_CONFIG": "/missing/litestream.yml", "LOG_LEVEL": ""} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
}

// testFolder returns an empty working directory with no configuration in the
// environment.
func testFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("LITESTREAM_CONFIG", filepath.Join(dir, "missing.yml"))
	t.Setenv("LOG_LEVEL", "")
	return dir
}

// parallelFolder is testFolder for a test that waits more than it works, and
// runs beside others: it names every file by its whole path.
func parallelFolder(t *testing.T) string {
	t.Helper()
	t.Parallel()
	return t.TempDir()
}

func writeFile(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeLTXFile puts an LTX file of one page on a level of a file replica or
// metadata directory.
func writeLTXFile(t *testing.T, dir string, level int, minTXID, maxTXID ltx.TXID) {
	t.Helper()
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, int(maxTXID), 0, time.UTC)
	if err := enc.EncodeHeader(ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: 512, Commit: 1,
		MinTXID: minTXID, MaxTXID: maxTXID, Timestamp: at.UnixMilli(),
	}); err != nil {
		t.Fatal(err)
	}
	if err := enc.EncodePage(ltx.PageHeader{Pgno: 1}, make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "ltx", fmt.Sprint(level), ltx.FormatFilename(minTXID, maxTXID))
	writeFile(t, path, buf.String())
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestRun_Errors(t *testing.T) {
	dir := testFolder(t)
	missing := filepath.Join(dir, "missing.yml")
	writeFile(t, filepath.Join(dir, "c.yml"), "dbs: []")
	for _, tt := range []struct {
		name string
		args []string
		want string // stderr
	}{
		{"UnknownCommand", []string{"bogus"}, "Error: litestream bogus: unknown command\n"},
		{"DatabasesMissingConfig", []string{"databases"}, "Error: config file not found: " + missing + "\n"},
		{"DatabasesArgs", []string{"databases", "x"}, "Error: too many arguments\n"},
		{"StatusMissingConfig", []string{"status", "-config", "nope"}, "Error: config file not found: " + filepath.Join(dir, "nope") + "\n"},
		{"LTXNoArgs", []string{"ltx"}, "Error: database path or replica URL required\nTry: litestream ltx /path/to/db\n"},
		{"LTXArgs", []string{"ltx", "a", "b"}, "Error: too many arguments\n"},
		{"LTXConfigAndURL", []string{"ltx", "-config", "c.yml", "file:///x"}, "Error: cannot specify a replica URL and the -config flag\n"},
		{"LTXUnknownScheme", []string{"ltx", "bogus://x"}, "Error: unknown replica type in config: \"bogus\"\n"},
		{"LTXUnlisted", []string{"ltx", "-config", "c.yml", "x"}, "Error: database not found in config: " + filepath.Join(dir, "x") + "\n"},
		{"ResetNoArgs", []string{"reset"}, "Error: database path required\nTry: litestream reset /path/to/db\n"},
		{"ResetArgs", []string{"reset", "a", "b"}, "Error: too many arguments\n"},
		{"ResetMissing", []string{"reset", "a"}, "Error: database does not exist: " + filepath.Join(dir, "a") + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := runCommand(t, tt.args...)
			if diff := cmp.Diff(result{1, "", tt.want}, got, cmp.AllowUnexported(result{})); diff != "" {
				t.Fatalf("%q (-want +got):\n%s", tt.args, diff)
			}
		})
	}
}

func TestRun_FlagErrors(t *testing.T) {
	testFolder(t)
	for args, want := range map[string]string{
		"databases -bogus":     "flag provided but not defined: -bogus",
		"status -config":       "flag needs an argument: -config",
		"ltx -level 10 file:/": `invalid value "10" for flag -level: level must be between 0 and 9`,
		"ltx -level x file:/":  `invalid value "x" for flag -level: invalid level: must be 0-9 or "all"`,
		"reset -dry-run=maybe": `invalid boolean value "maybe" for -dry-run: parse error`,
	} {
		got := runCommand(t, strings.Fields(args)...)
		if got.code != 1 || got.stderr != want+"\nError: "+want+"\n" || !strings.Contains(got.stdout, "Usage:") {
			t.Errorf("%s: got %+v, want status 1, usage and %q twice", args, got, want)
		}
	}
}

func TestRun_Help(t *testing.T) {
	testFolder(t)
	usage := runCommand(t, "help")
	if usage.code != 0 || usage.stderr != "" {
		t.Errorf("help: %+v", usage)
	}
	for _, first := range []string{"-h", "-help", "--help"} {
		if got := runCommand(t, first); got != usage {
			t.Errorf("%s: got %+v, want the usage and status 0", first, got)
		}
	}
	for _, args := range [][]string{nil, {"-x"}, {"-config", "x"}} {
		if got := runCommand(t, args...); got.code != 1 || got.stdout != usage.stdout || got.stderr != "" {
			t.Errorf("%q: got %+v, want the usage and status 1", args, got)
		}
	}
	for _, c := range commands() {
		if !strings.Contains(usage.stdout, "\t"+c.name+" ") {
			t.Errorf("usage does not name %s", c.name)
		}
		for _, args := range [][]string{{"-h"}, {"-help"}, {"--help"}, {"--h"}} {
			got := runCommand(t, append([]string{c.name}, args...)...)
			if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, "\tlitestream "+c.name) {
				t.Errorf("%s %q: got %+v, want its help", c.name, args, got)
			}
		}
		// Flags end at the first word that is none.
		if got := runCommand(t, c.name, "x", "-h"); got.code != 1 && c.name != "version" && (c.name != "doctor" || got.code != exitUsage) {
			t.Errorf("%s x -h: got %+v, want an error", c.name, got)
		}
	}
}

func TestDatabases(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "access-key-id: geheim\nsecret-access-key: geheim\ndbs: [{path: a.db, replica: {url: \"s3://b/p\"}}, {path: /b, replica: {path: r}}]")
	writeFile(t, filepath.Join(dir, "empty.yml"), "")
	for _, tt := range []struct{ args, want string }{
		{"-config c.yml", "path" + strings.Repeat(" ", len(dir)+5-4) + "  replica\n" + dir + "/a.db  s3\n/b" + strings.Repeat(" ", len(dir)+5-2) + "  file\n"},
		{"-json -config c.yml", "[\n  {\n    \"path\": \"" + dir + "/a.db\",\n    \"replica\": \"s3\"\n  },\n  {\n    \"path\": \"/b\",\n    \"replica\": \"file\"\n  }\n]\n"},
		{"-config empty.yml", "path  replica\n"},
		{"-json -config empty.yml", "[]\n"},
	} {
		got := runCommand(t, append([]string{"databases"}, strings.Fields(tt.args)...)...)
		if diff := cmp.Diff(result{0, tt.want, ""}, got, cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("databases %s (-want +got):\n%s", tt.args, diff)
		}
	}
}

// TestDatabases_Warnings holds that warnings do not mix with the output.
func TestDatabases_Warnings(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "adr: x\n")
	got := runCommand(t, "databases", "-json", "-config", "c.yml")
	if got.code != 0 || got.stdout != "[]\n" || !strings.Contains(got.stderr, `key=adr line=1 reason="unknown key, ignored; did you mean \"addr\"?"`) {
		t.Fatalf("got %+v", got)
	}
}

func TestStatus(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), `dbs:
  - {path: /t/none, replica: {path: /r0}}
  - {path: new.db, replica: {path: /r1}}
  - {path: ok.db, replica: {path: /r2}}
  - {path: moved.db, meta-path: meta, replica: {path: /r3}}
  - {path: broken.db, meta-path: file, replica: {path: /r4}}
`)
	for _, name := range []string{"new.db", "ok.db", "moved.db", "broken.db"} {
		writeFile(t, filepath.Join(dir, name), "")
	}
	writeFile(t, filepath.Join(dir, "file/ltx/0"), "not a folder")
	writeFile(t, filepath.Join(dir, "ok.db-wal"), strings.Repeat("x", 74160))
	for txid := ltx.TXID(1); txid <= 18; txid++ {
		writeLTXFile(t, filepath.Join(dir, ".ok.db-litestream"), 0, txid, txid)
	}
	writeFile(t, filepath.Join(dir, ".ok.db-litestream/ltx/0/0000000000000019-0000000000000019.ltx.tmp"), "")
	writeLTXFile(t, filepath.Join(dir, "meta"), 0, 7, 7)

	got := runCommand(t, "status", "-config", "c.yml")
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(got.stdout, dir+"/", "")) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"database status local txid wal size",
		"/t/none no database - -",
		"new.db not initialized - 0 B",
		"ok.db ok 0000000000000012 74 kB",
		"moved.db ok 0000000000000007 0 B",
		"broken.db error - 0 B",
	}
	if diff := cmp.Diff(want, lines); diff != "" || got.code != 0 || got.stderr != "" {
		t.Fatalf("status: %d %s (-want +got):\n%s", got.code, got.stderr, diff)
	}

	got = runCommand(t, "status", "-json", "-config", "c.yml", filepath.Join(dir, "ok.db"))
	wantJSON := "[\n  {\n    \"database\": \"" + dir + "/ok.db\",\n    \"status\": \"ok\",\n    \"local_txid\": \"0000000000000012\",\n    \"wal_size\": \"74 kB\"\n  }\n]\n"
	if diff := cmp.Diff(result{0, wantJSON, ""}, got, cmp.AllowUnexported(result{})); diff != "" {
		t.Fatalf("status -json (-want +got):\n%s", diff)
	}
	if byRelative := runCommand(t, "status", "-json", "-config", "c.yml", "ok.db"); byRelative != got {
		t.Errorf("relative path: got %+v", byRelative)
	}
	if got := runCommand(t, "status", "-config", "c.yml", "zz"); got != (result{0, "database  status  local txid  wal size\n", ""}) {
		t.Errorf("no match: got %+v", got)
	}
	if got := runCommand(t, "status", "-json", "-config", "c.yml", "zz"); got != (result{0, "[]\n", ""}) {
		t.Errorf("no match as json: got %+v", got)
	}
}

func TestLTX(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "dbs: [{path: a.db, replica: {path: r}}]")
	replica := filepath.Join(dir, "r")
	writeLTXFile(t, replica, 0, 1, 1)
	writeLTXFile(t, replica, 0, 2, 2)
	writeLTXFile(t, replica, 9, 1, 2)
	const header = "level  min_txid          max_txid          size  created\n"
	const level0 = "0      0000000000000001  0000000000000001  168   2026-01-02T03:04:01Z\n" +
		"0      0000000000000002  0000000000000002  168   2026-01-02T03:04:02Z\n"
	const level9 = "9      0000000000000001  0000000000000002  168   2026-01-02T03:04:02Z\n"
	const json9 = "[\n  {\n    \"level\": 9,\n    \"min_txid\": \"0000000000000001\",\n    \"max_txid\": \"0000000000000002\",\n    \"size\": 168,\n" +
		"    \"timestamp\": \"2026-01-02T03:04:02Z\"\n  }\n]\n"
	for _, tt := range []struct {
		args string
		want result
	}{
		{"ltx file://" + replica, result{0, header + level0, ""}},
		{"ltx -config c.yml a.db", result{0, header + level0, ""}},
		{"ltx -level all file://" + replica, result{0, header + level0 + level9, ""}},
		{"ltx -level 9 file://" + replica, result{0, header + level9, ""}},
		{"ltx -level 9 -json file://" + replica, result{0, json9, ""}},
		{"ltx -level 3 file://" + replica, result{0, "level  min_txid  max_txid  size  created\n", ""}},
		{"ltx -level 3 -json file://" + replica, result{0, "[]\n", ""}},
		{"wal -level 9 file://" + replica, result{0, header + level9, "Warning: 'wal' command is deprecated, please use 'ltx' instead\n"}},
	} {
		if diff := cmp.Diff(tt.want, runCommand(t, strings.Fields(tt.args)...), cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.args, diff)
		}
	}
}

func TestReset(t *testing.T) {
	dir := testFolder(t)
	db, meta := filepath.Join(dir, "a.db"), filepath.Join(dir, ".a.db-litestream")
	writeFile(t, db, "database")

	want := "No local state to reset for " + db + "\nMeta directory does not exist: " + meta + "\n"
	if got := runCommand(t, "reset", "a.db"); got != (result{0, want, ""}) {
		t.Errorf("without metadata: got %+v", got)
	}

	writeLTXFile(t, meta, 0, 1, 1)
	writeFile(t, filepath.Join(meta, "ledger"), "x")
	writeFile(t, filepath.Join(meta, "other/file"), "kept")
	want = "Dry run: local Litestream state would be reset for: " + db + "\nWould remove: " + meta + "/ltx\nFiles that would be removed:\n  " +
		meta + "/ledger\n  " + meta + "/ltx/0/0000000000000001-0000000000000001.ltx\nNo files were removed.\n"
	if diff := cmp.Diff(result{0, want, ""}, runCommand(t, "reset", "-dry-run", db), cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("dry run (-want +got):\n%s", diff)
	}

	want = "Resetting local Litestream state for: " + db + "\nRemoving: " + meta + "/ltx\nReset complete. Next replication sync will create a fresh snapshot.\n"
	if diff := cmp.Diff(result{0, want, ""}, runCommand(t, "reset", db), cmp.AllowUnexported(result{})); diff != "" {
		t.Errorf("reset (-want +got):\n%s", diff)
	}
	var left []string
	entries, err := os.ReadDir(meta)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{"other"}, left); diff != "" {
		t.Errorf("left in the metadata directory (-want +got):\n%s", diff)
	}
	if data, err := os.ReadFile(db); err != nil || string(data) != "database" {
		t.Errorf("database after reset: %q, %v", data, err)
	}
	if got := runCommand(t, "reset", "-dry-run", db); !strings.HasSuffix(got.stdout, "No local LTX files would be removed.\n") {
		t.Errorf("dry run on nothing: %+v", got)
	}

	writeFile(t, filepath.Join(dir, "c.yml"), "dbs: [{path: a.db, meta-path: m, replica: {path: r}}]")
	writeLTXFile(t, filepath.Join(dir, "m"), 0, 1, 1)
	if got := runCommand(t, "reset", "-config", "c.yml", db); got.code != 0 || !strings.Contains(got.stdout, "Removing: "+dir+"/m/ltx\n") {
		t.Errorf("meta-path of the configuration: %+v", got)
	}
}

func TestVersion(t *testing.T) {
	testFolder(t)
	defer func(v string) { version = v }(version)
	version = "v1.2.3"
	if got := runCommand(t, "version"); got != (result{0, "v1.2.3\n", ""}) {
		t.Errorf("version: %+v", got)
	}
	got := runCommand(t, "version", "-verbose")
	for _, want := range []string{"Version:     v1.2.3\n", "\nGo Version:  go1.", "\nOS/Arch:     "} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("version -verbose: got %q, want %q", got.stdout, want)
		}
	}
}

func TestCopyEnv(t *testing.T) {
	t.Setenv("TEST_FROM", "x")
	t.Setenv("TEST_TO", "")
	copyEnv("TEST_FROM", "TEST_TO")
	if got := os.Getenv("TEST_TO"); got != "x" {
		t.Errorf("unset: got %q, want x", got)
	}
	t.Setenv("TEST_TO", "y")
	copyEnv("TEST_FROM", "TEST_TO")
	if got := os.Getenv("TEST_TO"); got != "y" {
		t.Errorf("set: got %q, want y", got)
	}
}

func TestRun_CancelledContext(t *testing.T) {
	testFolder(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	a := &app{stdout: &stdout, stderr: &stderr}
	if code := a.main(ctx, []string{"ltx", "file:///nowhere"}); code != 1 || !strings.Contains(stderr.String(), "context canceled") {
		t.Errorf("got %d, %s", code, stderr.String())
	}
}

// replicateOnce makes a single pass of the real store.
func replicateOnce(t *testing.T, args ...string) {
	t.Helper()
	var out bytes.Buffer
	a := &app{stdout: &out, stderr: &out, signals: noSignals, newRunner: newStore}
	if code := a.main(t.Context(), append([]string{"replicate", "-once"}, args...)); code != 0 {
		t.Fatalf("replicate -once: status %d\n%s", code, out.String())
	}
}
