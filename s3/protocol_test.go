package s3_test

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // part of the protocol
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/tests/servers"
)

func putOK(w http.ResponseWriter, _ *http.Request) { w.Header().Set("ETag", `"x"`) }

func write(t *testing.T, c *s3.ReplicaClient, exclusive bool) error {
	t.Helper()
	f := c.WriteLTXFile
	if exclusive {
		f = c.WriteLTXFileExclusive
	}
	_, err := f(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 500, 0)))
	return err
}

// Keys are concatenated and never cleaned, or old backups would not be found.
func TestReplicaClient_RawKeys(t *testing.T) {
	srv := servers.NewFakeHTTP(t, putOK)
	name := ltx.FormatFilename(1, 1)
	for path, want := range map[string]string{
		"p": "p/0000/", "": "/0000/", ".": "./0000/", "/lead/tr/": "/lead/tr//0000/", "a b/ü": "a b/ü/0000/",
	} {
		cfg := fakeConfig(srv)
		cfg.Path = path
		if err := write(t, newClient(t, cfg), false); err != nil {
			t.Errorf("path %q: %v", path, err)
			continue
		}
		reqs := srv.Seen("PUT")
		if got, want := reqs[len(reqs)-1].URL.Path, "/bkt/"+want+name; got != want {
			t.Errorf("path %q: stored as %q, want %q", path, got, want)
		}
	}
}

func TestReplicaClient_PutRequest(t *testing.T) {
	srv := servers.NewFakeHTTP(t, putOK)
	cfg := fakeConfig(srv)
	cfg.StorageClass = "STANDARD_IA"
	cfg.PutObjectContentMD5 = new(true)
	cfg.SSEKMSKeyID = "kms-1"
	if err := write(t, newClient(t, cfg), true); err != nil {
		t.Fatal(err)
	}
	r := srv.Seen("PUT")[0]
	for header, want := range map[string]string{
		"Content-Type":                                "application/octet-stream",
		"X-Amz-Meta-Litestream-Timestamp":             replicatest.TimeOf(1).Format(time.RFC3339Nano),
		"X-Amz-Storage-Class":                         "STANDARD_IA",
		"X-Amz-Server-Side-Encryption":                "aws:kms",
		"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "kms-1",
		"If-None-Match":                               "*",
		"Content-Encoding":                            "",
		"X-Amz-Trailer":                               "",
		"X-Amz-Checksum-Crc32":                        "",
	} {
		if got := r.Header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if got := r.Header.Get("User-Agent"); !strings.HasPrefix(got, "litestream ") {
		t.Errorf("User-Agent: %q, want litestream first", got)
	}
	if got := r.Header.Get("X-Amz-Content-Sha256"); len(got) != 64 {
		t.Errorf("X-Amz-Content-Sha256: %q, want a hash", got)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.ContentLength; got != 500 || len(body) != 500 {
		t.Errorf("Content-Length: %d with %d bytes, want 500", got, len(body))
	}
	sum := md5.Sum(body) //nolint:gosec // part of the protocol
	if got, want := r.Header.Get("Content-Md5"), base64.StdEncoding.EncodeToString(sum[:]); got != want {
		t.Errorf("Content-MD5: %q, want %q", got, want)
	}
	if !strings.Contains(r.Header.Get("Authorization"), "accept-encoding") {
		t.Errorf("Accept-Encoding is not signed: %s", r.Header.Get("Authorization"))
	}
}

func TestReplicaClient_UnsignedParts(t *testing.T) {
	srv := servers.NewFakeHTTP(t, putOK)
	cfg := fakeConfig(srv)
	cfg.SignPayload, cfg.SignAcceptEncoding = new(false), new(false)
	if err := write(t, newClient(t, cfg), false); err != nil {
		t.Fatal(err)
	}
	r := srv.Seen("PUT")[0]
	if got, want := r.Header.Get("X-Amz-Content-Sha256"), "UNSIGNED-PAYLOAD"; got != want {
		t.Errorf("X-Amz-Content-Sha256: %q, want %q", got, want)
	}
	if r.Header.Get("Content-Md5") == "" {
		t.Error("a payload without a signed hash goes without an MD5 too")
	}
	if strings.Contains(r.Header.Get("Authorization"), "accept-encoding") || r.Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("Accept-Encoding: %q, signed: %s", r.Header.Get("Accept-Encoding"), r.Header.Get("Authorization"))
	}
}

func TestReplicaClient_MissingETag(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(http.ResponseWriter, *http.Request) {})
	if err := write(t, newClient(t, fakeConfig(srv)), false); err == nil || !strings.Contains(err.Error(), "ETag") {
		t.Errorf("err=%v, want one about the missing ETag", err)
	}
}

