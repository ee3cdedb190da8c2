package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

var rivalsSoak = flag.Duration("soak", 0, "how long two daemons write to one replica")

const rivalTenants = 4

// rivalPlace is where both hosts put their replicas.
type rivalPlace struct {
	template string // of the configuration
	client   func(tenant int) litestream.ReplicaClient
}

func rivalFolder(t *testing.T) rivalPlace {
	t.Helper()
	dir := testFolder(t)
	return rivalPlace{
		template: fmt.Sprintf(`{path: "%s/{{tenant}}"}`, dir),
		client: func(i int) litestream.ReplicaClient {
			return file.NewReplicaClient(filepath.Join(dir, fmt.Sprintf("t%d", i)))
		},
	}
}

func rivalBucket(t *testing.T) rivalPlace {
	t.Helper()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket("rivals")
	return rivalPlace{
		template: fmt.Sprintf(`{type: s3, bucket: rivals, path: "p/{{tenant}}", endpoint: "%s", region: %s, force-path-style: true, access-key-id: %s, secret-access-key: %s}`,
			srv.Endpoint, srv.Region, srv.AccessKey, srv.SecretKey),
		client: func(i int) litestream.ReplicaClient {
			c := s3.NewReplicaClient()
			c.Bucket, c.Path, c.Endpoint, c.Region, c.ForcePathStyle = "rivals", fmt.Sprintf("p/t%d", i), srv.Endpoint, srv.Region, true
			c.AccessKeyID, c.SecretAccessKey = srv.AccessKey, srv.SecretKey
			return c
		},
	}
}

// rivalHost is one of two hosts with copies of the same databases and a daemon
// in a process of its own.
type rivalHost struct {
	t      *testing.T
	number int
	dir    string
	config string
	cmd    *exec.Cmd
	log    *lockedBuffer
	apps   [rivalTenants]*sql.DB
	acked  [rivalTenants]int // rows that the application committed
	paused bool

	everLost bool
}

func (h *rivalHost) path(i int) string { return filepath.Join(h.dir, fmt.Sprintf("data/t%d.db", i)) }

func newRivalHost(t *testing.T, number int, dir, template string) *rivalHost {
	t.Helper()
	h := &rivalHost{t: t, number: number, dir: dir, config: filepath.Join(dir, "c.yml")}
	writeFile(t, h.config, fmt.Sprintf(`
socket: {enabled: true, path: %[1]s/s}
multi-db:
  enabled: true
  patterns: ["%[1]s/data/*.db"]
  state-dir: %[1]s/state
  scan-interval: 200ms
  write-detection: {hot-duration: 1s}
  replica-template: %[2]s
`, dir, template))
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range h.apps {
		app, err := sql.Open("sqlite3", "file:"+h.path(i)+"?_journal_mode=wal&_busy_timeout=5000")
		if err != nil {
			t.Fatal(err)
		}
		app.SetMaxOpenConns(1)
		t.Cleanup(func() { _ = app.Close() })
		h.apps[i] = app
		if _, err := app.Exec("CREATE TABLE t (host INTEGER, seq INTEGER, body BLOB)"); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *rivalHost) write(i int) {
	h.t.Helper()
	if _, err := h.apps[i].Exec("INSERT INTO t VALUES (?, ?, randomblob(200))", h.number, h.acked[i]+1); err != nil {
		h.t.Fatal(err)
	}
	h.acked[i]++
}

func (h *rivalHost) signal(s syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(s); err != nil {
		h.t.Fatal(err)
	}
	h.paused = s == syscall.SIGSTOP
}

func (h *rivalHost) takeover(i int) {
	if got := runCommand(h.t, "takeover", "-socket", h.dir+"/s", "-timeout", "20", h.path(i)); got.code != 0 {
		h.t.Logf("takeover of t%d by host %d: %s", i, h.number, got.stderr)
	}
}

// lost reports whether the daemon says that another one goes on with a tenant.
func (h *rivalHost) lost(i int) bool {
	got := runCommand(h.t, "list", "-json", "-socket", h.dir+"/s", "-filter", h.path(i))
	return strings.Contains(got.stdout, litestream.ErrSecondWriter.Error())
}

// TestRivals lets two daemons replicate copies of the same databases to one
// place, stopped and continued at random. What can be restored is always the
// state of one of them, and the writer changes with a full copy only.
func TestRivals(t *testing.T) {
	if testing.Short() && *rivalsSoak == 0 {
		t.Skip("two daemons compete for 20 s")
	}
	t.Run("File", func(t *testing.T) { rivalry(t, rivalFolder(t)) })
	t.Run("S3", func(t *testing.T) { rivalry(t, rivalBucket(t)) })
}

// rivalry is TestRivals in one place.
func rivalry(t *testing.T, place rivalPlace) {
	t.Helper()
	dir := testFolder(t)
	hosts := []*rivalHost{newRivalHost(t, 1, dir+"/h1", place.template), newRivalHost(t, 2, dir+"/h2", place.template)}
	for _, h := range hosts {
		h.cmd, h.log = childDaemon(t, os.Args[0], h.config)
		awaitLog(t, h.log, "control socket listening")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	length := 6 * time.Second
	if *rivalsSoak > 0 {
		length = *rivalsSoak
	}
	pauses, takeovers, restores := 0, 0, 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
		h, i := hosts[rnd.IntN(2)], rnd.IntN(rivalTenants)
		switch n := rnd.IntN(100); {
		case n < 70:
			h.write(i)
		case n < 80 && h.paused:
			h.signal(syscall.SIGCONT)
		case n < 84 && !h.paused && !hosts[2-h.number].paused:
			h.signal(syscall.SIGSTOP)
			pauses++
		case n < 87 && !h.paused:
			h.takeover(i)
			takeovers++
		case n < 89:
			checkRivals(t, hosts, place.client(i), i, 0)
			restores++
		}
	}
	for _, h := range hosts {
		h.signal(syscall.SIGCONT)
	}
	for i := range rivalTenants {
		awaitRivals(t, hosts, i)
		restores += checkHistory(t, hosts, place.client(i), i)
	}
	t.Logf("%d tenants, %d pauses, %d takeovers, %d restores, rows %v and %v", rivalTenants, pauses, takeovers, restores, hosts[0].acked, hosts[1].acked)
	for _, h := range hosts {
		says := strings.Count(h.log.String(), litestream.ErrSecondWriter.Error())
		if t.Logf("host %d says %d times that another writer goes on", h.number, says); h.everLost && says == 0 {
			t.Errorf("host %d lost a replica and does not say so", h.number)
		}
		interrupt(t, h.cmd)
	}
}

// awaitRivals waits until one of the daemons has stopped a tenant that both
// write to, and the other one has replicated it.
func awaitRivals(t *testing.T, hosts []*rivalHost, i int) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		for _, h := range hosts {
			h.write(i)
		}
		for n, h := range hosts {
			other := hosts[1-n]
			if !h.lost(i) || other.lost(i) {
				continue
			}
			h.everLost = true
			if got := runCommand(t, "sync", "-wait", "-socket", other.dir+"/s", other.path(i)); got.code == 0 {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("t%d: neither of the two daemons goes on alone\n%s\n%s", i, hosts[0].log, hosts[1].log)
		}
	}
}

