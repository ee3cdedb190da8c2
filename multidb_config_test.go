package litestream_test

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
)

func multiDBConfig(template string, patterns ...string) litestream.MultiDBConfig {
	c := litestream.NewMultiDBConfig()
	c.Patterns, c.ReplicaPath, c.Hostname = patterns, template, "h1"
	return c
}

func tenantMap(tb testing.TB, template string, patterns ...string) *litestream.TenantMap {
	tb.Helper()
	m, err := litestream.NewTenantMap(multiDBConfig(template, patterns...))
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestTenantMap_Variables(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          string // named variables but path, relpath, name and hostname
	}{
		{"/data/*/databases/*/branches/*/tenants/*.db", "/data/p1/databases/d1/branches/main/tenants/t42.db", "branch=main database=d1 project=p1 tenant=t42"},
		{"/data/projects/*/x/*.db", "/data/projects/p/x/t.db", "project=p tenant=t"},
		{"/data/x/*/projects/*/*.db", "/data/x/1/projects/p/t.db", "project=p tenant=t"},
		{"/data/tenants/*/main.db", "/data/tenants/acme.com/main.db", "tenant=acme.com"},
		{"/data/tenants/*/*.db", "/data/tenants/acme/x.db", "tenant=acme"},
		{"/data/*.db", "/data/t.db", "tenant=t"},
		{"/data/*/*.{db,sqlite}", "/data/p/t.sqlite", "project=p tenant=t"},
		{"/data/*.sqlite?", "/data/t.sqlite3", "tenant=t"},
		{"/data/*", "/data/t.sqlite3", "tenant=t"},
		{"/data/*", "/data/.t", "tenant=.t"},
		{"/data/*.db", "/data/v1.2.db", "tenant=v1.2"},
		{"/{{a}}/{{tenant}}/*.db", "/1/x.y/3.db", "a=1 tenant=x.y"},
		{"/{{project}}/*/{{customer}}.db", "/1/2/3.db", "customer=3 project=1"},
		{"/data/**/*.db", "/data/a/b/t.db", "project=a/b tenant=t"},
		{"/data/databases/**", "/data/databases/a.b/t.db", "database=a.b/t.db"},
		{"/data/**", "/data/a.b/t.db", "tenant=a.b/t"},
		{"/data/tenants/t-*-*.db", "/data/tenants/t-1-2.db", "tenant=1"},
		{"/data/one.db", "/data/one.db", ""},
	} {
		got, err := tenantMap(t, "{{path}}", tt.pattern).Lookup(tt.path)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		vars := got.Variables()
		var named []string
		for _, k := range slices.Sorted(maps.Keys(vars)) {
			switch {
			case k == "path" && vars[k] != tt.path[1:], k == "hostname" && vars[k] != "h1":
				t.Errorf("%s: %s=%q", tt.pattern, k, vars[k])
			case k[0] >= 'a' && !slices.Contains([]string{"path", "relpath", "name", "hostname"}, k):
				named = append(named, k+"="+vars[k])
			}
		}
		if s := strings.Join(named, " "); s != tt.want {
			t.Errorf("%s: got %s, want %s", tt.pattern, s, tt.want)
		}
	}
}

