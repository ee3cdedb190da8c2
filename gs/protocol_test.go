package gs_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

func encodedCRC(b []byte) string {
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// stored answers an upload of data.
func stored(w http.ResponseWriter, data []byte) {
	fmt.Fprintf(w, `{"name":"k","size":"%d","crc32c":%q,"generation":"1"}`, len(data), encodedCRC(data))
}

func write(t *testing.T, c *gs.ReplicaClient, exclusive bool) error {
	t.Helper()
	r := bytes.NewReader(replicatest.File(t, 1, 1, 500, 0))
	var err error
	if exclusive {
		_, err = c.WriteLTXFileExclusive(t.Context(), 0, 1, 1, r)
	} else {
		_, err = c.WriteLTXFile(t.Context(), 0, 1, 1, r)
	}
	return err
}

func TestReplicaClient_InsertRequest(t *testing.T) {
	data := replicatest.File(t, 1, 1, 500, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { stored(w, data) })
	c := newClient(t, srv.URL, "/some//./path/")
	for _, exclusive := range []bool{false, true} {
		if err := write(t, c, exclusive); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range srv.Seen() {
		body, _ := io.ReadAll(r.Body)
		want := fmt.Sprintf(`{"name":"/some/path/ltx/0/%s","contentType":"application/octet-stream","crc32c":%q,"metadata":{"litestream-timestamp":%q}}`,
			ltx.FormatFilename(1, 1), encodedCRC(data), replicatest.TimeOf(1).Format(time.RFC3339Nano))
		if !bytes.Contains(body, []byte(want)) || !bytes.Contains(body, data) {
			t.Errorf("body holds no %s:\n%.400q", want, body)
		}
		if got, want := r.URL.Query().Get("ifGenerationMatch"), []string{"", "0"}[i]; got != want {
			t.Errorf("ifGenerationMatch=%q, want %q", got, want)
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("an anonymous client sent credentials")
		}
	}
}

// What the service says it stored is compared with what was sent.
func TestReplicaClient_WrongAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"Empty": "", "HTML": "<html>", "Nothing": "{}", "Short": `{"name":"k","size":"499"}`,
		"Checksum": `{"name":"k","size":"500","crc32c":"AAAAAA=="}`,
	} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
		if err := write(t, newClient(t, srv.URL, "p"), false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReplicaClient_Throttled(t *testing.T) {
	t.Parallel()
	data := replicatest.File(t, 1, 1, 500, 0)
	for _, tt := range []struct {
		status int
		reason string
	}{{408, ""}, {429, "rateLimitExceeded"}, {500, "backendError"}, {502, ""}, {503, "backendError"}, {504, ""}, {403, "userRateLimitExceeded"}} {
		var n atomic.Int64
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
			if n.Add(1) <= 2 {
				jsonError(w, tt.status, tt.reason, "slower")
				return
			}
			stored(w, data)
		})
		if err := write(t, newClient(t, srv.URL, "p"), false); err != nil || n.Load() != 3 {
			t.Errorf("%d %s: err=%v after %d requests, want success after 3", tt.status, tt.reason, err, n.Load())
		}
	}
}

func TestReplicaClient_RetryAfter(t *testing.T) {
	t.Parallel()
	data := replicatest.File(t, 1, 1, 500, 0)
	var n atomic.Int64
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			jsonError(w, 429, "rateLimitExceeded", "slower")
			return
		}
		stored(w, data)
	})
	began := time.Now()
	if err := write(t, newClient(t, srv.URL, "p"), false); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d < time.Second {
		t.Errorf("came back after %s, asked for was a second", d)
	}
}

func TestReplicaClient_ErrorClasses(t *testing.T) {
	for _, tt := range []struct {
		status    int
		reason    string
		message   string
		permanent bool
		missing   bool // on a get
	}{
		{401, "required", "Anonymous caller", true, false},
		{403, "forbidden", "x does not have storage.objects.get access", true, false},
		{403, "whatever", "no", true, false},
		{404, "notFound", "The specified bucket does not exist.", true, false},
		{404, "notFound", "No such object: b/k", false, true},
		{400, "invalid", "Invalid bucket name", true, false},
		{405, "methodNotAllowed", "", true, false},
		{507, "", "", false, false},
	} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("alt") == "media" && tt.status == 404 { // these answers are text
				http.Error(w, tt.message, tt.status)
				return
			}
			jsonError(w, tt.status, tt.reason, tt.message)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // some are retried
		_, err := newClient(t, srv.URL, "p").OpenLTXFile(ctx, 0, 1, 1, 0, 0)
		cancel()
		re, ok := errors.AsType[*litestream.ReplicaError](err)
		if !ok {
			t.Errorf("%d %s: err=%v, want a ReplicaError", tt.status, tt.reason, err)
			continue
		}
		if re.Permanent != tt.permanent || errors.Is(err, fs.ErrNotExist) != tt.missing || (tt.permanent && (re.Code == "" || re.Hint == "")) {
			t.Errorf("%d %s: %v: permanent=%v code=%q, want permanent=%v missing=%v", tt.status, tt.reason, err, re.Permanent, re.Code, tt.permanent, tt.missing)
		}
	}
}

