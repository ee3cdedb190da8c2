package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/benbjohnson/litestream"
)

// fakeRunner records its calls and does what the test says.
type fakeRunner struct {
	mu    sync.Mutex
	calls []string
	cfg   *Config

	open, close func(ctx context.Context) error
	sync        func(ctx context.Context, opts litestream.SyncOnceOptions) error
	opened      chan struct{} // closed by Open
}

func (f *fakeRunner) record(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

func (f *fakeRunner) Open(ctx context.Context) error {
	f.record("open")
	defer close(f.opened)
	if f.open != nil {
		return f.open(ctx)
	}
	return nil
}

func (f *fakeRunner) Close(ctx context.Context) error {
	f.record("close")
	if f.close != nil {
		return f.close(ctx)
	}
	return nil
}

func (f *fakeRunner) SyncOnce(ctx context.Context, opts litestream.SyncOnceOptions) error {
	f.record("sync")
	if opts.ForceSnapshot {
		f.record("snapshot")
	}
	if opts.EnforceRetention {
		f.record("retention")
	}
	if f.sync != nil {
		return f.sync(ctx, opts)
	}
	return nil
}

func (f *fakeRunner) CheckHealth(time.Duration) error { return nil }

// replicateRun is a replicate command in this process.
type replicateRun struct {
	runner  *fakeRunner
	signals chan os.Signal
	stdout  lockedBuffer
	stderr  lockedBuffer
}

// lockedBuffer may be written and read by several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newReplicateRun() *replicateRun {
	return &replicateRun{runner: &fakeRunner{opened: make(chan struct{})}, signals: make(chan os.Signal, 2)}
}

func (r *replicateRun) run(ctx context.Context, args ...string) result {
	a := &app{
		stdout: &r.stdout, stderr: &r.stderr,
		signals: func() (<-chan os.Signal, func()) { return r.signals, func() {} },
		newRunner: func(_ context.Context, cfg *Config, _ prometheus.Registerer, _ *slog.Logger) (runner, error) {
			r.runner.cfg = cfg
			return r.runner, nil
		},
	}
	code := a.main(ctx, append([]string{"replicate"}, args...))
	return result{code, r.stdout.String(), r.stderr.String()}
}

func TestReplicate_Arguments(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "exec.yml"), "exec: true")
	writeFile(t, filepath.Join(dir, "addr.yml"), "addr: foo")
	for args, want := range map[string]string{
		"":                               "config file not found: " + dir + "/missing.yml",
		"a":                              "must specify at least one replica URL for a\nTry: litestream replicate a s3://bucket/prefix",
		"a -b":                           `flag "-b" must be positioned before DB_PATH and REPLICA_URL arguments`,
		"a file:///r -once":              `flag "-once" must be positioned before DB_PATH and REPLICA_URL arguments`,
		"-config x a file:///r":          "cannot specify a replica URL and the -config flag",
		"a file:///r file:///s":          "multiple replicas on a single database are no longer supported",
		"a /r":                           "replica url scheme required, such as s3:// or file://: /r",
		"a bogus://r":                    `unknown replica type in config: "bogus"`,
		"a nats://r":                     "bucket required for nats replica",
		"-once -exec true a file:///r":   "cannot specify -once flag with -exec",
		"-once -config exec.yml":         "cannot specify -once flag with -exec",
		"-force-snapshot a file:///r":    "cannot specify -force-snapshot flag without -once",
		"-enforce-retention a file:///r": "cannot specify -enforce-retention flag without -once",
		"-config addr.yml":               `must specify port for bind address: "foo"`,
		"-exec 'x a file:///r":           "cannot parse exec command: invalid command line string",
	} {
		r := newReplicateRun()
		got := r.run(t.Context(), strings.Fields(args)...)
		if got.code != 1 || got.stderr != "Error: "+want+"\n" || got.stdout != "" || len(r.runner.calls) > 0 {
			t.Errorf("replicate %s: got %+v, want error %q", args, got, want)
		}
	}
	if got := newReplicateRun().run(t.Context(), "-exec", " ", "a", "file:///r"); got.stderr != "Error: cannot parse exec command: it is blank\n" {
		t.Errorf("blank exec: %+v", got)
	}
}

