package sdnotify_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/sdnotify"
)

// environment returns a getenv over pairs of name and value.
func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestFromEnvironment(t *testing.T) {
	for _, tt := range []struct {
		name     string
		env      []string
		none     bool
		watchdog time.Duration
		err      string
	}{
		{name: "nothing", none: true},
		{name: "watchdog without socket", env: []string{"WATCHDOG_USEC", "1000"}, none: true},
		{name: "socket", env: []string{"NOTIFY_SOCKET", "/run/n"}},
		{name: "abstract socket", env: []string{"NOTIFY_SOCKET", "@n"}},
		{name: "watchdog", env: []string{"NOTIFY_SOCKET", "/run/n", "WATCHDOG_USEC", "30000000"}, watchdog: 30 * time.Second},
		{name: "watchdog of this process", env: []string{"NOTIFY_SOCKET", "/run/n", "WATCHDOG_USEC", "1000", "WATCHDOG_PID", "7"}, watchdog: time.Millisecond},
		{name: "watchdog of another process", env: []string{"NOTIFY_SOCKET", "/run/n", "WATCHDOG_USEC", "1000", "WATCHDOG_PID", "8"}},
		{name: "vsock", env: []string{"NOTIFY_SOCKET", "vsock:2:1234"}, err: "must begin with / or @"},
		{name: "relative", env: []string{"NOTIFY_SOCKET", "n"}, err: "must begin with / or @"},
		{name: "no number", env: []string{"NOTIFY_SOCKET", "/n", "WATCHDOG_USEC", "30s"}, err: "WATCHDOG_USEC"},
		{name: "zero", env: []string{"NOTIFY_SOCKET", "/n", "WATCHDOG_USEC", "0"}, err: "WATCHDOG_USEC"},
		{name: "overflow", env: []string{"NOTIFY_SOCKET", "/n", "WATCHDOG_USEC", "9223372036854775807"}, err: "WATCHDOG_USEC"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := sdnotify.FromEnvironment(environment(tt.env...), 7)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error=%v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if (n == nil) != tt.none || n.Watchdog() != tt.watchdog {
				t.Errorf("notifier=%v watchdog=%s, want none=%t watchdog=%s", n, n.Watchdog(), tt.none, tt.watchdog)
			}
		})
	}
}

// listen returns a socket in place of systemd's.
func listen(t *testing.T, addr string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestNotifier_Send(t *testing.T) {
	addrs := []string{filepath.Join(t.TempDir(), "notify")}
	if runtime.GOOS == "linux" {
		addrs = append(addrs, fmt.Sprintf("@litestream-sdnotify-test-%d", os.Getpid()))
	}
	for _, addr := range addrs {
		systemd := listen(t, addr)
		n, err := sdnotify.FromEnvironment(environment("NOTIFY_SOCKET", addr), 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			states []string
			want   string
		}{
			{[]string{sdnotify.Ready, sdnotify.Status + "all well"}, "READY=1\nSTATUS=all well"},
			{[]string{sdnotify.Alive}, "WATCHDOG=1"},
			{[]string{sdnotify.Stopping}, "STOPPING=1"},
		} {
			if err := n.Send(t.Context(), tt.states...); err != nil {
				t.Fatalf("%s: Send(%q): %v", addr, tt.states, err)
			}
			buf := make([]byte, 4096)
			size, err := systemd.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(buf[:size]); got != tt.want {
				t.Errorf("%s: got %q, want %q", addr, got, tt.want)
			}
		}
	}
}

func TestNotifier_SendErrors(t *testing.T) {
	var none *sdnotify.Notifier
	if err := none.Send(t.Context(), sdnotify.Ready); err != nil {
		t.Errorf("nil notifier: %v", err)
	}
	n, err := sdnotify.FromEnvironment(environment("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone")), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Send(t.Context(), sdnotify.Ready); err == nil || !strings.Contains(err.Error(), "notify systemd") {
		t.Errorf("no socket: error=%v, want one", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Send(ctx, sdnotify.Ready); err == nil {
		t.Error("cancelled: no error")
	}
}

// TestNotifier_SendNobodyReads fills the socket: a message that nobody takes
// is an error in the end, and not a hang.
func TestNotifier_SendNobodyReads(t *testing.T) {
	addr := filepath.Join(t.TempDir(), "notify")
	listen(t, addr)
	n, err := sdnotify.FromEnvironment(environment("NOTIFY_SOCKET", addr), 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err = n.Send(ctx, sdnotify.Alive)
		cancel()
		if err != nil {
			return
		}
	}
	t.Error("10,000 messages were sent and none read, and none was refused")
}