// A server that ignores the Range header must not shift what is read.
func TestReplicaClient_IgnoredRange(t *testing.T) {
	data := replicatest.File(t, 1, 1, 1000, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Goog-Hash", "crc32c="+encodedCRC(data)+",md5=AAAA")
		w.Write(data)
	})
	c := newClient(t, srv.URL, "p")
	for _, tt := range [][2]int64{{0, 0}, {100, 0}, {100, 50}, {990, 50}, {1000, 0}, {2000, 5}} {
		got, err := replicatest.Read(t, c, 0, 1, 1, tt[0], tt[1])
		from, to := min(tt[0], 1000), int64(1000)
		if tt[1] > 0 {
			to = min(from+tt[1], 1000)
		}
		if err != nil || !bytes.Equal(got, data[from:to]) {
			t.Errorf("offset %d size %d: %d bytes, err=%v, want %d", tt[0], tt[1], len(got), err, to-from)
		}
	}
}

func TestReplicaClient_WrongRange(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-9/1000")
		w.WriteHeader(http.StatusPartialContent)
		w.Write(make([]byte, 10))
	})
	if _, err := replicatest.Read(t, newClient(t, srv.URL, "p"), 0, 1, 1, 100, 10); err == nil {
		t.Error("another range than asked for, and no error")
	}
}

// A listing that does not advance must not go on for ever.
func TestReplicaClient_BrokenListing(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"nextPageToken":"t"}`) })
	if _, err := newClient(t, srv.URL, "p").LTXFiles(t.Context(), 0, 0, false); err == nil {
		t.Error("no error")
	}
}

// A silent server must not hold us for ever.
func TestReplicaClient_HungServer(t *testing.T) {
	t.Parallel()
	srv := servers.NewFakeHTTP(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := newClient(t, srv.URL, "p", func(o *gs.Options) { o.ResponseTimeout = 50 * time.Millisecond })
	_, err := c.LTXFiles(t.Context(), 0, 0, false)
	if re, ok := errors.AsType[*litestream.ReplicaError](err); !ok || re.Permanent {
		t.Errorf("err=%v, want a ReplicaError that is not permanent", err)
	}
	if got := len(srv.Seen()); got != 8 {
		t.Errorf("%d attempts, want 8", got)
	}
}

// A session that the service has forgotten is begun anew where the file can be
// read again.
func TestReplicaClient_LostSession(t *testing.T) {
	data := replicatest.File(t, 1, 1, 1<<20, 0)
	var sessions atomic.Int64
	var srv *servers.FakeHTTP
	srv = servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			w.Header().Set("Location", fmt.Sprintf("%s/session/%d", srv.URL, sessions.Add(1)))
		case r.Method == http.MethodPut && sessions.Load() == 1:
			jsonError(w, http.StatusGone, "", "gone")
		case r.Method == http.MethodPut:
			stored(w, data)
		}
	})
	c := newClient(t, srv.URL, "p", smallChunks)
	replicatest.Write(t, c, 0, 1, 1, data)
	if got := sessions.Load(); got != 2 {
		t.Errorf("%d sessions, want 2", got)
	}
	sessions.Store(0)
	if _, err := c.WriteLTXFile(t.Context(), 0, 1, 1, stream(data)); err == nil || litestream.IsPermanent(err) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stream: err=%v, want one that is not permanent", err)
	}
}

// Credentials are found at first use, cached, and replaced when refused.
func TestReplicaClient_Token(t *testing.T) {
	var issued atomic.Int64
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"secret-%d","expires_in":3600,"token_type":"Bearer"}`, issued.Add(1))
	}))
	defer tokens.Close()
	path := filepath.Join(t.TempDir(), "adc.json")
	key := fmt.Sprintf(`{"type":"external_account_authorized_user","client_id":"c","client_secret":"s","refresh_token":"r","token_url":%q}`, tokens.URL)
	if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer secret-1" && issued.Load() == 1 && r.URL.Query().Get("alt") == "media" {
			jsonError(w, http.StatusUnauthorized, "authError", "Invalid Credentials")
			return
		}
		io.WriteString(w, "{}")
	})
	c := newClient(t, srv.URL, "p", func(o *gs.Options) { o.Anonymous = false })
	if got := issued.Load(); got != 0 {
		t.Errorf("%d tokens before the first use, want none", got)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.WithPrefix("q").LTXFiles(t.Context(), 0, 0, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := issued.Load(); got != 1 {
		t.Errorf("%d tokens for 8 requests at once, want 1", got)
	}
	if _, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil {
		t.Errorf("after a refused token: %v", err)
	}
	if got := issued.Load(); got != 2 {
		t.Errorf("%d tokens after one was refused, want 2", got)
	}
}

// Without credentials the error says what to set, and is no missing object.
func TestReplicaClient_NoCredentials(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(http.ResponseWriter, *http.Request) { t.Error("a request without credentials") })
	for name, content := range map[string]string{"Missing": "", "Broken": "{", "Kind": `{"type":"x"}`} {
		path := filepath.Join(t.TempDir(), "adc.json")
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
		c := newClient(t, srv.URL, "p", func(o *gs.Options) { o.Anonymous = false })
		_, err := c.OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
		if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "GOOGLE_APPLICATION_CREDENTIALS") {
			t.Errorf("%s: err=%v, want one that names GOOGLE_APPLICATION_CREDENTIALS", name, err)
		}
	}
}

