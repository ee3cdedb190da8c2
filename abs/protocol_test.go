package abs_test

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

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/tests/servers"
)

// containerSAS returns a token for the container with the least permissions that
// suffice.
func containerSAS(t *testing.T, srv *servers.AzureServer) string {
	t.Helper()
	perms := sas.ContainerPermissions{Read: true, Create: true, Write: true, Delete: true, List: true}
	url, err := srv.Container(bucket).GetSASURL(perms, time.Now().Add(time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ := strings.Cut(url, "?")
	return "?" + token
}

func write(t *testing.T, c *abs.ReplicaClient, exclusive bool) error {
	t.Helper()
	r := bytes.NewReader(replicatest.File(t, 1, 1, 500, 0))
	var err error
	if exclusive {
		_, err = c.WriteLTXFileExclusive(t.Context(), 0, 1, 1, r)
	} else {
		_, err = c.WriteLTXFile(t.Context(), 0, 1, 1, r)
	}
	return err
}

func TestReplicaClient_PutRequest(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	c := newClient(t, srv.URL, "/some//./path/")
	for _, exclusive := range []bool{false, true} {
		if err := write(t, c, exclusive); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range srv.Seen() {
		if got, want := r.URL.Path, "/"+bucket+"//some/path/ltx/0/"+ltx.FormatFilename(1, 1); got != want {
			t.Errorf("path %s, want %s", got, want)
		}
		got := []string{
			r.Header.Get("X-Ms-Meta-Litestreamtimestamp"), r.Header.Get("X-Ms-Access-Tier"), r.Header.Get("X-Ms-Blob-Content-Type"),
			r.Header.Get("X-Ms-Blob-Type"), r.Header.Get("If-None-Match"),
		}
		want := []string{replicatest.TimeOf(1).Format(time.RFC3339Nano), "Hot", "application/octet-stream", "BlockBlob", []string{"", "*"}[i]}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("headers (-want +got):\n%s", diff)
		}
		if r.Header.Get("Content-Md5") == "" {
			t.Error("a blob without a checksum")
		}
		if ua := r.Header.Get("User-Agent"); !strings.HasPrefix(ua, "litestream ") {
			t.Errorf("User-Agent %q", ua)
		}
	}
}

func TestReplicaClient_Throttled(t *testing.T) {
	t.Parallel()
	for status, code := range map[int]string{408: "", 429: "TooManyRequests", 500: "InternalError", 502: "", 503: "ServerBusy", 504: ""} {
		var n atomic.Int64
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
			if n.Add(1) <= 2 {
				xmlError(w, status, code)
				return
			}
			w.WriteHeader(http.StatusCreated)
		})
		if err := write(t, newClient(t, srv.URL, "p"), false); err != nil || n.Load() != 3 {
			t.Errorf("%d %s: err=%v after %d requests, want success after 3", status, code, err, n.Load())
		}
	}
}

func TestReplicaClient_RetryAfter(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			xmlError(w, 503, "ServerBusy")
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	began := time.Now()
	if err := write(t, newClient(t, srv.URL, "p"), false); err != nil {
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
		is        error
	}{
		{403, "AuthenticationFailed", true, nil},
		{403, "AuthorizationPermissionMismatch", true, nil},
		{403, "Whatever", true, nil},
		{401, "NoAuthenticationInformation", true, nil},
		{404, "ContainerNotFound", true, nil},
		{404, "BlobNotFound", false, fs.ErrNotExist},
		{404, "", false, fs.ErrNotExist},
		{409, "BlobAlreadyExists", false, fs.ErrExist},
		{412, "ConditionNotMet", false, fs.ErrExist},
		{409, "ContainerBeingDeleted", false, nil},
		{400, "InvalidHeaderValue", true, nil},
		{400, "Md5Mismatch", false, nil},
		{400, "InvalidBlockList", false, nil},
		{409, "BlobImmutableDueToPolicy", true, nil},
	} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { xmlError(w, tt.status, tt.code) })
		_, err := newClient(t, srv.URL, "p").OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
		re, ok := errors.AsType[*litestream.ReplicaError](err)
		if !ok {
			t.Errorf("%d %s: err=%v, want a ReplicaError", tt.status, tt.code, err)
			continue
		}
		is := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)
		if re.Permanent != tt.permanent || tt.permanent && (re.Code != tt.code || re.Hint == "") || is != (tt.is != nil) || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%d %s: %v: permanent=%v code=%q", tt.status, tt.code, err, re.Permanent, re.Code)
		}
		if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "RequestId") {
			t.Errorf("%d %s: more than a line: %q", tt.status, tt.code, err)
		}
	}
}

// A server that ignores the Range header must not shift what is read.
func TestReplicaClient_IgnoredRange(t *testing.T) {
	data := replicatest.File(t, 1, 1, 1000, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	c := newClient(t, srv.URL, "p")
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
}

func TestReplicaClient_WrongRange(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-9/1000")
		w.WriteHeader(http.StatusPartialContent)
		w.Write(make([]byte, 10))
	})
	if _, err := replicatest.Read(t, newClient(t, srv.URL, "p"), 0, 1, 1, 100, 10); err == nil {
		t.Error("another range than asked for, and no error")
	}
}

