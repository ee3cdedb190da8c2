package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errSocketInUse means that another process answers on the socket.
var errSocketInUse = errors.New("another process listens on it: stop that one, or give this one a socket.path of its own")

// dialTimeout bounds the question whether somebody listens on a socket.
const dialTimeout = time.Second

// socket is a unix socket in the file system, which is removed at the end if it
// is still the one that was made.
type socket struct {
	net.Listener
	path string
	made os.FileInfo
}

// listen makes a socket. One that nobody listens on any more is replaced;
// anything else that lies at the path is left alone and is an error.
func listen(ctx context.Context, path string, mode os.FileMode) (_ *socket, err error) {
	unlock := lockFolder(filepath.Dir(path))
	defer unlock()
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// On Linux the socket file gets this mode when it appears, less the
		// umask; elsewhere the call has no effect.
		return c.Control(func(fd uintptr) { _ = unix.Fchmod(int(fd), uint32(mode)) })
	}}
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, explainListen(path, err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	s := &socket{Listener: ln, path: path}
	if s.made, err = os.Lstat(path); err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set mode of control socket: %w", err), s.Close())
	}
	return s, nil
}

// removeStale removes a socket on which nobody listens.
func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at control socket: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("socket path exists but is not a socket: %s (it is %s)", path, kindOf(st.Mode()))
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = conn.Close() // nothing was sent
		return fmt.Errorf("control socket %s: %w", path, errSocketInUse)
	case errors.Is(err, syscall.ECONNREFUSED):
	case errors.Is(err, fs.ErrNotExist):
		return nil // its owner has just gone
	case errors.Is(err, syscall.EAGAIN), os.IsTimeout(err): // its queue is full
		return fmt.Errorf("control socket %s: %w", path, errSocketInUse)
	default:
		return fmt.Errorf("look whether somebody listens on control socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove control socket of a process that is gone: %w", err)
	}
	return nil
}

// kindOf names what lies at a path.
func kindOf(mode os.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	default:
		return mode.Type().String()
	}
}

// maxSocketPath is the room for a path in the kernel's socket address on Linux.
const maxSocketPath = 107

// explainListen says why a socket could not be made where the system does not.
func explainListen(path string, err error) error {
	err = fmt.Errorf("listen on unix socket: %w", err)
	if errors.Is(err, syscall.EINVAL) && len(path) > maxSocketPath {
		return fmt.Errorf("%w: the path of a socket may have %d bytes, this one has %d", err, maxSocketPath, len(path))
	}
	return err
}

// lockFolder keeps two daemons that start at the same moment from removing each
// other's socket. Where the folder cannot be locked, they may; each of them
// runs all the same.
func lockFolder(dir string) (unlock func()) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {} // listen says it better
	}
	_ = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return func() { _ = f.Close() } // which ends the lock
}

// Close stops listening and removes the socket, unless somebody has put another
// one in its place.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	if st, serr := os.Lstat(s.path); serr == nil && s.made != nil && os.SameFile(st, s.made) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

// limitListener accepts no more connections than there are places. Those that
// come beyond wait in the kernel's queue.
type limitListener struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newLimitListener(ln net.Listener, n int) *limitListener {
	return &limitListener{Listener: ln, places: make(chan struct{}, n), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitConn{Conn: c, release: sync.OnceFunc(func() { <-l.places })}, nil
}

// Close implements net.Listener.
func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitConn gives its place back when it is closed.
type limitConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *limitConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
