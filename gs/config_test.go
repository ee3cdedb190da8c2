package gs_test

import (
	"strings"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/gs"
)

func TestConfig_WithURL(t *testing.T) {
	for url, want := range map[string][3]string{ // bucket, path, location
		"gs://bkt/some/path":           {"bkt", "some/path", "gs://bkt/some/path"},
		"gs://bkt":                     {"bkt", ".", "gs://bkt/"},
		"gs://bkt/":                    {"bkt", "", "gs://bkt/"},
		"gs://bkt/a//b/../c%20d/?x=y":  {"bkt", "a/c d", "gs://bkt/a/c d"},
		"GS://my.dotted_bucket/p":      {"my.dotted_bucket", "p", "gs://my.dotted_bucket/p"},
		"gs://bkt/p?endpoint=http://x": {"bkt", "p", "gs://bkt/p"},
	} {
		cfg, err := gs.Config{}.WithURL(url)
		if err != nil {
			t.Fatal(err)
		}
		c, err := cfg.NewReplicaClient()
		if err != nil {
			t.Fatal(err)
		}
		if got := [3]string{c.Bucket, c.Path, c.Location()}; got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
		other, err := litestream.NewReplicaClientFromURL(url)
		if err != nil {
			t.Fatal(err)
		}
		if got := other.(*gs.ReplicaClient).Location(); got != want[2] {
			t.Errorf("%s: factory leads to %s, want %s", url, got, want[2])
		}
	}
	for url, want := range map[string]string{"gs:///p": "bucket required", "s3://b/p": "not a gs URL"} {
		cfg, err := gs.Config{}.WithURL(url)
		if err == nil {
			_, err = cfg.NewReplicaClient()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: err=%v, want %q in it", url, err, want)
		}
	}
}

func TestReplicaClient_Init(t *testing.T) {
	for name, tt := range map[string]struct {
		env  string
		set  func(*gs.Options)
		want string // in the error; empty: none
		loc  string
	}{
		"Good":         {"", func(*gs.Options) {}, "", "gs://b/p"},
		"Emulator":     {"127.0.0.1:9", func(*gs.Options) {}, "", "gs://b/p?endpoint=http://127.0.0.1:9"},
		"EmulatorURL":  {"https://h:9/", func(*gs.Options) {}, "", "gs://b/p?endpoint=https://h:9"},
		"EmulatorBad":  {"ftp://h", func(*gs.Options) {}, "endpoint", ""},
		"Bucket":       {"", func(o *gs.Options) { o.Bucket = "" }, "bucket required", ""},
		"BucketSlash":  {"", func(o *gs.Options) { o.Bucket = "b/p" }, "bucket name", ""},
		"Connections":  {"", func(o *gs.Options) { o.MaxConns = -1 }, "connections", ""},
		"BadEndpoint":  {"", func(o *gs.Options) { o.Endpoint = "http://" }, "endpoint", ""},
		"OwnEndpoint":  {"x:1", func(o *gs.Options) { o.Endpoint = "https://own" }, "", "gs://b/p?endpoint=https://own"},
		"LocationRoot": {"", func(o *gs.Options) { o.Path = "./" }, "", "gs://b/"},
	} {
		t.Setenv("STORAGE_EMULATOR_HOST", tt.env)
		c := gs.NewReplicaClient()
		c.Bucket, c.Path = "b", "p"
		tt.set(&c.Options)
		err := c.Init(t.Context())
		switch {
		case tt.want == "" && (err != nil || c.Location() != tt.loc):
			t.Errorf("%s: err=%v, location %s, want %s", name, err, c.Location(), tt.loc)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !litestream.IsPermanent(err)):
			t.Errorf("%s: err=%v, want a permanent one with %q", name, err, tt.want)
		}
	}
}

func FuzzWithURL(f *testing.F) {
	for _, s := range []string{"gs://b/p", "gs://b", "gs://b/%2f..", "gs://:1/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cfg, err := gs.Config{}.WithURL(s)
		if err != nil {
			return
		}
		if c, err := cfg.NewReplicaClient(); err == nil {
			_ = c.Init(t.Context()) // must not panic
			_ = c.Location()
		}
	})
}
