package oss_test

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/fakeoss"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/tests/servers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// proxy stands between client and server and breaks what a test asks for.
type proxy struct {
	*httptest.Server
	target *url.URL
	client *http.Client
	fault  atomic.Pointer[fault]
	hits   atomic.Int64 // requests that met the fault
}

// A fault is done to the requests that match while left lasts.
type fault struct {
	match func(r *http.Request) bool
	kind  faultKind
	left  atomic.Int64
}

type faultKind int

const (
	cutAnswer   faultKind = iota // half of the answer's body arrives
	hangAnswer                   // half of the answer's body arrives, then nothing
	loseAnswer                   // the request is served, the connection is cut
	cutRequest                   // half of the request's body arrives
	flipRequest                  // one bit of the request's body is another
	storm                        // 503
	flip                         // one bit of the answer's body is another
)

func newProxy(tb testing.TB, target string) *proxy {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{target: u, client: &http.Client{Transport: &http.Transport{DisableCompression: true}}}
	p.Server = serve(tb, p)
	tb.Cleanup(p.client.CloseIdleConnections)
	return p
}

// breakNext does a fault to the next n requests that match.
func (p *proxy) breakNext(n int64, kind faultKind, match func(r *http.Request) bool) {
	f := &fault{match: match, kind: kind}
	f.left.Store(n)
	p.hits.Store(0)
	p.fault.Store(f)
}

func method(m string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m }
}

func hasQuery(m, name string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m && r.URL.Query().Has(name) }
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := p.fault.Load()
	if f == nil || !f.match(r) || f.left.Add(-1) < 0 {
		f = nil
	} else {
		p.hits.Add(1)
	}
	if f != nil && f.kind == storm {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, errorXML("ServiceUnavailable"))
		return
	}

	out := r.Clone(r.Context())
	out.RequestURI = ""
	// The signature names the bucket, not the host, of an address.
	out.URL.Scheme, out.URL.Host, out.Host = p.target.Scheme, p.target.Host, p.target.Host
	if f != nil && f.kind == cutRequest {
		out.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, r.ContentLength/2), brokenReader{}))
	}
	if f != nil && f.kind == flipRequest {
		out.Body = io.NopCloser(&flippedReader{r: r.Body})
	}
	resp, err := p.client.Do(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	if f != nil && f.kind == loseAnswer {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	switch {
	case f == nil || f.kind == flipRequest:
		io.Copy(w, resp.Body)
	case f.kind == flip:
		body, _ := io.ReadAll(resp.Body)
		body[len(body)/2] ^= 1
		w.Write(body)
	default:
		io.CopyN(w, resp.Body, resp.ContentLength/2)
		http.NewResponseController(w).Flush()
		if f.kind == hangAnswer {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

// flippedReader changes the first byte that it reads.
type flippedReader struct {
	r    io.Reader
	done bool
}

func (f *flippedReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if n > 0 && !f.done {
		f.done = true
		p[0] ^= 1
	}
	return n, err
}
