package oss_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/oss"
)

func TestReplicaClient_Contract(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	var n atomic.Int64
	opts := replicatest.Options{
		PartSize: 256 << 10,
		Quick:    true, // TestReplicaClient_Multipart has larger ones
		Base:     func(testing.TB) string { return fmt.Sprintf("base%d", n.Add(1)) },
		Foreign: replicatest.Foreign{
			Put: func(_ testing.TB, c litestream.ReplicaClient, level int, name string) {
				srv.Put(bucket, foreignKey(c, level, name), []byte("x"))
			},
			Has: func(_ testing.TB, c litestream.ReplicaClient, level int, name string) bool {
				_, ok := srv.Get(bucket, foreignKey(c, level, name))
				return ok
			},
		},
	}
	replicatest.Run(t, func(tb testing.TB) litestream.ReplicaClient {
		tb.Helper()
		return newClient(tb, srv.Endpoint, fmt.Sprintf("some/db%d", n.Add(1)), func(o *oss.Options) { o.PartSize = opts.PartSize })
	}, opts)
	if n := srv.Uploads(bucket); n != 0 {
		t.Errorf("%d uploads are neither complete nor aborted", n)
	}
}

func foreignKey(c litestream.ReplicaClient, level int, name string) string {
	return fmt.Sprintf("%s/%04x/%s", c.(*oss.ReplicaClient).Path, level, name)
}
