package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A takeover by the socket, and one without a daemon.
func TestTakeover(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, dir+"/one.db", 3)
	makeDatabase(t, dir+"/data/t1.db", 2)
	config := fmt.Sprintf(`
dbs: [{path: %[1]s/one.db, replica: {path: "%[1]s/r/one"}}]
multi-db:
  enabled: true
  patterns: ["%[1]s/data/*.db"]
  state-dir: %[1]s/state
  scan-interval: 1h
  replica-template: {path: "%[1]s/r/fleet/{{tenant}}"}
`, dir)
	d := startControlDaemon(t, config)
	d.want("failed: 0\nleft: 0\n", "sync", "-all", "-wait")
	for _, path := range []string{dir + "/one.db", dir + "/data/t1.db"} {
		d.want("status: taken_over\n", "takeover", path)
		d.want("state: running\ntxid: 3\n", "takeover", path)
	}
	for _, replica := range []string{"one", "fleet/t1"} {
		files, err := filepath.Glob(dir + "/r/" + replica + "/ltx/9/*-0000000000000003.ltx")
		if err != nil || len(files) != 1 {
			t.Errorf("snapshots of %s at the last position: %v, %v", replica, files, err)
		}
	}
	d.want("databases: 2\ntaken_over: 2\nfailed: 0\nleft: 0\n", "takeover", "-all")
	d.want("databases: 1\ntaken_over: 1\nfailed: 0\nleft: 0\n", "takeover", "-all", "-glob", "data/*.db")
	d.want("databases: 0\ntaken_over: 0\n", "takeover", "-all", "-lost")
	d.want(`{"summary":{"databases":2,"taken_over":2,"failed":0,"left":0,`, "takeover", "-all", "-json")
	d.want("Error: cannot specify a database path or -offline", "takeover", "-all", dir+"/one.db")
	d.want("Error: -glob and -lost", "takeover", "-lost", dir+"/one.db")
	d.want("Error: takeover failed: database not found: "+dir+"/none.db", "takeover", dir+"/none.db")
	d.want("Error: database path required", "takeover")
	d.stop()

	writeFile(t, dir+"/off.yml", config)
	for _, path := range []string{dir + "/one.db", dir + "/data/t1.db"} {
		if got := runCommand(t, "takeover", "-offline", "-config", dir+"/off.yml", path); got.code != 0 {
			t.Errorf("offline takeover of %s: %+v", path, got)
		}
	}
	if _, err := os.Stat(dir + "/.one.db-litestream/ltx"); err == nil {
		t.Error("local files are left behind an offline takeover")
	}
	if got := runCommand(t, "takeover", "-offline", "-config", dir+"/off.yml", dir+"/data/none.db"); got.code != 1 {
		t.Errorf("offline takeover of an unknown database: %+v", got)
	}
}
