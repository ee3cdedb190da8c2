package oss_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/fakeoss"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/tests/servers"
)

// smallParts makes half a megabyte an upload in several parts.
func smallParts(o *oss.Options) { o.PartSize = oss.MinPartSize }

// stream hides that a source can be read at any place.
func stream(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b)) }

func write(tb testing.TB, c *oss.ReplicaClient, exclusive bool) error {
	tb.Helper()
	r := bytes.NewReader(replicatest.File(tb, 1, 1, 500, 0))
	var err error
	if exclusive {
		_, err = c.WriteLTXFileExclusive(tb.Context(), 0, 1, 1, r)
	} else {
		_, err = c.WriteLTXFile(tb.Context(), 0, 1, 1, r)
	}
	return err
}

// Keys are the path as it stands and the level, as Litestream v0.5 has them.
func TestReplicaClient_Keys(t *testing.T) {
	srv := newServer(t)
	for path, want := range map[string]string{
		"db":         "db/0009/",
		".":          "./0009/",
		"a//b/../c/": "a//b/../c//0009/",
		"a b+%ä&<":   "a b+%ä&</0009/",
	} {
		c := newClient(t, srv.Endpoint, path)
		replicatest.Write(t, c, 9, 1, 2, replicatest.File(t, 1, 2, 300, 0))
		want += ltx.FormatFilename(1, 2)
		if got := srv.Keys(bucket); !slices.Equal(got, []string{want}) {
			t.Errorf("%q: keys %q, want %q", path, got, want)
		}
		if a := replicatest.List(t, c, 9, 0, true); len(a) != 1 || !a[0].CreatedAt.Equal(replicatest.TimeOf(1)) {
			t.Errorf("%q: listed %v", path, a)
		}
		if err := c.DeleteAll(t.Context()); err != nil || len(srv.Keys(bucket)) != 0 {
			t.Errorf("%q: err=%v, left %q", path, err, srv.Keys(bucket))
		}
	}
	// A key that begins with a slash is what v0.5 asks for here, and what the
	// service refuses.
	err := write(t, newClient(t, srv.Endpoint, ""), false)
	if re, ok := errors.AsType[*litestream.ReplicaError](err); !ok || !re.Permanent || !strings.HasPrefix(re.Key, "/0000/") || !strings.Contains(re.Hint, "path") {
		t.Errorf("empty path: %v, want a permanent error that names path", err)
	}
}

func TestReplicaClient_Multipart(t *testing.T) {
	srv := newServer(t)
	c := newClient(t, srv.Endpoint, "p", smallParts)
	for i, size := range []int{oss.MinPartSize, oss.MinPartSize + 1, 5 * oss.MinPartSize, 5*oss.MinPartSize + 777} {
		txid := ltx.TXID(i + 1)
		data := replicatest.File(t, txid, txid, size, 0)
		for name, r := range map[string]io.Reader{"Section": bytes.NewReader(data), "Stream": stream(data)} {
			info, err := c.WriteLTXFile(t.Context(), 1, txid, txid, r)
			if err != nil || info.Size != int64(size) || !info.CreatedAt.Equal(replicatest.TimeOf(txid)) {
				t.Fatalf("%s of %d bytes: info=%+v, err=%v", name, size, info, err)
			}
			if got, err := replicatest.Read(t, c, 1, txid, txid, 0, 0); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s of %d bytes: read %d, err=%v", name, size, len(got), err)
			}
		}
	}
	for _, info := range replicatest.List(t, c, 1, 0, true) {
		if !info.CreatedAt.Equal(replicatest.TimeOf(info.MinTXID)) {
			t.Errorf("%s: time %s, want that of the header", info.MinTXID, info.CreatedAt)
		}
	}
}

// A bucket that keeps versions ignores the request not to overwrite. From the
// first answer on, which tells, the key is looked up first.
func TestReplicaClient_VersionedBucket(t *testing.T) {
	srv := newServer(t)
	srv.CreateBucket(bucket, true)
	var log bytes.Buffer
	c := newClient(t, srv.Endpoint, "p", smallParts)
	c.SetLogger(slog.New(slog.NewTextHandler(&log, nil)))
	for txid := ltx.TXID(1); txid <= 3; txid++ {
		data := replicatest.File(t, txid, txid, 1000+int(txid-1)*2*oss.MinPartSize, 0)
		if _, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("second write of %d bytes: err=%v, want fs.ErrExist", len(data), err)
		}
	}
	if n := strings.Count(log.String(), "keeps versions"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log.String())
	}
}

