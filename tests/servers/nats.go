package servers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NATSServer is a running nats-server with JetStream. Its methods are for the
// test's goroutine.
type NATSServer struct {
	Addr string // host:port on loopback

	tb testing.TB
	p  *process
}

// NATS starts a nats-server on an empty directory, with lines of its
// configuration language for what a test asks for. The test is skipped where it
// is not installed.
func NATS(tb testing.TB, config string) *NATSServer {
	tb.Helper()
	path := binary(tb, "LITESTREAM_TEST_NATS", "nats-server", "servers")
	dir, addr := tb.TempDir(), freeAddr(tb)
	data := filepath.Join(dir, "data")
	mkdir(tb, data)
	file := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\njetstream { store_dir: %q, max_file_store: 100GB }\n%s\n", addr, data, config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	p := &process{tb: tb, name: "nats-server", path: path, args: []string{"-c", file}, dir: dir, addr: addr}
	p.start()
	return &NATSServer{Addr: addr, tb: tb, p: p}
}

// Env returns the environment for a child process that uses the server.
func (s *NATSServer) Env() []string { return cleanEnv() }

// Stop ends the server's process and waits for it.
func (s *NATSServer) Stop() {
	s.tb.Helper()
	s.p.stop()
}

// Kill ends the server's process without telling it before.
func (s *NATSServer) Kill() {
	s.tb.Helper()
	s.p.kill()
}

// Restart starts the server again on the same port with the same data, and waits
// until it accepts connections. One that runs is stopped first.
func (s *NATSServer) Restart() {
	s.tb.Helper()
	s.p.stop()
	s.p.start()
}

// JetStream returns a plain client of the server, with which tests prepare and
// inspect buckets beside the code under test, until close is called.
func (s *NATSServer) JetStream(opts ...nats.Option) (js jetstream.JetStream, done func()) {
	s.tb.Helper()
	closed := make(chan struct{})
	opts = append(opts, nats.Timeout(readyTimeout), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	nc, err := nats.Connect("nats://"+s.Addr, opts...)
	if err != nil {
		s.tb.Fatal(err)
	}
	if js, err = jetstream.New(nc); err != nil {
		s.tb.Fatal(err)
	}
	return js, func() {
		nc.Close()
		<-closed
	}
}

// CreateBucket makes an object store.
func (s *NATSServer) CreateBucket(cfg jetstream.ObjectStoreConfig, opts ...nats.Option) {
	s.tb.Helper()
	js, done := s.JetStream(opts...)
	defer done()
	// JetStream is ready a moment after the server accepts connections.
	for deadline := time.Now().Add(readyTimeout); ; {
		_, err := js.CreateObjectStore(s.tb.Context(), cfg)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("create bucket %s on %s: %v", cfg.Bucket, s.Addr, err)
		}
	}
}
