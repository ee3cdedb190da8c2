package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTimeline shows a database of multi-db by its path and by URL, and what a
// lost file does.
func TestTimeline(t *testing.T) {
	dir := parallelFolder(t)
	path := tenantOfThreePoints(t, dir)
	got := runCommand(t, "timeline", "-config", dir+"/c.yml", path)
	if got.code != 0 || !strings.HasPrefix(got.stdout, path+": 3 restore points\n  newest  ") || !strings.Contains(got.stdout, "\nup to 5m  3 ") || got.stderr != "" {
		t.Errorf("got %+v", got)
	}
	url := "file://" + dir + "/r/t1"
	got = runCommand(t, "timeline", "-json", url)
	var report timelineReport
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil || len(report.Points) != 3 || len(report.Unreachable) != 0 || len(report.Spans) != 1 {
		t.Fatalf("got %+v, error %v", got, err)
	}
	// Each of them can be restored.
	for i, p := range report.Points {
		out := filepath.Join(t.TempDir(), "o")
		if got := runCommand(t, "restore", "-txid", p.TXID, "-o", out, url); got.code != 0 || countRows(t, out) != i+1 {
			t.Errorf("txid %s: got %+v", p.TXID, got)
		}
	}
	if got := runCommand(t, "timeline", "-points", url); got.code != 0 || strings.Count(got.stdout, "\n") != 4 {
		t.Errorf("got %+v", got)
	}
	if err := os.Remove(filepath.Join(dir, "r/t1/ltx/0/0000000000000002-0000000000000002.ltx")); err != nil {
		t.Fatal(err)
	}
	got = runCommand(t, "timeline", url)
	if got.code != 0 || !strings.Contains(got.stdout, "1 restore point\n") || !strings.Contains(got.stderr, "newest position, txid 0000000000000003, cannot be restored") {
		t.Errorf("got %+v", got)
	}
	for _, tt := range []struct{ arg, want string }{
		{"file://" + dir + "/nothing", "no restore point of file://" + dir + "/nothing"},
		{"", "database path or replica URL required"},
	} {
		args := []string{"timeline"}
		if tt.arg != "" {
			args = append(args, tt.arg)
		}
		if got := runCommand(t, args...); got.code != 1 || !strings.Contains(got.stderr, tt.want) {
			t.Errorf("%s: got %+v, want %q", tt.arg, got, tt.want)
		}
	}
}

func TestRoundAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Microsecond: "2ms", 59 * time.Second: "59s", 5 * time.Minute: "5m", 61 * time.Minute: "1h1m", 24 * time.Hour: "24h",
		50 * time.Hour: "2d", 30 * 24 * time.Hour: "30d", -time.Minute: "1m", 90*time.Minute + time.Second: "1h30m", 10 * time.Minute: "10m", 20 * time.Hour: "20h",
	} {
		if got := roundAge(d); got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
	}
}

// tenantOfThreePoints makes dir/c.yml, a configuration of multi-db, and below
// dir/d a database of three rows with a restore point for each. It returns the
// database's path.
func tenantOfThreePoints(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "d", "t1.db")
	makeDatabase(t, path, 1)
	writeFile(t, filepath.Join(dir, "c.yml"), `
multi-db:
  enabled: true
  patterns: [`+dir+`/d/*.db]
  state-dir: `+dir+`/state
  replica-template: {type: file, path: "`+dir+`/r/{{tenant}}"}
`)
	replicateOnce(t, "-config", dir+"/c.yml")
	for range 2 {
		insertRow(t, path)
		replicateOnce(t, "-config", dir+"/c.yml")
	}
	return path
}