func TestTenantMap_Lookup(t *testing.T) {
	const deep = "/data/*/databases/*/branches/*/tenants/*.db"
	for _, tt := range []struct {
		template, pattern, path, want string
	}{
		{"{{project}}/{{database}}/{{branch}}/{{tenant}}", deep, "/data/p1/databases/d1/branches/main/tenants/t42.db", "p1/d1/main/t42"},
		{"b/{{1}}-{{4}}/x", deep, "/data/p1/databases/d1/branches/main/tenants/t42.db", "b/p1-t42/x"},
		{"{{hostname}}/{{path}}", "/data/*.db", "/data/t.db", "h1/data/t.db"},
		{"{{relpath}}", "/data/**/*.db", "/data/a/b/t.db", "a/b/t.db"},
		{"{{relpath}}", "/*.db", "/t.db", "t.db"},
		{"{{name}}", "/data/*/x.y.db", "/data/a/x.y.db", "x.y"},
		{"/backup/{{1}}/{{tenant}}", "/data/**/*.db", "/data/t.db", "/backup/!/t"},
		{"/backup/{{1}}/{{tenant}}", "/data/**/*.db", "/data/a b/./t.db", ""},
		{"/backup/{{1}}/{{tenant}}", "/data/**/*.db", "/data/a b/c/t.db", "/backup/a%20b/c/t"},
		{"{{tenant}}", "/data/*.db", "/data/.db", "!"},
		{"{{1}}", "/data/*", "/data/...db", "%2E..db"},
		{"{{1}}", "/data/*", "/data/t.", "t%2E"},
		{"{{1}}", "/data/*", "/data/..a..", "%2E.a.%2E"},
		{"{{1}}", "/data/*", "/data/?#% +!=\n\x01\xff\x7f{{tenant}}~", "%3F%23%25%20%2B%21%3D%0A%01%FF%7F%7B%7Btenant%7D%7D%7E"},
		{"{{tenant}}", "/data/*.db", "/data/ü.db", "%C3%BC"},
		{"{{tenant}}", "/data/*.db", "/data/" + strings.Repeat("x", 252) + ".db", strings.Repeat("x", 252)},
		{"a/t-{{tenant}}", "/data/*.db", "/data/" + strings.Repeat("x", 254) + ".db", "a/t-" + strings.Repeat("x", 212) + "!157762641c370e5fd085fe0e87a60eae5309ea78"},
		{"{{tenant}}", "/data/*.db", "/data/t.db-wal", ""},
		{"{{tenant}}", "/data/*", "/data/t.db-wal", ""},
		{"{{tenant}}", "/data/*", "/data/t.db-shm", ""},
		{"{{tenant}}", "/data/*", "/data/t.db-journal", ""},
		{"{{tenant}}", "/data/*/*.db", "/data/.t.db-litestream/t.db", ""},
		{"{{tenant}}", "/data/*/*.db", "/data/x/../t.db", ""},
		{"{{tenant}}", "/data/*/*.db", "data/x/t.db", ""},
		{"{{tenant}}", "/data/*/*.db", "", ""},
	} {
		got, err := tenantMap(t, tt.template, tt.pattern).Lookup(tt.path)
		if tt.want == "" && !errors.Is(err, litestream.ErrNoTenant) {
			t.Errorf("%s, %q: got %q, %v; want ErrNoTenant", tt.template, tt.path, got.ReplicaPath, err)
		} else if tt.want != "" && (err != nil || got.ReplicaPath != tt.want) {
			t.Errorf("%s, %q: got %q, %v\nwant %q", tt.template, tt.path, got.ReplicaPath, err, tt.want)
		}
	}
}

func TestTenantMap_FirstPatternWins(t *testing.T) {
	c := multiDBConfig("{{1}}/{{2}}", "/data/a/*{{x}}", "/data/*/*.db", "/data/**/*.db")
	c.Patterns[0] = "/data/a{{dir}}/{{file}}.db"
	c.Exclude = []string{"**/tmp/**", "**/x.db"}
	m, err := litestream.NewTenantMap(c)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"/data/ab/t.db": "0 b/t", "/data/b/t.db": "1 b/t", "/data/b/c/t.db": "2 b/c/t", "/data/t.db": "2 !/t",
		"/data/tmp/t.db": "", "/data/b/x.db": "", "/data/b/tmp/c/t.db": "", "/other/t.db": "",
	} {
		got, err := m.Lookup(p)
		if s := fmt.Sprintf("%d %s", got.Pattern, got.ReplicaPath); err == nil && s != want || err != nil && want != "" {
			t.Errorf("%s: got %s, %v; want %q", p, s, err, want)
		}
	}
}

func TestTenantMap_TooLong(t *testing.T) {
	m := tenantMap(t, "{{path}}", "/data/**/*.db")
	_, err := m.Lookup("/data/" + strings.Repeat("ü/", 200) + "t.db")
	if !errors.Is(err, litestream.ErrReplicaPathTooLong) {
		t.Fatalf("got %v, want ErrReplicaPathTooLong", err)
	}
}

