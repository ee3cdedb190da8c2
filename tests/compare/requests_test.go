package compare_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/tests/servers"
)

// proxy answers every listing with nothing, and notes who asked for what.
type proxy struct {
	*httptest.Server

	mu       sync.Mutex
	requests []string
}

var credential = regexp.MustCompile(`Credential=([^/]*)/\d+/([^,]*),`)

func newProxy(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := credential.FindStringSubmatch(r.Header.Get("Authorization"))
		if who != nil {
			who = who[1:]
		}
		text := strings.Join([]string{r.Method, r.Host, r.URL.RequestURI(), strings.Join(who, " "), r.Header.Get("X-Amz-Security-Token")}, " ")
		p.mu.Lock()
		p.requests = append(p.requests, strings.TrimSpace(text))
		p.mu.Unlock()
		w.Header().Set("Content-Type", "application/xml")
		_, _ = w.Write([]byte(`<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated></ListBucketResult>`)) // the client may be gone
	}))
	t.Cleanup(p.Close)
	return p
}

// taken returns the requests so far, sorted, and forgets them. Looks for backups
// of v0.3, which ours does in more places, are left out.
func (p *proxy) taken() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests := p.requests
	p.requests = nil
	requests = slices.DeleteFunc(requests, func(r string) bool { return strings.Contains(r, "generations%2F") })
	slices.Sort(requests)
	return requests
}

// TestCompare_Requests holds that both programs ask the same host for the same
// object in the name of the same key, whatever the environment and the URL say.
func TestCompare_Requests(t *testing.T) {
	upstream, ours := servers.Upstream(t), ourProgram(t)
	dir := filepath.Join(base, "requests")
	mkdir(t, dir)
	p := newProxy(t)
	const keys = "AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret "
	for _, call := range []string{
		"LITESTREAM_ACCESS_KEY_ID=own LITESTREAM_SECRET_ACCESS_KEY=secret ltx -json s3://bucket/path?endpoint=http://s3.test",
		"LITESTREAM_ACCESS_KEY_ID=own LITESTREAM_SECRET_ACCESS_KEY=own " + keys + "ltx -json s3://bucket/path?endpoint=http://s3.test",
		keys + "AWS_SESSION_TOKEN=token ltx -json s3://bucket/path?endpoint=http://s3.test",
		keys + "AWS_REGION=eu-west-3 AWS_DEFAULT_REGION=eu-west-3 ltx -json s3://bucket/path?endpoint=http://s3.test",
		keys + "LITESTREAM_S3_ENDPOINT=http://other.test ltx -json s3://bucket/path?endpoint=http://s3.test",
		keys + "ltx -json 's3://bucket/path?endpoint=http://s3.test&region=eu-west-3'",
		keys + "ltx -json 's3://bucket/path?endpoint=http://s3.test&forcePathStyle=false'",
		keys + "ltx -json 's3://bucket/path?endpoint=http://s3.test&force-path-style=false&skipVerify=true'",
		keys + "ltx -json s3://bucket?endpoint=http://s3.test",
		keys + "ltx -json s3://bucket/?endpoint=http://s3.test",
		keys + "ltx -json s3://bucket//a//b/?endpoint=http://s3.test",
		keys + "ltx -json s3://bucket/a/../b%20c/%25?endpoint=http://s3.test",
		keys + "ltx -json s3://bucket.s3.test:9000/path",
		keys + "ltx -json -level all s3://bucket/path?endpoint=s3.local",
		keys + "ltx -json s3://bucket/path?endpoint=http://a.storage.googleapis.com.test",
		keys + "restore -o out s3://bucket/path?endpoint=http://s3.test",
	} {
		var got [2]output
		var requests [2][]string
		for i, program := range []string{upstream, ours} {
			w := &world{t: t, program: program, dir: dir}
			got[i] = w.step("HTTP_PROXY=" + p.URL + " " + call)
			requests[i] = slices.Compact(p.taken())
		}
		if len(requests[0]) == 0 {
			t.Errorf("%s: upstream made no request: %+v", call, got[0])
		}
		if diff := cmp.Diff(requests[0], requests[1]); diff != "" {
			t.Errorf("%s: requests (-upstream +ours):\n%s", call, diff)
		}
		if got[0].exit != got[1].exit || got[0].stdout != got[1].stdout {
			t.Errorf("%s:\nupstream %+v\nours     %+v", call, got[0], got[1])
		}
	}
}

// TestCompare_Debug holds that LITESTREAM_S3_DEBUG shows requests on the same
// stream.
func TestCompare_Debug(t *testing.T) {
	upstream, ours := servers.Upstream(t), ourProgram(t)
	dir := filepath.Join(base, "debug")
	mkdir(t, dir)
	p := newProxy(t)
	for _, mode := range []string{"signing", "request", "response", "request-with-body", "response-with-body", "retries", "all", "request,response", "bogus", ""} {
		var shown [2]string
		for i, program := range []string{upstream, ours} {
			w := &world{t: t, program: program, dir: dir}
			o := w.step("HTTP_PROXY=" + p.URL + " LITESTREAM_S3_DEBUG=" + mode + " AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret ltx s3://bucket/path?endpoint=http://s3.test")
			for stream, text := range map[string]string{"stdout": o.stdout, "stderr": o.stderr} {
				for _, part := range []string{"Canonical", "GET /", "HTTP/1.1 200", "<ListBucketResult"} {
					if strings.Contains(text, part) {
						shown[i] += "\n" + stream + " " + part
					}
				}
			}
			lines := strings.Split(shown[i], "\n")
			slices.Sort(lines)
			shown[i] = strings.Join(lines, "\n")
		}
		if shown[0] != shown[1] {
			t.Errorf("LITESTREAM_S3_DEBUG=%s: ours shows%s\nupstream%s", mode, shown[1], shown[0])
		}
	}
}
