package main

import (
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
)

func TestParseConfig_DirErrors(t *testing.T) {
	const replica = ", replica: {path: /r}}"
	for _, tt := range []struct {
		name string
		text string // below dbs
		want string
	}{
		{"Neither", "- {replica: {path: /r}}", "database config #1: dbs[0].path (line 2): must specify either 'path' or 'dir'"},
		{"Both", "- {dir: /d, path: /a, pattern: x" + replica, "database config #1: dbs[0].dir (line 2): cannot specify both 'path' and 'dir'"},
		{"NoPattern", "- {path: /a, replica: {path: /q}}\n- {dir: /d" + replica, "database config #2: dbs[1].dir (line 3): 'pattern' is required when using 'dir'"},
		{"Watch", "- {path: /a, watch: true" + replica, "database config #1: dbs[0].watch (line 2): 'watch' can only be enabled with a directory"},
		{"MetaDir", "- {path: /a, meta-dir: /m" + replica, "database config #1: dbs[0].meta-dir (line 2): 'meta-dir' can only be used with a directory"},
		{"BothMeta", "- {dir: /d, pattern: x, meta-dir: /m, meta-path: /n" + replica, "database config #1: dbs[0].meta-dir (line 2): cannot specify both 'meta-path' and 'meta-dir'"},
		{"BadPattern", "- {dir: /d, pattern: '[x'" + replica, "database config #1: dbs[0].pattern (line 2): syntax error in pattern"},
		{"SlashPattern", "- {dir: /d, pattern: 'x/*.db'" + replica, "database config #1: dbs[0].pattern (line 2): is compared with base names, which hold no slash: name the folder in 'dir', and set 'recursive' for those below"},
		{"NoReplica", "- {dir: /d, pattern: x}", "dbs[0].replica (line 2): must specify a replica for the database"},
		{"SyncInterval", "- {dir: /d, pattern: x, replica: {path: /r, sync-interval: 0}}", "dbs[0].replica.sync-interval (line 2): must be greater than 0 (got 0s)"},
		{"ReplicaIsDir", "- {dir: /d, pattern: x, replica: {path: /d/}}", "dbs[0].replica (line 2): the replicas would lie where the databases are (got /d)"},
		{"PathToo", "- {path: /d/s/a.db, replica: {path: /q}}\n- {dir: /d, recursive: true, pattern: '*.db'" + replica, "dbs[1].dir (line 3): database /d/s/a.db (dbs[0].path) lies in it, too: remove that entry, or move the file (got /d)"},
		{"DirTwice", "- {dir: /d, pattern: x, replica: {path: /q}}\n- {dir: /d/., pattern: x" + replica, "dbs[1].dir (line 3): overlaps dbs[0].dir with the same pattern: its databases would be replicated twice (got /d)"},
		{"DirInDir", "- {dir: /d/s, pattern: x, replica: {path: /q}}\n- {dir: /d, recursive: true, pattern: x" + replica, "dbs[1].dir (line 3): overlaps dbs[0].dir with the same pattern: its databases would be replicated twice (got /d)"},
		{"SameReplica", "- {dir: /d, pattern: x" + replica + "\n- {dir: /e, pattern: x" + replica, "dbs[1].dir (line 3): has the same replica destination as dbs[0].dir: databases of one name would overwrite each other (got /e)"},
		{"Snapshot", "- {path: /a, snapshot: {interval: 1h}, replica: {path: /q}}\n- {dir: /d, pattern: x, snapshot: {interval: 2h}" + replica, "dbs[1].snapshot.interval (line 3): conflicting database snapshot settings: /a has 1h0m0s, /d has 2h0m0s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := parseConfig([]byte("dbs:\n"+tt.text), true)
			if err == nil {
				t.Fatalf("parsed as %+v, want an error", cfg)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Fatalf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseConfig_DirAccepted(t *testing.T) {
	cfg := mustParse(t, `
dbs:
  - {dir: /d, pattern: '*.db', replica: {path: /r}}
  - {dir: /d, pattern: '*.sqlite', restore-if-db-not-exists: true, replica: {path: /r}}
  - {path: /d/s/a.db, pattern: x, replica: {path: /q}}
  - {dir: /d/s, pattern: 'b*.db', snapshot: {interval: 2h}, replica: {path: /s}}
`)
	if len(cfg.DBs) != 1 || len(cfg.Dirs) != 3 || cfg.snapshotInterval().Hours() != 2 {
		t.Errorf("got %d paths, %d directories, interval %s", len(cfg.DBs), len(cfg.Dirs), cfg.snapshotInterval())
	}
	want := `key=dbs[1].restore-if-db-not-exists line=4 reason="not used: nobody knows which databases a directory misses; restore them by their paths"` + "\n" +
		`key=dbs[2].pattern line=5 reason="not used: it belongs to 'dir'"`
	for line := range strings.Lines(want) {
		if got := warningText(cfg); !strings.Contains(got, strings.TrimSpace(line)) {
			t.Errorf("warnings %q lack %q", got, line)
		}
	}
}

// TestDirReplica holds where the replica of each database of a directory lies,
// as Litestream v0.5.18 logged it.
func TestDirReplica(t *testing.T) {
	const odd = "odd/sp ace#1%41?.db"
	s3 := func(path string) string { return "{type: s3, bucket: b, path: " + path + "}" }
	for _, tt := range []struct{ replica, rel, want string }{
		{"{path: /r}", "a.db", "/r/a.db"},
		{"{path: /r/}", odd, "/r/" + odd},
		{`{url: "file:///r?x=y"}`, "sub/a.db", "/r/sub/a.db"},
		{`{url: "file:///r"}`, odd, "/r/odd/sp%20ace%231%2541%3F.db"},
		{`{url: "s3://b/p?endpoint=http://h:1&region=r"}`, odd, "p/" + odd},
		{`{url: "s3://b?endpoint=http://h:1"}`, "sub/b.db", "sub/b.db"},
		{`{url: "s3://b/?endpoint=http://h:1"}`, "sub/b.db", "sub/b.db"},
		{`{url: "s3://b/p/?endpoint=http://h:1"}`, "b.db", "p/b.db"},
		{`{url: "s3://b/p//q%20r"}`, "b.db", "p/q r/b.db"},
		{`{url: "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/ap/p"}`, "sub/b.db", "p/sub/b.db"},
		{s3("p"), odd, "p/" + odd},
		{s3("p/"), "b.db", "p/b.db"},
		{s3("/p"), "b.db", "/p/b.db"},
		{s3("''"), "sub/b.db", "sub/b.db"},
		{s3("./p/../q//r"), "b.db", "q/r/b.db"},
	} {
		cfg := mustParse(t, "dbs: [{dir: /d, pattern: '*.db', recursive: true, replica: "+tt.replica+"}]")
		db := cfg.db("/d/" + tt.rel)
		if db == nil {
			t.Errorf("%s: no entry of /d/%s", tt.replica, tt.rel)
			continue
		}
		shared, err := newReplicaClient(db.Replica)
		if err != nil {
			t.Errorf("%s: %v", tt.replica, err)
			continue
		}
		alone := *db.Replica
		alone.shared = nil
		client, err := newReplicaClient(&alone)
		if err != nil {
			t.Errorf("%s: %v", tt.replica, err)
			continue
		}
		if got, want := redactedLocation(shared), redactedLocation(client); got != want {
			t.Errorf("%s: shared client writes to %s, one of its own to %s", tt.replica, got, want)
		}
		got := fmt.Sprint(db.Replica.logArgs(shared)...)
		if !strings.Contains(got, "path"+tt.want) {
			t.Errorf("%s, %s: client %s, want path %s", tt.replica, tt.rel, got, tt.want)
		}
	}
}

func TestDirMetaPath(t *testing.T) {
	for _, tt := range []struct{ keys, path, want string }{
		{"", "/d/a.db", "/d/.a.db-litestream"},
		{"", "/d/sub/a.db", "/d/sub/.a.db-litestream"},
		{"meta-path: /m,", "/d/a.db", "/m/.a.db-litestream"},
		{"meta-path: /m,", "/d/sub/a.db", "/m/sub/.a.db-litestream"},
		{"meta-dir: /m,", "/d/a.db", "/m/a.db-litestream"},
		{"meta-dir: /m,", "/d/sub/deep/a.db", "/m/sub/deep/a.db-litestream"},
	} {
		cfg := mustParse(t, "dbs: [{dir: /d, pattern: '*.db', recursive: true, "+tt.keys+" replica: {path: /r}}]")
		if db := cfg.db(tt.path); db == nil || db.MetaPath != tt.want {
			t.Errorf("%q, %s: got %+v, want %s", tt.keys, tt.path, db, tt.want)
		}
	}
}

// TestDirCovers holds which paths an entry stands for, whether they exist or
// not.
func TestDirCovers(t *testing.T) {
	for _, tt := range []struct {
		keys, path string
		want       bool
	}{
		{"", "/d/a.db", true},
		{"", "/d/a.sqlite", false},
		{"", "/d/s/a.db", false},
		{"", "/da/a.db", false},
		{"", "/d", false},
		{"recursive: true,", "/d/s/t/a.db", true},
		{"recursive: true,", "/d/.a.db-litestream/ltx/a.db", false},
		{"recursive: true, meta-dir: /d/m,", "/d/m/a.db", false},
		{"recursive: true, meta-dir: /d,", "/d/x-litestream/a.db", false},
		{"recursive: true,", "/d/x-litestream/a.db", true},
		{"recursive: true,", "/d/replica/a.db", false},
	} {
		cfg := mustParse(t, "dbs: [{dir: /d, pattern: '*.db', "+tt.keys+" replica: {path: /d/replica}}]")
		if got := cfg.db(tt.path) != nil; got != tt.want {
			t.Errorf("%q, %s: got %t, want %t", tt.keys, tt.path, got, tt.want)
		}
	}
	all := mustParse(t, "dbs: [{dir: /, pattern: '*', recursive: true, replica: {url: s3://b}}]")
	if db := all.db("/x/a"); db == nil || db.MetaPath != "/x/.a-litestream" {
		t.Errorf("root directory: %+v", db)
	}
	for _, name := range []string{"/x/a-wal", "/x/a-shm", "/x/a-journal"} {
		if all.db(name) != nil {
			t.Errorf("%s counts as database", name)
		}
	}
}

// dirFixture makes a directory with two databases and what is none, and returns
// it with its configuration.
func dirFixture(t *testing.T) (dir, config string) {
	t.Helper()
	dir = testFolder(t)
	for _, name := range []string{"d/a.db", "d/sub/b.db"} {
		writeFile(t, name, "")
		execSQL(t, name, "PRAGMA journal_mode=wal; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
	}
	writeFile(t, "d/text.db", strings.Repeat("no database ", 100))
	writeFile(t, "d/empty.db", "")
	config = filepath.Join(dir, "c.yml")
	writeFile(t, config, "dbs: [{dir: d, pattern: '*.db', recursive: true, replica: {path: r}}]")
	return dir, config
}

func execSQL(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

func TestDir_Commands(t *testing.T) {
	dir, config := dirFixture(t)
	expect := func(want string, args ...string) {
		t.Helper()
		args = slices.Insert(args, 1, "-config", config)
		a := replicatingApp()
		code := a.main(t.Context(), args)
		got := fmt.Sprintf("%d %s", code, strings.ReplaceAll(a.stdout.(*lockedBuffer).String()+a.stderr.(*lockedBuffer).String(), dir, "DIR"))
		var lines []string
		for line := range strings.Lines(got) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		if got = strings.Join(lines, "\n"); got != want {
			t.Errorf("%q:\n got %s\nwant %s", args, got, want)
		}
	}
	expect("0 path replica location\nDIR/d/a.db file file://DIR/r/a.db\nDIR/d/sub/b.db file file://DIR/r/sub/b.db", "databases")
	expect("0 2", "databases", "-count")
	expect("0 1", "databases", "-count", "-filter", "sub/*.db")
	expect("0", "databases", "-check")
	expect("0 database status local txid wal size\nDIR/d/a.db not initialized - 0 B\nDIR/d/sub/b.db not initialized - 0 B", "status")

	a := replicatingApp()
	if code := a.main(t.Context(), []string{"replicate", "-once", "-config", config}); code != 0 {
		t.Fatalf("replicate -once: %d\n%s%s", code, a.stdout, a.stderr)
	}
	if got := a.stdout.(*lockedBuffer).String(); !strings.Contains(got, `msg="found databases in directory"`) || !strings.Contains(got, "count=2") {
		t.Errorf("log:\n%s", got)
	}
	expect("0 database status local txid wal size\nDIR/d/sub/b.db ok 0000000000000001 0 B", "status", "d/sub/b.db")
	if got := runCommand(t, "ltx", "-config", config, "d/sub/b.db"); got.code != 0 || strings.Count(got.stdout, "\n") != 2 {
		t.Errorf("ltx: %+v", got)
	}
	expect("1 Error: database not found in config: DIR/d/c.txt", "restore", "d/c.txt")

	// A database whose file is gone is restored by its path, in its place.
	want, err := os.ReadFile("d/sub/b.db")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll("d/sub"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("d/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if got := runCommand(t, "restore", "-config", config, "d/sub/b.db"); got.code != 0 {
		t.Fatalf("restore: %+v", got)
	}
	if got, err := os.ReadFile("d/sub/b.db"); err != nil || string(got) != string(want) {
		t.Errorf("the restored database differs: %v", err)
	}
	if got := runCommand(t, "reset", "-config", config, "d/a.db"); got.code != 0 || !strings.Contains(got.stdout, dir+"/d/.a.db-litestream/ltx") {
		t.Errorf("reset: %+v", got)
	}
	writeFile(t, config, "dbs: [{dir: d, pattern: '*.db', meta-dir: m, replica: {path: r}}]")
	if got := runCommand(t, "reset", "-config", config, "d/a.db"); got.code != 0 || !strings.Contains(got.stdout, dir+"/m/a.db-litestream") {
		t.Errorf("reset with meta-dir: %+v", got)
	}
}

// replicatingApp is the program with buffers for what it prints.
func replicatingApp() *app {
	return &app{stdout: &lockedBuffer{}, stderr: &lockedBuffer{}, signals: noSignals, newRunner: newStore}
}

func TestDir_Refused(t *testing.T) {
	dir, _ := dirFixture(t)
	for _, tt := range []struct{ name, text, want string }{
		{"Missing", "dbs: [{dir: none, pattern: x, watch: true, replica: {path: r}}]", "cannot scan directory DIR/none: no such file or directory"},
		{"File", "dbs: [{dir: d/a.db, pattern: '*.db', replica: {path: r}}]", "cannot scan directory DIR/d/a.db: not a directory"},
		{"Empty", "dbs: [{dir: d, pattern: '*.sqlite', replica: {path: r}}]", "no SQLite databases found in directory DIR/d with pattern *.sqlite"},
		{
			"TwoPatterns", "dbs: [{dir: d, pattern: '*.db', replica: {path: r}}, {dir: d, pattern: 'a*', replica: {path: s}}]",
			"database DIR/d/a.db is found in directory DIR/d (pattern *.db) and in DIR/d (pattern a*): change one of the two",
		},
		{
			"SameDestination", "dbs: [{dir: d/sub, pattern: '*.db', replica: {path: r/sub}}, {dir: d, recursive: true, pattern: '[b].db', replica: {path: s}}]",
			"database DIR/d/sub/b.db is found in directory DIR/d/sub (pattern *.db) and in DIR/d (pattern [b].db): change one of the two",
		},
		{
			"DestinationOfPath", "dbs: [{dir: d, pattern: '*.db', replica: {path: r}}, {path: x.db, replica: {path: r/a.db}}]",
			"databases DIR/x.db and DIR/d/a.db have the same replica destination and would overwrite each other",
		},
		{
			"MultiDB", "dbs: [{dir: d, pattern: '*.db', replica: {path: r}}]\nmulti-db: {enabled: true, patterns: [\"" + dir + "/d/a*.db\"], state-dir: " + dir + "/st, replica-template: {path: \"" + dir + "/t/{{tenant}}\"}}",
			"database DIR/d/a.db in directory DIR/d: a pattern of multi-db matches it, too: exclude it there, or in 'pattern'",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			writeFile(t, "bad.yml", tt.text)
			a := replicatingApp()
			code := a.main(t.Context(), []string{"replicate", "-config", "bad.yml"})
			got := strings.ReplaceAll(a.stderr.(*lockedBuffer).String(), dir, "DIR")
			if want := "Error: " + tt.want + "\n"; code != 1 || got != want {
				t.Errorf("status %d\n got %s\nwant %s", code, got, want)
			}
		})
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, litestream.MetaDirSuffix) {
			t.Errorf("%s was made", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
