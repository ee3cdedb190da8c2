package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// awaitWriter closes a channel when what is written to it holds a text.
type awaitWriter struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	text  string
	found chan struct{}
}

func (w *awaitWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	had := strings.Contains(w.buf.String(), w.text)
	w.buf.Write(b)
	if !had && strings.Contains(w.buf.String(), w.text) {
		close(w.found)
	}
	return len(b), nil
}

// runFollow runs a command line until it follows, sends it a signal and
// returns what it did.
func runFollow(t *testing.T, sig os.Signal, args ...string) result {
	t.Helper()
	c := make(chan os.Signal, 1)
	stderr := &awaitWriter{text: "entering follow mode", found: make(chan struct{})}
	var stdout bytes.Buffer
	a := &app{stdout: &stdout, stderr: stderr, signals: func() (<-chan os.Signal, func()) { return c, func() {} }}
	code := make(chan int)
	go func() { code <- a.main(t.Context(), args) }()
	select {
	case <-stderr.found:
		c <- sig
		return result{<-code, stdout.String(), stderr.buf.String()}
	case got := <-code:
		return result{got, stdout.String(), stderr.buf.String()}
	}
}

// TestRestore_Follow holds that both forms of the command follow, tenants of
// multi-db too, and that a signal ends them with success.
func TestRestore_Follow(t *testing.T) {
	dir := testFolder(t)
	writeSnapshot(t, dir+"/r", testDatabase(t))
	writeSnapshot(t, dir+"/tenants/t1", testDatabase(t))
	writeFile(t, dir+"/c.yml", "dbs: [{path: a.db, meta-path: m, replica: {path: r}}]\nmulti-db: {patterns: [\""+dir+
		"/data/*.db\"], replica-template: {path: \""+dir+"/tenants/{{tenant}}\"}}\n")
	for _, tt := range []struct {
		sig  os.Signal
		args string
		path string
	}{
		{os.Interrupt, "-o o.db file://" + dir + "/r", "o.db"},
		{syscall.SIGTERM, "-o o.db file://" + dir + "/r", "o.db"}, // goes on
		{os.Interrupt, "-follow-interval 0 -o o.db file://" + dir + "/r", "o.db"},
		{os.Interrupt, "-config c.yml " + dir + "/a.db", dir + "/a.db"},
		{os.Interrupt, "-config c.yml -o t.db " + dir + "/data/t1.db", "t.db"},
		{os.Interrupt, "-o u.db -integrity-check full file://" + dir + "/tenants/t1", "u.db"},
	} {
		got := runFollow(t, tt.sig, append([]string{"restore", "-f", "-json"}, strings.Fields(tt.args)...)...)
		if got.code != 0 || !strings.Contains(got.stderr, "follow mode stopped") {
			t.Fatalf("%s: %+v", tt.args, got)
		}
		var out map[string]any
		if err := json.Unmarshal([]byte(got.stdout), &out); err != nil || out["txid"] != "" || out["db_path"] != tt.path {
			t.Errorf("%s: %s, err=%v", tt.args, got.stdout, err)
		}
		if n := countRows(t, tt.path); n != 2 {
			t.Errorf("%s: %d rows, want 2", tt.args, n)
		}
	}
	if got := runFollow(t, os.Interrupt, "restore", "-f", "-o", "x.db", "file://"+dir+"/none"); got.code != 1 || got.stderr != "Error: no matching backup files available\n" {
		t.Errorf("empty replica: %+v", got)
	}
	if got := runFollow(t, os.Interrupt, "restore", "-f", "-if-replica-exists", "-o", "x.db", "file://"+dir+"/none"); got.code != 0 {
		t.Errorf("empty replica that may be missing: %+v", got)
	}
}
