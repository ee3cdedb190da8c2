package nats_test

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/nats"
)

// TestContract_Bucket runs the tests that every client passes with a bucket for
// each database, as Litestream v0.5 has it.
func TestContract_Bucket(t *testing.T) {
	t.Parallel()
	srv := start(t)
	base := newClient(t, nats.Config{Server: srv.Addr, Bucket: bucket})
	n := 0
	replicatest.Run(t, func(testing.TB) litestream.ReplicaClient {
		n++
		name := fmt.Sprintf("replica-%d", n)
		srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: name})
		c := base.WithPrefix("").(*nats.ReplicaClient)
		c.Bucket = name
		return c
	}, replicatest.Options{PartSize: 128 << 10, Foreign: foreign(srv)})
}

// TestContract_Path runs them with one bucket for all.
func TestContract_Path(t *testing.T) {
	t.Parallel()
	srv := start(t)
	base := newClient(t, nats.Config{Server: srv.Addr, Bucket: bucket})
	n := 0
	replicatest.Run(t, func(testing.TB) litestream.ReplicaClient {
		n++
		return base.WithPrefix(fmt.Sprintf("fleet/replica %d", n))
	}, replicatest.Options{
		PartSize: 128 << 10, Quick: true, Foreign: foreign(srv),
		Base: func(testing.TB) string { n++; return fmt.Sprintf("base.%d", n) },
	})
}
