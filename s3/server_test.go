package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

const bucket = "litestream"

// serverConfig returns a configuration for an empty place on a server.
func serverConfig(srv *servers.S3Server, path string) s3.Config {
	return s3.Config{
		Bucket: bucket, Path: path, Endpoint: srv.Endpoint, Region: srv.Region,
		AccessKeyID: srv.AccessKey, SecretAccessKey: srv.SecretKey, SkipVerify: srv.CAFile != "",
	}
}

func TestReplicaClient_Contract(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		start func(tb testing.TB, overTLS bool) *servers.S3Server
		tls   bool
		quick bool
	}{
		{"Versitygw", servers.Versitygw, false, false},
		{"VersitygwTLS", servers.Versitygw, true, true},
		{"CephTLS", servers.Ceph, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := tt.start(t, tt.tls)
			srv.CreateBucket(bucket)
			runContract(t, srv, tt.quick)
		})
	}
}

func runContract(t *testing.T, srv *servers.S3Server, quick bool) {
	t.Helper()
	var n atomic.Int64
	plain := srv.Client()
	opts := replicatest.Options{
		PartSize: s3.DefaultPartSize,
		Quick:    quick,
		Base:     func(testing.TB) string { return fmt.Sprintf("base%d", n.Add(1)) },
		Foreign: replicatest.Foreign{
			Put: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) {
				tb.Helper()
				_, err := plain.PutObject(tb.Context(), &sdk.PutObjectInput{
					Bucket: aws.String(bucket), Key: aws.String(foreignKey(c, level, name)), Body: strings.NewReader("x"),
				})
				if err != nil {
					tb.Fatal(err)
				}
			},
			Has: func(tb testing.TB, c litestream.ReplicaClient, level int, name string) bool {
				tb.Helper()
				_, err := plain.HeadObject(tb.Context(), &sdk.HeadObjectInput{
					Bucket: aws.String(bucket), Key: aws.String(foreignKey(c, level, name)),
				})
				return err == nil
			},
		},
	}
	replicatest.Run(t, func(tb testing.TB) litestream.ReplicaClient {
		tb.Helper()
		return newClient(tb, serverConfig(srv, fmt.Sprintf("some/db%d", n.Add(1))))
	}, opts)
}

func foreignKey(c litestream.ReplicaClient, level int, name string) string {
	return fmt.Sprintf("%s/%04x/%s", c.(*s3.ReplicaClient).Path, level, name)
}

