package webdav_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

// TestLighttpd_Cut cuts the connections after a random number of bytes, again
// and again. Whatever was acknowledged is there, whole, and nothing else.
func TestLighttpd_Cut(t *testing.T) {
	t.Parallel()
	srv := servers.Lighttpd(t)
	proxy := servers.NewProxy(t, srv.Addr)
	cfg := configOf(srv, "r")
	cfg.URL = "http://" + proxy.Addr
	c := newClient(t, cfg)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	const rounds = 40
	acked := map[ltx.TXID]bool{}
	for i := range rounds {
		txid := ltx.TXID(i + 1)
		data := replicatest.File(t, txid, txid, 200+rnd.IntN(1_000_000), 0)
		proxy.CutAfter(1 + rnd.Int64N(int64(len(data))+2000))
		_, err := c.WriteLTXFile(t.Context(), 0, txid, txid, io.MultiReader(bytes.NewReader(data)))
		if acked[txid] = err == nil; err != nil && litestream.IsPermanent(err) {
			t.Errorf("%v is permanent", err)
		}
		proxy.CutAfter(1 + rnd.Int64N(int64(len(data))))
		got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0)
		switch {
		case err != nil && !acked[txid] && errors.Is(err, fs.ErrNotExist):
		case err != nil:
			t.Errorf("read %s: %v", txid, err)
		case !bytes.Equal(got, data):
			t.Errorf("read %s: %d bytes, want %d", txid, len(got), len(data))
		}
	}
	proxy.CutAfter(-1)
	for _, info := range replicatest.List(t, c, 0, 0, true) {
		delete(acked, info.MinTXID)
	}
	failed := 0
	for txid, ok := range acked {
		if ok {
			t.Errorf("%s was acknowledged and is missing", txid)
		}
		failed++
	}
	if failed > rounds/2 || proxy.Cuts() < rounds/2 {
		t.Errorf("%d of %d writes failed at %d cuts", failed, rounds, proxy.Cuts())
	}
	t.Logf("%d cuts, %d of %d writes failed", proxy.Cuts(), failed, rounds)
}

// TestLighttpd_Hang stops all bytes: a canceled request ends at once, one that
// waits ends by itself, and a read goes on when bytes flow. Only who asks the
// silent server is impatient: on a busy machine one that answers is slow, too.
func TestLighttpd_Hang(t *testing.T) {
	t.Parallel()
	srv := servers.Lighttpd(t)
	proxy := servers.NewProxy(t, srv.Addr)
	cfg := configOf(srv, "r")
	cfg.URL = "http://" + proxy.Addr
	c := newClient(t, cfg)
	impatient := newClient(t, cfg, func(o *webdav.Options) { o.ResponseTimeout = 300 * time.Millisecond })
	data := replicatest.File(t, 1, 1, 20_000_000, 0)
	replicatest.Write(t, c, 0, 1, 1, data)
	rc, err := c.OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	proxy.Hang()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.LTXFiles(ctx, 0, 0, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err=%v, want context.DeadlineExceeded", err)
	}
	if _, err := c.WriteLTXFile(ctx, 0, 2, 2, bytes.NewReader(data)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err=%v, want context.DeadlineExceeded", err)
	}
	if d := time.Since(began); d > blob.DefaultResponseTimeout/2 {
		t.Errorf("canceled requests took %s", d)
	}
	if _, err := impatient.LTXFiles(t.Context(), 0, 0, false); err == nil || litestream.IsPermanent(err) {
		t.Errorf("a server that never answers: err=%v", err)
	}
	proxy.Cut()
	proxy.Resume()
	got, err := io.ReadAll(rc)
	if err := errors.Join(err, rc.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read on: %d bytes of %d, err=%v", len(got), len(data), err)
	}
}

// TestAnswers holds what becomes of answers that real servers give rarely.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status    int
		header    string // Retry-After
		requests  int64
		permanent bool
		want      string
	}{
		{http.StatusInsufficientStorage, "", 1, false, "full"},
		{http.StatusForbidden, "", 1, true, "allow this user"},
		{http.StatusMethodNotAllowed, "", 1, true, "does not serve WebDAV"},
		{http.StatusMovedPermanently, "", 1, true, "correct webdav-url"},
		{http.StatusOK, "", 1, true, "no listing"},
		{http.StatusTooManyRequests, "600", 1, false, "HTTP429"},
		{http.StatusLocked, "", 6, false, "lock"},
	} {
		t.Run(fmt.Sprint(tt.status), func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n.Add(1)
				if tt.header != "" {
					w.Header().Set("Retry-After", tt.header)
				}
				w.WriteHeader(tt.status)
			}))
			t.Cleanup(srv.Close)
			c := newClient(t, webdav.Config{URL: srv.URL, Path: "p"})
			_, err := c.LTXFiles(t.Context(), 0, 0, false)
			if err == nil || litestream.IsPermanent(err) != tt.permanent || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err=%v, want permanent=%t and %q", err, tt.permanent, tt.want)
			}
			if got := n.Load(); got != tt.requests {
				t.Errorf("%d requests, want %d", got, tt.requests)
			}
		})
	}
}