func TestReplicaClient_CustomerKey(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Has("list-type"):
			fmt.Fprintf(w, `<ListBucketResult><Contents><Key>p/0000/%s</Key><Size>500</Size></Contents></ListBucketResult>`, ltx.FormatFilename(1, 1))
		case r.Method == http.MethodGet:
			io.WriteString(w, "body")
		default:
			w.Header().Set("X-Amz-Meta-Litestream-Timestamp", "2020-01-02T03:04:05.678Z")
			putOK(w, r)
		}
	})
	key := bytes.Repeat([]byte("k"), 32)
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := fakeConfig(srv)
	cfg.SSECustomerKeyPath = path
	c := newClient(t, cfg)
	if err := write(t, c, false); err != nil {
		t.Fatal(err)
	}
	if _, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil {
		t.Fatal(err)
	}
	a := replicatest.List(t, c, 0, 0, true)
	if want := time.Date(2020, 1, 2, 3, 4, 5, 678e6, time.UTC); len(a) != 1 || !a[0].CreatedAt.Equal(want) {
		t.Errorf("listed %v, want the time in the metadata", a)
	}
	sum := md5.Sum(key) //nolint:gosec // part of the protocol
	for _, r := range srv.Seen() {
		const prefix = "X-Amz-Server-Side-Encryption-Customer-"
		got := []string{r.Header.Get(prefix + "Algorithm"), r.Header.Get(prefix + "Key"), r.Header.Get(prefix + "Key-Md5")}
		want := []string{"AES256", base64.StdEncoding.EncodeToString(key), base64.StdEncoding.EncodeToString(sum[:])}
		if r.URL.Query().Has("list-type") {
			want = []string{"", "", ""}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", r.Method, r.URL, diff)
		}
	}
}

func TestReplicaClient_Init(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, tt := range map[string]struct {
		set  func(*s3.Options)
		want string // in the error; empty: none
	}{
		"Good":          {func(*s3.Options) {}, ""},
		"Bucket":        {func(o *s3.Options) { o.Bucket = "" }, "bucket required"},
		"PartSize":      {func(o *s3.Options) { o.PartSize = 1 << 20 }, "part size"},
		"Concurrency":   {func(o *s3.Options) { o.Concurrency = -1 }, "concurrency"},
		"Endpoint":      {func(o *s3.Options) { o.Endpoint = "http://" }, "endpoint"},
		"KeyLength":     {func(o *s3.Options) { o.SSECustomerKey = "abcd" }, "32 bytes"},
		"NoKey":         {func(o *s3.Options) { o.SSECustomerAlgorithm = "AES256" }, "no key"},
		"Algorithm":     {func(o *s3.Options) { o.SSECustomerKey, o.SSECustomerAlgorithm = key, "DES" }, "unsupported"},
		"TwoKeys":       {func(o *s3.Options) { o.SSECustomerKey, o.SSEKMSKeyID = key, "k" }, "two kinds"},
		"KeyInTheClear": {func(o *s3.Options) { o.SSECustomerKey, o.Endpoint = key, "http://s3.example.com" }, "https"},
		"KeyAtHome":     {func(o *s3.Options) { o.SSECustomerKey, o.Endpoint = key, "http://10.1.2.3:9000" }, ""},
		"KeyTLS":        {func(o *s3.Options) { o.SSECustomerKey, o.Endpoint = key, "https://s3.example.com" }, ""},
	} {
		c := s3.NewReplicaClient()
		c.Bucket = "bkt"
		tt.set(&c.Options)
		err := c.Init(t.Context())
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: err=%v, want none", name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !litestream.IsPermanent(err)):
			t.Errorf("%s: err=%v, want a permanent one with %q", name, err, tt.want)
		}
	}
}

