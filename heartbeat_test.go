package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// transport answers requests without a network.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(code int) (*http.Response, error) {
	return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader("ok")), Header: http.Header{}}, nil
}

func TestHeartbeat_Schedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var pings []time.Duration
		var waits atomic.Bool
		var code atomic.Int64
		code.Store(200)
		var log bytes.Buffer
		h := &litestream.Heartbeat{
			URL: "https://u:pw@hc.example/secret?x=secret", Interval: time.Minute,
			Check: func(maxAge time.Duration) error {
				if maxAge != time.Minute {
					t.Errorf("checked for %s, want the interval", maxAge)
				}
				if waits.Load() {
					return errors.New("a waits")
				}
				return nil
			},
			Client: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
				pings = append(pings, time.Since(start))
				return answer(int(code.Load()))
			})},
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: dropTime})),
		}
		h.Open(t.Context())
		time.Sleep(2*time.Minute + 20*time.Second) // at 15 s, 75 s, 135 s
		synctest.Wait()
		waits.Store(true)
		time.Sleep(2 * time.Minute) // none; at 260 s all is well again
		synctest.Wait()
		waits.Store(false)
		code.Store(503)
		time.Sleep(90 * time.Second) // at 270 s and 330 s: they fail
		synctest.Wait()
		code.Store(204)
		time.Sleep(time.Minute) // at 390 s
		synctest.Wait()
		h.Close()
		h.Close()
		want := []time.Duration{15 * time.Second, 75 * time.Second, 135 * time.Second, 270 * time.Second, 330 * time.Second, 390 * time.Second}
		if diff := cmp.Diff(want, pings); diff != "" {
			t.Errorf("pings (-want +got):\n%s", diff)
		}
		wantLog := `level=INFO msg="starting heartbeat monitor" url=https://hc.example/*** interval=1m0s
level=WARN msg="heartbeat is withheld: not everything is replicated" reason="a waits"
level=INFO msg="heartbeat is sent again"
level=ERROR msg="heartbeat ping failed" url=https://hc.example/*** error="unexpected status code: 503"
level=INFO msg="heartbeat ping recovered" url=https://hc.example/***
`
		if diff := cmp.Diff(wantLog, log.String()); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
	})
}

func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// A service that does not answer holds nothing up: the request ends after its
// timeout, and Close ends it at once.
func TestHeartbeat_Hangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took []time.Duration
		h := &litestream.Heartbeat{
			URL: "http://hc.example/", Interval: time.Minute,
			Check: func(time.Duration) error { return nil },
			Client: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
				start := time.Now()
				<-r.Context().Done()
				took = append(took, time.Since(start))
				return nil, r.Context().Err()
			})},
			Logger: slog.New(slog.DiscardHandler),
		}
		h.Open(t.Context())
		time.Sleep(80 * time.Second) // the second request began at 75 s
		synctest.Wait()
		start := time.Now()
		h.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("Close took %s", d)
		}
		if diff := cmp.Diff([]time.Duration{30 * time.Second, 5 * time.Second}, took); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

func TestHeartbeat_Request(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.RawQuery != "a=b" {
			t.Errorf("got %s %s, want GET with the query", r.Method, r.URL)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok?a=b", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/gone", http.NotFound)
	mux.HandleFunc("/endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for _, tt := range []struct{ name, url, want string }{
		{"OK", srv.URL + "/ok?a=b", ""},
		{"Redirect", srv.URL + "/moved", ""},
		{"RedirectLoop", srv.URL + "/loop", "stopped after 10 redirects"},
		{"NotFound", srv.URL + "/gone", "unexpected status code: 404"},
		{"Endless", srv.URL + "/endless", ""},
		{"Refused", "http://127.0.0.1:1/token", "dial tcp 127.0.0.1:1: connect: connection refused"},
		{"Invalid", "http://%zz/token", "invalid url"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &litestream.Heartbeat{
				URL: tt.url, Interval: time.Hour, Logger: slog.New(slog.DiscardHandler),
				Check: func(time.Duration) error { return nil },
			}
			h.Open(t.Context())
			defer h.Close()
			var got string
			if err := h.Ping(t.Context()); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got error %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRedactHeartbeatURL(t *testing.T) {
	for url, want := range map[string]string{
		"https://hc-ping.com/7e0c-token":   "https://hc-ping.com/***",
		"https://hc.example":               "https://hc.example",
		"http://hc.example/":               "http://hc.example",
		"http://u:pw@hc.example:8080":      "http://hc.example:8080/***",
		"https://hc.example?token=secret":  "https://hc.example/***",
		"ftp://hc.example/a":               "ftp://hc.example/***",
		"secret":                           "***",
		"http://%zz/secret":                "***",
		"https://hc.example/\x7fsecret":    "***",
		"https://hc.example/?token=secret": "https://hc.example/***",
	} {
		if got := litestream.RedactHeartbeatURL(url); got != want {
			t.Errorf("RedactHeartbeatURL(%q) = %q, want %q", url, got, want)
		}
	}
}

// The health of listed databases: one by one, what keeps a heartbeat from
// being sent.
func TestStore_CheckHealth(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	client := testutil.NewMemClient()
	var away atomic.Bool
	client.Fail = func(op string, _ int, _, _ ltx.TXID) error {
		if away.Load() && op == testutil.OpWriteExclusive {
			return errors.New("away")
		}
		return nil
	}
	db := litestream.NewDB(path)
	db.MonitorInterval = 10 * time.Millisecond
	db.Replica = litestream.NewReplicaWithClient(db, client)
	db.Replica.SyncInterval = 10 * time.Millisecond
	store := litestream.NewStore([]*litestream.DB{db}, nil)
	if err := store.CheckHealth(time.Hour); err == nil {
		t.Error("healthy before it is open")
	}
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer store.Close(context.Background())
	healthy := func(maxAge time.Duration) func() bool {
		return func() bool { return store.CheckHealth(maxAge) == nil }
	}
	waitFor(t, "the first upload", healthy(time.Minute))

	away.Store(true)
	mustExec(t, app, "INSERT INTO t VALUES (1)")
	waitFor(t, "a change that waits", func() bool {
		err := store.CheckHealth(time.Millisecond)
		return err != nil && strings.Contains(err.Error(), path+": a change waits for its upload since ")
	})
	if err := store.CheckHealth(time.Hour); err != nil {
		t.Errorf("a young change: %v, want none", err)
	}
	away.Store(false)
	waitFor(t, "the upload", healthy(time.Second))

	missing := litestream.NewDB(filepath.Join(dir, "missing"))
	missing.MonitorInterval = 10 * time.Millisecond
	missing.Replica = litestream.NewReplicaWithClient(missing, testutil.NewMemClient())
	if err := store.AddDB(t.Context(), missing); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the missing file to be found missing", func() bool {
		err := store.CheckHealth(time.Minute)
		return err != nil && strings.HasSuffix(err.Error(), "missing: its file is missing")
	})
	if err := store.RemoveDB(t.Context(), missing.Path()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "health", healthy(time.Minute))
}