// TestTruncated gives no name to a file of which the server has less, and takes
// no listing for whole that is cut.
func TestTruncated(t *testing.T) {
	t.Parallel()
	var moved atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPut:
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusCreated)
		case http.MethodHead:
			w.Header().Set("Content-Length", "100")
		case "MOVE":
			moved.Store(true)
		case "PROPFIND":
			w.WriteHeader(http.StatusMultiStatus)
			fmt.Fprint(w, `<D:multistatus xmlns:D="DAV:"><D:response><D:href>/p/ltx/0/x</D:href></D:response>`)
		}
	}))
	t.Cleanup(srv.Close)
	c := newClient(t, webdav.Config{URL: srv.URL, Path: "p"})
	_, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 100_000, 0)))
	if err == nil || !strings.Contains(err.Error(), "server has 100 of 100000 bytes") || moved.Load() {
		t.Errorf("err=%v, moved=%t", err, moved.Load())
	}
	if _, err := c.LTXFiles(t.Context(), 0, 0, false); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("cut listing: err=%v", err)
	}
}

// TestDeletedMeanwhile lists a file that the server refuses while it is being
// deleted, and one that it goes on to refuse.
func TestDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, then := range []int{http.StatusNotFound, http.StatusForbidden} {
		var n atomic.Int64
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == "PROPFIND":
				w.WriteHeader(http.StatusMultiStatus)
				fmt.Fprint(w, `<D:multistatus xmlns:D="DAV:"><D:response><D:href>/p/ltx/0/0000000000000001-0000000000000001.ltx</D:href>`+
					`<D:propstat><D:prop><D:getcontentlength>100</D:getcontentlength><D:resourcetype/></D:prop>`+
					`<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>`)
			case n.Add(1) == 1:
				w.WriteHeader(http.StatusForbidden)
			default:
				w.WriteHeader(then)
			}
		}))
		t.Cleanup(srv.Close)
		c := newClient(t, webdav.Config{URL: srv.URL, Path: "p"})
		it, err := c.LTXFiles(t.Context(), 0, 0, true)
		switch {
		case then == http.StatusForbidden:
			if !litestream.IsPermanent(err) {
				t.Errorf("refused twice: err=%v, want one that lasts", err)
			}
		case err != nil:
			t.Errorf("deleted meanwhile: %v", err)
		case it.Next():
			t.Errorf("deleted meanwhile: listed %v", it.Item())
		}
		if got := n.Load(); got != 2 {
			t.Errorf("%d requests for the file, want 2", got)
		}
	}
}

// TestEarlyRefusal writes to a server that resets the connection of an upload
// into a folder it misses, as soon as it has read the request's header: its
// answer never arrives.
func TestEarlyRefusal(t *testing.T) {
	t.Parallel()
	var folders, resets atomic.Int64
	var size atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPut:
			if folders.Load() == 0 {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				resets.Add(1)
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
				return
			}
			n, _ := io.Copy(io.Discard, r.Body)
			size.Store(n)
			w.WriteHeader(http.StatusCreated)
		case "MKCOL":
			folders.Add(1)
			w.WriteHeader(http.StatusCreated)
		case http.MethodHead:
			w.Header().Set("Content-Length", fmt.Sprint(size.Load()))
		}
	}))
	t.Cleanup(srv.Close)
	c := newClient(t, webdav.Config{URL: srv.URL, Path: "p"})
	const n = 4_000_000 // more than the sockets hold
	info, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, n, 0)))
	if err != nil || info.Size != n || size.Load() != n {
		t.Errorf("info=%+v, err=%v, server has %d bytes, want %d", info, err, size.Load(), n)
	}
	if resets.Load() == 0 || folders.Load() == 0 {
		t.Errorf("%d resets, %d folders made, want some", resets.Load(), folders.Load())
	}
}

// TestSweep removes what a crash left, once the process has written itself.
func TestSweep(t *testing.T) {
	t.Parallel()
	srv := servers.Lighttpd(t)
	c := newClient(t, configOf(srv, "r"))
	replicatest.Sweep(t, c, levelDir(srv, c, 0))
}
