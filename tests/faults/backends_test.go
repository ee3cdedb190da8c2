package faults_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/sftp"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

const bucket = "litestream"

// A backend is a kind of replica with a real server of it.
type backend struct {
	name  string
	start func(t *testing.T, durable bool) *place // what is durable survives a restart of the server

	// Answers of the service that a proxy gives in its place. Without any, it
	// speaks no HTTP.
	throttled, broken, busy servers.HTTPFault // 429, 500, 503
	expired, skewed         servers.HTTPFault
}

// A place is a running server with room for replicas.
type place struct {
	target        string // http://host:port, or host:port where it speaks no HTTP
	root          string // of all paths there, with a slash at its end; empty: that of the client
	stop, restart func()
	// client makes the client of everything there, which reaches the server at
	// an address, with connections of its own. release closes them.
	client func(addr string, timeout time.Duration) (base litestream.ReplicaClient, release func())
	// expire ends the validity of the credentials, renew begins it again. nil
	// where a proxy answers so.
	expire, renew func()
}

// maxConns bounds the connections of a daemon.
const maxConns = 8

var backends = []backend{s3Backend, sftpBackend, absBackend, gsBackend, webdavBackend, ossBackend, natsBackend}

func xml(code, text string) string {
	return `<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>` + text + `</Message></Error>`
}

func xmlAnswer(status int, code string) servers.HTTPFault {
	return servers.Answer(status, http.Header{"Content-Type": {"application/xml"}}, xml(code, "injected"))
}

// xmlSkewed refuses a request for its date; the answer's own date is from what a
// client corrects its clock.
var xmlSkewed = servers.Answer(http.StatusForbidden, http.Header{"Date": {time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)}},
	xml("RequestTimeTooSkewed", "injected"))

// retryAfter asks for a second of patience.
var retryAfter = http.Header{"Retry-After": {"1"}}

var s3Backend = backend{
	name: "s3",
	start: func(t *testing.T, _ bool) *place {
		t.Helper()
		srv := servers.Versitygw(t, false)
		srv.CreateBucket(bucket)
		return &place{
			target: srv.Endpoint, stop: srv.Stop, restart: srv.Restart,
			client: func(addr string, timeout time.Duration) (litestream.ReplicaClient, func()) {
				pool := &s3.Pool{}
				c := must(pool.Get(s3.Config{
					AccessKeyID: srv.AccessKey, SecretAccessKey: srv.SecretKey, Region: srv.Region,
					Bucket: bucket, Path: "base", Endpoint: "http://" + addr, MaxConns: maxConns,
				}))
				c.ResponseTimeout = timeout
				return c, pool.CloseIdleConnections
			},
		}
	},
	throttled: servers.Answer(http.StatusTooManyRequests, retryAfter, xml("SlowDown", "injected")),
	broken:    xmlAnswer(http.StatusInternalServerError, "InternalError"),
	busy:      xmlAnswer(http.StatusServiceUnavailable, "SlowDown"),
	expired:   xmlAnswer(http.StatusBadRequest, "ExpiredToken"),
	skewed:    xmlSkewed,
}

var sftpBackend = backend{
	name: "sftp",
	start: func(t *testing.T, _ bool) *place {
		t.Helper()
		srv := servers.SSHD(t)
		// What the server accepts is the other half of the key pair.
		granted, withdrawn := srv.KeyPath+".pub", srv.KeyPath+".withdrawn"
		return &place{
			target: srv.Addr, stop: srv.Stop, restart: srv.Restart,
			root: srv.Dir + "/", // or it would be the home of who runs the test
			client: func(addr string, timeout time.Duration) (litestream.ReplicaClient, func()) {
				pool := &sftp.Pool{}
				c := must(pool.Get(sftp.Config{
					Host: addr, User: srv.User, KeyPath: srv.KeyPath, HostKey: srv.HostKey,
					Path: filepath.Join(srv.Dir, "base"), MaxConns: maxConns,
				}))
				c.ResponseTimeout, c.DialTimeout = timeout, timeout
				return c, func() { _ = pool.Close() } // the test looks at what was stored
			},
			expire: func() { check(os.Rename(granted, withdrawn)) },
			renew:  func() { check(os.Rename(withdrawn, granted)) },
		}
	},
}

func azureAnswer(status int, code, text string, header http.Header) servers.HTTPFault {
	h := header.Clone()
	if h == nil {
		h = make(http.Header)
	}
	h.Set("Content-Type", "application/xml")
	h.Set("x-ms-error-code", code)
	return servers.Answer(status, h, xml(code, text))
}

var absBackend = backend{
	name: "abs",
	start: func(t *testing.T, _ bool) *place {
		t.Helper()
		srv := servers.Azurite(t)
		srv.CreateContainer(bucket)
		u := must(url.Parse(srv.Endpoint))
		return &place{
			target: "http://" + u.Host, stop: srv.Stop, restart: srv.Restart,
			client: func(addr string, timeout time.Duration) (litestream.ReplicaClient, func()) {
				pool := &abs.Pool{}
				c := must(pool.Get(abs.Config{
					AccountName: srv.AccountName, AccountKey: srv.AccountKey, Bucket: bucket, Path: "base",
					Endpoint: "http://" + addr + u.Path, MaxConns: maxConns,
				}))
				c.ResponseTimeout = timeout
				return c, pool.CloseIdleConnections
			},
		}
	},
	throttled: azureAnswer(http.StatusTooManyRequests, "ServerBusy", "injected", retryAfter),
	broken:    azureAnswer(http.StatusInternalServerError, "InternalError", "injected", nil),
	busy:      azureAnswer(http.StatusServiceUnavailable, "ServerBusy", "injected", nil),
	expired:   azureAnswer(http.StatusForbidden, "AuthenticationFailed", "Signature not valid in the specified time frame", nil),
	skewed:    azureAnswer(http.StatusForbidden, "AuthenticationFailed", "Request date header too old", nil),
}

