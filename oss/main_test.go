package oss_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/fakeoss"
	"github.com/benbjohnson/litestream/internal/testutil"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

const (
	bucket    = "litestream"
	keyID     = "testkey" // what servers.OSS accepts
	keySecret = "testsecret123"
)

// newServer starts a server with a bucket.
func newServer(tb testing.TB, set ...func(*fakeoss.Options)) *servers.OSSServer {
	tb.Helper()
	s := servers.OSS(tb, set...)
	s.CreateBucket(bucket, false)
	return s
}

func serve(tb testing.TB, h http.Handler) *httptest.Server {
	tb.Helper()
	srv := httptest.NewServer(h)
	tb.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv
}

// newClient returns a client with a pool of its own, whose connections are
// closed when the test ends.
func newClient(tb testing.TB, endpoint, path string, set ...func(*oss.Options)) *oss.ReplicaClient {
	tb.Helper()
	pool := &oss.Pool{}
	tb.Cleanup(pool.CloseIdleConnections)
	c, err := pool.Get(oss.Config{Bucket: bucket, Path: path, Endpoint: endpoint, AccessKeyID: keyID, AccessKeySecret: keySecret})
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

// answer is a server that gives one answer to every request.
func answer(tb testing.TB, status int, header map[string]string, body string) string {
	tb.Helper()
	return serve(tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for name, value := range header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	})).URL
}

// errorXML is what the service says when something is wrong.
func errorXML(code string) string {
	return "<?xml version=\"1.0\"?><Error><Code>" + code + "</Code><Message>message of " + code + "</Message></Error>"
}

func hasQuery(m, name string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m && r.URL.Query().Has(name) }
}

// storm answers that the service is busy.
func storm(_ *servers.HTTPProxy, w http.ResponseWriter, r *http.Request) bool {
	io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, errorXML("ServiceUnavailable"))
	return true
}
