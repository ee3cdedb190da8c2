package oss_test

import (
	"strings"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/oss"
)

func TestConfig_WithURL(t *testing.T) {
	for url, want := range map[string][4]string{ // bucket, path, region, location
		"oss://bkt/some/path": {"bkt", "some/path", "", "oss://bkt/some/path"},
		"oss://bkt":           {"bkt", ".", "", "oss://bkt/."},
		"oss://bkt/":          {"bkt", "", "", "oss://bkt/"},
		"oss://bkt/a//b/../c%20d/?endpoint=http://x&region=cn-x":  {"bkt", "a/c d", "cn-x", "oss://bkt/a/c d?endpoint=http://x"},
		"oss://bkt.oss-cn-shanghai.aliyuncs.com/p":                {"bkt", "p", "cn-shanghai", "oss://bkt/p"},
		"oss://bkt.oss-ap-southeast-1-internal.aliyuncs.com/p":    {"bkt", "p", "ap-southeast-1", "oss://bkt/p"},
		"OSS://my.bkt.oss-us-west-1.aliyuncs.com":                 {"my.bkt", ".", "us-west-1", "oss://my.bkt/."},
		"oss://oss-cn-shanghai.aliyuncs.com/p":                    {"oss-cn-shanghai.aliyuncs.com", "p", "", "oss://oss-cn-shanghai.aliyuncs.com/p"},
		"oss://bkt.oss-cn-shanghai.aliyuncs.com.example.com/some": {"bkt.oss-cn-shanghai.aliyuncs.com.example.com", "some", "", "oss://bkt.oss-cn-shanghai.aliyuncs.com.example.com/some"},
	} {
		cfg, err := oss.Config{}.WithURL(url)
		if err != nil {
			t.Fatal(err)
		}
		c, err := cfg.NewReplicaClient()
		if err != nil {
			t.Fatal(err)
		}
		if got := [4]string{c.Bucket, c.Path, c.Region, c.Location()}; got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
		other, err := litestream.NewReplicaClientFromURL(url)
		if err != nil {
			t.Fatal(err)
		}
		if got := other.(*oss.ReplicaClient).Location(); got != want[3] {
			t.Errorf("%s: factory leads to %s, want %s", url, got, want[3])
		}
	}
	cfg, err := oss.Config{Region: "cn-beijing"}.WithURL("oss://b.oss-cn-shanghai.aliyuncs.com/p")
	if err != nil || cfg.Region != "cn-beijing" || cfg.Bucket != "b" {
		t.Errorf("a region of the configuration: %+v, err=%v, want it kept", cfg, err)
	}
	for url, want := range map[string]string{"oss:///p": "bucket required", "s3://b/p": "not an oss URL"} {
		cfg, err := oss.Config{}.WithURL(url)
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
		set  func(*oss.Options)
		want string // in the error; empty: none
		loc  string
	}{
		"Good":        {func(*oss.Options) {}, "", "oss://b/p"},
		"Endpoint":    {func(o *oss.Options) { o.Endpoint = "h:1/" }, "", "oss://b/p?endpoint=https://h:1"},
		"HTTP":        {func(o *oss.Options) { o.Endpoint = "http://127.0.0.1:9" }, "", "oss://b/p?endpoint=http://127.0.0.1:9"},
		"Bucket":      {func(o *oss.Options) { o.Bucket = "" }, "bucket required", ""},
		"BucketHost":  {func(o *oss.Options) { o.Bucket = "b:9" }, "bucket name", ""},
		"Region":      {func(o *oss.Options) { o.Region = "x.example.com/" }, "region", ""},
		"PartSize":    {func(o *oss.Options) { o.PartSize = 1000 }, "part size", ""},
		"Concurrency": {func(o *oss.Options) { o.Concurrency = -1 }, "concurrency", ""},
		"Connections": {func(o *oss.Options) { o.MaxConns = -1 }, "connections", ""},
		"NoHost":      {func(o *oss.Options) { o.Endpoint = "http://" }, "endpoint", ""},
		"Password":    {func(o *oss.Options) { o.Endpoint = "http://u:geheim@h" }, "endpoint", ""},
		"Unparsable":  {func(o *oss.Options) { o.Endpoint = "http://geheim@h:x" }, "endpoint", ""},
		"Path":        {func(o *oss.Options) { o.Endpoint = "https://h/p" }, "endpoint", ""},
	} {
		c := oss.NewReplicaClient()
		c.Bucket, c.Path = "b", "p"
		tt.set(&c.Options)
		err := c.Init(t.Context())
		switch {
		case tt.want == "" && (err != nil || c.Location() != tt.loc):
			t.Errorf("%s: err=%v, location %s, want %s", name, err, c.Location(), tt.loc)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !litestream.IsPermanent(err)):
			t.Errorf("%s: err=%v, want a permanent one with %q", name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "geheim"):
			t.Errorf("%s: %v shows a secret", name, err)
		}
	}
}

func FuzzWithURL(f *testing.F) {
	for _, s := range []string{"oss://b/p", "oss://b", "oss://b/%2f..", "oss://:1/", "oss://b.oss-x-internal.aliyuncs.com/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cfg, err := oss.Config{}.WithURL(s)
		if err != nil {
			return
		}
		if c, err := cfg.NewReplicaClient(); err == nil {
			_ = c.Init(t.Context()) // must not panic
			_ = c.Location()
		}
	})
}
