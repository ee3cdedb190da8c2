package control_test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream/internal/control"
)

func openAt(t *testing.T, path string, mode os.FileMode) (*control.Server, error) {
	t.Helper()
	s := control.NewServer(control.Options{Path: path, Permissions: mode, Service: &fakeService{}})
	return s, s.Open(t.Context())
}

// TestServer_SocketRefused holds what keeps a server from opening, and that
// what lies there is left as it is.
func TestServer_SocketRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("hi"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	live := filepath.Join(dir, "live")
	ln, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for path, want := range map[string]string{
		dir:                                  "is not a socket: " + dir + " (it is a directory)",
		file:                                 "(it is a file)",
		link:                                 "(it is a symbolic link)",
		live:                                 "another process listens on it",
		filepath.Join(dir, "none", "s"):      "no such file or directory",
		filepath.Join(file, "s"):             "not a directory",
		dir + "/" + strings.Repeat("x", 150): "may have 107 bytes",
	} {
		s, err := openAt(t, path, 0o600)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Errorf("close of one that did not open: %v", err)
		}
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "hi" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	go func() {
		if conn, err := ln.Accept(); err == nil { // that of the server, which asked
			_ = conn.Close()
		}
		if conn, err := ln.Accept(); err == nil {
			_, _ = io.WriteString(conn, "mine")
			_ = conn.Close()
		}
	}()
	conn, err := net.Dial("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if data, err := io.ReadAll(conn); err != nil || string(data) != "mine" {
		t.Errorf("the other's socket answers %q, %v", data, err)
	}
}

// TestServer_SocketStale replaces a socket that its process left behind.
func TestServer_SocketStale(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := openAt(t, path, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want 0640", st.Mode(), err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// TestServer_SocketNotOurs leaves alone what took the socket's place.
func TestServer_SocketNotOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, err := openAt(t, path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := openAt(t, path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the other's socket: %v", err)
	}
	if err := other.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
