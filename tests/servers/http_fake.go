package servers

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
)

// FakeHTTP is an HTTP server that answers by a function of the test and
// remembers what it was asked. It is safe for concurrent use, and gone when the
// test ends.
type FakeHTTP struct {
	URL string // without a path

	mu   sync.Mutex // guards the rest
	seen []*http.Request
	busy int // requests that are being answered
	most int
}

// NewFakeHTTP starts a server on loopback. The handler gets requests whose body
// has arrived.
func NewFakeHTTP(tb testing.TB, handler http.HandlerFunc) *FakeHTTP {
	tb.Helper()
	f := &FakeHTTP{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		kept := r.Clone(context.WithoutCancel(r.Context()))
		kept.Body = io.NopCloser(bytes.NewReader(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
		f.begin(kept)
		defer f.end()
		handler(w, r)
	}))
	f.URL = srv.URL
	tb.Cleanup(srv.Close)
	return f
}

func (f *FakeHTTP) begin(r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, r)
	f.busy++
	f.most = max(f.most, f.busy)
}

func (f *FakeHTTP) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy--
}

// Most returns how many requests there were at the same time.
func (f *FakeHTTP) Most() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.most
}

// Seen returns the requests so far with one of the methods, or all of them if
// none is named. Their bodies can be read once.
func (f *FakeHTTP) Seen(methods ...string) []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.seen), func(r *http.Request) bool {
		return len(methods) > 0 && !slices.Contains(methods, r.Method)
	})
}
