package webdav_test

import (
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

func TestContract_Lighttpd(t *testing.T) {
	t.Parallel()
	contract(t, servers.Lighttpd(t), false)
}

// TestContract_Nginx leaves out the races: nginx looks and moves in two steps.
func TestContract_Nginx(t *testing.T) {
	t.Parallel()
	contract(t, servers.Nginx(t), true)
}

// racy hides what a server without atomic moves cannot promise.
type racy struct {
	litestream.ReplicaClient
	litestream.TreeLister
}

// WithPrefix implements litestream.Prefixer.
func (r racy) WithPrefix(path string) litestream.ReplicaClient {
	return newRacy(r.ReplicaClient.(*webdav.ReplicaClient).WithPrefix(path))
}

func newRacy(c litestream.ReplicaClient) racy {
	return racy{ReplicaClient: c, TreeLister: c.(litestream.TreeLister)}
}
