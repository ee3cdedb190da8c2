//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/s3"
)

// maxWatchedUpload is the size in bytes up to which the proxy keeps what is
// uploaded, to look into it. Increments of a few pages are below it. What is
// larger, and may hold a commit, is read again from the server: behind an upload of
// unknown outcome an increment is a snapshot.
const maxWatchedUpload = 256 << 10

// s3Replica is a bucket of versitygw behind a proxy that counts requests and
// sees what is uploaded: a commit lands when the answer to its upload comes by.
type s3Replica struct {
	server *gateway
	proxy  *counter
	prefix func(tenant int) string
	oracle *oracle

	mu     sync.Mutex // guards the rest
	backed map[int]struct{}
	err    error // the first upload that could not be read
}

func newS3Replica(ctx context.Context, bin, dir string, prefix func(int) string, o *oracle) (*s3Replica, error) {
	server, err := startGateway(ctx, bin, dir)
	if err != nil {
		return nil, err
	}
	r := &s3Replica{server: server, prefix: prefix, oracle: o, backed: make(map[int]struct{})}
	if r.proxy, err = newCounter(server.target(), r.observe); err != nil {
		server.stop()
		return nil, err
	}
	return r, nil
}

// answer records the status of an answer.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// observe wraps the handling of requests: it keeps a copy of small uploads of
// LTX files and looks into it once the server has them.
func (r *s3Replica) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		tenant, ok := tenantOf(req.URL.Path)
		if !ok || !makesObject(req) {
			next.ServeHTTP(w, req)
			return
		}
		var content bytes.Buffer
		small := req.Method == http.MethodPut && req.ContentLength >= 0 && req.ContentLength <= maxWatchedUpload
		if small {
			req.Body = struct {
				io.Reader
				io.Closer
			}{io.TeeReader(req.Body, &content), req.Body}
		}
		a := &answer{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(a, req)
		// What is refused because it is there was stored before, and its answer
		// was lost. The restores at the end tell whether it is the same.
		if a.status/100 == 2 || a.status == http.StatusPreconditionFailed {
			r.uploaded(tenant, r.content(req, tenant, &content, small), time.Now())
		}
	})
}

// makesObject reports whether an LTX file is there when a request has succeeded:
// it uploads all of it, or it is behind the parts of a large one.
func makesObject(req *http.Request) bool {
	parts := req.URL.Query().Has("uploadId")
	return strings.HasSuffix(req.URL.Path, ".ltx") &&
		(req.Method == http.MethodPut && !parts || req.Method == http.MethodPost && parts)
}

// content returns what an upload stored, or nil if it holds no commit that is
// waited for.
func (r *s3Replica) content(req *http.Request, tenant int, kept io.Reader, small bool) func() (io.ReadCloser, error) {
	switch {
	case small && r.oracle.isWatched(tenant):
		return func() (io.ReadCloser, error) { return io.NopCloser(kept), nil }
	case !small && r.oracle.isBehind(tenant):
		return func() (io.ReadCloser, error) { return os.Open(filepath.Join(r.server.data(), req.URL.Path)) }
	default:
		return nil
	}
}

// uploaded records an upload that the server has acknowledged.
func (r *s3Replica) uploaded(tenant int, content func() (io.ReadCloser, error), at time.Time) {
	var seq uint32
	var err error
	if content != nil {
		seq, err = seqOf(content, tenant)
	}
	if err == nil && seq > 0 {
		r.oracle.land(tenant, seq, at)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.backed[tenant] = struct{}{}
	if r.err == nil && err != nil {
		r.err = fmt.Errorf("read upload of %s: %w", r.prefix(tenant), err)
	}
}

// seqOf returns the newest commit in an LTX file.
func seqOf(content func() (io.ReadCloser, error), tenant int) (uint32, error) {
	f, err := content()
	if err != nil {
		return 0, err
	}
	seq, err := ledgerSeq(f, tenant)
	return seq, errors.Join(err, f.Close())
}

func (r *s3Replica) section(indent, path string) string {
	var b strings.Builder
	for _, kv := range [][2]string{
		{"type", "s3"},
		{"bucket", bucket},
		{"path", `"` + path + `"`},
		{"endpoint", "http://" + r.proxy.addr()},
		{"region", "us-east-1"},
		{"force-path-style", "true"},
		{"access-key-id", accessKey},
		{"secret-access-key", secretKey},
	} {
		fmt.Fprintf(&b, "%s%s: %s\n", indent, kv[0], kv[1])
	}
	return b.String()
}

func (r *s3Replica) client(tenant int) litestream.ReplicaClient {
	c := s3.NewReplicaClient()
	c.AccessKeyID, c.SecretAccessKey, c.Region = accessKey, secretKey, "us-east-1"
	c.Endpoint, c.ForcePathStyle = r.server.target().String(), true
	c.Bucket, c.Path = bucket, r.prefix(tenant)
	return c
}

func (r *s3Replica) backedUp() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.backed), r.err
}

func (r *s3Replica) countBackedUp() (int, error) { return r.backedUp() }

func (r *s3Replica) watch(tenants []int) error {
	for _, t := range tenants {
		r.oracle.watch(t)
	}
	return nil
}

func (r *s3Replica) sweep(context.Context) error {
	_, err := r.backedUp()
	return err
}

func (r *s3Replica) requests() map[string]int { return r.proxy.take() }

// outage stops the server. The proxy answers 502 until it is back.
func (r *s3Replica) outage() (func(context.Context) error, error) {
	r.server.stop()
	return r.server.start, nil
}

func (r *s3Replica) size() (int, int64, error) {
	return ltxSize(filepath.Join(r.server.data(), bucket))
}

func (r *s3Replica) close() error {
	r.proxy.close()
	r.server.stop()
	return nil
}