// A server may not know conditional writes. That is learned once.
func TestReplicaClient_NoConditionalWrites(t *testing.T) {
	var stored atomic.Bool
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("If-None-Match") != "":
			xmlError(w, http.StatusNotImplemented, "NotImplemented")
		case r.Method == http.MethodHead && !stored.Load():
			w.WriteHeader(http.StatusNotFound)
		case r.Method == http.MethodPut:
			stored.Store(true)
			putOK(w, r)
		}
	})
	c := newClient(t, fakeConfig(srv))
	var log bytes.Buffer
	c.SetLogger(slog.New(slog.NewTextHandler(&log, nil)))
	if err := write(t, c, true); err != nil {
		t.Errorf("first write: %v", err)
	}
	for range 2 {
		if err := write(t, c, true); !errors.Is(err, fs.ErrExist) {
			t.Errorf("next write: err=%v, want fs.ErrExist", err)
		}
	}
	var methods []string
	for _, r := range srv.Seen() {
		methods = append(methods, r.Method)
	}
	if got := strings.Join(methods, " "); !strings.HasSuffix(got, "HEAD PUT HEAD HEAD") {
		t.Errorf("requests: %s, want the condition tried at first only", got)
	}
	if got := strings.Count(log.String(), "conditional"); got != 1 {
		t.Errorf("logged %d times, want once:\n%s", got, &log)
	}
}

// A conflict with a write in progress passes by.
func TestReplicaClient_ConditionalConflict(t *testing.T) {
	var n atomic.Int64
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			xmlError(w, http.StatusConflict, "ConditionalRequestConflict")
			return
		}
		putOK(w, r)
	})
	if err := write(t, newClient(t, fakeConfig(srv)), true); err != nil || n.Load() != 2 {
		t.Errorf("err=%v after %d requests, want success after 2", err, n.Load())
	}
}

func TestReplicaClient_Throttled(t *testing.T) {
	t.Parallel()
	for status, code := range map[int]string{408: "RequestTimeout", 429: "TooManyRequests", 503: "SlowDown", 500: "InternalError", 400: "RequestCanceled"} {
		var n atomic.Int64
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) <= 2 {
				xmlError(w, status, code)
				return
			}
			putOK(w, r)
		})
		if err := write(t, newClient(t, fakeConfig(srv)), false); err != nil || n.Load() != 3 {
			t.Errorf("%d %s: err=%v after %d requests, want success after 3", status, code, err, n.Load())
		}
	}
}

func TestReplicaClient_ErrorClasses(t *testing.T) {
	for _, tt := range []struct {
		status    int
		code      string
		permanent bool
	}{
		{403, "AccessDenied", true},
		{403, "Whatever", true},
		{403, "ExpiredToken", false},
		{404, "NoSuchBucket", true},
		{400, "InvalidBucketName", true},
		{400, "AuthorizationHeaderMalformed", true},
		{301, "PermanentRedirect", true},
		{400, "IncompleteBody", false},
		{507, "XMinioStorageFull", false},
	} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { xmlError(w, tt.status, tt.code) })
		patience := time.Minute
		if !tt.permanent {
			patience = 300 * time.Millisecond // it is retried
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := newClient(t, fakeConfig(srv)).LTXFiles(ctx, 0, 0, false)
		cancel()
		re, ok := errors.AsType[*litestream.ReplicaError](err)
		if !ok {
			t.Errorf("%d %s: err=%v, want a ReplicaError", tt.status, tt.code, err)
			continue
		}
		if re.Permanent != tt.permanent || (tt.permanent && (re.Code != tt.code || re.Hint == "")) {
			t.Errorf("%d %s: permanent=%v code=%q hint=%q, want permanent=%v", tt.status, tt.code, re.Permanent, re.Code, re.Hint, tt.permanent)
		}
	}
}

