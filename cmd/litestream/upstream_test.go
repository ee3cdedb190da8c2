package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream/tests/servers"
)

func runUpstream(t *testing.T, bin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// TestUpstream_SameOutput holds that both programs print the same and exit
// with the same status.
func TestUpstream_SameOutput(t *testing.T) {
	bin := servers.Upstream(t)
	dir := testFolder(t)
	writeSnapshot(t, filepath.Join(dir, "r"), testDatabase(t))
	writeLTXFile(t, filepath.Join(dir, ".a.db-litestream"), 0, 3, 3)
	writeFile(t, filepath.Join(dir, "a.db"), "")
	writeFile(t, filepath.Join(dir, "a.db-wal"), strings.Repeat("x", 12345))
	writeFile(t, filepath.Join(dir, "full.db"), "x")
	writeFile(t, filepath.Join(dir, "c.yml"), "dbs:\n- {path: a.db, replica: {path: r}}\n- {path: /none/b.db, replicas: [{url: \"s3://b/p\"}]}\n- {path: full.db, replica: {path: q}}\n")
	writeFile(t, filepath.Join(dir, "merge.yml"), "dbs: [{path: a.db, <<: {path: b.db}, replica: {path: r, sync-interval: 1.5}, restore-if-db-not-exists: y}]")
	url := "file://" + dir + "/r"
	for _, args := range [][]string{
		{"bogus"},
		{"databases"},
		{"databases", "x"},
		{"databases", "-config", "c.yml"},
		{"databases", "-json", "-config", "c.yml"},
		{"databases", "-config", "merge.yml"},
		{"databases", "-config", "missing"},
		{"status", "-config", "c.yml"},
		{"status", "-json", "-config", "c.yml"},
		{"status", "-config", "c.yml", "zz"},
		{"ltx"},
		{"ltx", "a", "b"},
		{"ltx", "-level", "all", url},
		{"ltx", "-level=9", "-json", url},
		{"wal", url},
		{"ltx", "-config", "c.yml", "a.db"},
		{"ltx", "-config", "c.yml", "x"},
		{"ltx", "-config", "c.yml", url},
		{"ltx", "bogus://x"},
		{"restore"},
		{"restore", "a", "b"},
		{"restore", url},
		{"restore", "-o", "o1", "-integrity-check", "x", url},
		{"restore", "-o", "o1", "-config", "c.yml", url},
		{"restore", "-config", "c.yml", "x"},
		{"restore", "-o", "o1", "file://" + dir + "/none"},
		{"restore", "-o", "o1", "-dry-run", url},
		{"restore", "-f", "-o", "o1", "-dry-run", url},
		{"restore", "-f", "-o", "o1", "-txid", "0000000000000001", url},
		{"restore", "-f", "-o", "full.db", url},
		{"restore", "-o", "o1", "-dry-run", "-json", "-config", "c.yml", "a.db"},
		{"reset"},
		{"reset", "a", "b"},
		{"reset", "missing.db"},
		{"reset", "-dry-run", "a.db"},
		{"reset", "full.db"},
		{"replicate"},
		{"replicate", "a", "-b"},
		{"replicate", "-config", "c.yml", "a", url},
		{"replicate", "-once", "-exec", "true", "a", url},
		{"replicate", "-force-snapshot", "a", url},
		{"replicate", "-enforce-retention", "a", url},
	} {
		want := runUpstream(t, bin, args...)
		got := runCommand(t, args...)
		if got != want {
			t.Errorf("%q:\n got %+v\nwant %+v", args, got, want)
		}
	}
}

// TestUpstream_SameStatus holds that both exit alike and print on the same
// streams where the words differ.
func TestUpstream_SameStatus(t *testing.T) {
	bin := servers.Upstream(t)
	dir := testFolder(t)
	writeSnapshot(t, filepath.Join(dir, "r"), testDatabase(t))
	writeFile(t, filepath.Join(dir, "full.db"), "x")
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	url := "file://" + dir + "/r"
	calls := [][]string{
		{},
		{"-x"},
		{"help"},
		{"-h"},
		{"--help"},
		{"databases", "-bogus"},
		{"ltx", "-level", "10", url},
		{"ltx", "-level", "x", url},
		{"status", "-config"},
		{"restore", "-txid", "1", "-o", "o", url},
		{"restore", "-parallelism", "x", "-o", "o", url},
		{"restore", "-o", "o", "-timestamp", "x", url},
		{"restore", "-o", "full.db", url},
		{"restore", "-o", "folder", url},
		{"restore", "-o", "o", "-txid", "0000000000000009", url},
		{"restore", "-o", "o", "-timestamp", "2000-01-01T00:00:00Z", url},
		{"restore", "-if-replica-exists", "-o", "o", "file://" + dir + "/none"},
		{"restore", "-if-db-not-exists", "-o", "full.db", url},
		{"replicate", "a"},
	}
	for _, name := range []string{"databases", "ltx", "replicate", "reset", "restore", "status", "version"} {
		calls = append(calls, []string{name, "-h"}, []string{name, "-help"}, []string{name, "--help"})
	}
	for i, config := range []string{
		"dbs: [null]", "foo: [", "retention: 5", "- a", "dbs: {path: a}", "addr: [1]", "levels: [{interval: 1s},{}]",
		"snapshot: {interval: 0}", "l0-retention: -1s", "l0-retention-check-interval: 0", "shutdown-sync-timeout: -1s",
		"dbs: [{path: a}]", "dbs: [{replica: {path: y}}]", "dbs: [{path: a, replicas: [{path: y},{path: z}]}]",
		"dbs: [{path: a, replica: {path: y}},{path: ./a, replica: {path: z}}]", "dbs: [{path: a, replica: {type: s3, path: x}}]",
		"dbs: [{path: a, replica: {url: \"s3://a/b\", bucket: c}}]", "dbs: [{path: a, replica: {path: \"s3://x\"}}]",
		"dbs: [{path: a, replica: {path: y, sync-interval: 5d}}]", "dbs: [{path: a, replica: {path: y, age: {recipients: [x]}}}]",
	} {
		path := filepath.Join(dir, "bad"+string(rune('a'+i))+".yml")
		writeFile(t, path, config)
		calls = append(calls, []string{"databases", "-config", path})
	}
	for _, args := range calls {
		want, got := runUpstream(t, bin, args...), runCommand(t, args...)
		wantCode := min(want.code, 1) // 2 is a panic
		if got.code != wantCode || (got.stdout == "") != (want.stdout == "") || (got.stderr == "") != (want.stderr == "") {
			t.Errorf("%q:\n got %+v\nwant %+v", args, got, want)
		}
	}
}