func TestReplicate_Config(t *testing.T) {
	dir := testFolder(t)
	r := newReplicateRun()
	r.signals <- os.Interrupt
	if got := r.run(t.Context(), "a.db", "file:///r"); got.code != 0 {
		t.Fatalf("got %+v", got)
	}
	cfg := r.runner.cfg
	if len(cfg.DBs) != 1 || cfg.DBs[0].Path != dir+"/a.db" || cfg.DBs[0].Replica.filePath() != "/r" || cfg.DBs[0].RestoreIfDBNotExists {
		t.Errorf("configuration of the command line: %+v", cfg)
	}

	writeFile(t, filepath.Join(dir, "c.yml"), "exec: nonsense\naddr:\ndbs: [{path: a, replica: {path: r}}]")
	writeFile(t, filepath.Join(dir, "a"), "exists")
	r = newReplicateRun()
	if got := r.run(t.Context(), "-config", "c.yml", "-exec", "true", "-restore-if-db-not-exists", "-log-level", "warn"); got != (result{}) {
		t.Fatalf("got %+v, want silence at level warn", got)
	}
	if cfg := r.runner.cfg; cfg.Exec != "true" || !cfg.DBs[0].RestoreIfDBNotExists || os.Getenv("LOG_LEVEL") != "warn" {
		t.Errorf("flags over file: %+v, LOG_LEVEL=%s", cfg, os.Getenv("LOG_LEVEL"))
	}
}

func TestReplicate_Signal(t *testing.T) {
	testFolder(t)
	r := newReplicateRun()
	go func() {
		<-r.runner.opened
		r.signals <- syscall.SIGTERM
	}()
	got := r.run(t.Context(), "a.db", "file:///r")
	if diff := cmp.Diff([]string{"open", "close"}, r.runner.calls); diff != "" || got.code != 0 || got.stderr != "" {
		t.Fatalf("got %+v, calls (-want +got):\n%s", got, diff)
	}
	for _, want := range []string{
		`level=INFO msg=litestream version=`, `level=INFO msg="signal received, litestream shutting down" signal=terminated`,
		`level=INFO msg="litestream shut down"`,
	} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("log %q lacks %q", got.stdout, want)
		}
	}
	if first, _, _ := strings.Cut(got.stdout, "\n"); !strings.HasSuffix(first, " level=INFO") {
		t.Errorf("first line %q does not end with the level in force", first)
	}
}

func TestReplicate_NoDatabases(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "logging: {stderr: true, type: json, level: trace}")
	r := newReplicateRun()
	r.signals <- os.Interrupt
	got := r.run(t.Context(), "-config", "c.yml")
	if got.code != 0 || got.stdout != "" || !strings.Contains(got.stderr, `"level":"ERROR","msg":"no databases specified in configuration"`) ||
		!strings.Contains(got.stderr, `"msg":"litestream","version":"`) {
		t.Fatalf("got %+v", got)
	}
}

func TestReplicate_OpenFails(t *testing.T) {
	testFolder(t)
	r := newReplicateRun()
	r.runner.open = func(context.Context) error { return errors.New("boom") }
	got := r.run(t.Context(), "a.db", "file:///r")
	if diff := cmp.Diff([]string{"open"}, r.runner.calls); diff != "" || got.code != 1 || got.stderr != "Error: boom\n" {
		t.Fatalf("got %+v, calls (-want +got):\n%s", got, diff)
	}
}

// TestReplicate_OpenInterrupted holds that a signal during the start ends it.
func TestReplicate_OpenInterrupted(t *testing.T) {
	testFolder(t)
	r := newReplicateRun()
	r.runner.open = func(ctx context.Context) error {
		r.signals <- os.Interrupt
		<-ctx.Done()
		return ctx.Err()
	}
	got := r.run(t.Context(), "a.db", "file:///r")
	if diff := cmp.Diff([]string{"open"}, r.runner.calls); diff != "" || got.code != 0 || got.stderr != "" {
		t.Fatalf("got %+v, calls (-want +got):\n%s", got, diff)
	}
}

func TestReplicate_CloseFails(t *testing.T) {
	testFolder(t)
	r := newReplicateRun()
	r.runner.close = func(context.Context) error { return errors.New("not uploaded: a.db") }
	r.signals <- os.Interrupt
	if got := r.run(t.Context(), "a.db", "file:///r"); got.code != 1 || got.stderr != "Error: not uploaded: a.db\n" || strings.Contains(got.stdout, "shut down\"") {
		t.Fatalf("got %+v", got)
	}
}

func TestReplicate_SecondSignal(t *testing.T) {
	testFolder(t)
	r := newReplicateRun()
	hang := make(chan struct{})
	defer close(hang)
	r.runner.close = func(context.Context) error {
		r.signals <- os.Interrupt
		<-hang
		return nil
	}
	r.signals <- os.Interrupt
	if got := r.run(t.Context(), "a.db", "file:///r"); got.code != 1 || got.stderr != "Error: shutdown interrupted by interrupt\n" {
		t.Fatalf("got %+v", got)
	}
}

