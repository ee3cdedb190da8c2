package interop_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/tests/servers"
)

// onNATS puts the replica of a scene on a server, in a bucket of its own.
func (s *scene) onNATS(srv *servers.NATSServer) {
	s.t.Helper()
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket})
	var pool nats.Pool
	s.t.Cleanup(pool.Close)
	s.client = func() litestream.ReplicaClient {
		c, err := pool.Get(nats.Config{Server: srv.Addr, Bucket: bucket})
		if err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	s.url = fmt.Sprintf("nats://%s/%s", srv.Addr, bucket)
	s.yaml, s.env = "url: "+s.url, srv.Env()
}

func TestNATS(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.onNATS(servers.NATS(t, ""))
	s.trade()
	t.Logf("%d targets restored with times", s.checkAll())
}

// TestNATS_Outage kills the server under load and brings it back.
func TestNATS_Outage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	srv := servers.NATS(t, "")
	s.onNATS(srv)
	s.outage(srv.Kill, srv.Restart)
}

// TestNATS_Fleet replicates databases found by pattern into one bucket, kills the
// server in between, and restores each by its URL. Upstream has no such layout.
func TestNATS_Fleet(t *testing.T) {
	t.Parallel()
	srv := servers.NATS(t, "")
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket})
	var pool nats.Pool
	t.Cleanup(pool.Close)
	f := newFleet(t)
	f.template = fmt.Sprintf("url: nats://%s/%s/fleet/%s", srv.Addr, bucket, fleetPath)
	for i, name := range []string{"a", "b", "c"} {
		s := f.add("p", name+".db", 4096, []string{"wal", "delete", "wal"}[i])
		s.url = fmt.Sprintf("nats://%s/%s/fleet/p/%s", srv.Addr, bucket, name)
		s.client = func() litestream.ReplicaClient {
			c, err := pool.Get(nats.Config{Server: srv.Addr, Bucket: bucket, Path: "fleet/p/" + name})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
	d := f.start()
	f.commit("INSERT INTO ledger DEFAULT VALUES")
	srv.Kill()
	srv.Restart()
	f.commit("INSERT INTO t (v) VALUES (zeroblob(9000))")
	d.stop()
	for _, s := range f.tenants {
		path := s.output()
		if out, err := exec.CommandContext(t.Context(), ourProgram(t), "restore", "-o", path, s.url).CombinedOutput(); err != nil {
			t.Fatalf("restore %s: %v\n%s", s.url, err, out)
		}
		if got := s.take(path); !bytes.Equal(got, s.images[s.newest()]) {
			t.Errorf("%s: the restored database differs", s.url)
		}
		out, err := exec.CommandContext(t.Context(), ourProgram(t), "ltx", s.url).CombinedOutput()
		if err != nil || !strings.Contains(string(out), s.newest().String()) {
			t.Errorf("ltx %s: %v\n%s", s.url, err, out)
		}
	}
}
