package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// maxSessions bounds the SFTP sessions of one connection. OpenSSH serves each
// by a process of its own, which does one thing after another, and allows 10
// of them (MaxSessions in sshd_config(5)).
const maxSessions = 8

// crowded is the number of operations on every session from which another one
// is opened.
const crowded = 2

// errLost is a connection that broke, or was given up.
var errLost = errors.New("connection to the server was lost")

// link is one SSH connection with its sessions. Once it is lost it stays so.
type link struct {
	key  connKey
	ssh  *ssh.Client
	conn *watchedConn

	// What the server turned out not to be able to do.
	noHardlink, noDirSync atomic.Bool

	gone  chan struct{}  // closed when the link is lost
	calls sync.WaitGroup // goroutines; Add only under mu, while not lost

	mu       sync.Mutex // guards the rest; never held across I/O
	sessions []*channel
	limit    int // of sessions
	opening  bool
	users    int // of all sessions
	used     time.Time
	idle     *time.Timer
	lost     bool
}

// channel is one SFTP session on the server.
type channel struct {
	client *sftp.Client // for what is no batch
	wire   *wire
	users  int // guarded by link.mu
}

// session is a channel in the hands of one operation or open file.
type session struct {
	link    *link
	channel *channel
	slots   chan struct{}
}

// newLink opens the first session on a connection.
func newLink(key connKey, conn *watchedConn, client *ssh.Client) (*link, error) {
	l := &link{key: key, ssh: client, conn: conn, limit: maxSessions, used: time.Now(), gone: make(chan struct{})}
	first, err := l.openChannel()
	if err != nil {
		err = errors.Join(fmt.Errorf("open sftp session: %w", err), client.Close())
		l.calls.Wait()
		return nil, err
	}
	l.sessions = []*channel{first}
	l.idle = time.AfterFunc(idleTimeout, l.closeIdle)
	l.spawn(func() {
		_ = client.Wait() // why it ended is told by the calls that failed
		l.fail()
	})
	return l, nil
}

func (l *link) openChannel() (*channel, error) {
	return openWire(l.ssh, l.calls.Go, sessionOptions(l.key)...)
}

// spawn runs fn in a goroutine that close waits for. It does nothing and
// returns false once the link is lost.
func (l *link) spawn(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return false
	}
	l.calls.Go(fn)
	return true
}

func (l *link) isLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// fail gives the link up. What is under way on it ends with an error.
func (l *link) fail() {
	l.mu.Lock()
	if l.lost {
		l.mu.Unlock()
		return
	}
	l.lost = true
	close(l.gone)
	l.idle.Stop()
	sessions := l.sessions
	l.mu.Unlock()
	_ = l.conn.Close() // the server may not answer a polite end
	_ = l.ssh.Close()
	for _, ch := range sessions {
		_ = ch.client.Close()
	}
}

// close gives the link up and waits for its goroutines.
func (l *link) close() error {
	l.fail()
	l.calls.Wait()
	for _, ch := range l.sessions { // nobody adds to them any more
		_ = ch.client.Wait() // it was us who broke it
	}
	return nil
}

// closeIdle closes the link when nobody used it for a while.
func (l *link) closeIdle() {
	l.mu.Lock()
	rest := idleTimeout - time.Since(l.used)
	if l.users > 0 {
		rest = idleTimeout
	}
	if rest > 0 || l.lost {
		if !l.lost {
			l.idle.Reset(rest)
		}
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.fail()
}

// session returns the session with the least to do, and has another one opened
// if that is much.
func (l *link) session() (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return nil, errLost
	}
	best := l.sessions[0]
	for _, ch := range l.sessions[1:] {
		if ch.users < best.users {
			best = ch
		}
	}
	if best.users >= crowded && len(l.sessions) < l.limit && !l.opening {
		l.opening = true
		l.calls.Go(l.openSession)
	}
	best.users++
	l.users++
	return &session{link: l, channel: best}, nil
}

// openSession adds a session. A server that refuses is not asked again.
func (l *link) openSession() {
	ch, err := l.openChannel()
	l.mu.Lock()
	l.opening = false
	if err != nil {
		l.limit = len(l.sessions)
	}
	if err == nil && !l.lost {
		l.sessions = append(l.sessions, ch)
		ch = nil
	}
	l.mu.Unlock()
	if ch != nil {
		_ = ch.client.Close() // the link is lost
		_ = ch.client.Wait()
	}
}

// release gives the session back.
func (s *session) release() {
	l := s.link
	l.mu.Lock()
	s.channel.users--
	l.users--
	l.used = time.Now()
	l.mu.Unlock()
}

// hold returns the same session for another user.
func (s *session) hold() *session {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	s.channel.users++
	s.link.users++
	other := *s
	return &other
}

// take is call for what has a result. If the caller cannot wait for it, it is
// given to drop.
func take[T any](ctx context.Context, s *session, fn func(c *sftp.Client) (T, error), drop func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	results := make(chan result, 1)
	err := s.call(ctx, func(c *sftp.Client) error {
		v, err := fn(c)
		results <- result{v, err}
		return err
	})
	if err == nil {
		return (<-results).value, nil
	}
	select {
	case r := <-results:
		if r.err == nil {
			s.link.spawn(func() { drop(r.value) })
		}
	default:
		// It runs still, or was never begun; either way nobody else reads this.
		s.link.spawn(func() {
			select {
			case r := <-results:
				if r.err == nil {
					drop(r.value)
				}
			case <-s.link.gone:
			}
		})
	}
	var none T
	return none, err
}

// call runs fn, which talks to the server, and returns when it does, when ctx
// is done, or when the server was silent for too long. In the last two cases fn
// may still be running: what it uses must stay its own. fn returns io.EOF for a
// connection that ended, and for nothing else.
func (s *session) call(ctx context.Context, fn func(c *sftp.Client) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	l := s.link
	done := make(chan error, 1)
	ok := l.spawn(func() {
		err := fn(s.channel.client)
		<-s.slots
		done <- err
	})
	if !ok {
		<-s.slots
		return errLost
	}

	began := time.Now()
	timer := time.NewTimer(l.key.responseTimeout)
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			if isBroken(err) {
				l.fail()
				return lost(err)
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			silence := min(l.conn.silence(), time.Since(began))
			if silence >= l.key.responseTimeout {
				l.fail()
				return fmt.Errorf("%w: no answer for %s", errLost, l.key.responseTimeout)
			}
			timer.Reset(l.key.responseTimeout - silence)
		}
	}
}

// isBroken reports whether an error is one of the connection, not an answer.
func isBroken(err error) bool {
	if err == nil {
		return false
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	for _, broken := range []error{
		errLost, sftp.ErrSSHFxConnectionLost, sftp.ErrSSHFxNoConnection,
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed,
	} {
		if errors.Is(err, broken) {
			return true
		}
	}
	return false
}
