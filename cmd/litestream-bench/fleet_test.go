//go:build linux

package main

import (
	"bytes"
	"context"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/backoff"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/s3"
)

// newTestFleet generates a fleet with databases of three sizes.
func newTestFleet(t *testing.T, n int, withWAL bool) *fleet {
	t.Helper()
	f := &fleet{dir: t.TempDir(), n: n, large: 1, largePages: 2 * mediumPages, withWAL: withWAL}
	if err := f.generate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFleet_Generate(t *testing.T) {
	for _, withWAL := range []bool{false, true} {
		f := newTestFleet(t, 120, withWAL)
		sizes := map[int]int{}
		for i := range f.n {
			st, err := os.Stat(f.path(i))
			if err != nil {
				t.Fatal(err)
			}
			sizes[f.pages(i)]++
			if got, want := int(st.Size())/pageSize, f.pages(i); got < want || got > want*11/10 {
				t.Errorf("%s has %d pages, want %d", f.relPath(i), got, want)
			}
			if _, err := os.Stat(f.path(i) + "-wal"); (err == nil) != withWAL {
				t.Errorf("wal=%t: stat of log: %v", withWAL, err)
			}
		}
		if want := (map[int]int{smallPages: 118, mediumPages: 1, f.largePages: 1}); !cmp.Equal(sizes, want) {
			t.Errorf("databases by pages: %v, want %v", sizes, want)
		}
		// An application finds what the template held, also in the log.
		o := newOracle(f.n)
		for _, i := range []int{0, 25, 60, 119} {
			if err := f.touch(t.Context(), o, i, coldCommit); err != nil {
				t.Fatal(err)
			}
			found, err := readRestored(t.Context(), f.path(i), i, 1)
			if err != nil || !found[1] {
				t.Errorf("tenant %d: commits %v, %v", i, found, err)
			}
		}
	}
}

func TestFleet_Paths(t *testing.T) {
	f := &fleet{dir: "/x", n: 200_000}
	cfg := litestream.NewMultiDBConfig()
	cfg.Patterns, cfg.ReplicaPath = []string{f.pattern()}, "/replica/"+replicaTemplate
	tenants, err := litestream.NewTenantMap(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 7, 99, 100, 123_456} {
		found, err := tenants.Lookup(f.path(i))
		if want := "/replica/" + f.replicaPath(i); err != nil || found.ReplicaPath != want {
			t.Errorf("replica of %s is %q (%v), want %q", f.path(i), found.ReplicaPath, err, want)
		}
		for _, path := range []string{f.path(i), "/bench/" + f.replicaPath(i) + "/0000/1-1.ltx", f.relPath(i) + "/ltx/0"} {
			if got, ok := tenantOf(path); got != i || !ok {
				t.Errorf("tenant of %s is %d, %t", path, got, ok)
			}
		}
	}
	if i, ok := tenantOf("/data/tenants/tabcdef.db"); ok {
		t.Errorf("found tenant %d where none is", i)
	}
}

func TestParseSizes(t *testing.T) {
	for _, tt := range []struct {
		text string
		want []int
	}{
		{"1k,10k,100k", []int{1000, 10_000, 100_000}},
		{"50", []int{50}},
		{"0", nil},
		{"1m", nil},
		{"k", nil},
		{"-1k", nil},
	} {
		got, err := parseSizes(tt.text)
		if !cmp.Equal(got, tt.want) || (err != nil) != (tt.want == nil) {
			t.Errorf("parseSizes(%q)=%v, %v, want %v", tt.text, got, err, tt.want)
		}
	}
}

func TestOracle(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1000+int64(s), 0) }
	o := newOracle(3)
	o.watch(1)
	for s := range 3 { // commits 1 to 3 of tenant 1, a second apart
		if seq := o.begin(1); seq != uint32(s+1) {
			t.Fatalf("seq=%d, want %d", seq, s+1)
		}
		o.ack(1, uint32(s+1), hotCommit, at(s))
	}
	o.begin(1) // was not acknowledged
	o.ack(2, o.begin(2), hotCommit, at(0))
	o.land(1, 2, at(5))
	o.land(1, 1, at(6)) // an older file tells nothing
	if diff := cmp.Diff([]int{1}, o.behind()); diff != "" {
		t.Errorf("behind differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]float64{5, 4, 8}, o.times(hotCommit, at(10))); diff != "" {
		t.Errorf("times differ (-want +got):\n%s", diff)
	}
	o.land(1, 4, at(7)) // also the one that nobody knew of
	if seq := o.begin(1); seq != 4 {
		t.Errorf("seq=%d after a failed commit, want 4 again", seq)
	}
	o.ack(1, 4, coldCommit, at(8))
	if diff := cmp.Diff([]float64{0}, o.times(coldCommit, at(10))); diff != "" {
		t.Errorf("times differ (-want +got):\n%s", diff)
	}
	if o.isBehind(1) || o.count() != 5 {
		t.Errorf("behind=%t, %d acknowledged, want none behind and 5", o.isBehind(1), o.count())
	}
	if begun, acked := o.of(1); begun != 4 || acked != 4 {
		t.Errorf("begun=%d acked=%d, want 4 and 4", begun, acked)
	}
}

