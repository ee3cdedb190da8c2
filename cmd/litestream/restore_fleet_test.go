package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
)

// fleetReport is what -json prints.
type fleetReport struct {
	rows    map[string]fleetRow
	summary fleetTotals
}

func restoreFleet(t *testing.T, wantCode int, args ...string) (rep fleetReport, stderr string) {
	t.Helper()
	got := runCommand(t, append([]string{"restore", "-json"}, args...)...)
	if got.code != wantCode {
		t.Fatalf("%q: status %d, want %d: %+v", args, got.code, wantCode, got)
	}
	rep.rows = make(map[string]fleetRow)
	in := bufio.NewScanner(strings.NewReader(got.stdout))
	for in.Scan() {
		var line struct {
			fleetRow
			Summary *fleetTotals
		}
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			t.Fatalf("%v in %q", err, in.Text())
		}
		if line.Summary != nil {
			rep.summary = *line.Summary
		} else {
			rep.rows[line.DBPath] = line.fleetRow
		}
	}
	if rep.summary.Total != len(rep.rows) {
		t.Errorf("%q: %d rows of %d databases", args, len(rep.rows), rep.summary.Total)
	}
	rep.summary.DurationMS = 0
	return rep, got.stderr
}

// On a machine with nothing but the configuration everything comes back to its
// place, or below a folder; what is there is left alone.
func TestRestore_Fleet(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	if err := os.RemoveAll(dir + "/state"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, paths[3], "there")
	rep, stderr := restoreFleet(t, exitPartial, "-config", dir+"/c.yml", "-all")
	want := fleetTotals{Source: rep.summary.Source, Total: 13, Restored: 12, Refused: 1, Bytes: rep.summary.Bytes}
	if diff := cmp.Diff(want, rep.summary); diff != "" || !strings.Contains(stderr, "Error: restored 12 of 13 databases: 1 failed, the first is "+paths[3]) {
		t.Errorf("in place (-want +got), %s:\n%s", stderr, diff)
	}
	for i, path := range paths {
		if i != 3 && countRows(t, path) != max(i, 5*(1-min(i, 1))) {
			t.Errorf("%s has %d rows", path, countRows(t, path))
		}
	}
	row := rep.rows[paths[1]]
	if row.OutputPath != paths[1] || row.Status != "restored" || len(row.SHA256) != 64 || row.TXID != "0000000000000001" || row.Bytes == 0 {
		t.Errorf("%+v", row)
	}
	if rep, _ = restoreFleet(t, exitPartial, "-config", dir+"/c.yml", "-all"); rep.summary.Verified != 12 || rep.summary.Refused != 1 {
		t.Errorf("again: %+v", rep.summary)
	}
	if rep, _ = restoreFleet(t, 0, "-config", dir+"/c.yml", "-all", "-force"); rep.summary.Verified != 12 || rep.summary.Restored != 1 || countRows(t, paths[3]) != 3 {
		t.Errorf("forced: %+v", rep.summary)
	}
	if names, err := filepath.Glob(dir + "/state/restore/*"); err != nil || len(names) > 0 {
		t.Errorf("journal: %q, %v", names, err)
	}
	if rep, _ = restoreFleet(t, 0, "-config", dir+"/c.yml", "-all", "-if-db-not-exists"); rep.summary.Skipped != 13 {
		t.Errorf("where they are there: %+v", rep.summary)
	}
}

// Chosen ones, to another folder.
func TestRestore_FleetChoice(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	url := "file://" + dir + "/replica"
	for i, tt := range []struct {
		args string
		want []string // database paths
		err  string   // of a choice of none
	}{
		{"-config " + dir + "/c.yml -glob " + dir + "/data/*1/**", []string{paths[2], paths[5], paths[8], paths[11]}, ""},
		{"-config " + dir + "/c.yml -glob named.db -glob t00.db -list", []string{paths[0], paths[1]}, ""},
		{"-config " + dir + "/c.yml -tenant tenant=t05", []string{paths[6]}, ""},
		{"-config " + dir + "/c.yml -tenant tenant=t05,project=other", nil, "no database matches in file://"},
		{"-config " + dir + "/c.yml -tenant tenat=t05,project=other", nil, "none has a variable tenat, which"},
		{"-from " + url + " -glob t01.db -order small", []string{paths[2]}, ""},
		{"-from " + url + "/ -glob t01 -order small", []string{"p 1/t01"}, ""}, // of which only a listing tells
	} {
		if strings.HasPrefix(tt.args, "-from "+url+"/ ") {
			if err := os.Remove(dir + "/replica/!litestream/catalogs"); err != nil {
				t.Fatal(err)
			}
		}
		out := filepath.Join(dir, "out", string(rune('a'+i)))
		args := strings.Split(tt.args+" -o "+out, " ")
		if tt.want == nil {
			if got := runCommand(t, append([]string{"restore"}, args...)...); got.code != 1 || !strings.Contains(got.stderr, "no database matches") || !strings.Contains(got.stderr, tt.err) {
				t.Errorf("%s: %+v", tt.args, got)
			}
			continue
		}
		rep, _ := restoreFleet(t, 0, args...)
		var got []string
		for path, row := range rep.rows {
			got = append(got, path)
			if row.OutputPath != filepath.Join(out, path) || countRows(t, row.OutputPath) < 1 {
				t.Errorf("%s: %+v", tt.args, row)
			}
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.args, diff)
		}
	}
	if rep, _ := restoreFleet(t, 0, "-from", url, "-o", filepath.Join(dir, "all")); rep.summary.Restored != 12 {
		t.Errorf("without a configuration: %+v", rep.summary)
	}
}

