package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/s3"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// fakeServer answers requests by a function and remembers them.
type fakeServer struct {
	*httptest.Server

	mu       sync.Mutex // guards requests
	requests []*http.Request
}

func newFakeServer(tb testing.TB, handler http.HandlerFunc) *fakeServer {
	tb.Helper()
	f := &fakeServer{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		kept := r.Clone(context.WithoutCancel(r.Context()))
		kept.Body = io.NopCloser(bytes.NewReader(body))
		f.mu.Lock()
		f.requests = append(f.requests, kept)
		f.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler(w, r)
	}))
	tb.Cleanup(f.Close)
	return f
}

func (f *fakeServer) config() s3.Config {
	return s3.Config{Bucket: "bkt", Path: "p", Endpoint: f.URL, AccessKeyID: "a", SecretAccessKey: "b"}
}

// seen returns the requests with a method, or all of them.
func (f *fakeServer) seen(method string) []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	var a []*http.Request
	for _, r := range f.requests {
		if method == "" || r.Method == method {
			a = append(a, r)
		}
	}
	return a
}

// xmlError answers like S3 does when something is wrong.
func xmlError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>test</Message></Error>`, code)
}

// proxy stands between client and server and breaks what a test asks for.
type proxy struct {
	*httptest.Server
	target *url.URL
	client *http.Client
	fault  atomic.Pointer[fault]
	hits   atomic.Int64 // requests that met the fault
}

// A fault is done to the requests with its method while n lasts.
type fault struct {
	method string
	kind   faultKind
	left   atomic.Int64
}

type faultKind int

const (
	cutAnswer  faultKind = iota // half of the answer's body arrives
	hangAnswer                  // half of the answer's body arrives, then nothing
	loseAnswer                  // the request is served, the connection is cut
	cutRequest                  // half of the request's body arrives
	hang                        // nothing arrives
)

func newProxy(tb testing.TB, target string) *proxy {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{target: u, client: &http.Client{Transport: &http.Transport{DisableCompression: true}}}
	p.Server = httptest.NewServer(p)
	tb.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
		p.client.CloseIdleConnections()
	})
	return p
}

// breakNext does a fault to the next n requests with that method.
func (p *proxy) breakNext(n int64, method string, kind faultKind) {
	f := &fault{method: method, kind: kind}
	f.left.Store(n)
	p.hits.Store(0)
	p.fault.Store(f)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := p.fault.Load()
	if f == nil || f.method != r.Method || f.left.Add(-1) < 0 {
		f = nil
	} else {
		p.hits.Add(1)
	}
	if f != nil && f.kind == hang {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}

	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = p.target.Scheme, p.target.Host // Host stays: it is signed
	out.Header.Del("Expect")
	if f != nil && f.kind == cutRequest {
		out.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, r.ContentLength/2), brokenReader{}))
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
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(resp.ContentLength))
	}
	w.WriteHeader(resp.StatusCode)
	if f != nil {
		io.CopyN(w, resp.Body, resp.ContentLength/2)
		http.NewResponseController(w).Flush()
		if f.kind == hangAnswer {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
	io.Copy(w, resp.Body)
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

var _ litestream.ReplicaClient = (*s3.ReplicaClient)(nil)
