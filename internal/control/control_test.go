package control_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/control"
	"github.com/benbjohnson/litestream/internal/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(testutil.Setup(8))) }

// fakeService has databases /db/0, /db/1 and so on. Operations on /hang wait for
// their context, those on /stuck for the test.
type fakeService struct {
	databases int
	unstick   chan struct{}
	working   atomic.Int64 // operations under way
	most      atomic.Int64 // of them at a time
}

func (f *fakeService) Info() control.Info {
	return control.Info{Version: "v1", PID: 7, UptimeSeconds: 3, StartedAt: time.Unix(1, 5).UTC(), DatabaseCount: f.databases}
}

func (f *fakeService) List(ctx context.Context, cursor string, fn func(*control.Database, string) error) error {
	from := 0
	if cursor != "" {
		var err error
		if from, err = strconv.Atoi(cursor); err != nil {
			return &control.Error{Status: http.StatusBadRequest, Err: errors.New("invalid after")}
		}
	}
	at := time.Unix(2, 0).UTC()
	for i := from; i < f.databases; i++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		db := &control.Database{Path: fmt.Sprintf("/db/%d", i), Status: "replicating"}
		if i%2 == 0 {
			db.LastSyncAt = &at
		}
		if err := fn(db, strconv.Itoa(i+1)); err != nil {
			return err
		}
	}
	return nil
}

// do is what every operation does.
func (f *fakeService) do(ctx context.Context, path string) error {
	n := f.working.Add(1)
	defer f.working.Add(-1)
	for most := f.most.Load(); n > most && !f.most.CompareAndSwap(most, n); most = f.most.Load() {
	}
	switch path {
	case "/hang":
		<-ctx.Done()
		return fmt.Errorf("do: %w", context.Cause(ctx))
	case "/stuck":
		<-f.unstick
		return nil
	case "/none":
		return &control.Error{Status: http.StatusNotFound, Err: errors.New("database not found: /none")}
	case "/closed":
		return &control.Error{Status: http.StatusConflict, Err: errors.New("database not open: /closed")}
	case "/broken":
		return errors.New("broken")
	default:
		return nil
	}
}

func (f *fakeService) Sync(ctx context.Context, path string, wait bool) (control.SyncResponse, error) {
	return control.SyncResponse{Status: map[bool]string{true: "synced", false: "synced_local"}[wait], Path: path, TXID: 2, ReplicatedTXID: 1}, f.do(ctx, path)
}

func (f *fakeService) SyncAll(ctx context.Context, wait bool) (control.SyncAllResponse, error) {
	if wait {
		<-ctx.Done()
		return control.SyncAllResponse{Status: "incomplete", Databases: 2, Synced: 1, Left: 1}, nil
	}
	return control.SyncAllResponse{Status: "synced", Databases: 2, Synced: 2}, nil
}

func (f *fakeService) Start(ctx context.Context, path string) (control.StateResponse, error) {
	return control.StateResponse{Status: "started", Path: path, TXID: 2}, f.do(ctx, path)
}

func (f *fakeService) Stop(ctx context.Context, path string) (control.StateResponse, error) {
	return control.StateResponse{Status: "stopped", Path: path, TXID: 2}, f.do(ctx, path)
}

func (f *fakeService) TakeOver(ctx context.Context, path string) (control.StateResponse, error) {
	return control.StateResponse{Status: "taken_over", Path: path, TXID: 3}, f.do(ctx, path)
}

func (f *fakeService) Register(ctx context.Context, path, _ string) (control.StateResponse, error) {
	return control.StateResponse{Status: "registered", Path: path}, f.do(ctx, path)
}

func (f *fakeService) Unregister(ctx context.Context, path string) (control.StateResponse, error) {
	return control.StateResponse{Status: "unregistered", Path: path}, f.do(ctx, path)
}

func (f *fakeService) Purge(ctx context.Context, path string, force bool) (control.PurgeResponse, error) {
	return control.PurgeResponse{Path: path, Files: map[bool]int{false: 1, true: 2}[force], TXID: 2}, f.do(ctx, path)
}

func (f *fakeService) TXID(path string) (uint64, error) {
	return 2, f.do(context.Background(), path)
}

func (f *fakeService) SyncStatus(ctx context.Context, path string, fn func(*control.SyncStatus) error) error {
	if path == "" {
		path = "/db/0"
	}
	if err := f.do(ctx, path); err != nil {
		return err
	}
	return fn(&control.SyncStatus{Path: path, TXID: 2})
}

// testServer is a server with a client.
type testServer struct {
	*control.Server
	t       *testing.T
	path    string
	service *fakeService
	client  *http.Client
}

