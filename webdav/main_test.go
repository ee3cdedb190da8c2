package webdav_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

// newClient returns a client with a pool of its own, whose connections are
// closed when the test ends.
func newClient(tb testing.TB, cfg webdav.Config, set ...func(*webdav.Options)) *webdav.ReplicaClient {
	tb.Helper()
	pool := &webdav.Pool{}
	tb.Cleanup(pool.CloseIdleConnections)
	c, err := pool.Get(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range set {
		f(&c.Options)
	}
	if err := c.Init(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return c
}

func configOf(srv *servers.WebDAVServer, folder string) webdav.Config {
	return webdav.Config{URL: srv.URL, Username: srv.Username, Password: srv.Password, Path: folder}
}

// contract runs the tests that every client passes on a server.
func contract(t *testing.T, srv *servers.WebDAVServer, opts replicatest.Options) {
	t.Helper()
	base := newClient(t, configOf(srv, ""))
	n := 0
	opts.Quick = true
	opts.Base = func(testing.TB) string {
		n++
		return fmt.Sprintf("/base-%d", n)
	}
	opts.Foreign = replicatest.Foreign{
		Put: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) {
			tb.Helper()
			dir := levelDir(srv, c, level)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				tb.Fatal(err)
			}
			// The server may be of another user.
			for d := dir; d != srv.Dir; d = filepath.Dir(d) {
				if err := os.Chmod(d, 0o777); err != nil {
					tb.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
				tb.Fatal(err)
			}
		},
		Has: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) bool {
			tb.Helper()
			_, err := os.Stat(filepath.Join(levelDir(srv, c, level), name))
			return err == nil
		},
	}
	replicatest.Run(t, func(testing.TB) litestream.ReplicaClient {
		n++
		return base.WithPrefix(fmt.Sprintf("some folder/replica-%d", n))
	}, opts)
}

func levelDir(srv *servers.WebDAVServer, c litestream.ReplicaClient, level int) string {
	return filepath.Join(srv.Dir, c.(*webdav.ReplicaClient).Path, "ltx", strconv.Itoa(level))
}