// What is wrong with credentials, clock and region is told apart.
func TestReplicaClient_Refused(t *testing.T) {
	srv := newServer(t)
	for name, tt := range map[string]struct {
		set        func(*oss.Options)
		code, hint string
	}{
		"Key":    {func(o *oss.Options) { o.AccessKeyID = "other" }, "InvalidAccessKeyId", "access-key-id"},
		"Secret": {func(o *oss.Options) { o.AccessKeySecret = "geheim" }, "SignatureDoesNotMatch", "secret-access-key"},
		"Region": {func(o *oss.Options) { o.Region = "cn-beijing" }, "InvalidArgument", "region"},
		"Bucket": {func(o *oss.Options) { o.Bucket = "nobody" }, "NoSuchBucket", "bucket"},
	} {
		c := newClient(t, srv.Endpoint, "p", tt.set)
		_, listErr := c.LTXFiles(t.Context(), 0, 0, true)
		_, readErr := c.OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
		for _, err := range []error{listErr, readErr, write(t, c, false), c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}})} {
			re, ok := errors.AsType[*litestream.ReplicaError](err)
			if !ok || !re.Permanent || re.Code != tt.code || !strings.Contains(re.Hint, tt.hint) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, want a permanent error %s with a hint at %s", name, err, tt.code, tt.hint)
			}
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("%s: %v shows a secret", name, err)
			}
		}
	}
}

// A wrong clock is corrected by the service's answer, once for all clients.
func TestReplicaClient_WrongClock(t *testing.T) {
	for _, skew := range []time.Duration{-48 * time.Hour, time.Hour} {
		srv := newServer(t, func(o *fakeoss.Options) { o.Now = func() time.Time { return time.Now().Add(skew) } })
		c := newClient(t, srv.Endpoint, "p")
		var wg sync.WaitGroup
		for i := range 8 {
			client := c.WithPrefix(fmt.Sprint(i))
			wg.Go(func() {
				if _, err := client.LTXFiles(t.Context(), 0, 0, false); err != nil {
					t.Errorf("clock off by %s: %v", skew, err)
				}
			})
		}
		wg.Wait()
		before := srv.Requests()
		if err := write(t, c, false); err != nil || srv.Requests() != before+1 {
			t.Errorf("clock off by %s: err=%v after %d requests, want 1", skew, err, srv.Requests()-before)
		}
	}
}

func TestReplicaClient_Throttled(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	for status, code := range map[int]string{
		408: "RequestTimeout", 429: "TooManyRequests", 500: "InternalError", 502: "", 503: "ServiceUnavailable", 504: "", 403: "QpsLimitExceeded",
	} {
		var n atomic.Int64
		flaky := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) > 2 {
				srv.ServeHTTP(w, r)
				return
			}
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			if code != "" {
				io.WriteString(w, errorXML(code))
			}
		}))
		if err := write(t, newClient(t, flaky.URL, "p"), false); err != nil || n.Load() != 3 {
			t.Errorf("%d %s: err=%v after %d requests, want success after 3", status, code, err, n.Load())
		}
	}
}

func TestReplicaClient_RetryAfter(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	var n atomic.Int64
	flaky := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) > 1 {
			srv.ServeHTTP(w, r)
			return
		}
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	began := time.Now()
	if err := write(t, newClient(t, flaky.URL, "p"), false); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d < time.Second {
		t.Errorf("came back after %s, asked for was a second", d)
	}
}

