package nats

import (
	"context"
	"log/slog"
	"strings"
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

	now func() time.Time // of tests; nil: time.Now
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

// Close closes all connections. What is under way on them fails. The next
// request opens a connection again.
func (p *Pool) Close() {
	for _, cn := range p.conns.All() {
		cn.close()
	}
}

// connKey is everything that makes two clients need different connections.
type connKey struct {
	server                         string
	jwt, seed, creds, nkey         string
	username, password, token      string
	tls                            bool
	rootCAs, clientCert, clientKey string // rootCAs: joined by NUL
	maxReconnects, maxConns        int
	reconnectWait, timeout, answer time.Duration
}

// connection returns the way to the server of options with all defaults.
func (p *Pool) connection(o Options) *connection {
	k := connKey{
		server: o.Server, jwt: o.JWT, seed: o.Seed, creds: o.Creds, nkey: o.NKey,
		username: o.Username, password: o.Password, token: o.Token,
		tls: o.TLS, rootCAs: strings.Join(o.RootCAs, "\x00"), clientCert: o.ClientCert, clientKey: o.ClientKey,
		maxReconnects: o.MaxReconnects, maxConns: o.MaxConns,
		reconnectWait: o.ReconnectWait, timeout: o.Timeout, answer: o.ResponseTimeout,
	}
	return p.conns.Of(k, func(connKey) *connection {
		return &connection{options: o, slots: make(chan struct{}, o.MaxConns)}
	})
}

// connection is the way to one server, which may be lost and opened again.
type connection struct {
	options Options // but for bucket and path
	slots   chan struct{}

	// writes is set by the first write. A process that only reads does not clean
	// up behind others.
	writes atomic.Bool

	mu      sync.Mutex // guards the rest; never held across I/O
	link    *link
	dialing *dialing
	wg      sync.WaitGroup // the goroutine that dials
}

// dialing is one attempt to connect, for all that want to.
type dialing struct {
	done chan struct{} // closed at the end; the rest is set before
	link *link
	err  error
}

// open returns the link that is open, or waits for one. Whoever gives up
// leaves the attempt to the others; it ends by Options.Timeout.
func (cn *connection) open(ctx context.Context, logger *slog.Logger) (*link, error) {
	cn.mu.Lock()
	if l := cn.link; l != nil && l.hold() {
		cn.mu.Unlock()
		return l, nil
	}
	d := cn.dialing
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		cn.dialing = d
		cn.wg.Go(func() { cn.dial(d, logger) })
	}
	cn.mu.Unlock()
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if d.err != nil {
		return nil, d.err
	}
	if !d.link.hold() {
		return nil, errLost
	}
	return d.link, nil
}

func (cn *connection) dial(d *dialing, logger *slog.Logger) {
	d.link, d.err = dial(cn.options, logger)
	cn.mu.Lock()
	cn.dialing = nil
	if d.err == nil {
		cn.link = d.link
	}
	cn.mu.Unlock()
	close(d.done)
}

func (cn *connection) close() {
	cn.wg.Wait()
	cn.mu.Lock()
	l := cn.link
	cn.link = nil
	cn.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// do runs an operation on a link, and again if that was lost or the server had
// a passing trouble. The operation must bear that.
func (cn *connection) do(ctx context.Context, logger *slog.Logger, op func(ctx context.Context, l *link) error) error {
	return backoff.Retry(ctx, isPassing, func() error { return cn.try(ctx, logger, op) })
}

func (cn *connection) try(ctx context.Context, logger *slog.Logger, op func(ctx context.Context, l *link) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := cn.open(ctx, logger)
	if err != nil {
		return err
	}
	defer l.release()
	select {
	case cn.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-cn.slots }()
	if err := l.ready(ctx); err != nil {
		return err
	}
	return op(ctx, l)
}
