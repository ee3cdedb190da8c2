package sftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pkg/sftp"
)

// answering returns a session with a server that is run by serve, and closes
// both when the test ends.
func answering(t *testing.T, serve func(conn net.Conn)) *channel {
	t.Helper()
	here, there := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer there.Close()
		serve(there)
	})
	ch, err := newChannel(here, here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ch.client.Close()
		wg.Wait()
	})
	return ch
}

// TestWire_Together mixes batches with requests of the client, whose packets
// come in two pieces, on one session.
func TestWire_Together(t *testing.T) {
	ch := answering(t, func(conn net.Conn) {
		srv, err := sftp.NewServer(conn)
		if err != nil {
			t.Error(err)
			return
		}
		_ = srv.Serve() // ends with the connection
	})
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 4 {
		data := bytes.Repeat([]byte{byte(i + 1)}, 20_000)
		wg.Go(func() {
			for n := range 20 {
				name := filepath.Join(dir, fmt.Sprintf("client-%d-%d", i, n))
				f, err := ch.client.Create(name)
				if err == nil {
					_, err = f.WriteAt(data, 0)
					err = errors.Join(err, f.Close())
				}
				if got, rerr := os.ReadFile(name); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes of %d, err=%v", name, len(got), len(data), errors.Join(err, rerr))
				}
			}
		})
		wg.Go(func() {
			for n := range 20 {
				name := filepath.Join(dir, fmt.Sprintf("batch-%d-%d", i, n))
				if err := store(ch.wire, name, data); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes of %d, err=%v", name, len(got), len(data), err)
				}
			}
		})
	}
	wg.Wait()
}

func store(w *wire, name string, data []byte) error {
	answers, err := w.batch(openRequest(name, fxfWrite|fxfCreate|fxfExcl), openRequest(name+"/none", fxfRead))
	if err != nil {
		return err
	}
	handle, err := answers[0].handle()
	if err != nil {
		return err
	}
	if _, err := answers[1].handle(); err == nil {
		return errors.New("a file below a file was opened")
	}
	if answers, err = w.batch(writeRequest(handle, 0, data)); err != nil {
		return err
	}
	if err := answers[0].status(); err != nil {
		return err
	}
	answers, err = w.batch(ofName(fxpClose, handle), ofName(fxpRemove, name+".none"))
	if err != nil {
		return err
	}
	if err := answers[1].status(); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what is not there: err=%w", err)
	}
	return answers[0].status()
}

// TestWire_Nonsense ends a session whose server breaks off or answers what
// nobody understands: everything that waits on it fails as a lost connection.
func TestWire_Nonsense(t *testing.T) {
	// packet returns one with a given length, which may be a lie.
	packet := func(length uint32, kind byte, id uint32, body string) []byte {
		b := append(binary.BigEndian.AppendUint32(nil, length), kind)
		return append(binary.BigEndian.AppendUint32(b, id), body...)
	}
	for _, tt := range []struct {
		name   string
		answer func(id uint32) []byte // nil: the server ends
	}{
		{"End", func(uint32) []byte { return nil }},
		{"HalfAnswer", func(id uint32) []byte { return packet(100, fxpStatus, id, "abc") }},
		{"Short", func(id uint32) []byte { return packet(3, fxpStatus, id, "") }},
		{"Long", func(id uint32) []byte { return packet(maxAnswer+100, fxpStatus, id, "abc") }},
		{"OfNobody", func(id uint32) []byte { return packet(9, fxpStatus, id-1000, "\x00\x00\x00\x00") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ch := answering(t, func(conn net.Conn) {
				head := make([]byte, packetHead)
				if _, err := io.ReadFull(conn, head); err != nil { // INIT
					t.Error(err)
					return
				}
				if _, err := conn.Write(packet(5, 2, 3, "")); err != nil { // VERSION 3
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(conn, head); err != nil {
					t.Error(err)
					return
				}
				rest := make([]byte, binary.BigEndian.Uint32(head)+4-packetHead)
				if _, err := io.ReadFull(conn, rest); err != nil {
					t.Error(err)
					return
				}
				_, _ = conn.Write(tt.answer(binary.BigEndian.Uint32(head[5:]))) // who reads it may be gone
			})
			if _, err := ch.wire.batch(ofName(fxpRemove, "x")); !errors.Is(err, errLost) || !isBroken(err) {
				t.Errorf("err=%v, want a lost connection", err)
			}
			if _, err := ch.wire.batch(ofName(fxpRemove, "x")); !errors.Is(err, errLost) {
				t.Errorf("later: err=%v, want a lost connection", err)
			}
		})
	}
}

// slowIn is a channel of SSH on which a write takes until it is let go.
type slowIn struct {
	writing, letGo chan struct{}
	busy           atomic.Bool
	together       atomic.Bool // it was closed beside a write
}

func (s *slowIn) Write(p []byte) (int, error) {
	s.busy.Store(true)
	close(s.writing)
	<-s.letGo
	s.busy.Store(false)
	return len(p), nil
}

func (s *slowIn) Close() error {
	s.together.Store(s.busy.Load())
	return nil
}

// A batch that is being sent ends at once when the stream is closed, and the
// channel behind it is closed after its last write only.
func TestWire_CloseBesideWrite(t *testing.T) {
	in := &slowIn{writing: make(chan struct{}), letGo: make(chan struct{})}
	w := &wire{in: in, waiting: make(map[uint32]chan<- answer)}
	var wg sync.WaitGroup
	var sent error
	wg.Go(func() { _, sent = w.batch(ofName(fxpRemove, "a")) })
	<-in.writing
	wg.Go(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	for left := 1; left > 0; { // until Close has told those who wait
		w.mu.Lock()
		left = len(w.waiting)
		w.mu.Unlock()
		runtime.Gosched()
	}
	close(in.letGo)
	wg.Wait()
	if in.together.Load() {
		t.Error("the channel was closed beside a write")
	}
	if !errors.Is(sent, errLost) || !errors.Is(sent, net.ErrClosed) {
		t.Errorf("batch: %v", sent)
	}
}

func TestAnswer(t *testing.T) {
	status := func(code uint32, text string) answer {
		return answer{kind: fxpStatus, body: appendString(binary.BigEndian.AppendUint32(nil, code), text)}
	}
	if err := status(fxOK, "Success").status(); err != nil {
		t.Errorf("success: err=%v", err)
	}
	if err := status(fxNoSuchFile, "").status(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such file: err=%v", err)
	}
	if err := status(fxPermissionDenied, "").status(); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("denied: err=%v", err)
	}
	if err := status(4, "quota exceeded").status(); !isRefused(err) || isBroken(err) {
		t.Errorf("failure: err=%v, want a refusal", err)
	}
	for _, a := range []answer{
		{kind: fxpStatus},
		{kind: fxpHandle},
		{kind: 77},
		status(fxOK, ""),
		{kind: fxpHandle, body: []byte{0, 0, 0, 9, 1}},
		{kind: fxpHandle, body: []byte{255, 255, 255, 255}},
	} {
		if h, err := a.handle(); err == nil {
			t.Errorf("%v: handle %q, want an error", a, h)
		}
	}
}
