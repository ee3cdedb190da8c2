package interop_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

// A fleet is a directory of databases, each with a scene of its own, that one
// of our processes replicates by pattern.
type fleet struct {
	t        *testing.T
	root     string
	template string // keys of the replica template
	extra    string // more keys of multi-db
	dirKeys  string // more keys of the entry that byDirectory writes
	state    string // directory
	tenants  []*scene
	main     *scene // starts programs
}

const fleetPath = "{{project}}/{{tenant}}"

// newFleet returns a fleet with a file replica and no databases.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	main := newScene(t)
	return &fleet{
		t: t, root: main.dir, main: main, extra: "checksums: true", state: filepath.Join(main.dir, "state"),
		template: "type: file\npath: " + filepath.Join(main.dir, "replica", fleetPath),
	}
}

// add makes a database of the fleet.
func (f *fleet) add(project, name string, pageSize int, journalMode string) *scene {
	f.t.Helper()
	s := newScene(f.t)
	s.loose = true
	s.path = filepath.Join(f.root, "data", project, "tenants", name)
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	s.create(pageSize, journalMode)
	replica := filepath.Join(f.root, "replica", project, strings.TrimSuffix(name, ".db"))
	s.client = func() litestream.ReplicaClient { return file.NewReplicaClient(replica) }
	s.url, s.yaml = "file://"+replica, "path: "+replica
	f.tenants = append(f.tenants, s)
	return s
}

// config is the configuration of our program, with short intervals.
func (f *fleet) config() string {
	return fmt.Sprintf(`levels: [{interval: 1s}, {interval: 2s}]
snapshot: {interval: 4s, retention: 1h}
shutdown-timeout: 20s
multi-db:
  enabled: true
  patterns: ["%[1]s/data/*/tenants/*.db"]
  state-dir: %[4]s
  scan-interval: 200ms
  write-detection: {hot-duration: 2s}
  %[2]s
  replica-template:
    sync-interval: 20ms
    %[3]s
`, f.root, indent(f.extra, 2), indent(f.template, 4), f.state)
}

func indent(lines string, n int) string {
	return strings.ReplaceAll(lines, "\n", "\n"+strings.Repeat(" ", n))
}

// start starts our program on all databases.
func (f *fleet) start() *daemon {
	f.t.Helper()
	return f.main.start(ourProgram(f.t), f.config())
}

// commit makes one commit in every database, waits until it is replicated, and
// remembers it.
func (f *fleet) commit(query string) {
	f.t.Helper()
	before := make([]ltx.TXID, len(f.tenants))
	for i, s := range f.tenants {
		before[i] = s.newest()
		s.exec(query)
	}
	f.await(before)
}

// await waits until every database has a newer position, and remembers it.
func (f *fleet) await(before []ltx.TXID) {
	f.t.Helper()
	for i, s := range f.tenants {
		waitFor(f.t, "position behind "+before[i].String()+" of "+s.path, func() bool { return s.newest() > before[i] })
		s.remember()
	}
}

// askLocations has our program say where each database is replicated to, and
// restores from there from now on.
func (f *fleet) askLocations(query string) {
	f.t.Helper()
	conf := filepath.Join(f.root, "locations.yml")
	if err := os.WriteFile(conf, []byte(f.config()), 0o600); err != nil {
		f.t.Fatal(err)
	}
	out, err := exec.CommandContext(f.t.Context(), ourProgram(f.t), "databases", "-json", "-config", conf).Output()
	if err != nil {
		f.t.Fatal(err)
	}
	var list []struct{ Path, Location string }
	if err := json.Unmarshal(out, &list); err != nil {
		f.t.Fatal(err)
	}
	urls := make(map[string]string)
	for _, e := range list {
		urls[e.Path] = e.Location
	}
	for _, s := range f.tenants {
		u, ok := urls[s.path]
		if !ok {
			f.t.Fatalf("databases does not list %s:\n%s", s.path, out)
		}
		s.url = strings.SplitN(u, "?", 2)[0] + query
	}
}

// TestMultiDB_UpstreamRestores has upstream restore every position of replicas
// that our program wrote for databases found by pattern, before and after it
// made snapshots and merged files.
func TestMultiDB_UpstreamRestores(t *testing.T) {
	t.Parallel()
	for _, onS3 := range []bool{false, true} {
		t.Run(fmt.Sprintf("s3=%t", onS3), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			small := f.add("p1", "small.db", 4096, "wal")
			f.add("p1", "journal.db", 512, "delete")
			large := f.add("p2", "large.db", 65536, "wal") // whose snapshots weigh more than its commits
			large.exec("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 600) INSERT INTO t (v) SELECT randomblob(3000) FROM n")
			query := ""
			if onS3 {
				query = f.onS3()
			}
			f.askLocations(query)
			d := f.start()
			f.await(make([]ltx.TXID, len(f.tenants)))
			for i := range 6 {
				f.commit(fmt.Sprintf("BEGIN; INSERT INTO ledger VALUES (%d); INSERT INTO t (v) VALUES (randomblob(700)); UPDATE t SET v = randomblob(600) WHERE id %% 20 = %d; COMMIT", i+1, i))
			}
			waitFor(t, "merged files and snapshots", func() bool {
				return small.newestOf(litestream.SnapshotLevel) > 1 && large.newestOf(1) > 1
			})
			f.commit("INSERT INTO ledger VALUES (7)")
			d.stop()
			targets := 0
			for _, s := range f.tenants {
				targets += s.checkAll()
				s.wantLedger(7)
				s.wantContiguous()
			}
			t.Logf("%d targets restored", targets)
		})
	}
}

