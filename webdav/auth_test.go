package webdav_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/icholy/digest"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

// guard asks for credentials before a request gets any further.
type guard struct {
	challenges []string // nil: Basic
	next       http.Handler

	mu       sync.Mutex
	nonce    string
	schemes  []string // of the requests, "" for none
	refusals int
	unread   int64 // bytes sent with refused requests
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	g.schemes = append(g.schemes, scheme)
	ok := false
	switch scheme {
	case "Basic":
		user, password, _ := r.BasicAuth()
		ok = len(g.challenges) == 0 && user == "davuser" && password == "davpass"
	case "Digest":
		c, err := digest.ParseCredentials(r.Header.Get("Authorization"))
		if err == nil && c.Nonce == g.nonce && c.URI == r.RequestURI {
			want, err := digest.Digest(&digest.Challenge{Realm: "dav", Nonce: g.nonce, QOP: []string{c.QOP}, Algorithm: c.Algorithm},
				digest.Options{Method: r.Method, URI: r.RequestURI, Count: c.Nc, Cnonce: c.Cnonce, Username: "davuser", Password: "davpass"})
			ok = err == nil && want.Response == c.Response
		}
	}
	if !ok {
		g.refusals++
		g.unread += max(0, r.ContentLength)
		for _, c := range g.challenges {
			w.Header().Add("WWW-Authenticate", strings.ReplaceAll(c, "NONCE", g.nonce))
		}
		if len(g.challenges) == 0 {
			w.Header().Set("WWW-Authenticate", `Basic realm="dav"`)
		}
	}
	g.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	g.next.ServeHTTP(w, r)
}

// TestAuth asks a server how it wants the credentials before it is given any.
func TestAuth(t *testing.T) {
	t.Parallel()
	const md5, sha256, basic = `Digest realm="dav", nonce="NONCE", qop="auth"`, `Digest realm="dav", nonce="NONCE", algorithm=SHA-256, qop="auth"`, `Basic realm="dav"`
	for _, tt := range []struct {
		name       string
		challenges []string
		want       string // scheme of all requests but the first
		refusals   int
	}{
		{"Basic", nil, "Basic", 1},
		{"MD5", []string{md5}, "Digest", 2}, // and once when the nonce is another one
		{"SHA256", []string{sha256, md5}, "Digest", 2},
		{"Both", []string{basic, md5}, "Digest", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := &guard{challenges: tt.challenges, nonce: "first", next: newDAV(nil)}
			srv := httptest.NewServer(g)
			t.Cleanup(srv.Close)
			c := newClient(t, webdav.Config{URL: srv.URL, Username: "davuser", Password: "davpass", Path: "a b/r"})
			data := replicatest.File(t, 1, 1, 100_000, 0)
			replicatest.Write(t, c, 0, 1, 1, data)
			g.mu.Lock()
			g.nonce = "second"
			g.mu.Unlock()
			if got, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d bytes of %d, err=%v", len(got), len(data), err)
			}
			for i, scheme := range g.schemes {
				if i == 0 && scheme != "" || i > 0 && scheme != tt.want {
					t.Errorf("request %d has credentials %q", i, scheme)
				}
			}
			if g.refusals != tt.refusals || g.unread != 0 {
				t.Errorf("%d requests refused, with %d bytes, want %d and 0", g.refusals, g.unread, tt.refusals)
			}
		})
	}
}

// TestRefused names what is wrong, without the password.
func TestRefused(t *testing.T) {
	t.Parallel()
	for name, digest := range map[string]bool{"Basic": false, "Digest": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := servers.Apache(t, digest)
			cfg := configOf(srv, "r")
			cfg.Password = "secret-guess"
			c := newClient(t, cfg)
			_, err := c.LTXFiles(t.Context(), 0, 0, false)
			if !litestream.IsPermanent(err) || !strings.Contains(err.Error(), "webdav-password") || strings.Contains(err.Error(), "secret-guess") {
				t.Errorf("err=%v", err)
			}
			srv.Stop()
			if _, err = newClient(t, configOf(srv, "r")).LTXFiles(t.Context(), 0, 0, false); err == nil || litestream.IsPermanent(err) {
				t.Errorf("a server that is away: err=%v", err)
			}
		})
	}
}
