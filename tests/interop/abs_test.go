package interop_test

import (
	"fmt"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/tests/servers"
)

// onABS puts the replica of a scene on a server. Upstream knows Azure's own
// endpoint alone by URL, so it restores by its configuration.
func (s *scene) onABS(srv *servers.AzureServer) {
	s.t.Helper()
	srv.CreateContainer(bucket)
	var pool abs.Pool
	s.t.Cleanup(pool.CloseIdleConnections)
	s.client = func() litestream.ReplicaClient {
		c, err := pool.Get(abs.Config{
			AccountName: srv.AccountName, AccountKey: srv.AccountKey, Bucket: bucket, Path: "some/app.db", Endpoint: srv.Endpoint,
		})
		if err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	s.yaml = fmt.Sprintf("type: abs\nbucket: %s\npath: some/app.db\nendpoint: %s\naccount-name: %s", bucket, srv.Endpoint, srv.AccountName)
	s.env, s.noURL = srv.Env(), true
}

// TestABS trades a replica on a server of Azure's protocol.
func TestABS(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.onABS(servers.Azurite(t))
	s.trade()
	t.Logf("%d targets restored with times", s.checkAll())
}
