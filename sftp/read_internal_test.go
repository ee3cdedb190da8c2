package sftp

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/pkg/sftp"
)

// endingWriter is the way to a server, which ends like a channel of a lost
// connection does.
type endingWriter struct {
	net.Conn
	ended atomic.Bool
}

func (w *endingWriter) Write(p []byte) (int, error) {
	if w.ended.Load() {
		return 0, io.EOF
	}
	return w.Conn.Write(p)
}

// TestReadChunk_LostConnection holds that the end of a connection is never taken
// for the end of a file.
func TestReadChunk_LostConnection(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, offset := range []int64{packetSize, int64(len(data)) - 100} {
		here, there := net.Pipe()
		server := sftp.NewRequestServer(there, sftp.InMemHandler())
		done := make(chan error, 1)
		go func() { done <- server.Serve() }()
		way := &endingWriter{Conn: here}
		client, err := sftp.NewClientPipe(here, way)
		if err != nil {
			t.Fatal(err)
		}
		f, err := client.Create("/f")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}

		first, err := openChunk(client, "/f", 0, packetSize, false)
		if err != nil || first.held == nil || !bytes.Equal(first.data, data[:packetSize]) {
			t.Fatalf("first part: %d bytes, err=%v", len(first.data), err)
		}
		c, err := first.held.readChunk(int64(len(data))-100, partSize)
		if err != nil || !c.end || !bytes.Equal(c.data, data[len(data)-100:]) {
			t.Errorf("end of the file: %d bytes, end=%t, err=%v", len(c.data), c.end, err)
		}
		c, err = first.held.readChunk(int64(len(data)), partSize)
		if err != nil || !c.end || len(c.data) != 0 {
			t.Errorf("behind the file: %d bytes, end=%t, err=%v", len(c.data), c.end, err)
		}

		way.ended.Store(true)
		for _, want := range []int64{100, packetSize, partSize} {
			c, err := first.held.readChunk(offset, want)
			if err == nil || !isBroken(err) {
				t.Errorf("%d bytes from %d of a lost connection: %d bytes, end=%t, err=%v", want, offset, len(c.data), c.end, err)
			}
		}
		for _, last := range []bool{false, true} {
			if c, err := openChunk(client, "/f", offset, packetSize, last); err == nil || !isBroken(err) {
				t.Errorf("open over a lost connection: %d bytes, err=%v", len(c.data), err)
			}
		}
		if err := errors.Join(here.Close(), there.Close()); err != nil {
			t.Error(err)
		}
		_ = client.Close() // of what is lost
		<-done             // the reason is known
	}
}