func newTestServer(t *testing.T, limits control.Limits) *testServer {
	t.Helper()
	s := &testServer{t: t, path: filepath.Join(t.TempDir(), "s.sock"), service: &fakeService{databases: 3, unstick: make(chan struct{})}}
	s.Server = control.NewServer(control.WithLimits(control.Options{
		Path: s.path, Permissions: 0o600, Service: s.service,
		ExpandPath: func(p string) (string, error) {
			if p == "/bad" {
				return "", errors.New("bad")
			}
			return p, nil
		},
	}, limits))
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.path)
		},
	}}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// do sends a request and returns the status and the body of the answer.
func (s *testServer) do(method, target, body string) (int, string) {
	s.t.Helper()
	status, text, err := s.try(method, target, body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	return status, text
}

func (s *testServer) try(method, target, body string) (int, string, error) {
	req, err := http.NewRequest(method, "http://x"+target, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return res.StatusCode, strings.TrimSpace(string(data)), err
}

// TestServer_Answers holds what each request is answered with.
func TestServer_Answers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, control.Limits{})
	const list = `{"path":"/db/0","status":"replicating","last_sync_at":"1970-01-01T00:00:02Z"},{"path":"/db/1","status":"replicating"},{"path":"/db/2","status":"replicating","last_sync_at":"1970-01-01T00:00:02Z"}`
	for _, tt := range []struct {
		method, target, body string
		status               int
		want                 string
	}{
		{"GET", "/info", "", 200, `{"version":"v1","pid":7,"uptime_seconds":3,"started_at":"1970-01-01T00:00:01.000000005Z","database_count":3}`},
		{"GET", "/list", "", 200, `{"databases":[` + list + `]}`},
		{"GET", "/list?filter=/db/[12]&limit=1", "", 200, `{"databases":[{"path":"/db/1","status":"replicating"}],"next":"2"}`},
		{"GET", "/list?filter=1", "", 200, `{"databases":[{"path":"/db/1","status":"replicating"}]}`},
		{"GET", "/list?limit=3", "", 200, `{"databases":[` + list + `]}`},
		{"GET", "/list?after=3", "", 200, `{"databases":[]}`},
		{"GET", "/list?after=x", "", 400, `{"error":"invalid after"}`},
		{"GET", "/list?filter=[", "", 400, `{"error":"invalid filter: ["}`},
		{"GET", "/list?limit=-1", "", 400, `{"error":"invalid limit: \"-1\""}`},
		{"GET", "/list?limit=x", "", 400, `{"error":"invalid limit: \"x\""}`},
		{"GET", "/txid?path=/db/0", "", 200, `{"txid":2}`},
		{"GET", "/txid", "", 400, `{"error":"path required"}`},
		{"GET", "/txid?path=/none", "", 404, `{"error":"database not found"}`},
		{"GET", "/txid?path=/broken", "", 500, `{"error":"broken"}`},
		{"POST", "/sync", `{"path":"/db/0"}`, 200, `{"status":"synced_local","path":"/db/0","txid":2,"replicated_txid":1}`},
		{"POST", "/sync", `{"path":"/db/0","wait":true,"unknown":1}`, 200, `{"status":"synced","path":"/db/0","txid":2,"replicated_txid":1}`},
		{"POST", "/sync", `{"all":true}`, 200, `{"status":"synced","databases":2,"synced":2,"failed":0,"left":0}`},
		{"POST", "/sync", `{"all":true,"wait":true,"timeout":1}`, 200, `{"status":"incomplete","databases":2,"synced":1,"failed":0,"left":1}`},
		{"POST", "/sync", `{"all":true,"path":"/db/0"}`, 400, `{"error":"path and all exclude each other"}`},
		{"POST", "/sync", `{"path":"/none"}`, 404, `{"error":"database not found: /none"}`},
		{"POST", "/sync", `{"path":"/closed"}`, 409, `{"error":"database not open: /closed"}`},
		{"POST", "/sync", `{"path":"/broken"}`, 500, `{"error":"broken"}`},
		{"POST", "/sync", `{"path":"/bad"}`, 400, `{"error":"invalid path: bad"}`},
		{"POST", "/sync", `{"path":"/hang","timeout":1}`, 500, `{"error":"do: timed out after 1s"}`},
		{"POST", "/start", `{"path":"/db/0"}`, 200, `{"status":"started","path":"/db/0","txid":2}`},
		{"POST", "/start", `{"path":"/none"}`, 500, `{"error":"database not found: /none"}`},
		{"POST", "/stop", `{"path":"/db/0"}`, 200, `{"status":"stopped","path":"/db/0","txid":2}`},
		{"POST", "/takeover", `{"path":"/db/0"}`, 200, `{"status":"taken_over","path":"/db/0","txid":3}`},
		{"POST", "/takeover", `{"path":"/closed"}`, 409, `{"error":"database not open: /closed"}`},
		{"POST", "/stop", `{"path":"/hang","timeout":1}`, 500, `{"error":"do: timed out after 1s"}`},
		{"POST", "/register", `{"path":"/db/9","replica_url":"file:///r"}`, 200, `{"status":"registered","path":"/db/9"}`},
		{"POST", "/register", `{"path":"/db/9"}`, 400, `{"error":"replica_url required"}`},
		{"POST", "/register", `{"path":"/closed","replica_url":"x"}`, 409, `{"error":"database not open: /closed"}`},
		{"POST", "/purge", `{"path":"/db/0","force":true}`, 200, `{"path":"/db/0","files":2,"v03_objects":0,"unfinished":0,"bytes":0,"txid":2}`},
		{"POST", "/purge", `{"path":"/closed"}`, 409, `{"error":"database not open: /closed"}`},
		{"POST", "/unregister", `{"path":"/db/0"}`, 200, `{"status":"unregistered","path":"/db/0","txid":0}`},
		{"POST", "/reload", `{}`, 501, `{"error":"this daemon was not started with a configuration file: there is nothing to reload"}`},
		{"GET", "/debug/sync-status", "", 200, `{"databases":[{"path":"/db/0","active":false,"txid":2}]}`},
		{"GET", "/debug/sync-status?path=/db/1", "", 200, `{"databases":[{"path":"/db/1","active":false,"txid":2}]}`},
		{"GET", "/debug/sync-status?path=/none", "", 404, `{"error":"database not found"}`},
		{"GET", "/", "", 404, "404 page not found"},
		{"GET", "/sync", "", 405, "Method Not Allowed"},
		{"DELETE", "/list", "", 405, "Method Not Allowed"},
		{"POST", "/info", "", 405, "Method Not Allowed"},
	} {
		status, got := s.do(tt.method, tt.target, tt.body)
		if status != tt.status || got != tt.want {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d %s", tt.method, tt.target, tt.body, status, got, tt.status, tt.want)
		}
	}
	for _, target := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"} {
		if status, got := s.do("GET", target, ""); status != 200 || got == "" {
			t.Errorf("%s: got %d and %d bytes", target, status, len(got))
		}
	}
}