func TestReplicaClient_ErrorClasses(t *testing.T) {
	for _, tt := range []struct {
		status    int
		code      string
		permanent bool
		missing   bool
		exists    bool
	}{
		{403, "AccessDenied", true, false, false},
		{403, "UserDisable", true, false, false},
		{403, "Whatever", true, false, false},
		{403, "InvalidObjectState", true, false, false},
		{403, "SecurityTokenExpired", false, false, false},
		{404, "NoSuchBucket", true, false, false},
		{404, "NoSuchKey", false, true, false},
		{404, "", false, true, false},
		{409, "FileAlreadyExists", false, false, true},
		{409, "FileImmutable", true, false, false},
		{400, "InvalidObjectName", true, false, false},
		{405, "MethodNotAllowed", true, false, false},
		{501, "NotImplemented", true, false, false},
		{301, "", true, false, false},
		{507, "", false, false, false},
	} {
		body := ""
		if tt.code != "" {
			body = errorXML(tt.code)
		}
		url := answer(t, tt.status, map[string]string{"X-Oss-Request-Id": "5C3D9175B6FC201293AD4890"}, body)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // some are retried
		_, err := newClient(t, url, "p").OpenLTXFile(ctx, 0, 1, 1, 0, 0)
		cancel()
		re, ok := errors.AsType[*litestream.ReplicaError](err)
		if !ok {
			t.Errorf("%d %s: err=%v, want a ReplicaError", tt.status, tt.code, err)
			continue
		}
		if re.Permanent != tt.permanent || errors.Is(err, fs.ErrNotExist) != tt.missing || errors.Is(err, fs.ErrExist) != tt.exists ||
			re.Code == "" || (tt.permanent && re.Hint == "") {
			t.Errorf("%d %s: %v: permanent=%v code=%q, want %+v", tt.status, tt.code, err, re.Permanent, re.Code, tt)
		}
		if !strings.Contains(err.Error(), "5C3D9175B6FC201293AD4890") && ctx.Err() == nil {
			t.Errorf("%d %s: %v, want the request's id", tt.status, tt.code, err)
		}
	}
}

// Answers that come from no object store, or that tell of other content.
func TestReplicaClient_WrongAnswer(t *testing.T) {
	for name, header := range map[string]map[string]string{
		"Nothing": nil, "CRC": {"ETag": `"x"`, "X-Oss-Hash-Crc64ecma": "5"}, "BadCRC": {"ETag": `"x"`, "X-Oss-Hash-Crc64ecma": "x"},
	} {
		if err := write(t, newClient(t, answer(t, 200, header, ""), "p"), false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, body := range map[string]string{
		"Empty": "", "HTML": "<html></html>", "CutOff": "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
		"Standing": "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>",
		"BadKey":   "<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>%</Key></Contents></ListBucketResult>",
	} {
		c := newClient(t, answer(t, 200, nil, body), "p")
		if _, err := c.LTXFiles(t.Context(), 0, 0, false); err == nil {
			t.Errorf("list %s: no error", name)
		}
	}
	c := newClient(t, answer(t, 200, nil, "<DeleteResult><Deleted><Key>p/0000/other</Key></Deleted></DeleteResult>"), "p")
	if err := c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}}); err == nil {
		t.Error("a key that the answer to a delete does not repeat, and no error")
	}
}

// A server that ignores the Range header must not shift what is read.
func TestReplicaClient_IgnoredRange(t *testing.T) {
	data := replicatest.File(t, 1, 1, 1000, 0)
	c := newClient(t, answer(t, 200, nil, string(data)), "p")
	for _, tt := range [][2]int64{{0, 0}, {100, 0}, {100, 50}, {990, 50}, {1000, 0}, {2000, 5}} {
		got, err := replicatest.Read(t, c, 0, 1, 1, tt[0], tt[1])
		from, to := min(tt[0], 1000), int64(1000)
		if tt[1] > 0 {
			to = min(from+tt[1], 1000)
		}
		if err != nil || !bytes.Equal(got, data[from:to]) {
			t.Errorf("offset %d size %d: %d bytes, err=%v, want %d", tt[0], tt[1], len(got), err, to-from)
		}
	}
	c = newClient(t, answer(t, 206, map[string]string{"Content-Range": "bytes 0-9/1000"}, "0123456789"), "p")
	if _, err := replicatest.Read(t, c, 0, 1, 1, 100, 10); err == nil {
		t.Error("another range than asked for, and no error")
	}
}

// A silent server must not hold us for ever.
func TestReplicaClient_HungServer(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	srv := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n.Add(1)
		<-r.Context().Done()
	}))
	c := newClient(t, srv.URL, "p", func(o *oss.Options) { o.ResponseTimeout = 50 * time.Millisecond })
	_, err := c.LTXFiles(t.Context(), 0, 0, false)
	if re, ok := errors.AsType[*litestream.ReplicaError](err); !ok || re.Permanent {
		t.Errorf("err=%v, want a ReplicaError that is not permanent", err)
	}
	if got := n.Load(); got != 8 {
		t.Errorf("%d attempts, want 8", got)
	}
}