func TestReplicate_ShutdownTimeout(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "shutdown-timeout: 7s")
	synctest.Test(t, func(t *testing.T) {
		// A runner that ends with its context names what it could not do.
		r := newReplicateRun()
		r.runner.close = func(ctx context.Context) error {
			<-ctx.Done()
			return errors.New("2 databases not synced")
		}
		r.signals <- os.Interrupt
		start := time.Now()
		got := r.run(t.Context(), "-config", "c.yml")
		if got.code != 1 || !strings.Contains(got.stderr, "2 databases not synced") || time.Since(start) != 7*time.Second {
			t.Errorf("after %s: got %+v", time.Since(start), got)
		}

		// One that does not is left behind.
		r = newReplicateRun()
		hang := make(chan struct{})
		defer close(hang)
		r.runner.close = func(context.Context) error { <-hang; return nil }
		r.signals <- os.Interrupt
		start = time.Now()
		got = r.run(t.Context(), "-config", "c.yml")
		if got.code != 1 || got.stderr != "Error: shutdown did not finish within 7s\n" || time.Since(start) != 7*time.Second+closeGrace {
			t.Errorf("hanging, after %s: got %+v", time.Since(start), got)
		}
	})
}

func TestReplicate_Once(t *testing.T) {
	testFolder(t)
	r := newReplicateRun()
	got := r.run(t.Context(), "-once", "-force-snapshot", "-enforce-retention", "a.db", "file:///r")
	if diff := cmp.Diff([]string{"sync", "snapshot", "retention", "close"}, r.runner.calls); diff != "" || got.code != 0 {
		t.Fatalf("got %+v, calls (-want +got):\n%s", got, diff)
	}

	r = newReplicateRun()
	r.runner.sync = func(context.Context, litestream.SyncOnceOptions) error { return errors.New("a.db: boom") }
	r.runner.close = func(ctx context.Context) error { return ctx.Err() } // does not try again
	got = r.run(t.Context(), "-once", "a.db", "file:///r")
	if diff := cmp.Diff([]string{"sync", "close"}, r.runner.calls); diff != "" || got.code != 1 || got.stderr != "Error: a.db: boom\n" {
		t.Fatalf("got %+v, calls (-want +got):\n%s", got, diff)
	}

	r = newReplicateRun()
	r.runner.sync = func(ctx context.Context, _ litestream.SyncOnceOptions) error {
		r.signals <- os.Interrupt
		<-ctx.Done()
		return ctx.Err()
	}
	if got := r.run(t.Context(), "-once", "a.db", "file:///r"); got.code != 1 || got.stderr != "Error: interrupted by interrupt\n" {
		t.Fatalf("interrupted: got %+v", got)
	}
}

func TestReplicate_Exec(t *testing.T) {
	testFolder(t)
	for _, tt := range []struct {
		name, exec string
		signal     bool
		code       int
		stderr     string
	}{
		{"Ok", `sh -c 'read x; echo child:$x'`, false, 0, ""}, // stdin is empty
		{"Status", `sh -c 'exit 3'`, false, 1, "Error: exit status 3\n"},
		{"KilledItself", `sh -c 'kill -9 $$'`, false, 1, "Error: signal: killed\n"},
		{"Missing", `/nonexistent/program -x`, false, 1, "Error: cannot start exec command: fork/exec /nonexistent/program: no such file or directory\n"},
		{"DiesFromSignal", `sh -c 'echo child:; exec sleep 60'`, true, 0, ""},
		{"ExitsOnSignal", `sh -c 'trap "exit 4" TERM; echo child:; while :; do sleep 0.05; done'`, true, 1, "Error: cannot wait for exec process: exit status 4\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newReplicateRun()
			if tt.signal {
				go func() {
					for !strings.Contains(r.stdout.String(), "child:") && t.Context().Err() == nil {
						<-time.NewTimer(5 * time.Millisecond).C
					}
					r.signals <- syscall.SIGTERM
				}()
			}
			got := r.run(t.Context(), "-exec", tt.exec, "a.db", "file:///r")
			if diff := cmp.Diff([]string{"open", "close"}, r.runner.calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if got.code != tt.code || got.stderr != tt.stderr {
				t.Errorf("got %d %q, want %d %q", got.code, got.stderr, tt.code, tt.stderr)
			}
			if (tt.name == "Ok" || tt.signal) && !strings.Contains(got.stdout, "child:\n") {
				t.Errorf("stdout %q lacks the child's", got.stdout)
			}
		})
	}
}

