package gs_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

const bucket = "litestream"

// newClient returns a client with a pool of its own, whose connections are
// closed when the test ends.
func newClient(tb testing.TB, endpoint, path string, set ...func(*gs.Options)) *gs.ReplicaClient {
	tb.Helper()
	pool := &gs.Pool{}
	tb.Cleanup(pool.CloseIdleConnections)
	c, err := pool.Get(gs.Config{Bucket: bucket, Path: path})
	if err != nil {
		tb.Fatal(err)
	}
	c.Endpoint, c.Anonymous = endpoint, true
	for _, f := range set {
		f(&c.Options)
	}
	if err := c.Init(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return c
}

// jsonError answers like the service does when something is wrong.
func jsonError(w http.ResponseWriter, status int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"errors":[{"reason":%q}]}}`, status, message, reason)
}

// storm answers that the service is busy.
func storm(_ *servers.HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
	io.Copy(io.Discard, r.Body)
	jsonError(w, http.StatusServiceUnavailable, "backendError", "busy")
	return true
}