// Any number of paths shares one transport with a bounded number of
// connections, across clients of one pool.
func TestPool_SharesConnections(t *testing.T) {
	srv := newServer(t)
	counting := servers.NewFakeHTTP(t, srv.ServeHTTP)
	pool := &oss.Pool{}
	defer pool.CloseIdleConnections()
	var clients []litestream.Prefixer
	for range 2 {
		c, err := pool.Get(oss.Config{Bucket: bucket, MaxConns: 3, Endpoint: counting.URL, AccessKeyID: keyID, AccessKeySecret: keySecret})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	replicatest.ListAtOnce(t, clients...)
	if got := counting.Most(); got > 3 || len(counting.Seen()) != 100 {
		t.Errorf("%d requests, %d at a time, want 100, at most 3 at a time", len(counting.Seen()), got)
	}
}

// Whoever merges files opens all of them before reading one.
func TestReplicaClient_ManyOpenFiles(t *testing.T) {
	c := newClient(t, answer(t, 200, nil, string(replicatest.File(t, 1, 1, 1000, 0))), "p", func(o *oss.Options) { o.MaxConns = 2 })
	replicatest.OpenMany(t, c)
}

// A hundred thousand databases have a client each.
func TestReplicaClient_WithPrefixSize(t *testing.T) {
	base, err := new(oss.Pool).Get(oss.Config{Bucket: bucket})
	if err != nil {
		t.Fatal(err)
	}
	replicatest.PrefixSize(t, base)
}

func TestReplicaClient_Observer(t *testing.T) {
	srv := newServer(t)
	c := newClient(t, srv.Endpoint, "p")
	rec := &replicatest.Recorder{}
	c.SetObserver(rec)
	if err := write(t, c, false); err != nil {
		t.Error(err)
	}
	if _, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err != nil {
		t.Error(err)
	}
	if err := c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}}); err != nil {
		t.Error(err)
	}
	c.Bucket = "nobody"
	if _, err := c.LTXFiles(t.Context(), 0, 0, false); !litestream.IsPermanent(err) {
		t.Errorf("list: err=%v, want a permanent one", err)
	}
	want := []string{"PUT 500", "GET 500", "DELETE 0", "LIST 0 NoSuchBucket"}
	if diff := cmp.Diff(want, rec.All()); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
}

// metadataServer is that of a machine with a RAM role, whose keys the n-th
// answer gives.
type metadataServer struct {
	*httptest.Server
	asked atomic.Int64
}

func newMetadataServer(tb testing.TB, hardened bool, keys func(n int64) string) *metadataServer {
	tb.Helper()
	m := &metadataServer{}
	m.Server = serve(tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const base = "/latest/meta-data/ram/security-credentials/"
		switch {
		case r.Method == http.MethodPut && hardened && r.Header.Get("X-Aliyun-Ecs-Metadata-Token-Ttl-Seconds") != "":
			io.WriteString(w, "metadata-token")
		case r.Method == http.MethodPut, hardened && r.Header.Get("X-Aliyun-Ecs-Metadata-Token") != "metadata-token":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == base:
			io.WriteString(w, "the-role")
		case r.URL.Path == base+"the-role":
			io.WriteString(w, keys(m.asked.Add(1)))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	return m
}

func roleKeys(token string, lasts time.Duration) string {
	return fmt.Sprintf(`{"Code":"Success","AccessKeyId":%q,"AccessKeySecret":%q,"SecurityToken":%q,"Expiration":%q}`,
		keyID, keySecret, token, time.Now().Add(lasts).UTC().Format("2006-01-02T15:04:05Z"))
}

// fromEnvironment takes the keys out of the options.
func fromEnvironment(metadata string) func(*oss.Options) {
	return func(o *oss.Options) { o.AccessKeyID, o.AccessKeySecret, o.MetadataEndpoint = "", "", metadata }
}

func clearEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN", "ALIBABA_CLOUD_ECS_METADATA", "ALIBABA_CLOUD_ECS_METADATA_DISABLED"} {
		t.Setenv(name, "")
	}
}