// A listing that does not advance must not go on for ever, and what is no
// listing is none.
func TestReplicaClient_BrokenListing(t *testing.T) {
	for name, answer := range map[string]string{
		"SameMarker": `<EnumerationResults><Blobs/><NextMarker>m</NextMarker></EnumerationResults>`,
		"HTML":       `<html></html>`,
		"Empty":      ``,
	} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
		if _, err := newClient(t, srv.URL, "p").LTXFiles(t.Context(), 0, 0, false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The name of the metadata comes back in the case of whoever wrote it.
func TestReplicaClient_MetadataCase(t *testing.T) {
	for _, name := range []string{"litestreamtimestamp", "Litestreamtimestamp", "LITESTREAMTIMESTAMP"} {
		srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `<EnumerationResults><Blobs><Blob><Name>p/ltx/0/%s</Name><Properties><Content-Length>5</Content-Length></Properties>`+
				`<Metadata><%[2]s>2020-01-02T03:04:05.678Z</%[2]s></Metadata></Blob></Blobs><NextMarker/></EnumerationResults>`,
				ltx.FormatFilename(1, 1), name)
		})
		a := replicatest.List(t, newClient(t, srv.URL, "p"), 0, 0, true)
		if want := time.Date(2020, 1, 2, 3, 4, 5, 678e6, time.UTC); len(a) != 1 || !a[0].CreatedAt.Equal(want) || a[0].Size != 5 {
			t.Errorf("%s: listed %v, want one file of %v", name, a, want)
		}
	}
}

// A silent server must not hold us for ever.
func TestReplicaClient_HungServer(t *testing.T) {
	t.Parallel()
	srv := servers.NewFakeHTTP(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := newClient(t, srv.URL, "p", func(o *abs.Options) { o.ResponseTimeout = 50 * time.Millisecond })
	_, err := c.LTXFiles(t.Context(), 0, 0, false)
	if re, ok := errors.AsType[*litestream.ReplicaError](err); !ok || re.Permanent {
		t.Errorf("err=%v, want a ReplicaError that is not permanent", err)
	}
	if got := len(srv.Seen()); got != 8 {
		t.Errorf("%d attempts, want 8", got)
	}
}

// The token is a part of every URL, and of no error.
func TestReplicaClient_SASIsSecret(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := newClient(t, srv.URL, "p", func(o *abs.Options) { o.SASToken = "?sv=1&sig=geheim" })
	_, err := c.LTXFiles(ctx, 0, 0, false)
	if err == nil || strings.Contains(err.Error(), "geheim") || strings.Contains(c.Location(), "geheim") {
		t.Errorf("err=%v, want one without the token", err)
	}
	if r := srv.Seen(); len(r) == 0 || r[0].URL.Query().Get("sig") != "geheim" || r[0].Header.Get("Authorization") != "" {
		t.Error("the token was not sent, or the key was")
	}
}

// Without a key or a token the default chain is asked at first use; its error
// says what to set, and is no missing blob.
func TestReplicaClient_DefaultChain(t *testing.T) {
	for _, name := range []string{"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "LITESTREAM_AZURE_ACCOUNT_KEY", "LITESTREAM_AZURE_SAS_TOKEN"} {
		t.Setenv(name, "")
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	t.Setenv("AZURE_TENANT_ID", "")
	c := newClient(t, "https://127.0.0.1:1", "p", func(o *abs.Options) { o.AccountKey = "" })
	_, err := c.OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "account-key") || strings.Contains(err.Error(), "\n") {
		t.Errorf("err=%v, want one line that names account-key", err)
	}
}

// Any number of paths shares one transport with a bounded number of
// connections, across clients of one pool.
func TestPool_SharesConnections(t *testing.T) {
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>`)
	})
	pool := &abs.Pool{}
	defer pool.CloseIdleConnections()
	var clients []litestream.Prefixer
	for range 2 {
		c, err := pool.Get(abs.Config{AccountName: "a", AccountKey: accountKey, Bucket: bucket, Endpoint: srv.URL, MaxConns: 3})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	replicatest.ListAtOnce(t, clients...)
	if got := srv.Most(); got > 3 || len(srv.Seen()) != 100 {
		t.Errorf("%d requests, %d at a time, want 100, at most 3 at a time", len(srv.Seen()), got)
	}
}

// Whoever merges files opens all of them before reading one.
func TestReplicaClient_ManyOpenFiles(t *testing.T) {
	data := replicatest.File(t, 1, 1, 1000, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	c := newClient(t, srv.URL, "p", func(o *abs.Options) { o.MaxConns = 2 })
	replicatest.OpenMany(t, c)
}

// A hundred thousand databases have a client each.
func TestReplicaClient_WithPrefixSize(t *testing.T) {
	base, err := new(abs.Pool).Get(abs.Config{AccountName: "a", AccountKey: accountKey, Bucket: bucket})
	if err != nil {
		t.Fatal(err)
	}
	replicatest.PrefixSize(t, base)
}

func TestReplicaClient_Observer(t *testing.T) {
	data := replicatest.File(t, 1, 1, 500, 0)
	srv := servers.NewFakeHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			w.WriteHeader(http.StatusCreated)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusAccepted)
		case r.URL.Query().Get("comp") == "list":
			xmlError(w, 403, "AuthorizationFailure")
		default:
			w.Write(data)
		}
	})
	c := newClient(t, srv.URL, "p")
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
	if _, err := c.LTXFiles(t.Context(), 0, 0, false); !litestream.IsPermanent(err) {
		t.Errorf("list: err=%v, want a permanent one", err)
	}
	want := []string{"PUT 500", "GET 500", "DELETE 0", "LIST 0 AuthorizationFailure"}
	if diff := cmp.Diff(want, rec.All()); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
}
