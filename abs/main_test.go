package abs_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/abs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		kept.Body = io.NopCloser(strings.NewReader(string(body)))
		f.mu.Lock()
		f.requests = append(f.requests, kept)
		f.mu.Unlock()
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		handler(w, r)
	}))
	tb.Cleanup(f.Close)
	return f
}

// seen returns the requests so far.
func (f *fakeServer) seen() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*http.Request(nil), f.requests...)
}

// xmlError answers like the service does when something is wrong.
func xmlError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>test\nRequestId:1</Message></Error>", code)
}

// proxy stands between client and server and breaks what a test asks for.
type proxy struct {
	*httptest.Server
	target *url.URL
	client *http.Client
	fault  atomic.Pointer[fault]
	hits   atomic.Int64 // requests that met the fault
}

// A fault is done to the requests with its method while left lasts.
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
	storm                       // 503
	flip                        // one bit of the answer's body is another
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
	if f != nil && f.kind == storm {
		io.Copy(io.Discard, r.Body)
		xmlError(w, http.StatusServiceUnavailable, "ServerBusy")
		return
	}

	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host, out.Host = p.target.Scheme, p.target.Host, p.target.Host
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
	switch {
	case f == nil:
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
