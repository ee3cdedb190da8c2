package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// purgeFleet makes a fleet of databases in a folder and returns its
// configuration.
func purgeFleet(t *testing.T, dir string, names ...string) string {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, "d", name+".db")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		makeDatabase(t, path, 1)
	}
	return `
multi-db:
  enabled: true
  patterns: [` + dir + `/d/**/*.db]
  scan-interval: 50ms
  state-dir: ` + dir + `/state
  replica-template: {type: file, path: "` + dir + `/r/{{relpath}}"}
`
}

// TestPurge deletes the backup of a deleted database: it can be restored before
// and not afterwards, and its neighbours can.
func TestPurge(t *testing.T) {
	dir := parallelFolder(t)
	writeFile(t, dir+"/c.yml", purgeFleet(t, dir, "a", "ab", "a/b"))
	once := func() { t.Helper(); replicateOnce(t, "-config", dir+"/c.yml") }
	once()
	path := dir + "/d/a.db"
	run := func(args ...string) result {
		t.Helper()
		return runCommand(t, append([]string{"purge", "-config", dir + "/c.yml"}, args...)...)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-yes", path}, path + " is there: its backup is not deleted without -force"},
		{[]string{"-yes", dir + "/x/y.db"}, "database not found in config"},
		{[]string{}, "database path or replica URL required"},
		{[]string{path, path}, "too many arguments"},
		{[]string{"-timeout", "0", path}, "timeout must be greater than 0"},
		{[]string{"file://" + dir + "/r/a.db"}, "cannot specify a replica URL and the -config flag"},
	} {
		if got := run(tt.args...); got.code != 1 || !strings.Contains(got.stderr, tt.want) || got.stdout != "" {
			t.Errorf("%v: got %+v, want %q", tt.args, got, tt.want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	once()
	restore := func(name string) result {
		t.Helper()
		return runCommand(t, "restore", "-config", dir+"/c.yml", "-o", filepath.Join(t.TempDir(), "o"), dir+"/d/"+name)
	}
	if got := restore("a.db"); got.code != 0 {
		t.Fatalf("restore within deleted-retention: %+v", got)
	}
	if got := run(path); got.code != 1 || !strings.Contains(got.stderr, "no terminal to ask on\nTry: litestream purge -yes "+path) {
		t.Errorf("without -yes: %+v", got)
	}
	if got := run("-dry-run", path); got.code != 0 || !strings.Contains(got.stdout, "Nothing was deleted") || !strings.Contains(got.stdout, "1 LTX file") {
		t.Errorf("dry run: %+v", got)
	}
	got := run("-yes", "-json", path)
	var r purgeReport
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.code != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if !r.Purged || r.ByDaemon || r.Files != 1 || r.Catalog != 1 || r.TXID != "0000000000000001" || r.Database != path || r.Kept != nil {
		t.Errorf("got %+v", r)
	}
	if got := restore("a.db"); got.code != 1 || !strings.Contains(got.stderr, "no matching backup") {
		t.Errorf("restore of what was purged: %+v", got)
	}
	for _, name := range []string{"ab.db", "a/b.db"} {
		if got := restore(name); got.code != 0 {
			t.Errorf("restore %s: %+v", name, got)
		}
	}
	if got := runCommand(t, "list-tenants", "-config", dir+"/c.yml", "-deleted", "-count"); got.stdout != "2\n" {
		t.Errorf("catalog: %+v", got)
	}
	if got := run("-yes", path); got.code != 0 || !strings.Contains(got.stdout, "Nothing lay at file:") {
		t.Errorf("once more: %+v", got)
	}

	// By its URL, from where nothing is known but the replica.
	if err := os.RemoveAll(dir + "/d/a"); err != nil {
		t.Fatal(err)
	}
	if got := runCommand(t, "purge", "-yes", "file://"+dir+"/r/a/b.db"); got.code != 0 || !strings.Contains(got.stdout, "The catalog does not name the database any more.") {
		t.Errorf("by URL: %+v", got)
	}
	if got := runCommand(t, "list-tenants", "-from", "file://"+dir+"/r", "-count", "-deleted"); got.stdout != "1\n" {
		t.Errorf("catalog: %+v", got)
	}
}

// TestPurge_Daemon has a running daemon do it.
func TestPurge_Daemon(t *testing.T) {
	dir := parallelFolder(t)
	config := purgeFleet(t, dir, "a", "ab") + `
dbs:
  - path: ` + dir + `/own.db
    replica: {type: file, path: ` + dir + `/r2}
`
	makeDatabase(t, dir+"/own.db", 1)
	d := startControlDaemon(t, config)
	writeFile(t, dir+"/c.yml", config)
	conf := []string{"-config", dir + "/c.yml", "-yes"}
	for _, name := range []string{"/d/a.db", "/d/ab.db"} {
		d.want("txid: 1", "sync", "-wait", dir+name)
	}
	d.want("Error: "+dir+"/d/a.db is there", "purge", append(conf, dir+"/d/a.db")...)
	if err := os.Remove(dir + "/d/a.db"); err != nil {
		t.Fatal(err)
	}
	d.want("The daemon takes the database off the catalog", "purge", append(conf, dir+"/d/a.db")...)
	if _, err := os.Stat(dir + "/r/a.db"); !os.IsNotExist(err) {
		t.Errorf("the replica's folder: %v", err)
	}
	d.want("Error: a daemon replicates "+dir+"/own.db", "purge", append(conf, "-force", dir+"/own.db")...)
	d.want("", "stop", dir+"/own.db")
	d.want("1 LTX file", "purge", append(conf, "-force", dir+"/own.db")...)

	got := runCommand(t, "purge", "-config", dir+"/c.yml", "-yes", "-socket", dir+"/none", "-force", dir+"/d/ab.db")
	if got.code != 1 || !strings.Contains(got.stderr, "set socket.enabled") {
		t.Errorf("no socket: %+v", got)
	}
	if code := d.stop(); code != 0 {
		t.Errorf("status %d\n%s", code, d.log.String())
	}
	if got := runCommand(t, "list-tenants", "-config", dir+"/c.yml", "-deleted", "-count"); got.stdout != "1\n" {
		t.Errorf("catalog: %+v", got)
	}
}
