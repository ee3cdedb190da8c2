package sftp

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
	"github.com/benbjohnson/litestream/internal/blob"
)

// Pool hands out clients that share connections. The zero value is ready.
// There are as many connections as there are distinct servers and credentials.
type Pool struct {
	conns blob.Shared[connKey, *connection]
}

// sharedPool serves every client that was not made by another pool.
var sharedPool Pool

// Get returns a client for cfg that uses the pool's connections.
func (p *Pool) Get(cfg Config) (*ReplicaClient, error) {
	c, err := cfg.NewReplicaClient()
	if err != nil {
		return nil, err
	}
	c.pool = p
	return c, nil
}

// Close closes all connections and waits for what is under way on them, which
// fails. The next request opens a connection again.
func (p *Pool) Close() error {
	var errs []error
	for _, cn := range p.conns.All() {
		errs = append(errs, cn.close())
	}
	return errors.Join(errs...)
}

// connKey is everything that makes two clients need different connections.
type connKey struct {
	addr     string
	user     string
	password string
	keyPath  string
	hostKey  string

	concurrentWrites bool

	maxConns        int
	dialTimeout     time.Duration
	responseTimeout time.Duration
}

func (o Options) connKey() connKey {
	return connKey{
		addr: o.Host, user: o.User, password: o.Password, keyPath: o.KeyPath, hostKey: o.HostKey,
		concurrentWrites: o.ConcurrentWrites,
		maxConns:         o.MaxConns, dialTimeout: o.DialTimeout, responseTimeout: o.ResponseTimeout,
	}
}

func (p *Pool) connection(k connKey) *connection {
	return p.conns.Of(k, func(k connKey) *connection {
		return &connection{key: k, slots: make(chan struct{}, k.maxConns)}
	})
}

// connection is the way to one server, which may be lost and opened again.
type connection struct {
	key   connKey
	slots chan struct{} // one for each request under way

	// writes is set by the first write. A process that only reads does not
	// clean up behind others.
	writes atomic.Bool

	// unconditional is set once the server could not store a file exclusively.
	unconditional atomic.Bool

	mu      sync.Mutex // guards the rest; never held across I/O
	link    *link
	dialing *dialing
}

// dialing is one attempt to connect, for all that want to.
type dialing struct {
	done     chan struct{} // closed at the end; the rest is set before
	link     *link
	err      error
	canceled bool // whoever dialed gave up
}

// open returns the link that is open, or opens one.
func (cn *connection) open(ctx context.Context, logger *slog.Logger) (*link, error) {
	for {
		cn.mu.Lock()
		if cn.link != nil && !cn.link.isLost() {
			l := cn.link
			cn.mu.Unlock()
			return l, nil
		}
		d := cn.dialing
		if d == nil {
			d = &dialing{done: make(chan struct{})}
			cn.dialing = d
			cn.mu.Unlock()
			cn.dial(ctx, d, logger)
			return d.link, d.err
		}
		cn.mu.Unlock()
		select {
		case <-d.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if d.err != nil && !d.canceled {
			return nil, d.err
		}
	}
}

func (cn *connection) dial(ctx context.Context, d *dialing, logger *slog.Logger) {
	d.link, d.err = dial(ctx, cn.key, logger)
	d.canceled = ctx.Err() != nil
	cn.mu.Lock()
	cn.dialing = nil
	if d.err == nil {
		cn.link = d.link
	}
	cn.mu.Unlock()
	close(d.done)
}

func (cn *connection) close() error {
	cn.mu.Lock()
	l := cn.link
	cn.link = nil
	cn.mu.Unlock()
	if l == nil {
		return nil
	}
	return l.close()
}

// do runs an operation on a session, and again on another connection if the
// one it ran on was lost. The operation must bear that.
func (cn *connection) do(ctx context.Context, logger *slog.Logger, op func(ctx context.Context, s *session) error) error {
	return backoff.Retry(ctx, isPassing, func() error { return cn.try(ctx, logger, op) })
}

func (cn *connection) try(ctx context.Context, logger *slog.Logger, op func(ctx context.Context, s *session) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := cn.open(ctx, logger)
	if err != nil {
		return err
	}
	s, err := l.session()
	if err != nil {
		return err
	}
	defer s.release()
	s.slots = cn.slots
	return op(ctx, s)
}
