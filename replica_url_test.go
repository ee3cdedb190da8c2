package litestream_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
)

func TestParseReplicaURL(t *testing.T) {
	type parts struct{ Scheme, Host, Path, Query, User string }
	const arn = "arn:aws:s3:us-west-2:123456789012:accesspoint/nm"
	tests := []struct {
		url  string
		want parts
	}{
		{"s3://bkt", parts{"s3", "bkt", ".", "", ""}},
		{"s3://bkt/", parts{"s3", "bkt", "", "", ""}},
		{"s3://bkt/x//y/../z/", parts{"s3", "bkt", "x/z", "", ""}},
		{"s3://bkt/../x", parts{"s3", "bkt", "x", "", ""}},
		{"s3://bkt/p%20q%2Fr", parts{"s3", "bkt", "p q/r", "", ""}},
		{"S3://BKT/P?region=R", parts{"s3", "BKT", "P", "region=R", ""}},
		{"s3://b.127.0.0.1:9000/x", parts{"s3", "b.127.0.0.1:9000", "x", "", ""}},
		{"s3://bkt/p#frag?a=b", parts{"s3", "bkt", "p", "", ""}},
		{"s3://" + arn + "/key/x", parts{"s3", arn, "key/x", "", ""}},
		{"s3://" + arn, parts{"s3", arn, "", "", ""}},
		{"s3://" + arn + "/", parts{"s3", arn, "", "", ""}},
		{"s3://" + arn + "//a/../b/?region=r", parts{"s3", arn, "b", "region=r", ""}},
		{"s3://" + arn + "?region=r", parts{"s3", arn, "", "region=r", ""}},
		{"gs://bkt/a/b", parts{"gs", "bkt", "a/b", "", ""}},
		{"abs://acct@container/a", parts{"abs", "container", "a", "", "acct"}},
		{"sftp://u:p@host:22/a/../b/", parts{"sftp", "host:22", "/b", "", "u:p"}},
		{"webdavs://host/a", parts{"webdavs", "host", "/a", "", ""}},
		{"nats://host:4222/bucket", parts{"nats", "host:4222", "bucket", "", ""}},
		{"file:///abs/path", parts{"file", "", "/abs/path", "", ""}},
		{"FILE:///abs/path", parts{"file", "", "/abs/path", "", ""}},
		{"file:///abs//j/../k/", parts{"file", "", "/abs/k", "", ""}},
		{"file://rel/x", parts{"file", "", "/rel/x", "", ""}},
		{"file://u@rel/x", parts{"file", "", "/u@rel/x", "", ""}},
		{"file://", parts{"file", "", ".", "", ""}},
		{"file:///", parts{"file", "", "/", "", ""}},
		{"file:///a?d=e", parts{"file", "", "/a", "", ""}},
		{"file:///a?", parts{"file", "", "/a", "", ""}},
		{"file:///a#b", parts{"file", "", "/a#b", "", ""}},
		{"file:///f g", parts{"file", "", "/f%20g", "", ""}},
		{"file:///h%20i", parts{"file", "", "/h%20i", "", ""}},
		{"file:///ü", parts{"file", "", "/%C3%BC", "", ""}},
		{"file:///a+b", parts{"file", "", "/a+b", "", ""}},
		{`file:///"r`, parts{"file", "", "/%22r", "", ""}},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.url, "/", "|"), func(t *testing.T) {
			scheme, host, p, query, user, err := litestream.ParseReplicaURL(tt.url)
			if err != nil {
				t.Fatal(err)
			}
			got := parts{scheme, host, p, query.Encode(), user.String()}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ParseReplicaURL(%q) (-want +got):\n%s", tt.url, diff)
			}
		})
	}
}

func TestParseReplicaURL_Errors(t *testing.T) {
	for _, s := range []string{
		"", "/abs/path", "rel/path", "s3:/x", "://x", "s3+x://b/p", "s3://b/%zz", "s3://[::1/p",
		"s3://arn:aws:s3:us-west-2:123456789012:accesspoint/",
		"s3://b:port/x",
	} {
		if _, _, _, _, _, err := litestream.ParseReplicaURL(s); err == nil {
			t.Errorf("ParseReplicaURL(%q): no error", s)
		}
	}
	_, _, _, _, _, err := litestream.ParseReplicaURL("sftp://user:secret@host/%zz")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("err=%v, want one without the password", err)
	}
}

func TestReplicaTypeFromURL(t *testing.T) {
	for s, want := range map[string]string{
		"s3://b/p": "s3", "S3://b/p": "s3", "webdavs://h/p": "webdav", "webdav://h/p": "webdav",
		"file:///x": "file", "/x": "", "": "", "a b://x": "", "x_1://y": "x_1",
	} {
		if got := litestream.ReplicaTypeFromURL(s); got != want {
			t.Errorf("ReplicaTypeFromURL(%q)=%q, want %q", s, got, want)
		}
		if got := litestream.IsURL(s); got != (want != "") {
			t.Errorf("IsURL(%q)=%v", s, got)
		}
	}
}

func TestNewReplicaClientFromURL(t *testing.T) {
	var got string
	litestream.RegisterReplicaClientFactory("urltest", func(_, host, urlPath string, query url.Values, _ *url.Userinfo) (litestream.ReplicaClient, error) {
		got = host + " " + urlPath + " " + query.Get("q")
		return nil, nil //nolint:nilnil // the test wants the arguments only
	})
	if _, err := litestream.NewReplicaClientFromURL("urltest://h/p?q=1"); err != nil {
		t.Fatal(err)
	}
	if want := "h p 1"; got != want {
		t.Errorf("factory got %q, want %q", got, want)
	}
	for raw, want := range map[string]string{
		"abc://b/p": `unsupported replica URL scheme: "abc"`,
		"/x":        `replica URL has no scheme: "/x"`,
	} {
		if _, err := litestream.NewReplicaClientFromURL(raw); err == nil || err.Error() != want {
			t.Errorf("NewReplicaClientFromURL(%q): err=%v, want %s", raw, err, want)
		}
	}
}

func FuzzParseReplicaURL(f *testing.F) {
	for _, s := range []string{
		"s3://bkt/x?region=r", "file:///a b", "sftp://u:p@h:22/x", "s3://arn:aws:s3:r:1:accesspoint/n/k",
		"s3://arn:accesspoint:", "webdavs://h", "nats://h:1/b", "s3://b/%2e%2e/x", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scheme, _, p, _, _, err := litestream.ParseReplicaURL(s)
		if err != nil {
			return
		}
		if !litestream.IsURL(s) {
			t.Errorf("%q parsed, but is no URL", s)
		}
		if scheme != strings.ToLower(scheme) {
			t.Errorf("%q: scheme %q is not in lower case", s, scheme)
		}
		if scheme == "s3" && (strings.HasPrefix(p, "/") || strings.HasPrefix(p, "../")) {
			t.Errorf("%q: path %q leaves the bucket", s, p)
		}
	})
}