// Settings that change the requests must not change what is stored.
func TestReplicaClient_Settings(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, true)
	srv.CreateBucket(bucket)
	for name, set := range map[string]func(*s3.Config){
		"UnsignedPayload":        func(c *s3.Config) { c.SignPayload = new(false) },
		"UnsignedAcceptEncoding": func(c *s3.Config) { c.SignAcceptEncoding = new(false) },
		"NoContentMD5":           func(c *s3.Config) { c.RequireContentMD5 = new(false) },
		"PutObjectContentMD5":    func(c *s3.Config) { c.PutObjectContentMD5 = new(true) },
		"StorageClass":           func(c *s3.Config) { c.StorageClass = "STANDARD" },
		"PartSize":               func(c *s3.Config) { c.PartSize, c.Concurrency = 6<<20, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := serverConfig(srv, name)
			set(&cfg)
			c := newClient(t, cfg)
			for i, n := range []int{200, 13 << 20} {
				txid := ltx.TXID(i + 1)
				data := replicatest.File(t, txid, txid, n, 0)
				replicatest.Write(t, c, 0, txid, txid, data)
				if got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0); err != nil || !bytes.Equal(got, data) {
					t.Errorf("read %d bytes, err=%v, want the %d written", len(got), err, n)
				}
			}
			if got := len(replicatest.List(t, c, 0, 0, true)); got != 2 {
				t.Errorf("listed %d files, want 2", got)
			}
			if err := c.DeleteAll(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReplicaClient_UnknownCertificate(t *testing.T) {
	srv := servers.Versitygw(t, true)
	srv.CreateBucket(bucket)
	cfg := serverConfig(srv, "p")
	cfg.SkipVerify = false
	_, err := newClient(t, cfg).LTXFiles(t.Context(), 0, 0, false)
	if !litestream.IsPermanent(err) || !strings.Contains(err.Error(), "AWS_CA_BUNDLE") {
		t.Errorf("err=%v, want a permanent one that names AWS_CA_BUNDLE", err)
	}

	t.Setenv("AWS_CA_BUNDLE", srv.CAFile)
	if _, err := newClient(t, cfg).LTXFiles(t.Context(), 0, 0, false); err != nil {
		t.Errorf("with AWS_CA_BUNDLE: %v", err)
	}
}

func TestReplicaClient_Refusals(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	for _, tt := range []struct {
		name  string
		set   func(*s3.Config)
		codes string
	}{
		{"Secret", func(c *s3.Config) { c.SecretAccessKey = "wrong" }, "SignatureDoesNotMatch"},
		{"AccessKey", func(c *s3.Config) { c.AccessKeyID = "wrong" }, "InvalidAccessKeyId XAdminUserNotFound"},
		{"Bucket", func(c *s3.Config) { c.Bucket = "nosuchbucket" }, "NoSuchBucket"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := serverConfig(srv, "p")
			tt.set(&cfg)
			c := newClient(t, cfg)
			data := replicatest.File(t, 1, 1, 200, 0)
			errs := make(map[string]error)
			_, errs["list"] = c.LTXFiles(t.Context(), 0, 0, false)
			_, errs["get"] = c.OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
			_, errs["put"] = c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(data))
			_, errs["exclusive"] = c.WriteLTXFileExclusive(t.Context(), 0, 1, 1, bytes.NewReader(data))
			errs["delete"] = c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}})
			for op, err := range errs {
				var re *litestream.ReplicaError
				if !errors.As(err, &re) {
					t.Errorf("%s: err=%v, want a ReplicaError", op, err)
					continue
				}
				if !re.Permanent || re.Hint == "" || re.Bucket != cfg.Bucket || re.Key == "" || !strings.Contains(tt.codes, re.Code) || re.Code == "" {
					t.Errorf("%s: %v, want a permanent error with hint, bucket, key and code %s", op, re, tt.codes)
				}
				if errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v looks like a missing file", op, err)
				}
			}
		})
	}
}

func TestReplicaClient_ServerAway(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	c := newClient(t, serverConfig(srv, "p"))
	replicatest.Write(t, c, 0, 1, 1, replicatest.File(t, 1, 1, 200, 0))
	srv.Stop()

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.LTXFiles(ctx, 0, 0, false)
	var re *litestream.ReplicaError
	if !errors.As(err, &re) || re.Permanent {
		t.Errorf("server away: err=%v, want a ReplicaError that is not permanent", err)
	}
	_, err = c.WriteLTXFile(t.Context(), 0, 2, 2, bytes.NewReader(replicatest.File(t, 2, 2, 200, 0)))
	if !errors.As(err, &re) || re.Permanent {
		t.Errorf("server away: err=%v, want a ReplicaError that is not permanent", err)
	}

	srv.Restart()
	replicatest.Write(t, c, 0, 2, 2, replicatest.File(t, 2, 2, 200, 0))
	if got := len(replicatest.List(t, c, 0, 0, false)); got != 2 {
		t.Errorf("server back: listed %d files, want 2", got)
	}
}

// A copy of a bucket may have lost the metadata. The time is in the file too.
func TestReplicaClient_LostMetadata(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	c := newClient(t, serverConfig(srv, "p"))
	_, err := srv.Client().PutObject(t.Context(), &sdk.PutObjectInput{
		Bucket: aws.String(bucket), Key: aws.String("p/0000/" + ltx.FormatFilename(5, 5)),
		Body: bytes.NewReader(replicatest.File(t, 5, 5, 300, 0)),
	})
	if err != nil {
		t.Fatal(err)
	}
	a := replicatest.List(t, c, 0, 0, true)
	if len(a) != 1 || !a[0].CreatedAt.Equal(replicatest.TimeOf(5)) {
		t.Errorf("listed %v, want one file of %v", a, replicatest.TimeOf(5))
	}
}

func TestReplicaClient_CutDownload(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	cfg := serverConfig(srv, "p")
	cfg.Endpoint = p.URL
	c := newClient(t, cfg, func(o *s3.Options) { o.ResponseTimeout = time.Second })
	replicatest.BrokenDownload(t, c, map[string]func(){
		"Cut":     func() { p.Break(servers.Next(1, servers.Method("GET"), servers.BreakDownload)) },
		"Stalled": func() { p.Break(servers.Next(1, servers.Method("GET"), servers.StallDownload)) },
	})
}