// The URL of an upload session lets anybody write.
func TestReplicaClient_SessionIsSecret(t *testing.T) {
	var srv *servers.FakeHTTP
	srv = servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", srv.URL+"/?upload_id=geheim")
			return
		}
		panic(http.ErrAbortHandler)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	c := newClient(t, srv.URL, "p", smallChunks)
	_, err := c.WriteLTXFile(ctx, 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 1<<20, 0)))
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("err=%v, want one without the session", err)
	}
}

// Any number of paths shares one transport with a bounded number of
// connections, across clients of one pool.
func TestPool_SharesConnections(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{}`)
	})
	pool := &gs.Pool{}
	defer pool.CloseIdleConnections()
	var clients []litestream.Prefixer
	for range 2 {
		c, err := pool.Get(gs.Config{Bucket: bucket, MaxConns: 3})
		if err != nil {
			t.Fatal(err)
		}
		c.Endpoint, c.Anonymous = srv.URL, true
		clients = append(clients, c)
	}
	replicatest.ListAtOnce(t, clients...)
	if got := srv.Most(); got > 3 || len(srv.Seen()) != 100 {
		t.Errorf("%d requests, %d at a time, want 100, at most 3 at a time", len(srv.Seen()), got)
	}
}

// Whoever merges files opens all of them before reading one.
func TestReplicaClient_ManyOpenFiles(t *testing.T) {
	data := replicatest.File(t, 1, 1, 1000, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	c := newClient(t, srv.URL, "p", func(o *gs.Options) { o.MaxConns = 2 })
	replicatest.OpenMany(t, c)
}

// A hundred thousand databases have a client each.
func TestReplicaClient_WithPrefixSize(t *testing.T) {
	base, err := new(gs.Pool).Get(gs.Config{Bucket: bucket})
	if err != nil {
		t.Fatal(err)
	}
	replicatest.PrefixSize(t, base)
}

func TestReplicaClient_Observer(t *testing.T) {
	data := replicatest.File(t, 1, 1, 500, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost:
			stored(w, data)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case r.URL.Query().Get("alt") == "media":
			w.Write(data)
		default:
			jsonError(w, 403, "forbidden", "no")
		}
	})
	c := newClient(t, srv.URL, "p")
	rec := &replicatest.Recorder{}
	c.SetObserver(rec)
	if err := write(t, c, false); err != nil {
		t.Error(err)
	}
	if _, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil {
		t.Error(err)
	}
	if err := c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}}); err != nil {
		t.Error(err)
	}
	if _, err := c.LTXFiles(t.Context(), 0, 0, false); !litestream.IsPermanent(err) {
		t.Errorf("list: err=%v, want a permanent one", err)
	}
	want := []string{"PUT 500", "GET 500", "DELETE 0", "LIST 0 forbidden"}
	if diff := cmp.Diff(want, rec.All()); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
}
