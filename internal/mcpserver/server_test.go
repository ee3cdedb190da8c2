package mcpserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/mcpserver"
)

func TestMain(m *testing.M) {
	// net/http lingers with a connection whose request it did not read to its end.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// fakeService notes what it is asked.
type fakeService struct {
	mu    sync.Mutex
	calls []string

	restore func(ctx context.Context, w io.Writer) error
	status  func(w io.Writer) error
}

func (f *fakeService) note(w io.Writer, format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	_, err := fmt.Fprintf(w, format+"\n", args...)
	return err
}

func (f *fakeService) Info(_ context.Context, w io.Writer, config string) error {
	return f.note(w, "info %q", config)
}

func (f *fakeService) Databases(_ context.Context, w io.Writer, config string) error {
	return f.note(w, "databases %q", config)
}

func (f *fakeService) Status(_ context.Context, w io.Writer, config, path string) error {
	if f.status != nil {
		return f.status(w)
	}
	return f.note(w, "status %q %q", config, path)
}

func (f *fakeService) LTX(_ context.Context, w io.Writer, config, path string) error {
	return f.note(w, "ltx %q %q", config, path)
}

func (f *fakeService) Restore(ctx context.Context, w io.Writer, r *mcpserver.RestoreRequest) error {
	if f.restore != nil {
		return f.restore(ctx, w)
	}
	return f.note(w, "restore %+v", *r)
}

func (f *fakeService) Reset(_ context.Context, w io.Writer, config, path string) error {
	return errors.Join(f.note(w, "reset %q %q", config, path), errors.New("database does not exist: "+path))
}

func (f *fakeService) Version(_ context.Context, w io.Writer) error { return f.note(w, "version") }

// serve starts a server of svc and returns its URL.
func serve(t *testing.T, svc mcpserver.Service) (server *mcpserver.Server, url string) {
	t.Helper()
	s := mcpserver.New(svc, slog.New(slog.DiscardHandler))
	if err := s.Open(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, "http://" + s.Addr().String() + "/any/path"
}

// connect returns a session of the library's client.
func connect(t *testing.T, url string) *mcp.ClientSession {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{
		Endpoint: url, HTTPClient: &http.Client{Transport: transport}, MaxRetries: -1,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() }) // the server may be gone
	return session
}

// call calls a tool and returns its text.
func call(t *testing.T, session *mcp.ClientSession, tool string, args map[string]any) (text string, failed bool) {
	t.Helper()
	res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		t.Fatalf("%s: %v", tool, err)
	}
	for _, c := range res.Content {
		text += c.(*mcp.TextContent).Text
	}
	return text, res.IsError
}

// TestTools compares names and arguments with those of v0.5.18, as its server
// lists them.
func TestTools(t *testing.T) {
	_, url := serve(t, &fakeService{})
	session := connect(t, url)
	if info := session.InitializeResult().ServerInfo; info.Name != "Litestream MCP Server" || info.Version != "1.0.0" {
		t.Errorf("server %+v", info)
	}
	res, err := session.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, tool := range res.Tools {
		schema := tool.InputSchema.(map[string]any)
		args := []string{}
		if props, ok := schema["properties"].(map[string]any); ok {
			for name, p := range props {
				args = append(args, name+" "+p.(map[string]any)["type"].(string))
			}
		}
		if required, ok := schema["required"].([]any); ok {
			for _, name := range required {
				args = append(args, "required "+name.(string))
			}
		}
		if tool.Annotations.ReadOnlyHint {
			args = append(args, "READS")
		} else if *tool.Annotations.DestructiveHint {
			args = append(args, "DESTROYS")
		}
		slices.Sort(args)
		got[tool.Name] = args
	}
	want := map[string][]string{
		"litestream_info":      {"READS", "config string"},
		"litestream_databases": {"READS", "config string"},
		"litestream_status":    {"READS", "config string", "path string"},
		"litestream_ltx":       {"READS", "config string", "path string", "required path"},
		"litestream_reset":     {"DESTROYS", "config string", "path string", "required path"},
		"litestream_restore": {
			"config string", "if_db_not_exists boolean", "if_replica_exists boolean", "o string", "parallelism string",
			"path string", "required path", "timestamp string", "txid string",
		},
		"litestream_version": {"READS"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tools (-want +got):\n%s", diff)
	}
}

func TestCalls(t *testing.T) {
	svc := &fakeService{}
	_, url := serve(t, svc)
	session := connect(t, url)
	for _, tt := range []struct {
		tool   string
		args   map[string]any
		want   string
		failed bool
	}{
		{"litestream_version", nil, "version\n", false},
		{"litestream_info", map[string]any{"config": "c"}, "info \"c\"\n", false},
		{"litestream_databases", nil, "databases \"\"\n", false},
		{"litestream_status", map[string]any{"path": "/a"}, "status \"\" \"/a\"\n", false},
		{"litestream_ltx", map[string]any{"config": "c", "path": "/a"}, "ltx \"c\" \"/a\"\n", false},
		{"litestream_restore", map[string]any{"path": "/a", "o": "/b", "txid": "1", "if_db_not_exists": true}, "restore {Config: Path:/a Output:/b TXID:1 Timestamp: Parallelism: IfDBNotExists:true IfReplicaExists:false}\n", false},
		{"litestream_reset", map[string]any{"path": "/a"}, "reset \"\" \"/a\"\nError: database does not exist: /a\n", true},
	} {
		text, failed := call(t, session, tt.tool, tt.args)
		if text != tt.want || failed != tt.failed {
			t.Errorf("%s: %q, failed=%t, want %q, %t", tt.tool, text, failed, tt.want, tt.failed)
		}
	}
	svc.calls = nil
	for tool, args := range map[string]map[string]any{
		"litestream_ltx":     nil,                                            // path is missing
		"litestream_status":  {"path": 7},                                    // no string
		"litestream_restore": {"path": "/a", "if_db_not_exists": "true"},     // no boolean
		"litestream_reset":   {"path": "/a", "force": true},                  // no such argument
		"litestream_info":    {"config": strings.Repeat("x", 10), "more": 1}, // no such argument
	} {
		res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: tool, Arguments: args})
		if err == nil && !res.IsError {
			t.Errorf("%s %v: no error", tool, args)
		}
	}
	if _, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "rm"}); err == nil {
		t.Error("unknown tool: no error")
	}
	if len(svc.calls) > 0 {
		t.Errorf("bad arguments reached the service: %q", svc.calls)
	}
}

