package sftp_test

import (
	"os"
	"path"
	"path/filepath"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/sftp"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

// newClient returns a client with a pool of its own, whose connections are
// closed when the test ends.
func newClient(tb testing.TB, cfg sftp.Config, set ...func(*sftp.Options)) *sftp.ReplicaClient {
	tb.Helper()
	pool := &sftp.Pool{}
	tb.Cleanup(func() {
		if err := pool.Close(); err != nil {
			tb.Error(err)
		}
	})
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

func configOf(srv *servers.SFTPServer, folder string) sftp.Config {
	return sftp.Config{
		Host: srv.Addr, User: srv.User, KeyPath: srv.KeyPath, HostKey: srv.HostKey,
		Path: path.Join(srv.Dir, folder),
	}
}

// foreign puts files into the folder behind a client.
var foreign = replicatest.Foreign{
	Put: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) {
		tb.Helper()
		dir := levelDir(c, level)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			tb.Fatal(err)
		}
	},
	Has: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) bool {
		tb.Helper()
		_, err := os.Stat(filepath.Join(levelDir(c, level), name))
		return err == nil
	},
}

func levelDir(c litestream.ReplicaClient, level int) string {
	return filepath.Join(c.(*sftp.ReplicaClient).Path, "ltx", strconv.Itoa(level))
}
