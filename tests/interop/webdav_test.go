package interop_test

import (
	"fmt"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

// onWebDAV puts the replica of a scene on a server.
func (s *scene) onWebDAV(srv *servers.WebDAVServer) {
	s.t.Helper()
	var pool webdav.Pool
	s.t.Cleanup(pool.CloseIdleConnections)
	s.client = func() litestream.ReplicaClient {
		c, err := pool.Get(webdav.Config{URL: srv.URL, Username: srv.Username, Password: srv.Password, Path: "some/app.db"})
		if err != nil {
			s.t.Fatal(err)
		}
		return c
	}
	s.yaml = fmt.Sprintf("type: webdav\nwebdav-url: %s\nwebdav-username: %q\nwebdav-password: %q\npath: some/app.db", srv.URL, srv.Username, srv.Password)
	s.noURL = true
}

func TestWebDAV(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *servers.WebDAVServer{
		"lighttpd": servers.Lighttpd, "nginx": servers.Nginx, "Apache": func(tb testing.TB) *servers.WebDAVServer { tb.Helper(); return servers.Apache(tb, false) }, "rclone": servers.Rclone,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.onWebDAV(start(t))
			s.trade()
		})
	}
}

// TestWebDAV_Outage takes the server away under load and brings it back.
func TestWebDAV_Outage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	srv := servers.Lighttpd(t)
	s.onWebDAV(srv)
	s.outage(srv.Stop, srv.Restart)
}
