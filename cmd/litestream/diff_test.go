package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestDiff compares restore points of a database of multi-db by its path, when
// its file is gone, and by URL.
func TestDiff(t *testing.T) {
	dir := parallelFolder(t)
	path := tenantOfThreePoints(t, dir)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	scratch, url := t.TempDir(), "file://"+dir+"/r/t1"
	const one, two, three = "0000000000000001", "0000000000000002", "0000000000000003"

	got := runCommand(t, "diff", "-config", dir+"/c.yml", "-rows", "1", "-scratch", scratch, "-exit-code", path, one)
	for _, want := range []string{path + "\n", "before  txid " + one, "after   txid " + three, "table  t ", "\nKeys of t, 1 of 2:\n  inserted  2\n"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("no %q in:\n%s", want, got.stdout)
		}
	}
	if got.code != exitPartial || got.stderr != "" {
		t.Errorf("got %+v", got)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left in the scratch folder: %v, %v", left, err)
	}

	got = runCommand(t, "diff", "-json", "-level", "rows", url, two, three)
	var report diffReport
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil || got.code != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if !report.Differs || report.Level != "rows" || report.Method != "databases" || report.Before.TXID != two || report.After.TXID != three || report.Pages.Changed == 0 {
		t.Errorf("got %+v", report)
	}
	rows := 0
	for _, e := range report.Entries {
		if e.Name == "t" && e.Type == "table" && e.State == "changed" && e.Rows.Inserted == 1 && e.Rows.Keys == nil {
			rows++
		}
	}
	if rows != 1 {
		t.Errorf("entries %+v", report.Entries)
	}

	for _, tt := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"-level", "pages", url, one, two}, 0, " changed, ", ""},
		{[]string{"-exit-code", url, two, two}, 0, "Both points are the same transaction.", ""},
		{[]string{url, three, one}, 1, "", "the first point is later than the second"},
		{[]string{url, "2001-01-01T00:00:00Z"}, 1, "", "is not after the first backup, which was made at"},
		{[]string{url, "0000000000000000"}, 1, "", "want a TXID of 16 hex digits or a time such as"},
		{[]string{url, "yesterday"}, 1, "", `invalid point "yesterday"`},
		{[]string{"file://" + dir + "/nothing", one}, 1, "", "no restore point of file://"},
		{[]string{"-config", dir + "/c.yml", "/elsewhere/x.db", one}, 1, "", "/elsewhere/x.db"},
		{nil, 1, "", "database path or replica URL required"},
		{[]string{url}, 1, "", "a point to compare with is required"},
		{[]string{url, one, two, three}, 1, "", "too many arguments"},
		{[]string{"-rows", "-1", url, one}, 1, "", "-rows must not be negative"},
		{[]string{"-level", "all", url, one}, 1, "Usage:", "want pages, tables or rows"},
		{[]string{"-scratch", dir + "/missing", url, one}, 1, "", "name another place with -scratch"},
	} {
		got := runCommand(t, append([]string{"diff"}, tt.args...)...)
		if got.code != tt.code || !strings.Contains(got.stdout, tt.stdout) || !strings.Contains(got.stderr, tt.stderr) || tt.stderr == "" && got.stderr != "" {
			t.Errorf("%q: got %+v, want %d, %q, %q", tt.args, got, tt.code, tt.stdout, tt.stderr)
		}
	}
}
