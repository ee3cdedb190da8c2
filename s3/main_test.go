package s3_test

import (
	"fmt"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

// newClient returns a client with a pool of its own, whose connections are
// closed when the test ends.
func newClient(tb testing.TB, cfg s3.Config, set ...func(*s3.Options)) *s3.ReplicaClient {
	tb.Helper()
	pool := &s3.Pool{}
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

// fakeConfig leads to a server of the test.
func fakeConfig(srv *servers.FakeHTTP) s3.Config {
	return s3.Config{Bucket: "bkt", Path: "p", Endpoint: srv.URL, AccessKeyID: "a", SecretAccessKey: "b"}
}

// xmlError answers like S3 does when something is wrong.
func xmlError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>test</Message></Error>`, code)
}

var _ litestream.ReplicaClient = (*s3.ReplicaClient)(nil)