// A long answer is cut, and says so.
func TestCalls_LongAnswer(t *testing.T) {
	svc := &fakeService{status: func(w io.Writer) error {
		for range 3 << 10 {
			if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<10)); err != nil {
				return err
			}
		}
		return nil
	}}
	_, url := serve(t, svc)
	text, failed := call(t, connect(t, url), "litestream_status", nil)
	if len(text) > 2<<20 || failed || !strings.HasSuffix(text, "\n[2097152 more bytes are left out; the command line shows all]\n") {
		t.Errorf("%d bytes, failed=%t", len(text), failed)
	}
}

// Close ends a restore that runs, and no more than eight run at a time.
func TestServer_CloseEndsCalls(t *testing.T) {
	started, ended := make(chan struct{}), make(chan error, 8)
	s, url := serve(t, &fakeService{restore: func(ctx context.Context, _ io.Writer) error {
		started <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}})
	session := connect(t, url)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, _ = session.CallTool(t.Context(), &mcp.CallToolParams{Name: "litestream_restore", Arguments: map[string]any{"path": "/a"}})
		})
		<-started
	}
	if text, failed := call(t, session, "litestream_version", nil); !failed || !strings.Contains(text, "8 tools are running already") {
		t.Errorf("ninth call: %q, failed=%t", text, failed)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for range 8 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("restore ended with %v", err)
		}
	}
	_ = session.Close()
	wg.Wait()
}

const initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`

func TestServer_HTTP(t *testing.T) {
	_, url := serve(t, &fakeService{})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	for _, tt := range []struct {
		name, method, body string
		header             map[string]string
		code               int
		text               string
	}{
		{name: "initialize", body: initialize, code: 200, text: `"name":"Litestream MCP Server"`},
		{name: "no session", body: `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`, code: 400, text: "Invalid session ID"},
		{name: "no session, a call", body: `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"litestream_version"}}`, code: 400, text: "Invalid session ID"},
		{name: "no session, a batch", body: `[{"jsonrpc":"2.0","id":2,"method":"tools/list"}]`, code: 400},
		{name: "unknown session", body: `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`, header: map[string]string{"Mcp-Session-Id": "x"}, code: 404},
		{name: "no JSON", body: "hello", code: 400},
		{name: "not JSON's type", body: initialize, header: map[string]string{"Content-Type": "text/plain"}, code: 415},
		{name: "too large", body: `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, code: 413, text: "1048576 bytes"},
		{name: "page of another site", body: initialize, header: map[string]string{"Origin": "https://evil.example"}, code: 403},
		{name: "fetched by another site", body: initialize, header: map[string]string{"Sec-Fetch-Site": "cross-site"}, code: 403},
		{name: "name bound to this machine", body: initialize, header: map[string]string{"Host": "evil.example"}, code: 403},
		{name: "method", method: "PUT", body: initialize, code: 405},
	} {
		method := tt.method
		if method == "" {
			method = http.MethodPost
		}
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		for k, v := range tt.header {
			req.Header.Set(k, v)
		}
		req.Host = tt.header["Host"]
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != tt.code || !strings.Contains(string(text), tt.text) {
			t.Errorf("%s: %s: %s, want %d with %q", tt.name, resp.Status, text, tt.code, tt.text)
		}
	}
}

func TestAddress(t *testing.T) {
	for addr, want := range map[string]string{
		":3001":          "127.0.0.1:3001 false",
		"127.0.0.1:3001": "127.0.0.1:3001 false",
		"127.1.2.3:0":    "127.1.2.3:0 false",
		"[::1]:3001":     "[::1]:3001 false",
		"localhost:3001": "localhost:3001 false",
		"0.0.0.0:3001":   "0.0.0.0:3001 true",
		"[::]:3001":      "[::]:3001 true",
		"10.1.2.3:3001":  "10.1.2.3:3001 true",
		"backup1:3001":   "backup1:3001 true",
		"3001":           "error",
		"localhost:":     "error",
		":70000":         "error",
		":http:x":        "error",
	} {
		listen, exposed, err := mcpserver.Address(addr)
		got := fmt.Sprintf("%s %t", listen, exposed)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("Address(%q)=%s (%v), want %s", addr, got, err, want)
		}
	}
}

func TestServer_OpenErrors(t *testing.T) {
	first, _ := serve(t, &fakeService{})
	second := mcpserver.New(&fakeService{}, slog.New(slog.DiscardHandler))
	if err := second.Open(t.Context(), first.Addr().String()); err == nil {
		t.Error("one address for two: no error")
	}
	if err := second.Close(); err != nil {
		t.Errorf("close without open: %v", err)
	}
}
