package blob

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

// Limits of connecting and of idle connections, which are those of the S3
// client.
const (
	dialTimeout = 30 * time.Second
	keepAlive   = 30 * time.Second
	tlsTimeout  = 10 * time.Second
)

// idleConnTimeout outlives the pauses between two scans. Each open connection is
// two goroutines and a descriptor, and a burst leaves many.
const idleConnTimeout = 30 * time.Second

// Defaults of NewTransport.
const (
	// DefaultMaxConns bounds the connections to one endpoint.
	DefaultMaxConns = 200

	// DefaultResponseTimeout is how long a server may stay silent: after a
	// request was sent, and between two bytes in either direction.
	DefaultResponseTimeout = 60 * time.Second
)

// NewTransport returns a transport with at most maxConns connections to each
// host, on which a peer that is silent for timeout is given up. A transfer that
// is slow but goes on is never cut.
func NewTransport(maxConns int, timeout time.Duration) *http.Transport {
	tr := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	Limit(tr, maxConns, timeout)
	return tr
}

// Limit sets what NewTransport promises of a transport that somebody else made.
func Limit(tr *http.Transport, maxConns int, timeout time.Duration) {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &stallConn{Conn: conn, timeout: timeout}, nil
	}
	tr.TLSHandshakeTimeout = tlsTimeout
	tr.IdleConnTimeout = idleConnTimeout
	// As many stay open between requests as may be open at a time, or a burst of
	// short requests would connect again for most of them.
	tr.MaxIdleConns = maxConns
	tr.MaxIdleConnsPerHost = maxConns
	tr.MaxConnsPerHost = maxConns
	tr.ResponseHeaderTimeout = timeout
	// LTX files are never to be unpacked on the way.
	tr.DisableCompression = true
	// One request per connection, so that a silent connection is a silent
	// request, and so that uploads do not share one window.
	tr.ForceAttemptHTTP2 = false
}

// stallConn fails a read or a write when neither direction has moved a byte for
// timeout.
type stallConn struct {
	net.Conn
	timeout time.Duration
}

func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write also gives the peer new time to answer: while a request is still being
// sent there is nothing to read.
func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