// A server that ignores the Range header must not shift what is read.
func TestReplicaClient_IgnoredRange(t *testing.T) {
	data := replicatest.File(t, 1, 1, 1000, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	c := newClient(t, fakeConfig(srv))
	for _, tt := range [][2]int64{{0, 0}, {100, 0}, {100, 50}, {990, 50}, {1000, 0}, {2000, 5}} {
		got, err := replicatest.Read(t, c, 0, 1, 1, tt[0], tt[1])
		from := min(tt[0], 1000)
		to := int64(1000)
		if tt[1] > 0 {
			to = min(from+tt[1], 1000)
		}
		if err != nil || !bytes.Equal(got, data[from:to]) {
			t.Errorf("offset %d size %d: %d bytes, err=%v, want %d", tt[0], tt[1], len(got), err, to-from)
		}
	}
}

func TestReplicaClient_WrongRange(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-9/1000")
		w.WriteHeader(http.StatusPartialContent)
		w.Write(make([]byte, 10))
	})
	if _, err := replicatest.Read(t, newClient(t, fakeConfig(srv)), 0, 1, 1, 100, 10); err == nil {
		t.Error("another range than asked for, and no error")
	}
}

// A listing that is cut off must not pass for a short one.
func TestReplicaClient_BrokenListing(t *testing.T) {
	for name, token := range map[string]string{"NoToken": "", "SameToken": "<NextContinuationToken>t</NextContinuationToken>"} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `<ListBucketResult><IsTruncated>true</IsTruncated>%s<Contents><Key>p/0000/%s</Key></Contents></ListBucketResult>`,
				token, ltx.FormatFilename(1, 1))
		})
		if _, err := newClient(t, fakeConfig(srv)).LTXFiles(t.Context(), 0, 0, false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReplicaClient_DeleteRequest(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		io.WriteString(w, "<DeleteResult>")
		if bytes.Contains(body, []byte(ltx.FormatFilename(1500, 1500))) {
			io.WriteString(w, "<Error><Key>k</Key><Code>AccessDenied</Code></Error><Error><Key>l</Key><Code>NoSuchKey</Code></Error>")
			for range 9 {
				io.WriteString(w, "<Error><Key>m</Key><Code>InternalError</Code></Error>")
			}
		}
		io.WriteString(w, "</DeleteResult>")
	})
	var infos []*ltx.FileInfo
	for txid := ltx.TXID(1); txid <= 1500; txid++ {
		infos = append(infos, &ltx.FileInfo{MinTXID: txid, MaxTXID: txid})
	}
	err := newClient(t, fakeConfig(srv)).DeleteLTXFiles(t.Context(), infos)
	for _, want := range []string{"key=k code=AccessDenied", "key=m code=InternalError", "5 more keys"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("err=%v, want %q in it", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "NoSuchKey") {
		t.Errorf("err=%v names a missing key", err)
	}
	reqs := srv.Seen("POST")
	if len(reqs) != 2 {
		t.Fatalf("%d requests for 1,500 keys, want 2", len(reqs))
	}
	if r := reqs[0]; r.Header.Get("Content-Md5") == "" || r.Header.Get("X-Amz-Checksum-Crc32") != "" {
		t.Errorf("Content-MD5 %q, CRC32 %q, want the MD5 alone", r.Header.Get("Content-Md5"), r.Header.Get("X-Amz-Checksum-Crc32"))
	}

	cfg := fakeConfig(srv)
	cfg.RequireContentMD5 = new(false)
	if err := newClient(t, cfg).DeleteLTXFiles(t.Context(), infos[:1]); err != nil {
		t.Fatal(err)
	}
	reqs = srv.Seen("POST")
	if r := reqs[len(reqs)-1]; r.Header.Get("Content-Md5") != "" {
		t.Error("Content-MD5 is sent though it is turned off")
	}
}