// The keys of the configuration count if both are there, else those of the
// environment.
func TestReplicaClient_Environment(t *testing.T) {
	clearEnvironment(t)
	nobody := answer(t, http.StatusNotFound, nil, "")
	srv := newServer(t, func(o *fakeoss.Options) { o.SecurityToken = "session" })
	t.Setenv("OSS_ACCESS_KEY_ID", keyID)
	t.Setenv("OSS_ACCESS_KEY_SECRET", keySecret)
	t.Setenv("OSS_SESSION_TOKEN", "session")
	if err := write(t, newClient(t, srv.Endpoint, "p", fromEnvironment(nobody)), false); err != nil {
		t.Errorf("keys of the environment: %v", err)
	}
	half := func(o *oss.Options) { o.AccessKeyID, o.AccessKeySecret = "other", "" }
	if err := write(t, newClient(t, srv.Endpoint, "p", half), false); err != nil {
		t.Errorf("half a pair in the configuration: %v, want the environment's", err)
	}
	if err := write(t, newClient(t, srv.Endpoint, "p"), false); err == nil || !strings.Contains(err.Error(), "InvalidSecurityToken") {
		t.Errorf("keys of the configuration: err=%v, want them without the environment's token", err)
	}
}

// The keys of the machine's role are asked for at first use, kept, and replaced
// before they end or when the service refuses them.
func TestReplicaClient_Role(t *testing.T) {
	clearEnvironment(t)
	srv := newServer(t, func(o *fakeoss.Options) { o.SecurityToken = "session" })
	for _, hardened := range []bool{true, false} {
		for name, tt := range map[string]struct {
			keys func(n int64) string
			want int64 // times that keys were asked for
		}{
			"Good": {func(int64) string { return roleKeys("session", time.Hour) }, 1},
			"Ended": {func(n int64) string {
				if n == 1 {
					return roleKeys("old", time.Hour)
				}
				return roleKeys("session", time.Hour)
			}, 2},
		} {
			meta := newMetadataServer(t, hardened, tt.keys)
			c := newClient(t, srv.Endpoint, "p", fromEnvironment(meta.URL))
			if meta.asked.Load() != 0 {
				t.Error("asked for keys before the first use")
			}
			var wg sync.WaitGroup
			for i := range 8 {
				client := c.WithPrefix(fmt.Sprint(i))
				wg.Go(func() {
					if _, err := client.LTXFiles(t.Context(), 0, 0, false); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			wg.Wait()
			if got := meta.asked.Load(); got != tt.want {
				t.Errorf("%s, hardened %v: asked %d times, want %d", name, hardened, got, tt.want)
			}
		}
	}
	var short atomic.Int64
	meta := newMetadataServer(t, true, func(int64) string {
		short.Add(1)
		return roleKeys("session", time.Minute)
	})
	c := newClient(t, srv.Endpoint, "p", fromEnvironment(meta.URL))
	for range 3 {
		if err := write(t, c, false); err != nil {
			t.Error(err)
		}
	}
	if got := short.Load(); got != 3 {
		t.Errorf("keys that end within minutes: asked %d times, want 3", got)
	}
}

// Without keys the error says what to set, at once, and is no missing object.
func TestReplicaClient_NoCredentials(t *testing.T) {
	clearEnvironment(t)
	srv := newServer(t)
	for name, endpoint := range map[string]string{
		"NoRole": answer(t, http.StatusNotFound, nil, ""),
		"Away":   "http://127.0.0.1:1",
	} {
		c := newClient(t, srv.Endpoint, "p", fromEnvironment(endpoint))
		_, err := c.OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
		if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "OSS_ACCESS_KEY_ID") {
			t.Errorf("%s: err=%v, want one that names OSS_ACCESS_KEY_ID", name, err)
		}
	}
	t.Setenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
	if _, err := newClient(t, srv.Endpoint, "p", fromEnvironment("http://127.0.0.1:1")).LTXFiles(t.Context(), 0, 0, false); err == nil || !strings.Contains(err.Error(), "disabled") {
		t.Errorf("disabled: err=%v", err)
	}
	if got := srv.Requests(); got != 0 {
		t.Errorf("%d requests without credentials", got)
	}
}
