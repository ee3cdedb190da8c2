package webdav

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Pool hands out clients that share connections. The zero value is ready.
type Pool struct {
	conns blob.Shared[connKey, *connection]
}

// sharedPool serves every client that was not made by another pool.
var sharedPool Pool

// connKey is everything that makes two clients need different connections.
type connKey struct {
	url, username, password string
	maxConns                int
	responseTimeout         time.Duration
}

// connection is what the clients of one server and credential share.
type connection struct {
	http *http.Client

	auth auth

	// writes is set by the first write. A process that only reads does not
	// clean up behind others.
	writes atomic.Bool

	// examined is set by the first exclusive write, which looks at what the
	// server makes of several at once.
	examined atomic.Bool

	// racy is set if more than one of them succeeds.
	racy atomic.Bool
}

// Get returns a client for cfg that uses the pool's connections.
func (p *Pool) Get(cfg Config) (*ReplicaClient, error) {
	c, err := cfg.NewReplicaClient()
	if err != nil {
		return nil, err
	}
	c.pool = p
	return c, nil
}

// CloseIdleConnections closes the connections that carry no request.
func (p *Pool) CloseIdleConnections() {
	for _, cn := range p.conns.All() {
		cn.http.CloseIdleConnections()
	}
}

func (p *Pool) connection(o Options) *connection {
	k := connKey{url: o.URL, username: o.Username, password: o.Password, maxConns: o.MaxConns, responseTimeout: o.ResponseTimeout}
	return p.conns.Of(k, func(k connKey) *connection {
		return &connection{http: newHTTPClient(k)}
	})
}

func newHTTPClient(k connKey) *http.Client {
	return &http.Client{
		Transport: blob.NewTransport(k.maxConns, k.responseTimeout),
		// A redirect would turn most of these methods into GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
