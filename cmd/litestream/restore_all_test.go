package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lostFleet makes a configuration, backs up its databases and deletes them. The
// test runs beside others.
func lostFleet(t *testing.T, template string) (dir string, paths []string) {
	t.Helper()
	dir = parallelFolder(t)
	writeFile(t, dir+"/c.yml", fmt.Sprintf(`
dbs:
  - {path: %[1]s/named.db, replica: {path: %[1]s/replica-named}}
multi-db:
  enabled: true
  patterns: [%[1]s/data/*/tenants/*.db]
  state-dir: %[1]s/state
  replica-template: {type: file, path: "%[1]s/replica/%[2]s"}
`, dir, template))
	paths = append(paths, dir+"/named.db")
	makeDatabase(t, paths[0], 5)
	for i := range 12 {
		path := fmt.Sprintf("%s/data/p %d/tenants/t%02d.db", dir, i%3, i)
		makeDatabase(t, path, i+1)
		paths = append(paths, path)
	}
	a := &app{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), signals: noSignals, newRunner: newStore}
	if code := a.main(t.Context(), []string{"replicate", "-once", "-config", dir + "/c.yml"}); code != 0 {
		t.Fatalf("replicate: %s%s", a.stdout, a.stderr)
	}
	for _, path := range append([]string{dir + "/data"}, paths[0], paths[0]+"-wal", paths[0]+"-shm") {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	return dir, paths
}

// allMissingResult is what -json prints.
type allMissingResult struct {
	Source                                     string
	Known, Missing, Restored, Skipped, Unclear int
	Failed                                     []restoreFailure
}

func restoreAllMissing(t *testing.T, dir string, wantCode int, args ...string) (res allMissingResult, stderr string) {
	t.Helper()
	got := runCommand(t, append([]string{"restore", "-config", dir + "/c.yml", "-all-missing", "-json"}, args...)...)
	if got.code != wantCode {
		t.Fatalf("status %d, want %d: %+v", got.code, wantCode, got)
	}
	if err := json.Unmarshal([]byte(got.stdout), &res); err != nil {
		t.Fatalf("%v in %q", err, got.stdout)
	}
	return res, got.stderr
}

// Everything comes back to its place: what the registry knows, or without one
// what a listing of the replica does. What is there is left alone.
func TestRestore_AllMissing(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"registry", "replica"} {
		t.Run(source, func(t *testing.T) {
			dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
			if source == "replica" {
				if err := os.RemoveAll(dir + "/state"); err != nil {
					t.Fatal(err)
				}
			}
			writeFile(t, paths[3], "there")

			got := runCommand(t, "restore", "-config", dir+"/c.yml", "-all-missing", "-dry-run")
			if lines := strings.Count(got.stdout, "\n"); got.code != 0 || lines != len(paths) || !strings.Contains(got.stdout, paths[1]) || strings.Contains(got.stdout, paths[3]) {
				t.Errorf("dry run: %+v", got)
			}
			res, _ := restoreAllMissing(t, dir, 0, "-parallelism", "3")
			want := allMissingResult{Source: source, Known: 13, Missing: 12, Restored: 12, Failed: []restoreFailure{}}
			if diff := cmp.Diff(want, res); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			for i, path := range paths {
				switch data, err := os.ReadFile(path); {
				case i == 3 && string(data) != "there":
					t.Errorf("%s was replaced, %v", path, err)
				case i == 0 && countRows(t, path) != 5, i > 0 && i != 3 && countRows(t, path) != i:
					t.Errorf("%s has %d rows", path, countRows(t, path))
				}
			}
			res, _ = restoreAllMissing(t, dir, 0)
			if res.Missing != 0 || res.Known != 13 {
				t.Errorf("the second time: %+v", res)
			}
		})
	}
}

// Some or none: the exit status tells, and what failed is tried again the next
// time.
func TestRestore_AllMissingPartial(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	hide := dir + "/replica/p%201/t01"
	if err := os.Rename(hide, hide+"x"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, paths[3]+"-wal", "left")
	res, stderr := restoreAllMissing(t, dir, exitPartial)
	if res.Restored != 11 || len(res.Failed) != 2 || !strings.Contains(stderr, "Error: restored 11 of 13 missing databases: 2 failed, the first is ") {
		t.Errorf("got %+v, %s", res, stderr)
	}
	res, _ = restoreAllMissing(t, dir, 1, "-if-replica-exists")
	if res.Missing != 2 || res.Skipped != 1 || len(res.Failed) != 1 || !strings.Contains(res.Failed[0].Error, "-wal was left by SQLite") {
		t.Errorf("with -if-replica-exists: %+v", res)
	}
	if err := os.Rename(hide+"x", hide); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(paths[3] + "-wal"); err != nil {
		t.Fatal(err)
	}
	if res, _ = restoreAllMissing(t, dir, 0); res.Restored != 2 {
		t.Errorf("the last time: %+v", res)
	}
}

// Where neither the registry nor the template tells, it is said why.
func TestRestore_AllMissingUnclear(t *testing.T) {
	dir, paths := lostFleet(t, "x/{{tenant}}")
	if res, _ := restoreAllMissing(t, dir, 0); res.Restored != 13 || res.Source != "registry" {
		t.Errorf("from the registry: %+v", res)
	}
	for _, name := range []string{"state", "data"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	got := runCommand(t, "restore", "-config", dir+"/c.yml", "-all-missing")
	want := "Error: no registry in " + dir + "/state tells which databases there were, and a listing of the replica cannot: " +
		"replica path does not tell the path of its database: for the pattern " + dir + "/data/*/tenants/*.db the template does not hold {{project}}\n"
	if got.code != 1 || got.stderr != want {
		t.Errorf("got %+v, want %s", got, want)
	}
	if got := runCommand(t, "restore", "-config", dir+"/c.yml", paths[1]); got.code != 0 {
		t.Errorf("one by its path: %+v", got)
	}
}

func TestRestore_AllMissingErrors(t *testing.T) {
	testFolder(t)
	writeFile(t, "c.yml", "dbs: []")
	for args, want := range map[string]string{
		"x":                                "cannot specify x with -all-missing",
		"-o y":                             "cannot specify -o with -all-missing",
		"-txid 0000000000000001":           "cannot specify -txid with -all-missing",
		"-force":                           "cannot specify -force with -all-missing",
		"-f":                               "cannot specify -f with -all-missing",
		"-timestamp yesterday":             "invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z)",
		"-integrity-check some":            "invalid -integrity-check value: some",
		"-config none.yml":                 "config file not found: ",
		"-timestamp 2026-01-01T00:00:00Z ": "",
	} {
		got := runCommand(t, append([]string{"restore", "-config", "c.yml", "-all-missing"}, strings.Fields(args)...)...)
		if want == "" && got.code != 0 || want != "" && (got.code != 1 || !strings.HasPrefix(got.stderr, "Error: "+want)) {
			t.Errorf("%s: %+v, want %q", args, got, want)
		}
	}
}
