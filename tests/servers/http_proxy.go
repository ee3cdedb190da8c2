package servers

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// HTTPProxy stands between clients and an HTTP server, and does to requests and
// answers what a test asks for. It is safe for concurrent use, and gone when
// the test ends.
type HTTPProxy struct {
	URL  string // where it listens, without a path
	Addr string // the same as host:port

	target   *url.URL
	server   *httptest.Server
	client   *http.Client
	fault    atomic.Pointer[setFault]
	requests atomic.Int64

	mu  sync.Mutex // guards rng
	rng *rand.Rand
}

// An HTTPFault is done to a request. It reports whether it was: otherwise the
// request is served as if there were no fault.
type HTTPFault func(p *HTTPProxy, w http.ResponseWriter, r *http.Request) bool

// A setFault is one fault and the requests that met it. One still under way when
// the next fault is set counts here, not there.
type setFault struct {
	do   HTTPFault // nil: none
	hits atomic.Int64
}

// NewHTTPProxy returns a proxy for the server at a base URL, of which only
// scheme and host count. What is random in its faults follows from the seed.
func NewHTTPProxy(tb testing.TB, target string, seed uint64) *HTTPProxy {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	p := &HTTPProxy{
		target: u, rng: rand.New(rand.NewPCG(seed, 1)),
		client: &http.Client{
			Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	p.Break(nil)
	p.server = httptest.NewServer(p)
	p.URL, p.Addr = p.server.URL, p.server.Listener.Addr().String()
	tb.Cleanup(func() {
		p.server.CloseClientConnections()
		p.server.Close()
		p.client.CloseIdleConnections()
	})
	return p
}

// Break does a fault to every request from now on; nil heals. The count of Hits
// begins anew.
func (p *HTTPProxy) Break(f HTTPFault) { p.fault.Store(&setFault{do: f}) }

// Hits returns how many requests met the fault that was set last.
func (p *HTTPProxy) Hits() int { return int(p.fault.Load().hits.Load()) }

// Requests returns how many requests there were.
func (p *HTTPProxy) Requests() int { return int(p.requests.Load()) }

// ServeHTTP implements http.Handler.
func (p *HTTPProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	if f := p.fault.Load(); f.do != nil && p.meet(f, w, r) {
		return
	}
	resp := p.forward(r, r.Body, r.ContentLength)
	defer resp.Body.Close()
	p.copyHeader(w, r, resp, resp.ContentLength)
	_, _ = io.Copy(w, resp.Body) // whoever breaks off is noticed by the other side
}

// meet does a fault to a request, if it is one for it.
func (p *HTTPProxy) meet(f *setFault, w http.ResponseWriter, r *http.Request) (met bool) {
	met = true // unless it says otherwise: one that cuts the connection does not come back
	defer func() {
		if met {
			f.hits.Add(1)
		}
	}()
	return f.do(p, w, r)
}

// forward sends a request on with a body and its declared length. The name that
// the client knows the server by stays, as it is signed.
func (p *HTTPProxy) forward(r *http.Request, body io.Reader, length int64) *http.Response {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = p.target.Scheme, p.target.Host
	out.Body, out.ContentLength = io.NopCloser(body), length
	if length == 0 {
		out.Body = http.NoBody
	}
	resp, err := p.client.Do(out)
	if err != nil {
		panic(http.ErrAbortHandler) // as if nobody listened
	}
	return resp
}

// copyHeader passes on what an answer begins with. A link to the server itself,
// such as that of an upload session, becomes one to where the client asked.
func (p *HTTPProxy) copyHeader(w http.ResponseWriter, r *http.Request, resp *http.Response, length int64) {
	maps.Copy(w.Header(), resp.Header)
	if loc := resp.Header.Get("Location"); loc != "" {
		w.Header().Set("Location", strings.Replace(loc, p.target.Scheme+"://"+p.target.Host, "http://"+r.Host, 1))
	}
	if length >= 0 && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotModified {
		w.Header().Set("Content-Length", fmt.Sprint(length))
	}
	w.WriteHeader(resp.StatusCode)
}

// below returns a random number from 0 to n-1.
func (p *HTTPProxy) below(n int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rng.Int64N(n)
}