// TestReplicate_ExecSecondSignal holds that a second signal kills a child that
// ignores the first.
func TestReplicate_ExecSecondSignal(t *testing.T) {
	testFolder(t)
	r := newReplicateRun()
	go func() {
		for !strings.Contains(r.stdout.String(), "child:") && t.Context().Err() == nil {
			<-time.NewTimer(5 * time.Millisecond).C
		}
		r.signals <- syscall.SIGTERM
		r.signals <- syscall.SIGTERM
	}()
	got := r.run(t.Context(), "-exec", `sh -c 'trap "" TERM; echo child:; exec sleep 60'`, "a.db", "file:///r")
	if got.code != 1 || !strings.Contains(got.stderr, "second signal, terminated, while the exec process was stopping") {
		t.Fatalf("got %+v", got)
	}
}

func TestReplicate_RestoreIfMissing(t *testing.T) {
	dir := testFolder(t)
	data := testDatabase(t)
	writeSnapshot(t, filepath.Join(dir, "r"), data)
	writeFile(t, filepath.Join(dir, "there.db"), "there")
	writeFile(t, filepath.Join(dir, "c.yml"), `dbs:
  - {path: gone.db, restore-if-db-not-exists: true, replica: {path: r}}
  - {path: fresh.db, restore-if-db-not-exists: true, replica: {path: none}}
  - {path: there.db, restore-if-db-not-exists: true, replica: {path: none2}}
  - {path: other.db, replica: {path: none3}}
`)
	r := newReplicateRun()
	got := r.run(t.Context(), "-once", "-config", "c.yml")
	if got.code != 0 {
		t.Fatalf("got %+v", got)
	}
	restored, err := os.ReadFile("gone.db")
	if err != nil || !bytes.Equal(restored, data) {
		t.Errorf("restored database: %v", err)
	}
	for _, want := range []string{
		`msg="restore completed" path=` + dir + "/gone.db", `msg="no backup found, starting fresh" path=` + dir + "/fresh.db",
		`msg="database exists, skipping restore" path=` + dir + "/there.db",
	} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("log lacks %q:\n%s", want, got.stdout)
		}
	}
	for _, name := range []string{"fresh.db", "other.db"} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s was created", name)
		}
	}
}

func TestReplicate_Metrics(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "addr: 127.0.0.1:0")
	r := newReplicateRun()
	done := make(chan result, 1)
	go func() { done <- r.run(t.Context(), "-config", "c.yml") }()
	<-r.runner.opened
	urlRegex := regexp.MustCompile(`msg="serving metrics on" url=(http://127\.0\.0\.1:\d+)/metrics`)
	var base string
	for base == "" && t.Context().Err() == nil {
		<-time.NewTimer(5 * time.Millisecond).C
		if m := urlRegex.FindStringSubmatch(r.stdout.String()); m != nil {
			base = m[1]
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{
		"/metrics": "go_goroutines ", "/debug/pprof/": "goroutine", "/debug/pprof/cmdline": "", "/": "404", "/health": "404",
	} {
		resp, err := client.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if (resp.StatusCode == http.StatusOK) != (want != "404") || !strings.Contains(string(body), want) {
			t.Errorf("%s: status %d, want %q in the answer", path, resp.StatusCode, want)
		}
	}
	r.signals <- os.Interrupt
	if got := <-done; got.code != 0 {
		t.Fatalf("got %+v", got)
	}
	if resp, err := client.Get(base + "/metrics"); err == nil {
		resp.Body.Close()
		t.Error("metrics are served after the end")
	}
}

// TestReplicate_MetricsAddressTaken holds that replication goes on without
// metrics.
func TestReplicate_MetricsAddressTaken(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "addr: 203.0.113.1:1") // TEST-NET-3, no address of ours
	r := newReplicateRun()
	r.signals <- os.Interrupt
	got := r.run(t.Context(), "-config", "c.yml")
	if got.code != 0 || !strings.Contains(got.stdout, `level=ERROR msg="cannot start metrics server" addr=203.0.113.1:1`) {
		t.Fatalf("got %+v", got)
	}
}

