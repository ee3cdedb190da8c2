package sftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Types of packets, and flags, of the protocol's version 3
// (draft-ietf-secsh-filexfer-02 sections 3, 5 and 6).
const (
	fxpOpen     = 3
	fxpClose    = 4
	fxpWrite    = 6
	fxpFsetstat = 10
	fxpRemove   = 13
	fxpStatus   = 101
	fxpHandle   = 102
	fxpExtended = 200

	fxfRead   = 0x01
	fxfWrite  = 0x02
	fxfCreate = 0x08
	fxfExcl   = 0x20

	attrTimes = 0x08

	fxOK               = 0
	fxNoSuchFile       = 2
	fxPermissionDenied = 3
)

const (
	// packetHead is the size of length, type and number of a packet, in bytes.
	packetHead = 4 + 1 + 4

	// maxAnswer is the most that an answer to a batch may have, in bytes.
	maxAnswer = 256 << 10
)

// wire is the stream of one SFTP session. Beside the requests of the client of
// pkg/sftp, which wait for each other's answers, it carries batches. It is safe
// for concurrent use, but for Read and Write, which are that client's.
type wire struct {
	in  io.WriteCloser // to the server
	out io.Reader      // from it

	// sending is held from the first byte of a packet to its last one. Of the
	// client's packets these come in two writes.
	sending sync.Mutex
	owed    int // bytes of the client's packet that are still to come; the client's own

	head []byte // read of a packet that is the client's, and not handed out; the reader's own
	body int    // bytes of it that follow; the reader's own

	mu      sync.Mutex // guards the rest; never held across I/O
	last    uint32     // number of the last request of a batch
	waiting map[uint32]chan<- answer
	err     error // why the stream ended
}

// openWire opens a session on a connection, and the client for what is no
// batch. What the server says beside the protocol is read by drain, which ends
// with the connection.
func openWire(conn *ssh.Client, drain func(fn func()), opts ...sftp.ClientOption) (*channel, error) {
	s, err := conn.NewSession()
	if err != nil {
		return nil, err
	}
	var in io.WriteCloser
	var out, aside io.Reader
	if in, err = s.StdinPipe(); err == nil {
		out, err = s.StdoutPipe()
	}
	if err == nil {
		aside, err = s.StderrPipe()
	}
	if err == nil {
		err = s.RequestSubsystem("sftp")
	}
	if err != nil {
		_ = s.Close() // the server may have done so
		return nil, err
	}
	drain(func() { _, _ = io.Copy(io.Discard, aside) })
	ch, err := newChannel(in, out, opts...)
	if err != nil {
		_ = s.Close() // the server may have done so
		return nil, err
	}
	return ch, nil
}

// newChannel greets a server.
func newChannel(in io.WriteCloser, out io.Reader, opts ...sftp.ClientOption) (*channel, error) {
	w := &wire{in: in, out: out, waiting: make(map[uint32]chan<- answer)}
	client, err := sftp.NewClientPipe(w, w, opts...)
	if err != nil {
		return nil, err
	}
	return &channel{client: client, wire: w}, nil
}

// Write sends what the client has to say.
func (w *wire) Write(p []byte) (int, error) {
	if w.owed == 0 {
		if len(p) < 4 {
			return 0, io.ErrShortWrite
		}
		w.sending.Lock()
		w.owed = 4 + int(binary.BigEndian.Uint32(p))
	}
	n, err := w.in.Write(p)
	if w.owed -= n; w.owed <= 0 || err != nil {
		w.owed = 0
		w.sending.Unlock()
	}
	return n, err
}

// Close ends the stream to the server, behind a packet that is being sent: a
// channel of SSH cannot be closed beside a write. Whoever closes the connection
// first does not wait. The client calls it, too, when it does not understand the
// server and reads no further.
func (w *wire) Close() error {
	w.fail(net.ErrClosed)
	w.sending.Lock()
	defer w.sending.Unlock()
	return w.in.Close()
}

// Read returns what the server answers to the client, and hands out answers to
// batches.
func (w *wire) Read(p []byte) (n int, err error) {
	for len(w.head) == 0 && w.body == 0 {
		if err := w.next(); err != nil {
			w.fail(err)
			return 0, err
		}
	}
	if len(w.head) > 0 {
		n = copy(p, w.head)
		w.head = w.head[n:]
		return n, nil
	}
	n, err = w.out.Read(p[:min(len(p), w.body)])
	w.body -= n
	if err != nil {
		w.fail(err)
	}
	return n, err
}