// onS3 puts the replicas on a server, and returns what a URL needs besides.
func (f *fleet) onS3() (query string) {
	f.t.Helper()
	srv := servers.Versitygw(f.t, false)
	srv.CreateBucket(bucket)
	f.main.env = srv.Env()
	f.template = fmt.Sprintf("type: s3\nbucket: %s\npath: fleet/%s\nendpoint: %s\nregion: %s", bucket, fleetPath, srv.Endpoint, srv.Region)
	var pool s3.Pool
	f.t.Cleanup(pool.CloseIdleConnections)
	for _, s := range f.tenants {
		rel, err := filepath.Rel(filepath.Join(f.root, "replica"), s.client().(*file.ReplicaClient).Path())
		if err != nil {
			f.t.Fatal(err)
		}
		s.env, s.s3 = srv.Env(), true
		s.client = func() litestream.ReplicaClient {
			c, err := pool.Get(s3.Config{
				Bucket: bucket, Path: "fleet/" + rel, Endpoint: srv.Endpoint, Region: srv.Region,
				AccessKeyID: srv.AccessKey, SecretAccessKey: srv.SecretKey,
			})
			if err != nil {
				f.t.Fatal(err)
			}
			return c
		}
	}
	return "?endpoint=" + url.QueryEscape(srv.Endpoint) + "&region=" + srv.Region
}

// TestMultiDB_TakesOver has our program go on by pattern where a database was
// replicated by name before, or by upstream's directory mode, on the same
// replica. Every position of both stays restorable, with both programs.
func TestMultiDB_TakesOver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		theirs bool // upstream replicated it before
		byDir  bool // by its directory mode
		back   bool // and it goes on again afterwards; upstream, because checksums are off
	}{
		{name: "from dbs"},
		{name: "from dbs and back", back: true},
		{name: "from upstream", theirs: true},
		{name: "from upstream's directories", theirs: true, byDir: true},
		{name: "from upstream and back", theirs: true, back: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			s := f.add("p1", "t1.db", 4096, "wal")
			s.exec(workload[1].query)
			bin, first := ourProgram(t), func(bin string) *daemon { return s.run(bin, []string{"1s"}, "") }
			if tt.theirs {
				bin = f.main.bin
			}
			if tt.byDir {
				first = f.byDirectory
			}
			if tt.back && tt.theirs {
				f.extra = "checksums: false"
			}

			n := 0
			commit := func() {
				n++
				f.commit(fmt.Sprintf("BEGIN; INSERT INTO ledger VALUES (%d); UPDATE t SET v = randomblob(400) WHERE id = %d; COMMIT", n, n))
			}
			d := first(bin)
			f.await([]ltx.TXID{0})
			for range 4 {
				commit()
			}
			d.stop()
			middle := s.remember()

			f.askLocations("")
			d = f.start()
			for range 4 {
				commit()
			}
			waitFor(t, "snapshot", func() bool { return s.newestOf(litestream.SnapshotLevel) > middle })
			commit()
			d.stop()
			s.remember()
			if tt.back {
				merged := s.newestOf(1)
				d = first(bin)
				for range 3 {
					commit()
				}
				waitFor(t, "compaction", func() bool { return s.newestOf(1) > merged })
				d.stop()
				s.remember()
			}
			targets := s.checkAll()
			s.wantLedger(n)
			s.wantContiguous()
			t.Logf("by name up to %s, by pattern up to %s, %d targets restored", middle, s.newest(), targets)
		})
	}
}

// byDirectory starts a program in directory mode, which replicates to the
// path below the directory, extension included, and has the fleet do the same.
func (f *fleet) byDirectory(bin string) *daemon {
	replica := filepath.Join(f.root, "replica")
	for _, s := range f.tenants {
		rel, err := filepath.Rel(filepath.Join(f.root, "data"), s.path)
		if err != nil {
			f.t.Fatal(err)
		}
		s.client = func() litestream.ReplicaClient { return file.NewReplicaClient(filepath.Join(replica, rel)) }
	}
	f.template = "type: file\npath: " + replica + "/{{relpath}}"
	return f.main.start(bin, fmt.Sprintf(`levels: [{interval: 1s}]
dbs:
  - dir: %s
    pattern: "*.db"
    recursive: true
    monitor-interval: 50ms
    %s
    replica: {path: %s, sync-interval: 20ms}
`, filepath.Join(f.root, "data"), f.dirKeys, replica))
}

// TestMultiDB_UpstreamAndChecksums shows what checksums keep upstream from when
// it goes on: it replicates and restores, but merges no level whose newest file
// carries one, that is, not before the next change.
func TestMultiDB_UpstreamAndChecksums(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.extra += "\nlevels: [{interval: 1h}]" // merging is left to upstream
	s := f.add("p1", "t1.db", 4096, "wal")
	d := s.theirsRun(nil, "") // later it finds its tables, and starts without a change
	f.await([]ltx.TXID{0})
	f.commit("INSERT INTO ledger VALUES (1)")
	d.stop()
	s.remember()
	d = f.start()
	f.commit("INSERT INTO ledger VALUES (2)")
	f.commit("INSERT INTO ledger VALUES (3)")
	d.stop()

	merged := s.newestOf(1)
	d = s.theirsRun([]string{"1s"}, "")
	waitFor(t, "refused compaction", func() bool { return len(d.lines("compaction failed", "level=1")) > 0 })
	f.commit("INSERT INTO ledger VALUES (4)")
	waitFor(t, "compaction by upstream", func() bool { return s.newestOf(1) > merged })
	f.commit("INSERT INTO ledger VALUES (5)")
	d.kill() // it has reported an error
	s.checkAll()
	s.wantLedger(5)
	s.wantContiguous()
}