func TestReplicaClient_CutUpload(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"Single": 1 << 20, "Multipart": 12 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := servers.Versitygw(t, false)
			srv.CreateBucket(bucket)
			p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
			cfg := serverConfig(srv, "p")
			cfg.Endpoint = p.URL
			c := newClient(t, cfg)
			data := replicatest.File(t, 1, 1, n, 0)

			p.Break(servers.Next(1<<40, servers.Method("PUT"), servers.BreakUpload))
			if _, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(data)); err == nil {
				t.Error("every request was cut, and no error")
			}
			p.Break(nil)
			if a := replicatest.List(t, c, 0, 0, false); len(a) != 0 {
				t.Errorf("listed %v after a failed upload, want nothing", a)
			}
			wantNoUploads(t, srv)

			p.Break(servers.Next(1, servers.Method("PUT"), servers.BreakUpload))
			replicatest.Write(t, c, 0, 1, 1, data)
			if p.Hits() != 1 {
				t.Error("the fault was not met")
			}
			if got, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read %d bytes, err=%v, want the %d written", len(got), err, n)
			}
		})
	}
}

// wantNoUploads checks that no parts of an unfinished upload are left.
func wantNoUploads(t *testing.T, srv *servers.S3Server) {
	t.Helper()
	out, err := srv.Client().ListMultipartUploads(t.Context(), &sdk.ListMultipartUploadsInput{Bucket: aws.String(bucket)})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Uploads) != 0 {
		t.Errorf("%d unfinished uploads left, want none", len(out.Uploads))
	}
}

func TestReplicaClient_CanceledUploadFreesParts(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	c := newClient(t, serverConfig(srv, "p"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	data := replicatest.File(t, 1, 1, 12<<20, 0)
	r := io.MultiReader(bytes.NewReader(data[:11<<20]), readFunc(cancel), bytes.NewReader(data[11<<20:]))
	if _, err := c.WriteLTXFile(ctx, 0, 1, 1, r); !errors.Is(err, context.Canceled) {
		t.Errorf("err=%v, want context.Canceled", err)
	}
	wantNoUploads(t, srv)
}

type readFunc func()

func (f readFunc) Read([]byte) (int, error) { f(); return 0, io.EOF }

func TestReplicaClient_LostAnswer(t *testing.T) {
	t.Parallel()
	srv := servers.Versitygw(t, false)
	srv.CreateBucket(bucket)
	p := servers.NewHTTPProxy(t, srv.Endpoint, 1)
	cfg := serverConfig(srv, "p")
	cfg.Endpoint = p.URL
	c := newClient(t, cfg)

	data := replicatest.File(t, 1, 1, 1000, 0)
	p.Break(servers.Next(1, servers.Method("PUT"), servers.Lose))
	replicatest.Write(t, c, 0, 1, 1, data)
	if got := p.Hits(); got != 1 {
		t.Errorf("fault met %d times, want 1", got)
	}

	// The repeated request of an exclusive write finds the first one's object.
	// That is reported: the caller compares.
	data = replicatest.File(t, 2, 2, 1000, 0)
	p.Break(servers.Next(1, servers.Method("PUT"), servers.Lose))
	_, err := c.WriteLTXFileExclusive(t.Context(), 0, 2, 2, bytes.NewReader(data))
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("exclusive write: err=%v, want fs.ErrExist", err)
	}
	if got, err := replicatest.Read(t, c, 0, 2, 2, 0, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("exclusive write: read %d bytes, err=%v, want our own", len(got), err)
	}
}

// A server that accepts requests and says nothing must not hold us for ever.
func TestReplicaClient_HungServer(t *testing.T) {
	t.Parallel()
	srv := servers.NewFakeHTTP(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := newClient(t, fakeConfig(srv), func(o *s3.Options) { o.ResponseTimeout = 50 * time.Millisecond })
	began := time.Now()
	_, err := c.LTXFiles(t.Context(), 0, 0, false)
	var re *litestream.ReplicaError
	if !errors.As(err, &re) || re.Permanent {
		t.Errorf("err=%v, want a ReplicaError that is not permanent", err)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("gave up after %v", d)
	}
	if got := len(srv.Seen("GET")); got != 8 {
		t.Errorf("%d attempts, want 8", got)
	}
}