// TestReplicate_Heartbeat holds that the keys reach the heartbeat, and that a
// single pass sends none.
func TestReplicate_Heartbeat(t *testing.T) {
	dir := testFolder(t)
	writeFile(t, filepath.Join(dir, "c.yml"), "heartbeat-url: https://u:geheim@127.0.0.1:1/geheim?geheim\nheartbeat-interval: 90s")
	const want = `msg="starting heartbeat monitor" system=store url=https://127.0.0.1:1/*** interval=1m30s`
	for _, once := range []bool{false, true} {
		r := newReplicateRun()
		args := []string{"-config", "c.yml"}
		if once {
			args = append(args, "-once")
		} else {
			go func() {
				<-r.runner.opened
				r.signals <- syscall.SIGTERM
			}()
		}
		got := r.run(t.Context(), args...)
		if got.code != 0 || strings.Contains(got.stdout, want) == once || strings.Contains(got.stdout+got.stderr, "geheim") {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

// TestReplicate_ExecSyncsLast holds that what a child wrote is replicated when
// it ended, however soon and with whatever status; and how commands are split.
func TestReplicate_ExecSyncsLast(t *testing.T) {
	for _, tt := range []struct {
		name, exec string
		code       int
		stderr     string
	}{
		{"Ok", "cp made.db app.db", 0, ""},
		{"Quotes", `sh -c "cp 'made.db' \"app.db\""`, 0, ""},
		{"Backslash", `cp made\.db app.db`, 0, ""},
		{"NoVariables", `sh -c 'test "$0" = "\$HOME" && cp made.db app.db' $HOME`, 0, ""},
		{"Status", "sh -c 'cp made.db app.db; exit 3'", 1, "Error: exit status 3\n"},
		{"Signal", "sh -c 'cp made.db app.db; kill -TERM $$'", 1, "Error: signal: terminated\n"},
		{"NotFound", "no-such-program-here", 1, "Error: cannot start exec command: exec: \"no-such-program-here\": executable file not found in $PATH\n"},
		{"NotExecutable", "./made.db", 1, "Error: cannot start exec command: fork/exec ./made.db: permission denied\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := testFolder(t)
			makeDatabase(t, dir+"/made.db", 3)
			var stdout, stderr lockedBuffer
			a := &app{stdout: &stdout, stderr: &stderr, signals: noSignals, newRunner: newStore}
			code := a.main(t.Context(), []string{"replicate", "-exec", tt.exec, "app.db", "file://" + dir + "/replica"})
			if code != tt.code || stderr.String() != tt.stderr {
				t.Errorf("status %d, %q; want %d, %q\n%s", code, stderr.String(), tt.code, tt.stderr, stdout.String())
			}
			if _, err := os.Stat("app.db"); err != nil {
				return
			}
			if got := runCommand(t, "restore", "-o", "out", "file://"+dir+"/replica"); got.code != 0 || countRows(t, "out") != 3 {
				t.Errorf("restore: %+v", got)
			}
		})
	}
}

// TestReplicate_Socket holds that the control socket lies where the file says,
// with the permissions that it says, and goes away.
func TestReplicate_Socket(t *testing.T) {
	dir := testFolder(t)
	for _, tt := range []struct {
		keys string
		want string // of the socket; empty: there is none
	}{
		{"enabled: true, path: s.sock", "Srw-------"},
		{"enabled: true, path: s.sock, permissions: 0660", "Srw-rw----"},
		{"enabled: false, path: s.sock", ""},
	} {
		writeFile(t, filepath.Join(dir, "c.yml"), "socket: {"+tt.keys+"}")
		var stdout, stderr lockedBuffer
		signals := make(chan os.Signal, 1)
		a := &app{
			stdout: &stdout, stderr: &stderr, newRunner: newStore,
			signals: func() (<-chan os.Signal, func()) { return signals, func() {} },
		}
		done := make(chan int, 1)
		go func() { done <- a.main(t.Context(), []string{"replicate", "-config", "c.yml"}) }()
		line := "control socket listening"
		if tt.want == "" {
			line = "no databases specified"
		}
		for !strings.Contains(stdout.String(), line) && len(done) == 0 {
			<-time.NewTimer(5 * time.Millisecond).C
		}
		got := ""
		if fi, err := os.Stat("s.sock"); err == nil {
			got = fi.Mode().String()
		}
		signals <- syscall.SIGTERM
		if code := <-done; code != 0 || got != tt.want {
			t.Errorf("%s: socket %q, want %q; status %d, %s%s", tt.keys, got, tt.want, code, stdout.String(), stderr.String())
		}
		if _, err := os.Stat("s.sock"); err == nil {
			t.Errorf("%s: the socket is left", tt.keys)
		}
	}
}