// Without region and endpoint the bucket is asked for its region, once and not
// before it is needed.
func TestReplicaClient_RegionLookup(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("location") {
			io.WriteString(w, `<LocationConstraint>eu-west-3</LocationConstraint>`)
			return
		}
		io.WriteString(w, `<ListBucketResult></ListBucketResult>`)
	})
	t.Setenv("AWS_ENDPOINT_URL_S3", srv.URL)
	cfg := fakeConfig(srv)
	cfg.Endpoint = ""
	cfg.ForcePathStyle = new(true)
	c := newClient(t, cfg)
	if got := len(srv.Seen()); got != 0 {
		t.Errorf("%d requests at Init, want none", got)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := c.LTXFiles(t.Context(), 0, 0, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	lookups := 0
	for _, r := range srv.Seen() {
		region := "/eu-west-3/"
		if r.URL.Query().Has("location") {
			lookups++
			region = "/us-east-1/"
		}
		if auth := r.Header.Get("Authorization"); !strings.Contains(auth, region) {
			t.Errorf("%s is signed for %s, want %s", r.URL, auth, region)
		}
	}
	if lookups != 1 {
		t.Errorf("%d look-ups, want 1", lookups)
	}
}

// Any number of prefixes shares one transport with a bounded number of
// connections, across clients of one pool.
func TestPool_SharesConnections(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `<ListBucketResult></ListBucketResult>`)
	})
	pool := &s3.Pool{}
	defer pool.CloseIdleConnections()
	var clients []litestream.Prefixer
	cfg := fakeConfig(srv)
	cfg.MaxConns = 3
	for range 2 {
		c, err := pool.Get(cfg)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	replicatest.ListAtOnce(t, clients...)
	if got := len(srv.Seen()); got != 100 {
		t.Errorf("%d requests, want 100", got)
	}
	if got := srv.Most(); got > 3 {
		t.Errorf("%d requests at a time, want at most 3", got)
	}
}

// Whoever merges files opens all of them before reading one.
func TestReplicaClient_ManyOpenFiles(t *testing.T) {
	data := replicatest.File(t, 1, 1, 1000, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	c := newClient(t, fakeConfig(srv), func(o *s3.Options) { o.MaxConns = 2 })
	replicatest.OpenMany(t, c)
}

func TestReplicaClient_Observer(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			putOK(w, r)
		case strings.HasSuffix(r.URL.Path, ".ltx"):
			xmlError(w, 404, "NoSuchKey")
		case r.Method == http.MethodPost:
			io.WriteString(w, "<DeleteResult></DeleteResult>")
		default:
			xmlError(w, 403, "AccessDenied")
		}
	})
	c := newClient(t, fakeConfig(srv))
	rec := &replicatest.Recorder{}
	c.SetObserver(rec)
	if err := write(t, c, false); err != nil {
		t.Error(err)
	}
	if _, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read: err=%v, want fs.ErrNotExist", err)
	}
	if err := c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}}); err != nil {
		t.Error(err)
	}
	if _, err := c.LTXFiles(t.Context(), 0, 0, false); !litestream.IsPermanent(err) {
		t.Errorf("list: err=%v, want a permanent one", err)
	}
	want := []string{"PUT 500", "GET 0 NoSuchKey", "DELETE 0", "LIST 0 AccessDenied"}
	if diff := cmp.Diff(want, rec.All()); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
}

// A hundred thousand databases have a client each.
func TestReplicaClient_WithPrefixSize(t *testing.T) {
	base, err := new(s3.Pool).Get(s3.Config{Bucket: "b", Endpoint: "https://s3.example.com", AccessKeyID: "a", SecretAccessKey: "b"})
	if err != nil {
		t.Fatal(err)
	}
	replicatest.PrefixSize(t, base)
}
