package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/benbjohnson/litestream/internal/sdnotify"
)

// fakeSystemd listens in place of systemd and returns what it hears.
func fakeSystemd(t *testing.T) (socket string, messages <-chan string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	c, done := make(chan string, 1000), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			c <- string(buf[:n])
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return socket, c
}

// hear returns the next message.
func hear(t *testing.T, messages <-chan string) string {
	t.Helper()
	select {
	case msg := <-messages:
		return msg
	case <-time.After(20 * time.Second):
		t.Fatal("systemd hears nothing")
		return ""
	}
}

// heardBefore returns what was sent before the call and not heard yet: a
// message of its own ends it.
func heardBefore(t *testing.T, socket string, messages <-chan string) (got []string) {
	t.Helper()
	const mark = "that is all"
	n, err := sdnotify.FromEnvironment(func(name string) string {
		return map[string]string{"NOTIFY_SOCKET": socket}[name]
	}, os.Getpid())
	if err == nil {
		err = n.Send(t.Context(), mark)
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		msg := hear(t, messages)
		if msg == mark {
			return got
		}
		got = append(got, msg)
	}
}

// TestService_Process lets the command replicate in a process of its own, as
// systemd would start it.
func TestService_Process(t *testing.T) {
	dir := testFolder(t)
	makeDatabase(t, filepath.Join(dir, "a.db"), 1)
	makeDatabase(t, filepath.Join(dir, "t1.db"), 1)
	writeFile(t, filepath.Join(dir, "c.yml"), fmt.Sprintf(`
dbs: [{path: a.db, replica: {path: r}}]
multi-db:
  enabled: true
  patterns: ["%s/t*.db"]
  state-dir: %s/state
  replica-template: {type: file, path: "%s/fleet/{{1}}"}
`, dir, dir, dir))
	socket, messages := fakeSystemd(t)
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), os.Args[0], "replicate", "-config", "c.yml")
	cmd.Env = append(os.Environ(), runMainEnv+"=1", "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=200000")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := hear(t, messages)
	if want := "READY=1\nSTATUS=replicating 1 databases; 1 found by pattern: "; !strings.HasPrefix(first, want) {
		t.Errorf("first message %q, want %q", first, want)
	}
	for range 3 {
		if got := hear(t, messages); !strings.HasPrefix(got, "WATCHDOG=1\nSTATUS=replicating 1 databases;") {
			t.Errorf("message %q, want an answer to the watchdog", got)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for hear(t, messages) != "STOPPING=1\nSTATUS=syncing a last time" {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
}

// hungRunner gets on until it is told to hang.
type hungRunner struct {
	*fakeRunner
	hangs chan struct{}
	asked chan struct{} // in vain
}

func (r *hungRunner) StatusText() string { return "at work" }

func (r *hungRunner) Alive(ctx context.Context) error {
	select {
	case <-r.hangs:
	default:
		return nil
	}
	<-ctx.Done()
	select {
	case r.asked <- struct{}{}:
	default:
	}
	return ctx.Err()
}

// TestService_Hangs checks that the watchdog is not answered for a runner that
// hangs, and that it is again once the runner is being closed.
func TestService_Hangs(t *testing.T) {
	testFolder(t)
	socket, messages := fakeSystemd(t)
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "100000")
	r := newReplicateRun()
	hung := &hungRunner{fakeRunner: r.runner, hangs: make(chan struct{}), asked: make(chan struct{}, 1)}
	closing := make(chan struct{})
	r.runner.close = func(context.Context) error { <-closing; return nil }
	a := &app{
		stdout: &r.stdout, stderr: &r.stderr,
		signals: func() (<-chan os.Signal, func()) { return r.signals, func() {} },
		newRunner: func(context.Context, *Config, prometheus.Registerer, *slog.Logger) (runner, error) {
			return hung, nil
		},
	}
	done := make(chan int)
	go func() { done <- a.main(context.WithoutCancel(t.Context()), []string{"replicate", "a.db", "file:///r"}) }()
	if got, want := hear(t, messages), "READY=1\nSTATUS=at work"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := hear(t, messages), "WATCHDOG=1\nSTATUS=at work"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	close(hung.hangs)
	<-hung.asked
	heardBefore(t, socket, messages) // answered before it hung
	<-hung.asked
	<-hung.asked
	if got := heardBefore(t, socket, messages); len(got) > 0 {
		t.Errorf("the watchdog of a runner that hangs heard %q", got)
	}
	r.signals <- os.Interrupt
	if got, want := hear(t, messages), "STOPPING=1\nSTATUS=syncing a last time"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := hear(t, messages), "WATCHDOG=1"; !strings.HasPrefix(got, want) {
		t.Errorf("while closing: got %q, want %q", got, want)
	}
	close(closing)
	if code := <-done; code != 0 {
		t.Errorf("status %d\n%s", code, r.stderr.String())
	}
	if want := "systemd's watchdog is not answered"; !strings.Contains(r.stdout.String(), want) {
		t.Errorf("log %q lacks %q", r.stdout.String(), want)
	}
}

// A socket that nobody listens on keeps nothing from being replicated.
func TestService_NoSystemd(t *testing.T) {
	testFolder(t)
	for _, socket := range []string{filepath.Join(t.TempDir(), "gone"), "vsock:1:2"} {
		t.Setenv("NOTIFY_SOCKET", socket)
		r := newReplicateRun()
		r.signals <- os.Interrupt
		if got := r.run(t.Context(), "a.db", "file:///r"); got.code != 0 || !strings.Contains(got.stdout, "level=WARN msg=\"systemd ") {
			t.Errorf("NOTIFY_SOCKET=%s: got %+v, want a warning", socket, got)
		}
	}
}