// Some or none: the status tells, and what failed is tried again the next time.
func TestRestore_FleetPartial(t *testing.T) {
	dir, _ := lostFleet(t, "{{project}}/{{tenant}}")
	cfg, err := os.ReadFile(dir + "/c.yml")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/c2.yml", strings.Replace(string(cfg), "multi-db:", "  - {path: "+dir+"/other.db, replica: {path: "+dir+"/none}}\nmulti-db:", 1))
	rep, stderr := restoreFleet(t, exitPartial, "-config", dir+"/c2.yml", "-all", "-o", dir+"/out")
	if rep.summary.Restored != 13 || rep.summary.Failed != 1 || !strings.Contains(stderr, "other.db: no matching backup files available") {
		t.Errorf("%+v, %s", rep.summary, stderr)
	}
	if rep, _ = restoreFleet(t, 0, "-config", dir+"/c2.yml", "-all", "-o", dir+"/out", "-if-replica-exists"); rep.summary.Verified != 13 || rep.summary.Skipped != 1 {
		t.Errorf("where that is allowed: %+v", rep.summary)
	}
	got := runCommand(t, "restore", "-config", dir+"/c2.yml", "-glob", "other.db", "-o", dir+"/none")
	if got.code != 1 || !strings.Contains(got.stderr, "Error: restored 0 of 1 databases") {
		t.Errorf("none: %+v", got)
	}
}

// What the catalog tells beyond paths: who may read a database, and which ones
// were deleted.
func TestRestore_FleetCatalog(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	// A host that has all but one, with a mode of its own.
	restoreFleet(t, 0, "-config", dir+"/c.yml", "-all", "-integrity-check", "full")
	if err := errors.Join(os.Chmod(paths[1], 0o604), os.Remove(paths[2])); err != nil {
		t.Fatal(err)
	}
	insertRow(t, paths[1])
	a := &app{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), signals: noSignals, newRunner: newStore}
	if code := a.main(t.Context(), []string{"replicate", "-once", "-config", dir + "/c.yml"}); code != 0 {
		t.Fatalf("replicate: %s%s", a.stdout, a.stderr)
	}
	rep, _ := restoreFleet(t, 0, "-config", dir+"/c.yml", "-all", "-o", dir+"/out")
	if rep.summary.Source != "catalog" || rep.summary.Restored != 12 || rep.summary.Deleted != 1 || rep.rows[paths[2]].Status != "" {
		t.Errorf("without the deleted one: %+v", rep.summary)
	}
	if fi, err := os.Stat(filepath.Join(dir, "out", paths[1])); err != nil || fi.Mode().Perm() != 0o604 {
		t.Errorf("mode: %v, %v", fi.Mode(), err)
	}
	rep, _ = restoreFleet(t, 0, "-config", dir+"/c.yml", "-glob", "t01.db", "-deleted", "-o", dir+"/out2")
	if rep.rows[paths[2]].Status != "restored" || rep.summary.Total != 1 {
		t.Errorf("the deleted one: %+v", rep.rows)
	}
}

// A disk whose reserve is larger than it is gets nothing.
func TestRestore_FleetReserve(t *testing.T) {
	dir, _ := lostFleet(t, "{{project}}/{{tenant}}")
	rep, stderr := restoreFleet(t, 1, "-config", dir+"/c.yml", "-all", "-o", dir+"/out", "-reserve", "8EB")
	if rep.summary.Left != 13 || rep.summary.Stopped == "" || !strings.Contains(stderr, "Make room and start the same command again") {
		t.Errorf("%+v, %s", rep.summary, stderr)
	}
	if rep, _ = restoreFleet(t, 0, "-config", dir+"/c.yml", "-all", "-o", dir+"/out"); rep.summary.Restored != 13 {
		t.Errorf("with room: %+v", rep.summary)
	}
}

func TestRestore_FleetDryRun(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	got := runCommand(t, "restore", "-config", dir+"/c.yml", "-all", "-o", dir+"/out", "-dry-run")
	if got.code != 0 || strings.Count(got.stdout, "\n") != 16 || !strings.Contains(got.stdout, paths[4]) || !strings.Contains(got.stdout, "\n13 databases, ") || !strings.Contains(got.stdout, "if all are like 13 ") {
		t.Errorf("%+v", got)
	}
	got = runCommand(t, "restore", "-config", dir+"/c.yml", "-all", "-o", dir+"/out", "-dry-run", "-json")
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	var last struct{ Summary fleetPlanTotals }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || len(lines) != 14 || last.Summary.Databases != 13 || last.Summary.SampleN != 13 || last.Summary.Seconds < 1 {
		t.Errorf("%v: %+v", err, got)
	}
	if _, err := os.Stat(dir + "/out"); !os.IsNotExist(err) {
		t.Errorf("a dry run wrote: %v", err)
	}
}

