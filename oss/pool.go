package oss

import (
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/litestream/internal/blob"
)

// Pool hands out clients that share connections and credentials. The zero
// value is ready. What it shares lives as long as the pool: there are as many
// as there are distinct endpoints and credentials, not as databases.
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

// connKey is everything that makes two clients need different connections.
type connKey struct {
	endpoint         string
	region           string
	accessKeyID      string
	accessKeySecret  string
	metadataEndpoint string
	maxConns         int
	responseTimeout  time.Duration
}

// connection is what all clients of one endpoint and credential share.
type connection struct {
	endpoint  *url.URL
	usesPath  bool // the bucket stands in the path of URLs
	region    string
	client    *http.Client
	keys      *keySource
	clockSkew atomic.Int64 // nanoseconds that the service's clock is ahead
	versioned sync.Map     // buckets that keep what is overwritten
}

// connection returns the one that o leads to. The options are valid.
func (p *Pool) connection(o Options) (*connection, error) {
	k := connKey{
		endpoint: o.Endpoint, region: o.Region, accessKeyID: o.AccessKeyID, accessKeySecret: o.AccessKeySecret,
		metadataEndpoint: o.MetadataEndpoint, maxConns: o.MaxConns, responseTimeout: o.ResponseTimeout,
	}
	return p.conns.Get(k, newConnection)
}

// newConnection makes no request.
func newConnection(k connKey) (*connection, error) {
	u, err := url.Parse(k.endpoint)
	if err != nil {
		return nil, blob.WithoutURL(err)
	}
	return &connection{
		endpoint: u,
		usesPath: usesPath(u),
		region:   k.region,
		client: &http.Client{
			Transport: blob.NewTransport(k.maxConns, k.responseTimeout),
			// A redirect would need another signature, and would show the
			// token of temporary keys to whoever says so.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		keys: newKeySource(k),
	}, nil
}
