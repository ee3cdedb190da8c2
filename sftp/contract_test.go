package sftp_test

import (
	"fmt"
	"path"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

// TestContract_OpenSSH runs the tests that every client passes on a real
// server.
func TestContract_OpenSSH(t *testing.T) {
	t.Parallel()
	srv := servers.SSHD(t)
	base := newClient(t, configOf(srv, ""))
	n := 0
	replicatest.Run(t, func(testing.TB) litestream.ReplicaClient {
		n++
		return base.WithPrefix(path.Join(srv.Dir, fmt.Sprintf("replica-%d", n)))
	}, replicatest.Options{Base: testing.TB.TempDir, Foreign: foreign})
}