// TestServer_BadBodies sends every request with a body that is none.
func TestServer_BadBodies(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, control.Limits{})
	for body, want := range map[string]string{
		"":                  "400 EOF",
		"{":                 "400 unexpected EOF",
		"x":                 "400 invalid character 'x' looking for beginning of value",
		`{"path":1}`:        "400 json: cannot unmarshal number into Go struct field",
		`{"path":"/db/0"}x`: "400 more than one JSON value",
		`{} {}`:             "400 more than one JSON value",
		"\x00\xff":          "400 invalid character",
		`{"path":"` + strings.Repeat("x", control.MaxBodyBytes) + `"}`: "413 larger than 65536 bytes",
	} {
		for _, target := range []string{"/sync", "/start", "/stop", "/register", "/unregister", "/reload", "/purge"} {
			if target == "/reload" && strings.Contains(body, "path\":1") {
				continue // it has no path
			}
			status, text := s.do("POST", target, body)
			var got struct{ Error, Details string }
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Errorf("%s %.20q: %v in %s", target, body, err, text)
			}
			if got.Error != "invalid request body" || !strings.HasPrefix(fmt.Sprintf("%d %s", status, got.Details), want) {
				t.Errorf("%s %.20q: got %d %+v, want %s", target, body, status, got, want)
			}
		}
	}
	if n := s.service.working.Load() + s.service.most.Load(); n != 0 {
		t.Errorf("%d operations were begun", n)
	}
}

// TestServer_Reload holds the way of a reload and its report.
func TestServer_Reload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	want := control.ReloadReport{Changes: []control.ReloadChange{{Action: "add", What: "dbs[2]", Path: "/x", Detail: "d"}}, Applied: true}
	var dry atomic.Bool
	srv := control.NewServer(control.Options{Path: path, Permissions: 0o600, Service: &fakeService{}, Reload: func(_ context.Context, dryRun bool) (control.ReloadReport, error) {
		dry.Store(dryRun)
		return want, nil
	}})
	if err := srv.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newTestServer(t, control.Limits{})
	s.path = path
	status, text := s.do("POST", "/reload", `{"dry_run":true}`)
	var got control.ReloadReport
	if err := json.Unmarshal([]byte(text), &got); err != nil || status != 200 || !dry.Load() {
		t.Errorf("got %d %s, %v; dry run %t", status, text, err, dry.Load())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := srv.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestServer_Stuck holds that an operation which ignores its context keeps its
// client, and no other one, waiting no longer than its time.
func TestServer_Stuck(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, control.Limits{Operations: 2, Answer: 10 * time.Millisecond})
	for range 2 {
		status, text := s.do("POST", "/stop", `{"path":"/stuck","timeout":1}`)
		if status != 500 || text != `{"error":"timed out after 1s: it goes on in the background"}` {
			t.Errorf("got %d %s", status, text)
		}
	}
	// Both places are taken now.
	if status, text := s.do("POST", "/sync", `{"path":"/db/0","timeout":1}`); status != 503 || text != `{"error":"too many requests at a time: timed out after 1s"}` {
		t.Errorf("got %d %s", status, text)
	}
	if status, _ := s.do("GET", "/info", ""); status != 200 {
		t.Errorf("info: %d", status)
	}
	if status, _ := s.do("GET", "/list", ""); status != 200 {
		t.Errorf("list: %d", status)
	}
	close(s.service.unstick)
	if status, text := s.do("POST", "/sync", `{"path":"/db/0","timeout":10}`); status != 200 {
		t.Errorf("after the end: got %d %s", status, text)
	}
}