func TestRestore_FleetErrors(t *testing.T) {
	testFolder(t)
	writeFile(t, "c.yml", "dbs: []")
	for args, want := range map[string]string{
		"-all x":                             "cannot specify x with -all, -glob, -tenant or -from",
		"-all -txid 0000000000000001":        "cannot specify -txid for more than one database",
		"-all -f":                            "cannot specify -f for more than one database",
		"-all -all-missing":                  "cannot specify -all-missing with -all",
		"-all -force -if-db-not-exists":      "cannot specify both -force and -if-db-not-exists",
		"-all -o=":                           "-o is empty: leave it out to restore everything to its place",
		"-all -order big":                    "invalid -order: ",
		"-all -reserve much":                 "invalid -reserve: much",
		"-glob [":                            "invalid -glob: [",
		"-tenant x=y":                        "cannot specify -tenant: the configuration has no multi-db",
		"-all":                               "no database matches in dbs",
		"-all -timestamp yesterday":          "invalid -timestamp",
		"-deleted x.db":                      "cannot specify -deleted without -all",
		"-from file:///x -o y":               "cannot specify both -from and -config",
		"-config= -from x":                   "invalid -from: x is no replica URL",
		"-config= -from file:///x":           "-o is required with -from\nTry: litestream restore -from file:///x -o /path/to/folder",
		"-config= -from file:///x -tenant a": "cannot specify -tenant with -from",
	} {
		args := append([]string{"restore", "-config", "c.yml"}, strings.Fields(args)...)
		if got := runCommand(t, args...); got.code != 1 || !strings.HasPrefix(got.stderr, "Error: "+want) {
			t.Errorf("%s: %+v, want %q", args, got, want)
		}
	}
}

func TestFormatFleetProgress(t *testing.T) {
	for _, tt := range []struct {
		p       litestream.FleetRestoreProgress
		elapsed time.Duration
		want    string
	}{
		{litestream.FleetRestoreProgress{Total: 10}, 0, "restored 0 of 10 databases, 0 B"},
		{
			litestream.FleetRestoreProgress{Total: 100, Finished: 50, Failed: 1, Bytes: 25e6, TotalBytes: 100e6},
			10 * time.Second,
			"restored 49 of 100 databases, 25 MB of 100 MB  5/s  2.5 MB/s  30s left  1 failed",
		},
		{
			litestream.FleetRestoreProgress{Total: 100, Finished: 50, Bytes: 25e6, TotalBytes: 30e6, UnknownSizes: 9},
			10 * time.Second,
			"restored 50 of 100 databases, 25 MB  5/s  2.5 MB/s  10s left",
		},
	} {
		if got := formatFleetProgress(tt.p, tt.elapsed); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// A catalog that does not tell of a database must not make a restore of all seem
// complete.
func TestRestore_FleetUnlisted(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	if err := os.CopyFS(dir+"/replica/p%201/t99", os.DirFS(dir+"/replica/p%201/t01")); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"-config " + dir + "/c.yml", "-from file://" + dir + "/replica"} {
		out := strings.Fields("-o " + dir + "/out" + args[1:2] + " -all " + args)
		rep, stderr := restoreFleet(t, exitPartial, out...)
		if rep.summary.Unlisted != 1 || !strings.Contains(stderr, "1 are on the replica and not in its catalog") || !strings.Contains(stderr, "p%201/t99") {
			t.Errorf("%s: %+v, %s", args, rep.summary, stderr)
		}
	}
	rep, _ := restoreFleet(t, 0, "-config", dir+"/c.yml", "-all", "-list", "-if-db-not-exists", "-o", dir+"/outc")
	if rep.summary.Unlisted != 0 || rep.summary.Restored != 1 || rep.summary.Skipped != 13 {
		t.Errorf("with a listing: %+v of %d", rep.summary, len(paths))
	}
}

// A database of dbs that comes back to its place with the others has the ledger
// that it has when it is restored by itself.
func TestRestore_FleetLedger(t *testing.T) {
	dir, paths := lostFleet(t, "{{project}}/{{tenant}}")
	ledger := litestream.LedgerPath(defaultMetaPath(paths[0]))
	var got [2][]byte
	for i, args := range []string{"-config " + dir + "/c.yml -all", "-config " + dir + "/c.yml " + paths[0]} {
		for _, name := range []string{dir + "/data", paths[0], filepath.Dir(ledger)} {
			if err := os.RemoveAll(name); err != nil {
				t.Fatal(err)
			}
		}
		if out := runCommand(t, append([]string{"restore"}, strings.Fields(args)...)...); out.code != 0 {
			t.Fatalf("%+v", out)
		}
		var err error
		if got[i], err = os.ReadFile(ledger); err != nil {
			t.Fatal(err)
		}
	}
	if len(got[0]) == 0 || !bytes.Equal(got[0], got[1]) {
		t.Errorf("ledgers of %d and %d bytes", len(got[0]), len(got[1]))
	}
}
