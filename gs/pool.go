package gs

import (
	"net/http"
	"time"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Pool hands out clients that share connections and credentials. The zero
// value is ready. What it shares lives as long as the pool.
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

// CloseIdleConnections closes the connections that carry no request.
func (p *Pool) CloseIdleConnections() {
	for _, cn := range p.conns.All() {
		cn.client.CloseIdleConnections()
	}
}

// connKey is everything that makes two clients need different connections. The
// credentials are those of the process.
type connKey struct {
	endpoint        string
	anonymous       bool
	maxConns        int
	responseTimeout time.Duration
}

func (p *Pool) connection(o Options) *connection {
	k := connKey{o.Endpoint, o.Anonymous, o.MaxConns, o.ResponseTimeout}
	return p.conns.Of(k, newConnection)
}

// connection is what all clients of one endpoint share.
type connection struct {
	base   string // of every URL
	client *http.Client
	tokens *tokenSource // nil: requests carry no credentials
}

func newConnection(k connKey) *connection {
	client := &http.Client{
		Transport: blob.NewTransport(k.maxConns, k.responseTimeout),
		// The JSON API redirects nobody. Following would show the token to
		// whoever says so.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	cn := &connection{base: k.endpoint, client: client}
	if !k.anonymous {
		cn.tokens = newTokenSource(client)
	}
	return cn
}