// next reads the head of a packet, and all of one that is no business of the
// client's.
func (w *wire) next() error {
	head := make([]byte, packetHead)
	if _, err := io.ReadFull(w.out, head); err != nil {
		return err
	}
	length := int64(binary.BigEndian.Uint32(head)) + 4 - packetHead
	if length < 0 {
		return errShortAnswer
	}
	w.mu.Lock()
	id := binary.BigEndian.Uint32(head[5:])
	to, ok := w.waiting[id]
	delete(w.waiting, id)
	w.mu.Unlock()
	if !ok {
		w.head, w.body = head, int(length)
		return nil
	}
	a := answer{kind: head[4]}
	if length > maxAnswer {
		a.err = fmt.Errorf("answer of %d bytes", length)
		to <- a
		return a.err
	}
	a.body = make([]byte, length)
	if _, err := io.ReadFull(w.out, a.body); err != nil {
		a.err = err
	}
	to <- a
	return a.err
}

// fail ends everything that waits for an answer.
func (w *wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	for id, to := range w.waiting {
		delete(w.waiting, id)
		to <- answer{err: err}
	}
}

// request is one request of a batch.
type request struct {
	kind byte
	body []byte // what follows its number
}

// batch sends requests at once, and returns an answer to each when it has all
// of them. A server does what concerns one file in the order in which it was
// sent (draft-ietf-secsh-filexfer-02 section 6), and OpenSSH all of it.
func (w *wire) batch(requests ...request) ([]answer, error) {
	answers := make([]chan answer, len(requests))
	var packets []byte
	w.mu.Lock()
	if w.err != nil {
		defer w.mu.Unlock()
		return nil, lost(w.err)
	}
	for i, r := range requests {
		// The client counts up from 1.
		w.last--
		answers[i] = make(chan answer, 1)
		w.waiting[w.last] = answers[i]
		packets = binary.BigEndian.AppendUint32(packets, uint32(1+4+len(r.body)))
		packets = append(packets, r.kind)
		packets = binary.BigEndian.AppendUint32(packets, w.last)
		packets = append(packets, r.body...)
	}
	w.mu.Unlock()

	w.sending.Lock()
	_, err := w.in.Write(packets)
	w.sending.Unlock()
	if err != nil {
		w.fail(err)
	}
	all := make([]answer, len(requests))
	for i, ch := range answers {
		if all[i] = <-ch; err == nil {
			err = all[i].err
		}
	}
	if err != nil {
		return nil, lost(err)
	}
	return all, nil
}

// lost is the error of a stream that ended, or makes no sense any more.
func lost(err error) error {
	if errors.Is(err, errLost) {
		return err
	}
	return fmt.Errorf("%w: %w", errLost, err)
}

// answer is what the server says to one request of a batch.
type answer struct {
	kind byte
	body []byte // what follows its number
	err  error  // the stream ended before
}

var errShortAnswer = errors.New("answer is too short")

// status returns the error that the server names, as the client does.
func (a answer) status() error {
	if a.kind != fxpStatus {
		return fmt.Errorf("unexpected answer of type %d", a.kind)
	}
	if len(a.body) < 4 {
		return errShortAnswer
	}
	code := binary.BigEndian.Uint32(a.body)
	switch code {
	case fxOK:
		return nil
	case fxNoSuchFile:
		return fs.ErrNotExist
	case fxPermissionDenied:
		return fs.ErrPermission
	}
	err := &sftp.StatusError{Code: code}
	if text, ok := cutString(a.body[4:]); ok && text != "" {
		return fmt.Errorf("%s: %w", strings.TrimSpace(text), err)
	}
	return err
}

// handle returns what the server calls a file that was opened.
func (a answer) handle() (string, error) {
	if a.kind != fxpHandle {
		if err := a.status(); err != nil {
			return "", err
		}
		return "", errors.New("server opened a file and named no handle")
	}
	if handle, ok := cutString(a.body); ok {
		return handle, nil
	}
	return "", errShortAnswer
}

func cutString(b []byte) (string, bool) {
	if len(b) < 4 {
		return "", false
	}
	n := int64(binary.BigEndian.Uint32(b))
	if n > int64(len(b)-4) {
		return "", false
	}
	return string(b[4 : 4+n]), true
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func ofName(kind byte, name string) request {
	return request{kind, appendString(nil, name)}
}

func openRequest(name string, flags uint32) request {
	b := binary.BigEndian.AppendUint32(appendString(nil, name), flags)
	return request{fxpOpen, binary.BigEndian.AppendUint32(b, 0)} // no attributes
}

func writeRequest(handle string, offset int, data []byte) request {
	b := make([]byte, 0, 4+len(handle)+8+4+len(data))
	b = binary.BigEndian.AppendUint64(appendString(b, handle), uint64(offset))
	return request{fxpWrite, append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)}
}

func timesRequest(handle string, t time.Time) request {
	b := binary.BigEndian.AppendUint32(appendString(nil, handle), attrTimes)
	b = binary.BigEndian.AppendUint32(b, uint32(t.Unix())) // of access
	return request{fxpFsetstat, binary.BigEndian.AppendUint32(b, uint32(t.Unix()))}
}

func extendedRequest(name string, args ...string) request {
	b := appendString(nil, name)
	for _, arg := range args {
		b = appendString(b, arg)
	}
	return request{fxpExtended, b}
}
