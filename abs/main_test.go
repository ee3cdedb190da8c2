package abs_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

const bucket = "litestream"

// accountKey is any key; fake servers check none.
const accountKey = "c2VjcmV0LWtleQ=="

// newClient returns a client with a pool of its own, whose connections are
// closed when the test ends.
func newClient(tb testing.TB, endpoint, path string, set ...func(*abs.Options)) *abs.ReplicaClient {
	tb.Helper()
	pool := &abs.Pool{}
	tb.Cleanup(pool.CloseIdleConnections)
	c, err := pool.Get(abs.Config{AccountName: "acct", AccountKey: accountKey, Bucket: bucket, Path: path, Endpoint: endpoint})
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

// xmlError answers like the service does when something is wrong.
func xmlError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>test\nRequestId:1</Message></Error>", code)
}

// storm answers that the service is busy.
func storm(_ *servers.HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
	io.Copy(io.Discard, r.Body)
	xmlError(w, http.StatusServiceUnavailable, "ServerBusy")
	return true
}