func TestMultiDBConfig_Validate(t *testing.T) {
	if err := new(multiDBConfig("{{tenant}}", "/data/*.db")).Validate(); err != nil {
		t.Fatalf("defaults: %v", err)
	}
	for _, tt := range []struct {
		name   string
		change func(*litestream.MultiDBConfig)
		want   string
	}{
		{"NoPatterns", func(c *litestream.MultiDBConfig) { c.Patterns = nil }, "patterns: at least one pattern is required"},
		{"Relative", func(c *litestream.MultiDBConfig) { c.Patterns[0] = "data/*.db" }, "patterns[0]: must be an absolute path (got data/*.db)"},
		{"Anywhere", func(c *litestream.MultiDBConfig) { c.Patterns[0] = "**/*.db" }, "patterns[0]: must be an absolute path (got **/*.db)"},
		{"Syntax", func(c *litestream.MultiDBConfig) { c.Patterns[0] = "/data/[" }, "patterns[0]: has a [ that is not closed before the next / (got /data/[)"},
		{"Reserved", func(c *litestream.MultiDBConfig) { c.Patterns[0] = "/{{tenant}}/{{name}}" }, "patterns[0]: names a wildcard {{name}}, which every path has already (got /{{tenant}}/{{name}})"},
		{"Exclude", func(c *litestream.MultiDBConfig) { c.Exclude = []string{"tmp/**"} }, "exclude[0]: must be an absolute path or begin with **/ (got tmp/**)"},
		{"NoTemplate", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "" }, "replica-template.path: has an empty path element"},
		{"Constant", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "x/{{hostname}}" }, "replica-template.path: holds no variable that tells one database from another, such as {{tenant}} (got x/{{hostname}})"},
		{"Unknown", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "{{tenant}}/{{projekt}}" }, "replica-template.path: variable {{projekt}} has no value in pattern /data/*.db, which gives {{tenant}}, {{1}}, {{path}}, {{relpath}} and {{name}} (got {{tenant}}/{{projekt}})"},
		{"Number", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "{{2}}" }, "replica-template.path: variable {{2}} has no value in pattern /data/*.db, which gives {{tenant}}, {{1}}, {{path}}, {{relpath}} and {{name}} (got {{2}})"},
		{"ZeroNumber", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "{{01}}" }, "replica-template.path: variable {{01}} has no value in pattern /data/*.db, which gives {{tenant}}, {{1}}, {{path}}, {{relpath}} and {{name}} (got {{01}})"},
		{"Hostname", func(c *litestream.MultiDBConfig) { c.ReplicaPath, c.Hostname = "{{hostname}}/{{tenant}}", "" }, "replica-template.path: variable {{hostname}} has no value without the key hostname in pattern /data/*.db (got {{hostname}}/{{tenant}})"},
		{"Open", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "{{tenant" }, "replica-template.path: has {{ without a variable and }} (got {{tenant)"},
		{"Slashes", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "a//{{tenant}}" }, "replica-template.path: has an empty path element (got a//{{tenant}})"},
		{"Trailing", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "{{tenant}}/" }, "replica-template.path: has an empty path element (got {{tenant}}/)"},
		{"Dots", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "../{{tenant}}" }, `replica-template.path: has the path element ".." (got ../{{tenant}})`},
		{"Mark", func(c *litestream.MultiDBConfig) { c.ReplicaPath = "a!{{tenant}}" }, "replica-template.path: must not contain '!', which marks encoded names (got a!{{tenant}})"},
		{"StateDir", func(c *litestream.MultiDBConfig) { c.Patterns[0] = "/var/**/*.db" }, "patterns[0]: matches the state directory /var/lib/litestream: move state-dir, or exclude /var/lib/litestream/** (got /var/**/*.db)"},
		{"StateDirItself", func(c *litestream.MultiDBConfig) { c.Patterns[0] = "/var/lib/*" }, "patterns[0]: matches the state directory /var/lib/litestream: move state-dir, or exclude /var/lib/litestream/** (got /var/lib/*)"},
		{"StateDirExcluded", func(c *litestream.MultiDBConfig) {
			c.Patterns[0], c.Exclude = "/var/**/*.db", []string{"/var/lib/litestream/**"}
		}, ""},
		{"RelativeStateDir", func(c *litestream.MultiDBConfig) { c.StateDir = "x" }, "state-dir: must be an absolute path (got x)"},
		{"Hot", func(c *litestream.MultiDBConfig) { c.MaxHotDatabases = 0 }, "max-hot-databases: must be greater than 0 (got 0)"},
		{"Scan", func(c *litestream.MultiDBConfig) { c.ScanInterval = -1 }, "scan-interval: must be greater than 0 (got -1ns)"},
		{"Mode", func(c *litestream.MultiDBConfig) { c.WriteDetection = "inotify" }, "write-detection.mode: must be mtime (got inotify)"},
		{"Checkpoint", func(c *litestream.MultiDBConfig) { c.Checkpoint = "full" }, "checkpoint: must be never or passive (got full)"},
		{"Deleted", func(c *litestream.MultiDBConfig) { c.DeletedRetention = -1 }, "deleted-retention: must not be negative (got -1ns)"},
		{"Limits", func(c *litestream.MultiDBConfig) { c.Limits.Connections, c.Limits.S3Connections = 0, -1 }, "limits.connections: must be greater than 0 (got 0)\nlimits.s3-connections: must be greater than 0 (got -1)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := multiDBConfig("{{tenant}}", "/data/*.db")
			tt.change(&c)
			got := ""
			if err := c.Validate(); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Fatalf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzTenantMap holds that no two paths of a pattern get one replica path under
// templates that use all of a path, and that a replica path is one that every
// store takes.
func FuzzTenantMap(f *testing.F) {
	maps := []*litestream.TenantMap{
		tenantMap(f, "{{path}}", "/d/**"),
		tenantMap(f, "r/{{relpath}}", "/d/**"),
		tenantMap(f, "x/{{1}}/y/{{2}}", "/d/*/*"),
		tenantMap(f, "{{1}}/{{2}}", "/d/**/*"),
		tenantMap(f, "{{project}}-x/t={{tenant}}.x", "/d/{{project}}/*.db"),
	}
	long := strings.Repeat("x", 300)
	for _, s := range [][2]string{
		{"a.db", "a"}, {"a b", "a%20b"}, {".", "%2E"}, {"", "!"}, {"a/b", "a%2Fb"}, {long, long + "y"}, {long, long[:214] + "!"}, {"\xff", "%FF"}, {"a.", "a"}, {"{{1}}", "1"},
	} {
		f.Add("a/"+s[0]+".db", "a/"+s[1]+".db")
		f.Add(s[0]+"/b", s[1]+"/b")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for i, m := range maps {
			ta, errA := m.Lookup("/d/" + a)
			tb, errB := m.Lookup("/d/" + b)
			if errA == nil {
				checkReplicaPath(t, ta)
			}
			if errA == nil && errB == nil && (ta.ReplicaPath == tb.ReplicaPath) != (a == b) {
				t.Errorf("map %d: %q and %q got %q and %q", i, ta.Path, tb.Path, ta.ReplicaPath, tb.ReplicaPath)
			}
		}
	})
}

func checkReplicaPath(t *testing.T, tenant litestream.Tenant) {
	t.Helper()
	p := tenant.ReplicaPath
	if path.Clean(p) != p || p[0] == '/' || len(p) > 960 {
		t.Errorf("%q: bad path %q", tenant.Path, p)
	}
	for e := range strings.SplitSeq(p, "/") {
		if len(e) > 255 || e[0] == '.' {
			t.Errorf("%q: bad element %q", tenant.Path, e)
		}
	}
	for i := range len(p) {
		if c := p[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`\?#"<>|*:&+`, c) >= 0 {
			t.Errorf("%q: bad character in %q", tenant.Path, p)
		}
	}
}
