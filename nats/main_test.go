package nats_test

import (
	"path"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

const bucket = "litestream"

// newClient returns a client with a pool of its own, whose connections are
// closed when the test ends.
func newClient(tb testing.TB, cfg nats.Config, set ...func(*nats.Options)) *nats.ReplicaClient {
	tb.Helper()
	pool := &nats.Pool{}
	tb.Cleanup(pool.Close)
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

// start starts a server with a bucket.
func start(tb testing.TB) *servers.NATSServer {
	tb.Helper()
	srv := servers.NATS(tb, "")
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket})
	return srv
}

// foreign puts objects into the bucket behind a client, with the library's own
// object store.
func foreign(srv *servers.NATSServer) replicatest.Foreign {
	store := func(tb testing.TB, c litestream.ReplicaClient) (jetstream.ObjectStore, func()) {
		tb.Helper()
		js, done := srv.JetStream()
		s, err := js.ObjectStore(tb.Context(), c.(*nats.ReplicaClient).Bucket)
		if err != nil {
			tb.Fatal(err)
		}
		return s, done
	}
	key := func(c litestream.ReplicaClient, level int, name string) string {
		return path.Join(c.(*nats.ReplicaClient).Path, "ltx", strconv.Itoa(level), name)
	}
	return replicatest.Foreign{
		Put: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) {
			tb.Helper()
			s, done := store(tb, c)
			defer done()
			if _, err := s.PutString(tb.Context(), key(c, level, name), "x"); err != nil {
				tb.Fatal(err)
			}
		},
		Has: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) bool {
			tb.Helper()
			s, done := store(tb, c)
			defer done()
			_, err := s.GetInfo(tb.Context(), key(c, level, name))
			return err == nil
		},
	}
}
