package interop_test

import (
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/tests/servers"
)

// onGS puts the replica of a scene on a server.
func (s *scene) onGS(srv *servers.GCSServer) {
	s.t.Helper()
	srv.CreateBucket(bucket)
	var pool gs.Pool
	s.t.Cleanup(pool.CloseIdleConnections)
	s.client = func() litestream.ReplicaClient {
		c, err := pool.Get(gs.Config{Bucket: bucket, Path: "some/app.db"})
		if err != nil {
			s.t.Fatal(err)
		}
		c.Endpoint, c.Anonymous = srv.Endpoint, true
		return c
	}
	s.url = "gs://" + bucket + "/some/app.db"
	s.yaml = "type: gs\nbucket: " + bucket + "\npath: some/app.db"
	s.env = srv.Env()
}

// TestGS trades a replica on a server of Google Cloud Storage's protocol.
func TestGS(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.onGS(servers.FakeGCS(t, true))
	s.trade()
	t.Logf("%d targets restored with times", s.checkAll())
}

// TestGS_Path holds that both programs mean the same place by a path.
func TestGS_Path(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{
		"empty": "", "dot": ".", "slashes": "/lead/trail/", "unclean": "a//b/../c", "odd": "a b+%ä", "above": "../x",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.onGS(servers.FakeGCS(t, false))
			s.yaml = "type: gs\nbucket: " + bucket + "\npath: '" + path + "'"
			s.create(4096, "wal")
			c := s.client().(*gs.ReplicaClient)
			s.client = func() litestream.ReplicaClient { return c.WithPrefix(path) }
			d := s.theirsRun([]string{"1h"}, "")
			waitFor(t, "file of upstream at the path", func() bool { return len(s.listing()[0]) > 0 })
			d.stop()
		})
	}
}