func googleAnswer(status int, reason string, header http.Header) servers.HTTPFault {
	h := header.Clone()
	if h == nil {
		h = make(http.Header)
	}
	h.Set("Content-Type", "application/json")
	return servers.Answer(status, h, `{"error":{"message":"injected","errors":[{"reason":"`+reason+`"}]}}`)
}

var gsBackend = backend{
	name: "gs",
	start: func(t *testing.T, durable bool) *place {
		t.Helper()
		srv := servers.FakeGCS(t, durable)
		srv.CreateBucket(bucket)
		return &place{
			target: srv.Endpoint, stop: srv.Stop, restart: srv.Restart,
			client: func(addr string, timeout time.Duration) (litestream.ReplicaClient, func()) {
				pool := &gs.Pool{}
				c := must(pool.Get(gs.Config{Bucket: bucket, Path: "base", MaxConns: maxConns}))
				c.Endpoint, c.Anonymous, c.ResponseTimeout = "http://"+addr, true, timeout
				return c, pool.CloseIdleConnections
			},
		}
	},
	throttled: googleAnswer(http.StatusTooManyRequests, "rateLimitExceeded", retryAfter),
	broken:    googleAnswer(http.StatusInternalServerError, "backendError", nil),
	busy:      googleAnswer(http.StatusServiceUnavailable, "backendError", nil),
	expired:   googleAnswer(http.StatusUnauthorized, "authError", nil),
	skewed:    googleAnswer(http.StatusForbidden, "RequestTimeTooSkewed", nil),
}

var webdavBackend = backend{
	name: "webdav",
	start: func(t *testing.T, _ bool) *place {
		t.Helper()
		srv := servers.Lighttpd(t)
		return &place{
			target: srv.URL, stop: srv.Stop, restart: srv.Restart,
			client: func(addr string, timeout time.Duration) (litestream.ReplicaClient, func()) {
				pool := &webdav.Pool{}
				c := must(pool.Get(webdav.Config{
					URL: "http://" + addr, Username: srv.Username, Password: srv.Password, Path: "base", MaxConns: maxConns,
				}))
				c.ResponseTimeout = timeout
				return c, pool.CloseIdleConnections
			},
		}
	},
	throttled: servers.Answer(http.StatusTooManyRequests, retryAfter, "injected"),
	broken:    servers.Answer(http.StatusInternalServerError, nil, "injected"),
	busy:      servers.Answer(http.StatusServiceUnavailable, nil, "injected"),
	expired:   servers.Answer(http.StatusUnauthorized, http.Header{"WWW-Authenticate": {`Basic realm="dav"`}}, "injected"),
}

var ossBackend = backend{
	name: "oss",
	start: func(t *testing.T, _ bool) *place {
		t.Helper()
		srv := servers.OSS(t)
		srv.CreateBucket(bucket, false)
		return &place{
			target: srv.Endpoint, stop: srv.Stop, restart: srv.Restart,
			client: func(addr string, timeout time.Duration) (litestream.ReplicaClient, func()) {
				pool := &oss.Pool{}
				c := must(pool.Get(oss.Config{
					AccessKeyID: srv.AccessKeyID, AccessKeySecret: srv.AccessKeySecret, Region: srv.Region,
					Bucket: bucket, Path: "base", Endpoint: "http://" + addr, MaxConns: maxConns,
				}))
				c.ResponseTimeout = timeout
				return c, pool.CloseIdleConnections
			},
		}
	},
	throttled: servers.Answer(http.StatusTooManyRequests, retryAfter, xml("TooManyRequests", "injected")),
	broken:    xmlAnswer(http.StatusInternalServerError, "InternalError"),
	busy:      xmlAnswer(http.StatusServiceUnavailable, "ServiceUnavailable"),
	expired:   xmlAnswer(http.StatusForbidden, "SecurityTokenExpired"),
	skewed:    xmlSkewed,
}

var natsBackend = backend{
	name: "nats",
	start: func(t *testing.T, _ bool) *place {
		t.Helper()
		srv := servers.NATS(t, "")
		srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket})
		return &place{
			target: srv.Addr, stop: srv.Stop, restart: srv.Restart,
			client: func(addr string, timeout time.Duration) (litestream.ReplicaClient, func()) {
				pool := &nats.Pool{}
				c := must(pool.Get(nats.Config{
					Server: addr, Bucket: bucket, Path: "base", MaxConns: maxConns,
					Timeout: timeout, ReconnectWait: 200 * time.Millisecond,
				}))
				c.ResponseTimeout = timeout
				return c, pool.Close
			},
		}
	},
}

// must returns what a call that cannot fail here returns.
func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
