//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/s3"
)

// maxWatchedUpload is the size in bytes up to which the proxy looks into what
// is uploaded. Increments of a few pages are below it.
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
	unsure map[string]*bytes.Buffer // uploads whose answers were lost, by path
	err    error                    // the first upload that could not be read
}

func newS3Replica(ctx context.Context, bin, dir string, prefix func(int) string, o *oracle) (*s3Replica, error) {
	server, err := startGateway(ctx, bin, dir)
	if err != nil {
		return nil, err
	}
	r := &s3Replica{server: server, prefix: prefix, oracle: o, backed: make(map[int]struct{}), unsure: make(map[string]*bytes.Buffer)}
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
// LTX files and looks into it once the server has them, and the tool knows.
func (r *s3Replica) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		tenant, ok := tenantOf(req.URL.Path)
		a := &answer{ResponseWriter: w, status: http.StatusOK}
		if !ok || !makesObject(req) {
			next.ServeHTTP(a, req)
			if req.Method == http.MethodGet && a.status/100 == 2 {
				if content := r.takeUnsure(req.URL.Path); content != nil {
					r.uploaded(tenant, content, true, time.Now()) // the tool looked whether it had arrived
				}
			}
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
		next.ServeHTTP(a, req)
		// What is refused because it is there was stored before, and its answer
		// was lost. The restores at the end tell whether it is the same.
		if a.status/100 == 2 || a.status == http.StatusPreconditionFailed {
			r.takeUnsure(req.URL.Path)
			r.uploaded(tenant, &content, small, time.Now())
		} else if small && int64(content.Len()) == req.ContentLength { // it may have arrived
			r.mu.Lock()
			r.unsure[req.URL.Path] = &content
			r.mu.Unlock()
		}
	})
}

// takeUnsure returns, once, what was uploaded to a path and not answered for, or
// nil.
func (r *s3Replica) takeUnsure(path string) *bytes.Buffer {
	r.mu.Lock()
	defer r.mu.Unlock()
	content := r.unsure[path]
	delete(r.unsure, path)
	return content
}

// makesObject reports whether an LTX file is there when a request has succeeded:
// it uploads all of it, or it is behind the parts of a large one.
func makesObject(req *http.Request) bool {
	parts := req.URL.Query().Has("uploadId")
	return strings.HasSuffix(req.URL.Path, ".ltx") &&
		(req.Method == http.MethodPut && !parts || req.Method == http.MethodPost && parts)
}

// uploaded records an upload that the server has acknowledged.
func (r *s3Replica) uploaded(tenant int, content io.Reader, small bool, at time.Time) {
	var seq uint32
	var err error
	if small && r.oracle.isWatched(tenant) {
		seq, err = ledgerSeq(content, tenant)
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
