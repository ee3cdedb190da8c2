package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestListTenants lists what a replica holds, by its catalog and by a listing,
// with the configuration and without.
func TestListTenants(t *testing.T) {
	dir := parallelFolder(t)
	for _, p := range []string{"p1", "p2"} {
		if err := os.MkdirAll(filepath.Join(dir, "d", p), 0o755); err != nil {
			t.Fatal(err)
		}
		makeDatabase(t, filepath.Join(dir, "d", p, "a.db"), 1)
		makeDatabase(t, filepath.Join(dir, "d", p, "b.db"), 1)
	}
	writeFile(t, filepath.Join(dir, "c.yml"), `
multi-db:
  enabled: true
  patterns: [`+dir+`/d/*/*.db]
  state-dir: `+dir+`/state
  replica-template: {type: file, path: "`+dir+`/r/{{project}}/{{tenant}}"}
`)
	once := func() { t.Helper(); replicateOnce(t, "-config", dir+"/c.yml") }
	once()
	if err := os.Remove(filepath.Join(dir, "d/p2/b.db")); err != nil {
		t.Fatal(err)
	}
	once()
	if err := os.RemoveAll(filepath.Join(dir, "d")); err != nil { // this is another host
		t.Fatal(err)
	}
	from := []string{"-from", "file://" + dir + "/r"}
	conf := []string{"-config", dir + "/c.yml"}
	for _, tt := range []struct {
		name string
		args []string
		want string // the paths below d, and whether positions are known
	}{
		{"Config", conf, "p1/a.db p1/b.db p2/a.db known"},
		{"From", from, "p1/a.db p1/b.db p2/a.db known"},
		{"Deleted", append(from, "-deleted"), "p1/a.db p1/b.db p2/a.db p2/b.db known"},
		{"Glob", append(from, "-glob", "p2/*"), "p2/a.db known"},
		{"Tenant", append(conf, "-tenant", "project=p1,tenant=b"), "p1/b.db known"},
		{"List", append(conf, "-list"), "p1/a.db p1/b.db p2/a.db p2/b.db"},
	} {
		got := runCommand(t, slices.Concat([]string{"list-tenants", "-json"}, tt.args)...)
		var list []listedTenant
		if err := json.Unmarshal([]byte(got.stdout), &list); err != nil || got.code != 0 {
			t.Fatalf("%s: got %+v, error %v", tt.name, got, err)
		}
		var names []string
		known := 0
		for _, l := range list {
			names = append(names, strings.TrimPrefix(l.Path, dir+"/d/"))
			if l.TXID != "" && l.SyncedAt != "" && l.Size > 0 && (l.DeletedAt != "") == strings.HasSuffix(l.Path, "p2/b.db") {
				known++
			}
		}
		slices.Sort(names)
		if known == len(list) {
			names = append(names, "known")
		}
		if text := strings.Join(names, " "); text != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, text, tt.want)
		}
	}
	if got := runCommand(t, append([]string{"list-tenants"}, from...)...); got.code != 0 || strings.Count(got.stdout, "\n") != 4 || !strings.HasPrefix(got.stdout, "path ") {
		t.Errorf("got %+v", got)
	}
	if got := runCommand(t, append([]string{"list-tenants", "-count"}, from...)...); got.code != 0 || got.stdout != "3\n" {
		t.Errorf("got %+v", got)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{append(from, "-glob", "x/*"), "no database matches in file://"},
		{append(from, "-glob", "["), "invalid -glob: ["},
		{append(from, "-tenant", "a=b"), "cannot specify -tenant with -from"},
		{[]string{"-from", "x"}, "x is no replica URL"},
		{[]string{"file:///x"}, "Try: litestream list-tenants -from file:///x"},
		{append(slices.Clone(from), conf...), "cannot specify both"},
		{append(conf, "-tenant", "a"), "is not name=value"},
	} {
		if got := runCommand(t, append([]string{"list-tenants"}, tt.args...)...); got.code != 1 || !strings.Contains(got.stderr, tt.want) || got.stdout != "" {
			t.Errorf("%v: got %+v, want %q", tt.args, got, tt.want)
		}
	}
}