// snapshotOf makes a snapshot of a tenant's database, which nobody has open.
func snapshotOf(t *testing.T, f *fleet, i int, txid ltx.TXID) []byte {
	t.Helper()
	content, err := os.ReadFile(f.path(i))
	if err != nil {
		t.Fatal(err)
	}
	pages := map[uint32][]byte{}
	for n := range len(content) / pageSize {
		pages[uint32(n+1)] = content[n*pageSize:][:pageSize]
	}
	return testutil.BuildLTX(t, ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: pageSize,
		Commit: uint32(len(pages)), MinTXID: 1, MaxTXID: txid, Timestamp: time.Now().UnixMilli(),
	}, pages)
}

func write(t *testing.T, c litestream.ReplicaClient, content []byte, txid ltx.TXID) {
	t.Helper()
	if _, err := c.WriteLTXFile(t.Context(), 0, txid, txid, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

func TestFileReplica_Watch(t *testing.T) {
	f := newTestFleet(t, 4, false)
	o := newOracle(f.n)
	r, err := newFileReplica(filepath.Join(f.dir, "replica"), f.n, f.replicaPath, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for i := range f.n {
		if n, err := r.backedUp(); n != i || err != nil {
			t.Errorf("%d backed up, %v, want %d", n, err, i)
		}
		write(t, r.client(i), snapshotOf(t, f, i, 1), 1)
	}
	if n, err := r.countBackedUp(); n != f.n || err != nil {
		t.Errorf("%d backed up, %v, want all", n, err)
	}
	if err := r.watch([]int{0, 2}); err != nil {
		t.Fatal(err)
	}
	o.watch(1)
	for i := range 3 {
		if err := f.touch(t.Context(), o, i, coldCommit); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{0, 1, 2}, o.behind()); diff != "" {
		t.Errorf("behind differs (-want +got):\n%s", diff)
	}

	end, err := r.outage()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.client(0).WriteLTXFile(t.Context(), 0, 2, 2, bytes.NewReader(snapshotOf(t, f, 0, 1))); err == nil {
		t.Error("wrote to a replica that is away")
	}
	if err := r.sweep(t.Context()); err != nil {
		t.Errorf("sweep of a replica that is away: %v", err)
	}
	if err := end(t.Context()); err != nil {
		t.Fatal(err)
	}

	for i := range 2 {
		write(t, r.client(i), snapshotOf(t, f, i, 1), 2)
	}
	exclusive := r.client(2).(litestream.ExclusiveWriter)
	if _, err := exclusive.WriteLTXFileExclusive(t.Context(), 0, 2, 2, bytes.NewReader(snapshotOf(t, f, 2, 1))); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "event of a file that was renamed", func() bool { return !o.isBehind(0) })
	waitFor(t, "event of a file that was linked", func() bool { return !o.isBehind(2) })
	if !o.isBehind(1) {
		t.Error("saw a commit of a tenant that it did not watch")
	}
	if err := r.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o.isBehind(1) {
		t.Error("sweep found nothing")
	}
	if files, _, err := r.size(); files != f.n+3 || err != nil {
		t.Errorf("%d files, %v, want %d", files, err, f.n+3)
	}
}

// waitFor waits until ok.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
		if err := backoff.Wait(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFleet_Verify makes each mistake that a replica can have.
func TestFleet_Verify(t *testing.T) {
	f := newTestFleet(t, 5, false)
	o := newOracle(f.n)
	r, err := newFileReplica(filepath.Join(f.dir, "replica"), f.n, f.replicaPath, o)
	if err != nil {
		t.Fatal(err)
	}
	old := snapshotOf(t, f, 1, 1)
	for i := range f.n {
		for range 3 {
			if err := f.touch(t.Context(), o, i, coldCommit); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(t, r.client(0), snapshotOf(t, f, 0, 1), 1) // as it should be
	write(t, r.client(1), old, 1)                    // without the commits
	write(t, r.client(2), snapshotOf(t, f, 0, 1), 1) // another tenant's
	c, err := openTenant(f.path(3))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.insert(t.Context(), 3, 9); err != nil { // that the oracle does not know of
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	write(t, r.client(3), snapshotOf(t, f, 3, 1), 1)
	// Nothing of tenant 4.

	v, err := f.verify(t.Context(), o, r, []int{0, 1, 2, 3, 4})
	if err != nil {
		t.Fatal(err)
	}
	if v.tenants != 5 || v.commits != 15 || v.lost != 9 || v.unsound != 2 || v.failed != 1 || len(v.examples) == 0 {
		t.Errorf("verified: %+v", v)
	}
	// The rest was not looked at, so that it cannot be chosen twice.
	if got := f.chooseTenants(o, 100, 1); len(got) != f.n {
		t.Errorf("chose %d tenants, want %d", len(got), f.n)
	}
}

func TestFleet_ChooseTenants(t *testing.T) {
	f := &fleet{n: 100}
	o := newOracle(f.n)
	for i := range 10 {
		o.ack(i, o.begin(i), hotCommit, time.Now())
	}
	for _, tt := range []struct{ n, with int }{{4, 2}, {40, 10}, {95, 10}, {1000, 10}} {
		with, seen := 0, map[int]bool{}
		for _, i := range f.chooseTenants(o, tt.n, 1) {
			seen[i] = true
			if i < 10 {
				with++
			}
		}
		if want := min(tt.n, f.n); len(seen) != want || with != tt.with {
			t.Errorf("n=%d: chose %d with %d that have commits, want %d with %d", tt.n, len(seen), with, want, tt.with)
		}
	}
}

func TestNewestToken(t *testing.T) {
	page := []byte(token(12, 3) + "…" + token(12, 17) + token(13, 99) + "<000012:" + "<000012:x>")
	if got := newestToken(page, 12); got != 17 {
		t.Errorf("newest=%d, want 17", got)
	}
	if got := newestToken(page, 14); got != 0 {
		t.Errorf("newest=%d of another tenant, want 0", got)
	}
}

func TestMetricsPage(t *testing.T) {
	const begin = `# HELP x_total Text with {braces} 1
x_total{tier="cold",state="clean"} 5
x_total{tier="hot",state="clean"} 2
x_total{tier="hot",state="hot"} 1
h_bucket{le="1"} 2
h_bucket{le="10"} 2
h_bucket{le="+Inf"} 2
h_sum 1.5
h_count 2
`
	end := strings.NewReplacer(`le="1"} 2`, `le="1"} 5`, `le="10"} 2`, `le="10"} 12`, `Inf"} 2`, `Inf"} 12`, "h_sum 1.5", "h_sum 6.5", "h_count 2", "h_count 12").Replace(begin)
	p, before := parseMetrics(end), parseMetrics(begin)
	if len(p.values) != 8 || p.bytes != len(end) {
		t.Errorf("%d series, %d bytes", len(p.values), p.bytes)
	}
	if got := p.sum("x_total", `state="clean"`); got != 7 {
		t.Errorf("sum=%v, want 7", got)
	}
	if got := p.sum("x_total", `state="clean"`, `tier="hot"`); got != 2 {
		t.Errorf("sum=%v, want 2", got)
	}
	if mean, n := p.mean("h", before); mean != 0.5 || n != 10 {
		t.Errorf("mean=%v of %v, want 0.5 of 10", mean, n)
	}
	if got := p.bound("h", 0.3, before); got != 1 {
		t.Errorf("bound=%v, want 1", got)
	}
	if got := p.bound("h", 0.99, before); got != 10 {
		t.Errorf("bound=%v, want 10", got)
	}
}

func TestFleetReport_Markdown(t *testing.T) {
	r := &fleetReport{Note: "Note.", Runs: []*fleetRun{newFleetRun("litestream", 100_000), newFleetRun("upstream", 1000)}}
	r.Runs[0].set("lost", 0)
	r.Runs[0].set("idle_rss_mb", 79.25)
	r.Runs[1].set("idle_rss_mb", 700)
	r.Runs[1].Ended = "too many open files\nits log"
	got := r.markdown()
	for _, want := range []string{
		"| | goal | litestream 100,000 | upstream 1,000 |\n|---|---|---:|---:|\n| memory at rest, MB |  | 79.2 | 700 |\n| of these, lost | 0 | 0 | – |\n",
		"\nupstream with 1,000 databases ended early: too many open files\n",
		"\nNote.\n", "\n- memory at rest, MB: `VmRSS`",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("markdown lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "its log") {
		t.Errorf("markdown holds a tool's log:\n%s", got)
	}
	seen := map[string]bool{}
	for _, f := range fleetFigures {
		if f.key == "" || f.name == "" || f.how == "" || seen[f.key] {
			t.Errorf("figure %+v lacks something or is there twice", f)
		}
		seen[f.key] = true
	}
}

func TestFleet_BareScan(t *testing.T) {
	f := newTestFleet(t, 20, true)
	names, err := readNames(filepath.Dir(f.path(3)))
	if err != nil || len(names) != 2 {
		t.Errorf("names=%q, %v, want a database and its log", names, err)
	}
	for _, readdir := range []bool{false, true} {
		if d, err := f.bareScan(readdir); err != nil || d <= 0 {
			t.Errorf("readdir=%t: %s, %v", readdir, d, err)
		}
	}
}

func TestFleet_BareWrites(t *testing.T) {
	dir := t.TempDir()
	if rate, err := bareWrites(dir, 30); err != nil || rate <= 0 {
		t.Errorf("%f files/s, %v", rate, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*", "ltx", "0", "*.ltx"))
	if err != nil || len(files) != 30 {
		t.Errorf("%d files, %v, want 30", len(files), err)
	}
	if _, err := bareWrites(files[0], 30); err == nil {
		t.Error("no error where a folder cannot be made")
	}
}

func TestFleet_MakesObject(t *testing.T) {
	const object = "http://h/b/fleet/t/0/0000000000000001-0000000000000001.ltx"
	for request, want := range map[string]bool{
		"PUT " + object:                              true,
		"PUT " + object + "?x-id=PutObject":          true,
		"PUT " + object + "?partNumber=1&uploadId=u": false,
		"POST " + object + "?uploads=":               false,
		"POST " + object + "?uploadId=u":             true,
		"DELETE " + object + "?uploadId=u":           false,
		"GET " + object:                              false,
		"PUT http://h/b/fleet/!litestream/epoch":     false,
	} {
		method, target, _ := strings.Cut(request, " ")
		if got := makesObject(httptest.NewRequest(method, target, nil)); got != want {
			t.Errorf("%s: %t, want %t", request, got, want)
		}
	}
}

// TestFleet_Run runs the whole benchmark on a few tenants.
func TestFleet_Run(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a daemon for some seconds")
	}
	bin := filepath.Join(t.TempDir(), "litestream")
	if out, err := exec.Command("go", "build", "-o", bin, "../litestream").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, replica := range []string{"file", "s3"} {
		t.Run(replica, func(t *testing.T) {
			t.Parallel()
			b, _, _, err := parseFleetFlags([]string{
				"-quick", "-litestream", bin, "-upstream", "", "-replica", replica, "-scan-interval", "500ms",
				"-max-hot", "100", "-rest", "1s", "-idle", "1s", "-load", "4s", "-burst", "1s", "-outage", "1s",
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(b.versitygw); replica == "s3" && err != nil {
				t.Skip("versitygw is not installed (make servers)")
			}
			t.Logf("seed %d", b.seed)
			b.hotPause, b.dir = 500*time.Millisecond, t.TempDir()
			run, err := b.turn(t.Context(), b.tools[0], b.sizes[0], false)
			if err != nil {
				t.Fatal(err)
			}
			for key, want := range map[string]float64{"lost": 0, "unsound": 0, "audit_failures": 0, "restored": float64(b.verifyN)} {
				if got, ok := run.Values[key]; !ok || got != want {
					t.Errorf("%s=%v, want %v", key, got, want)
				}
			}
			for _, key := range []string{"backup_rate", "scan_ratio", "hot_p99", "cold_p99", "closed_p99", "burst_drain", "outage_converged", "restart_seconds", "checked"} {
				if run.Values[key] <= 0 {
					t.Errorf("%s was not measured", key)
				}
			}
		})
	}
}

// TestS3Replica_Observe uploads through the proxy.
func TestS3Replica_Observe(t *testing.T) {
	t.Run("Small", func(t *testing.T) { observe(t, 2) })
	t.Run("Large", func(t *testing.T) { observe(t, 1) }) // one of a hundred is, the first
}

func observe(t *testing.T, n int) {
	t.Helper()
	b, _, _, err := parseFleetFlags([]string{"-litestream", os.Args[0], "-upstream", ""})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.versitygw); err != nil {
		t.Skip("versitygw is not installed (make servers)")
	}
	f := newTestFleet(t, n, false)
	o := newOracle(f.n)
	dir := t.TempDir()
	r, err := newS3Replica(t.Context(), b.versitygw, dir, f.replicaPath, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := r.watch([]int{0}); err != nil {
		t.Fatal(err)
	}
	if err := f.touch(t.Context(), o, 0, coldCommit); err != nil {
		t.Fatal(err)
	}
	if n, err := r.backedUp(); n != 0 || err != nil {
		t.Errorf("%d backed up, %v, want none", n, err)
	}
	proxied := r.client(0).(*s3.ReplicaClient)
	proxied.Endpoint = "http://" + r.proxy.addr()
	write(t, proxied, snapshotOf(t, f, 0, 1), 1)
	if n, err := r.backedUp(); n != 1 || err != nil || o.isBehind(0) {
		t.Errorf("%d backed up, %v, behind=%t, want 1 that is not", n, err, o.isBehind(0))
	}
	if got := r.requests()["PUT"]; got != 1 {
		t.Errorf("%d PUTs, want 1", got)
	}
	if files, _, err := r.size(); files != 1 || err != nil {
		t.Errorf("%d files, %v, want 1", files, err)
	}

	end, err := r.outage()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := proxied.WriteLTXFile(ctx, 0, 2, 2, bytes.NewReader(snapshotOf(t, f, 0, 1))); err == nil {
		t.Error("wrote to a server that is away")
	}
	if err := end(t.Context()); err != nil {
		t.Fatal(err)
	}
	file, err := r.client(0).OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := io.Copy(io.Discard, file); err != nil {
		t.Error(err)
	}
}