// TestServer_Parallel sends a thousand requests at a time.
func TestServer_Parallel(t *testing.T) {
	s := newTestServer(t, control.Limits{Connections: 100, Operations: 20})
	s.service.databases = 1000
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			method, target, body := "POST", "/sync", `{"path":"/db/0"}`
			switch i % 5 {
			case 1:
				method, target = "GET", "/info"
			case 2:
				method, target = "GET", "/list"
			case 3:
				target = "/stop"
			case 4:
				target, body = "/register", `{"path":"/db/0","replica_url":"x"}`
			}
			status, text, err := s.try(method, target, body)
			if err != nil || status != 200 || !json.Valid([]byte(text)) {
				t.Errorf("%s: got %d %.100s, %v", target, status, text, err)
			}
		})
	}
	wg.Wait()
	if n := s.service.most.Load(); n > 20 {
		t.Errorf("%d operations at a time, want at most 20", n)
	}
}

// TestServer_SlowClients holds that a client which sends or reads too slowly is
// dropped, and others are answered meanwhile.
func TestServer_SlowClients(t *testing.T) {
	s := newTestServer(t, control.Limits{Read: 50 * time.Millisecond, Write: 50 * time.Millisecond, Streams: 1})
	s.service.databases = 200_000
	dial := func(text string) net.Conn {
		conn, err := net.Dial("unix", s.path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for name, text := range map[string]string{
		"nothing":          "",
		"half a header":    "GET /info HT",
		"half a body":      "POST /sync HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"kept alive, idle": "GET /info HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn := dial(text)
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%s: the connection was not closed: %v", name, err)
		}
	}
	slow := dial("GET /list HTTP/1.1\r\nHost: x\r\n\r\n")
	first := bufio.NewReader(slow)
	if _, err := first.ReadByte(); err != nil {
		t.Fatal(err)
	}
	// The one place for lists is free again when the slow client was dropped.
	status, text, err := s.try("GET", "/list?limit=1", "")
	if err != nil || status != 200 {
		t.Errorf("got %d %.100s, %v", status, text, err)
	}
}

// TestServer_LongOperation holds that an operation may take longer than a
// client may take to send its request.
func TestServer_LongOperation(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, control.Limits{Read: 20 * time.Millisecond})
	for _, target := range []string{"/stop", "/sync"} {
		start := time.Now()
		status, text := s.do("POST", target, `{"path":"/hang","timeout":1}`)
		if status != 500 || text != `{"error":"do: timed out after 1s"}` || time.Since(start) < time.Second {
			t.Errorf("%s: got %d %s after %s", target, status, text, time.Since(start))
		}
	}
}

// TestServer_CloseEnds holds that requests under way end with the server.
func TestServer_CloseEnds(t *testing.T) {
	s := newTestServer(t, control.Limits{})
	type answer struct {
		status int
		text   string
		err    error
	}
	done := make(chan answer, 2)
	for _, target := range []string{"/sync", "/stop"} {
		go func() {
			status, text, err := s.try("POST", target, `{"path":"/hang","timeout":600}`)
			done <- answer{status, text, err}
		}()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.service.working.Load() < 2 {
		<-tick.C
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for range 2 {
		if a := <-done; a.status != 503 || a.text != `{"error":"the daemon is stopping"}` {
			t.Errorf("got %d %s, %v", a.status, a.text, a.err)
		}
	}
}

// TestServer_CloseStuck holds that the end does not wait for ever.
func TestServer_CloseStuck(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, control.Limits{Answer: time.Millisecond, Close: 50 * time.Millisecond})
	if status, _ := s.do("POST", "/stop", `{"path":"/stuck","timeout":1}`); status != 500 {
		t.Errorf("got %d", status)
	}
	if err := s.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "still under way") {
		t.Errorf("close: %v", err)
	}
	close(s.service.unstick)
}
