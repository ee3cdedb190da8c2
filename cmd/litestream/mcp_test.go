package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// mcpDaemon replicates a folder's c.yml in this process and returns a session
// with its MCP server. stop ends it.
func mcpDaemon(t *testing.T, config string) (session *mcp.ClientSession, stop func() result) {
	t.Helper()
	r := newReplicateRun()
	done := make(chan result, 1)
	go func() {
		a := &app{stdout: &r.stdout, stderr: &r.stderr, newRunner: newStore, signals: func() (<-chan os.Signal, func()) { return r.signals, func() {} }}
		code := a.main(t.Context(), []string{"replicate", "-config", config})
		done <- result{code, r.stdout.String(), r.stderr.String()}
	}()
	stop = func() result {
		r.signals <- syscall.SIGTERM
		return <-done
	}
	serving := regexp.MustCompile(`serving mcp on".* url=(\S+)`)
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if m := serving.FindStringSubmatch(r.stdout.String()); m != nil {
			return mcpConnect(t, m[1]), stop
		}
		select {
		case <-tick.C:
		case res := <-done:
			t.Fatalf("the daemon ended: %+v", res)
		case <-deadline.C:
			t.Fatalf("no MCP server: %+v", stop())
		}
	}
}

func mcpConnect(t *testing.T, url string) *mcp.ClientSession {
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
	return session
}

func mcpCall(t *testing.T, session *mcp.ClientSession, tool string, args map[string]any) (text string, failed bool) {
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

// TestMCP uses every tool on a running daemon, and restores through it a
// database of `dbs`, one found by pattern, and a replica by its URL.
func TestMCP(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 7)
	makeDatabase(t, filepath.Join(dir, "t1.db"), 5)
	writeFile(t, filepath.Join(dir, "c.yml"), `
mcp-addr: 127.0.0.1:0
dbs: [{path: a.db, replica: {path: r}}]
multi-db:
  enabled: true
  patterns: ["`+dir+`/t*.db"]
  state-dir: `+dir+`/state
  replica-template: {type: file, path: "`+dir+`/fleet/{{1}}"}
`)
	var out lockedBuffer
	once := &app{stdout: &out, stderr: &out, signals: noSignals, newRunner: newStore}
	if code := once.main(t.Context(), []string{"replicate", "-once", "-config", "c.yml"}); code != 0 {
		t.Fatal(out.String())
	}
	session, stop := mcpDaemon(t, "c.yml")
	for _, tt := range []struct {
		tool   string
		args   map[string]any
		want   string // in the text
		failed bool
	}{
		{"litestream_version", nil, currentVersion() + "\n", false},
		{"litestream_databases", nil, "fleet/1", false},
		{"litestream_status", nil, dir + "/a.db", false},
		{"litestream_status", map[string]any{"path": dir + "/t1.db"}, "fleet/1", false},
		{"litestream_info", nil, "LTX files of " + dir + "/a.db:", false},
		{"litestream_ltx", map[string]any{"path": dir + "/a.db"}, "0000000000000001", false},
		{"litestream_ltx", map[string]any{"path": "file://" + dir + "/r"}, "0000000000000001", false},
		{"litestream_restore", map[string]any{"path": dir + "/a.db", "o": dir + "/a2.db"}, "", false},
		{"litestream_restore", map[string]any{"path": dir + "/t1.db", "o": dir + "/b2.db"}, "", false},
		{"litestream_restore", map[string]any{"path": "file://" + dir + "/r", "o": dir + "/c2.db", "txid": "0000000000000001"}, "", false},
		{"litestream_restore", map[string]any{"path": dir + "/a.db", "if_db_not_exists": true}, "database already exists, skipping", false},
		{"litestream_restore", map[string]any{"path": "file://" + dir + "/none", "o": dir + "/d2.db", "if_replica_exists": true}, "no matching backups found", false},

		{"litestream_restore", map[string]any{"path": dir + "/a.db", "o": dir + "/a2.db"}, "Error: ", true},
		{"litestream_restore", map[string]any{"path": dir + "/a.db", "o": dir + "/x", "txid": "1"}, "invalid txid format", true},
		{"litestream_restore", map[string]any{"path": dir + "/a.db", "o": dir + "/x", "timestamp": "yesterday"}, "invalid -timestamp", true},
		{"litestream_restore", map[string]any{"path": dir + "/other.db", "o": dir + "/x"}, "database not found in config", true},
		{"litestream_restore", map[string]any{"path": "-force", "o": dir + "/a2.db"}, "no multi-db pattern matches the path: " + dir + "/-force", true},
		{"litestream_restore", map[string]any{"path": ""}, "database path or replica URL required", true},
		{"litestream_ltx", map[string]any{"path": "-h"}, "no multi-db pattern matches the path: " + dir + "/-h", true},
		{"litestream_reset", map[string]any{"path": dir + "/none.db"}, "database does not exist", true},
		{"litestream_databases", map[string]any{"config": "missing.yml"}, "config file not found: " + dir + "/missing.yml", true},
	} {
		text, failed := mcpCall(t, session, tt.tool, tt.args)
		if failed != tt.failed || !strings.Contains(text, tt.want) {
			t.Errorf("%s %v: failed=%t, %q, want %t with %q", tt.tool, tt.args, failed, text, tt.failed, tt.want)
		}
	}
	for name, want := range map[string]int{"a2.db": 7, "b2.db": 5, "c2.db": 7} {
		if got := countRows(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s has %d rows, want %d", name, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); !os.IsNotExist(err) {
		t.Errorf("a restore that failed left a file: %v", err)
	}
	_ = session.Close() // the daemon may go first
	if got := stop(); got.code != 0 || strings.Contains(got.stdout, "level=WARN msg=\"the mcp address") {
		t.Errorf("%+v", got)
	}
}

// An address for all the world is warned about; one that is taken keeps
// nothing from being replicated.
func TestMCP_Address(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 1)
	writeFile(t, filepath.Join(dir, "c.yml"), "mcp-addr: 0.0.0.0:0\ndbs: [{path: a.db, replica: {path: r}}]")
	session, stop := mcpDaemon(t, "c.yml")
	_ = session.Close()
	got := stop()
	if want := "the mcp address can be reached from other machines"; got.code != 0 || !strings.Contains(got.stdout, want) {
		t.Errorf("%+v, want a log line with %q", got, want)
	}
	writeFile(t, filepath.Join(dir, "c.yml"), "mcp-addr: 192.0.2.1:1\ndbs: [{path: a.db, replica: {path: r}}]")
	r := newReplicateRun()
	r.signals <- syscall.SIGTERM
	if got := r.run(t.Context(), "-config", "c.yml"); got.code != 0 || !strings.Contains(got.stdout, "cannot start mcp server") {
		t.Errorf("%+v, want an error in the log", got)
	}
}
