package servers

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// GCSServer is a running fake-gcs-server: a server of Google Cloud Storage's
// protocol that asks for no credentials. Its methods
// are for the test's goroutine.
type GCSServer struct {
	Endpoint string // such as http://127.0.0.1:21000; what STORAGE_EMULATOR_HOST is set to

	tb testing.TB
	p  *process
}

// FakeGCS starts an empty fake-gcs-server. If durable is set it keeps objects in
// files, through Restart; that is slow, and a name cannot begin with a slash.
// The test is skipped where it is not installed.
func FakeGCS(tb testing.TB, durable bool) *GCSServer {
	tb.Helper()
	path := binary(tb, "LITESTREAM_TEST_FAKE_GCS", "fake-gcs-server", "servers")
	dir, addr := tb.TempDir(), freeAddr(tb)
	host, port := splitAddr(tb, addr)
	p := &process{tb: tb, name: "fake-gcs-server", path: path, dir: dir, addr: addr, args: []string{
		"-scheme", "http", "-host", host, "-port", port, "-public-host", addr, "-external-url", "http://" + addr,
		"-log-level", "error", "-backend", "memory",
	}}
	if durable {
		data := filepath.Join(dir, "data")
		mkdir(tb, data)
		p.args = append(p.args, "-backend", "filesystem", "-filesystem-root", data)
	}
	p.start()
	return &GCSServer{Endpoint: "http://" + addr, tb: tb, p: p}
}

// Env returns the environment for a child process that uses the server.
func (s *GCSServer) Env() []string {
	return append(cleanEnv(), "STORAGE_EMULATOR_HOST="+s.Endpoint)
}

// Stop ends the server's process and waits for it, Restart starts it again on
// the same port with the same data.
func (s *GCSServer) Stop() {
	s.tb.Helper()
	s.p.stop()
}

// Restart starts a stopped server again and waits until it accepts connections.
func (s *GCSServer) Restart() {
	s.tb.Helper()
	s.p.stop()
	s.p.start()
}

// CreateBucket makes a bucket.
func (s *GCSServer) CreateBucket(name string) {
	s.tb.Helper()
	post(s.tb, s.Endpoint+"/storage/v1/b?project=test", "application/json", fmt.Sprintf(`{"name":%q}`, name))
}

// post sends a request without keeping its connection.
func post(tb testing.TB, url, contentType, body string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), readyTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		tb.Fatalf("post %s: %s", url, resp.Status)
	}
}