// checkRivals restores a tenant and compares it with what the two applications
// wrote: all rows of one of them up to some point, and none of the other's.
func checkRivals(t *testing.T, hosts []*rivalHost, client litestream.ReplicaClient, i int, txid ltx.TXID) {
	t.Helper()
	dir, err := os.MkdirTemp(hosts[0].dir, "restore") //nolint:usetesting // of thousands in a long run, none stays
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "db")
	_, err = litestream.Restore(context.Background(), client, litestream.RestoreOptions{
		OutputPath: out, TXID: txid, IntegrityCheck: litestream.IntegrityCheckFull,
	})
	if errors.Is(err, litestream.ErrNoBackups) {
		return
	} else if err != nil {
		t.Errorf("t%d at %s: %v", i, txid, err)
		return
	}
	db, err := sql.Open("sqlite3", "file:"+out+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows, distinct, least, most, seqs, last int
	err = db.QueryRow(`SELECT count(*), count(DISTINCT host), coalesce(min(host),1), coalesce(max(host),1), count(DISTINCT seq), coalesce(max(seq),0) FROM t`).
		Scan(&rows, &distinct, &least, &most, &seqs, &last)
	if err != nil {
		t.Errorf("t%d at %s: %v", i, txid, err)
		return
	}
	if distinct > 1 || least != most || rows != last || seqs != last || last > hosts[most-1].acked[i] {
		t.Errorf("t%d at %s: %d rows of hosts %d to %d, %d numbers up to %d, of %d", i, txid, rows, least, most, seqs, last, hosts[most-1].acked[i])
	}
}

// checkHistory restores each position that level 0 leads to, and checks that the
// writer changes only with a file that holds the whole database. It returns how
// many there were.
func checkHistory(t *testing.T, hosts []*rivalHost, client litestream.ReplicaClient, i int) (n int) {
	t.Helper()
	itr, err := client.LTXFiles(context.Background(), 0, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	var writer uint64
	for itr.Next() {
		info := itr.Item()
		f, err := client.OpenLTXFile(context.Background(), 0, info.MinTXID, info.MaxTXID, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		dec := ltx.NewDecoder(f)
		if err := dec.DecodeHeader(); err != nil {
			t.Fatal(err)
		}
		hdr, pages := dec.Header(), uint32(0)
		page := make([]byte, hdr.PageSize)
		for ph := (ltx.PageHeader{}); dec.DecodePage(&ph, page) == nil; pages++ {
		}
		if hdr.NodeID == 0 || writer != 0 && hdr.NodeID != writer && pages != hdr.Commit {
			t.Errorf("t%d: writer %x goes on behind %x at %s with %d of %d pages", i, hdr.NodeID, writer, info.MaxTXID, pages, hdr.Commit)
		}
		writer = hdr.NodeID
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if n++; n%10 == 0 {
			checkRivals(t, hosts, client, i, info.MaxTXID)
		}
	}
	if err := errors.Join(itr.Err(), itr.Close()); err != nil {
		t.Fatal(err)
	}
	checkRivals(t, hosts, client, i, 0)
	return n / 10
}
