//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/benbjohnson/litestream/internal/backoff"
)

const (
	accessKey = "testkey"
	secretKey = "testsecret123"
	bucket    = "bench"
)

// requests counts what idle databases ask of an S3 server. Both tools run at
// the same time, each through a proxy of its own that counts.
func (b *bench) requests(ctx context.Context) (t table, err error) {
	if _, err := os.Stat(b.versitygw); err != nil {
		t.note = "Not measured: versitygw is not installed (make servers)."
		return t, nil
	}
	dir, err := os.MkdirTemp(b.dir, "s3-")
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server, err := startGateway(ctx, b.versitygw, dir)
	if err != nil {
		return t, err
	}
	defer server.stop()

	t.note = fmt.Sprintf("%d databases that nobody uses, versitygw over HTTP, all defaults; counted by a proxy, for %s from the start on, then for %s.",
		b.s3DBs, b.restAfter, b.s3Window)
	var counters [2]*counter
	for i := range b.tools {
		c, err := newCounter(server.target(), nil)
		if err != nil {
			return t, err
		}
		defer c.close()
		counters[i] = c
		p, err := b.replicateS3(ctx, i, filepath.Join(dir, fmt.Sprint(i)), c.addr())
		if err != nil {
			return t, err
		}
		defer p.stop()
		err = p.wait(ctx, "first backup", func() (bool, error) { return c.peek("PUT") >= 2*b.s3DBs, nil })
		if err != nil {
			return t, fmt.Errorf("%s: %w", b.tools[i].name, err)
		}
	}
	progress("requests: %d databases at rest", b.s3DBs)
	if err := backoff.Wait(ctx, b.restAfter); err != nil {
		return t, err
	}
	for i, c := range counters {
		n := c.take()
		for _, kind := range kinds {
			t.add(i, "start of a database: "+kind, "", float64(n[kind])/float64(b.s3DBs))
		}
	}
	if err := backoff.Wait(ctx, b.s3Window); err != nil {
		return t, err
	}
	for i, c := range counters {
		n := c.take()
		for _, kind := range kinds {
			t.add(i, "idle database, per minute: "+kind, "", float64(n[kind])/float64(b.s3DBs)/b.s3Window.Minutes())
		}
	}
	return t, nil
}

// gateway is an S3 server over a folder.
type gateway struct {
	*process
	bin, dir, addr string
}

// startGateway starts an S3 server with an empty bucket.
func startGateway(ctx context.Context, bin, dir string) (*gateway, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	g := &gateway{bin: bin, dir: dir, addr: addr}
	if err := os.Mkdir(g.data(), 0o755); err != nil {
		return nil, err
	}
	if err := g.start(ctx); err != nil {
		return nil, err
	}
	if _, err := g.client().CreateBucket(ctx, &s3.CreateBucketInput{Bucket: new(bucket)}); err != nil {
		g.stop()
		return nil, err
	}
	return g, nil
}

// start starts the server, also again after a stop, and waits until it listens.
func (g *gateway) start(ctx context.Context) (err error) {
	g.process, err = start(g.dir, g.bin, "--port", g.addr, "--access", accessKey, "--secret", secretKey,
		"--region", "us-east-1", "--quiet", "--keep-alive", "posix", g.data())
	if err != nil {
		return err
	}
	err = g.wait(ctx, "S3 server", func() (bool, error) {
		d := net.Dialer{Timeout: time.Second}
		conn, err := d.DialContext(ctx, "tcp", g.addr)
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet
		}
		return true, conn.Close()
	})
	if err != nil {
		g.stop()
	}
	return err
}

// data is the folder that holds one folder per bucket.
func (g *gateway) data() string { return filepath.Join(g.dir, "data") }

func (g *gateway) target() *url.URL { return &url.URL{Scheme: "http", Host: g.addr} }

func (g *gateway) client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: new(g.target().String()), Region: "us-east-1", UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})
}

// replicateS3 starts a tool on idle databases with replicas behind addr.
func (b *bench) replicateS3(ctx context.Context, i int, dir, addr string) (*process, error) {
	paths, err := makeDatabases(ctx, dir, b.s3DBs)
	if err != nil {
		return nil, err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, "access-key-id: %s\nsecret-access-key: %s\ndbs:\n", accessKey, secretKey)
	for n, path := range paths {
		fmt.Fprintf(&conf, "  - path: %s\n    replica:\n      type: s3\n      bucket: %s\n      path: tool%d/db%05d\n"+
			"      endpoint: http://%s\n      region: us-east-1\n      force-path-style: true\n", path, bucket, i, n, addr)
	}
	file := filepath.Join(dir, "litestream.yml")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		return nil, err
	}
	return start(dir, b.tools[i].bin, "replicate", "-config", file)
}

// kinds of requests, by what an object store charges for.
var kinds = []string{"LIST", "PUT", "GET", "DELETE"}

// catalogKind are requests for the list of all databases, which belong to none.
const catalogKind = "catalog"

// counter is a proxy in front of an S3 server that counts requests.
type counter struct {
	listener net.Listener
	server   *http.Server

	mu sync.Mutex // guards n
	n  map[string]int
}

// newCounter starts a proxy. wrap, if it is not nil, puts something around the
// handling of each request.
func newCounter(target *url.URL, wrap func(http.Handler) http.Handler) (*counter, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not block
	if err != nil {
		return nil, err
	}
	c := &counter{listener: l, n: make(map[string]int)}
	// Connections to the server are kept, as many as a tool may use.
	transport := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	var proxy http.Handler = &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0), // a server that is away answers 502
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
	}
	if wrap != nil {
		proxy = wrap(proxy)
	}
	c.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.count(r)
		proxy.ServeHTTP(w, r)
	})}
	go c.server.Serve(l) //nolint:errcheck // it ends when it is closed
	return c, nil
}

func (c *counter) addr() string { return c.listener.Addr().String() }

// close ends the proxy.
func (c *counter) close() { _ = c.server.Close() } // nothing hangs on how it ends

func (c *counter) count(r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[requestKind(r)]++
}

// requestKind sorts requests as an object store's bill does.
func requestKind(r *http.Request) string {
	inBucket := strings.Trim(r.URL.Path, "/") == bucket
	switch {
	case strings.Contains(r.URL.Path, "/!litestream/catalog"):
		return catalogKind
	case r.Method == http.MethodGet && inBucket:
		return "LIST"
	case r.Method == http.MethodPost && r.URL.Query().Has("delete"), r.Method == http.MethodDelete:
		return "DELETE"
	case r.Method == http.MethodPut, r.Method == http.MethodPost:
		return "PUT"
	default:
		return "GET" // HEAD costs the same
	}
}

// peek returns how many requests of a kind were counted since the last take.
func (c *counter) peek(kind string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[kind]
}

// take returns what was counted since the last time.
func (c *counter) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = make(map[string]int)
	return n
}
