package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReload_Dirs changes entries that stand for directories while applications
// write to databases in them.
func TestReload_Dirs(t *testing.T) {
	dir := testFolder(t)
	for _, name := range []string{"x/1", "y/1", "z/1"} {
		if err := os.Mkdir(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		makeDatabase(t, filepath.Join(dir, name+".db"), 3)
	}
	const keys = "pattern: '*.db', monitor-interval: 20ms, "
	x := "  - {dir: x, watch: true, " + keys + "replica: {path: r/x, sync-interval: 20ms}}\n"
	y := "  - {dir: y, " + keys + "replica: {path: r/y, sync-interval: 20ms}}\n"
	z := "  - {dir: z, watch: true, " + keys + "replica: {path: r/z, sync-interval: 20ms}}\n"
	d := startDaemon(t, dir, "dbs:\n"+x+y)
	stops := make(map[string]func() int)
	for _, name := range []string{"x", "y", "z"} {
		stops[name] = writer(t, filepath.Join(dir, name, "1.db"))
	}
	d.sync("x/1.db")
	d.sync("y/1.db")
	d.write("dbs:\n" + x + strings.Replace(y, "r/y,", "r/y2,", 1) + z)
	want := []string{
		"change|dbs[1].dir|" + dir + "/y|replica.path: " + dir + "/r/y → " + dir + "/r/y2",
		"add|dbs[2].dir|" + dir + "/z|replicated to file://" + dir + "/r/z",
	}
	for _, args := range [][]string{{"-dry-run"}, nil} {
		if diff := cmp.Diff(want, d.reload(args...)); diff != "" {
			t.Errorf("reload %v (-want +got):\n%s", args, diff)
		}
	}
	if diff := cmp.Diff([]string{""}, d.reload()); diff != "" {
		t.Errorf("nothing has changed (-want +got):\n%s", diff)
	}
	old := d.restored("r/y/1.db")
	makeDatabase(t, filepath.Join(dir, "z/2.db"), 4)
	eventually(t, "a new file to be found", func() bool { return strings.Contains(runCommand(t, "list", "-socket", d.socket()).stdout, "z/2.db") })
	// One entry less: its database has an entry of its own now.
	d.write("dbs:\n" + x + z + "  - {path: y/1.db, monitor-interval: 20ms, replica: {path: r/y2/1.db, sync-interval: 20ms}}\n")
	want = []string{
		"add|dbs[2]|" + dir + "/y/1.db|replicated to file://" + dir + "/r/y2/1.db",
		"remove|dbs[1].dir|" + dir + "/y|its databases are synced a last time, their replicas stay",
	}
	if diff := cmp.Diff(want, d.reload()); diff != "" {
		t.Errorf("reload (-want +got):\n%s", diff)
	}
	d.sync("y/1.db")
	rows := make(map[string]int)
	for name, stop := range stops {
		rows[name] = stop()
	}
	d.stop()
	for name, replica := range map[string]string{"x": "r/x/1.db", "y": "r/y2/1.db", "z": "r/z/1.db"} {
		if got := d.restored(replica); got != rows[name] {
			t.Errorf("%s: restored %d rows, want %d", name, got, rows[name])
		}
	}
	if got := d.restored("r/y/1.db"); got != old || old < 3 {
		t.Errorf("the left replica of y changed from %d to %d rows", old, got)
	}
	if n := d.snapshots("r/x/1.db"); n > 1 {
		t.Errorf("%d snapshots of the database that stayed", n)
	}
}

// A directory without databases that would never have any is refused.
func TestReload_DirsRefused(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 1)
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, dir, reloadBase)
	d.write(reloadBase + "  - {dir: empty, pattern: '*.db', replica: {path: r/x}}\n")
	got := runCommand(t, "reload", "-socket", d.socket())
	if want := "dbs[1].dir (line 5): no SQLite databases found in it"; got.code != 1 || !strings.Contains(got.stderr, want) {
		t.Errorf("got %+v, want %q", got, want)
	}
	d.stop()
}
