package s3_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/s3"
)

// The wanted values are what Litestream v0.5.18 was seen to do with the URL.
func TestParseURL(t *testing.T) {
	type view struct {
		Bucket, Path, Region, Endpoint string
		PathStyle                      bool
	}
	const arn = "arn:aws:s3:us-west-2:123456789012:accesspoint/nm"
	tests := []struct {
		url  string
		want view
	}{
		{"s3://bkt/p", view{"bkt", "p", "", "", false}},
		{"s3://bkt", view{"bkt", ".", "", "", false}},
		{"s3://bkt/", view{"bkt", "", "", "", false}},
		{"s3://my.dotted.bucket/p", view{"my.dotted.bucket", "p", "", "", false}},
		{"s3://bkt/p?region=eu-west-1", view{"bkt", "p", "eu-west-1", "", false}},
		{"s3://bkt/p?region=eu-west-1&forcePathStyle=true", view{"bkt", "p", "eu-west-1", "", true}},
		{"s3://bkt.s3.amazonaws.com/p", view{"bkt", "p", "", "", false}},
		{"s3://bkt.s3.us-west-1.amazonaws.com/p", view{"bkt", "p", "us-west-1", "", false}},
		{"s3://bkt.s3.us-west-1.amazonaws.com/p?endpoint=localhost:1", view{"bkt", "p", "us-west-1", "http://localhost:1", true}},
		{"s3://bkt.fra1.digitaloceanspaces.com/p", view{"bkt", "p", "fra1", "https://fra1.digitaloceanspaces.com", false}},
		{"s3://bkt.s3.us-west-004.backblazeb2.com/p", view{"bkt", "p", "us-west-004", "https://s3.us-west-004.backblazeb2.com", true}},
		{"s3://bkt.s3.filebase.com/p", view{"bkt", "p", "", "https://s3.filebase.com", true}},
		{"s3://bkt.s3.filebase.com/p?forcePathStyle=false", view{"bkt", "p", "", "https://s3.filebase.com", false}},
		{"s3://bkt.s3.fr-par.scw.cloud/p", view{"bkt", "p", "fr-par", "https://s3.fr-par.scw.cloud", false}},
		{
			"s3://bkt.br-foo-1.storage.c-2.us-east-2.aws.neon.tech/p",
			view{"bkt", "p", "us-east-2", "https://br-foo-1.storage.c-2.us-east-2.aws.neon.tech", true},
		},
		{"s3://bkt.127.0.0.1:9000/x", view{"bkt", "x", "us-east-1", "http://127.0.0.1:9000", true}},
		{"s3://127.0.0.1:9000/x", view{"127", "x", "us-east-1", "http://0.0.1:9000", true}},
		{"s3://bkt.localhost:1/p?region=moon", view{"bkt", "p", "moon", "http://localhost:1", true}},
		{"s3://bkt.localhost:1/p?endpoint=localhost:2", view{"bkt", "p", "us-east-1", "http://localhost:2", true}},
		{"s3://bkt.xyz:1/p?forcePathStyle=false", view{"bkt", "p", "us-east-1", "http://xyz:1", false}},
		{"s3://b.foo.com:1/p", view{"b.foo.com:1", "p", "", "", false}},
		{"s3://B.LOCALHOST:1/P", view{"B", "P", "us-east-1", "http://LOCALHOST:1", true}},
		{"s3://bkt/p?endpoint=localhost:1", view{"bkt", "p", "", "http://localhost:1", true}},
		{"s3://bkt/p?endpoint=10.0.0.1:1", view{"bkt", "p", "", "http://10.0.0.1:1", true}},
		{"s3://bkt/p?endpoint=172.20.0.1", view{"bkt", "p", "", "http://172.20.0.1", true}},
		{"s3://bkt/p?endpoint=foo.local:1", view{"bkt", "p", "", "http://foo.local:1", true}},
		{"s3://bkt/p?endpoint=foo.example:1", view{"bkt", "p", "", "https://foo.example:1", true}},
		{"s3://bkt/p?endpoint=foo.example&force-path-style=false", view{"bkt", "p", "", "https://foo.example", false}},
		{"s3://bkt/p?endpoint=localhost:1&forcePathStyle=zzz", view{"bkt", "p", "", "http://localhost:1", false}},
		{"s3://bkt/p?endpoint=x.your-objectstorage.com", view{"bkt", "p", "", "https://x.your-objectstorage.com", true}},
		{"s3://" + arn + "/key/x", view{arn, "key/x", "us-west-2", "", false}},
		{"s3://" + arn, view{arn, "", "us-west-2", "", false}},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			cfg, err := s3.Config{}.WithURL(tt.url)
			if err != nil {
				t.Fatal(err)
			}
			o, err := cfg.Options()
			if err != nil {
				t.Fatal(err)
			}
			got := view{o.Bucket, o.Path, o.Region, o.Endpoint, o.ForcePathStyle}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("ParseURL(%q) (-want +got):\n%s", tt.url, diff)
			}
		})
	}
}

func TestParseURL_Errors(t *testing.T) {
	for url, want := range map[string]string{
		"s3://b/p?endpoint=h&partSize=0":    `invalid value for query parameter "partSize": "0" (must be a positive integer)`,
		"s3://b/p?endpoint=h&concurrency=x": `invalid value for query parameter "concurrency": "x" (must be a positive integer)`,
		"s3:///p":                           "bucket required for s3 replica",
		"s3://b:1/p":                        "bucket required for s3 replica",
		"gs://b/p":                          `not an s3 URL: scheme "gs"`,
	} {
		if _, err := (s3.Config{}).WithURL(url); err == nil || err.Error() != want {
			t.Errorf("ParseURL(%q): err=%v, want %s", url, err, want)
		}
	}
}

// Settings of a configuration win over the URL's; bucket and path are the URL's.
func TestConfig_WithURL(t *testing.T) {
	cfg, err := s3.Config{Endpoint: "s3.foo.example", Region: "moon", Bucket: "other", SignPayload: new(false)}.
		WithURL("s3://bkt.fra1.digitaloceanspaces.com/p?signPayload=true&requireContentMD5=no&skipVerify=true&storageClass=X&part-size=6000000&concurrency=3")
	if err != nil {
		t.Fatal(err)
	}
	got, err := cfg.Options()
	if err != nil {
		t.Fatal(err)
	}
	want := s3.Options{
		Bucket: "bkt", Path: "p", Region: "moon", Endpoint: "https://s3.foo.example", ForcePathStyle: true,
		SkipVerify: true, SignAcceptEncoding: true, StorageClass: "X", PartSize: 6000000, Concurrency: 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Options (-want +got):\n%s", diff)
	}

	// Config and command line know "skipVerify=true" alone, and no encryption.
	cfg, err = s3.Config{}.WithURL("s3://b/p?skipVerify=1&skip-verify=true&sseKmsKeyId=k&sseCustomerKey=k")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.SkipVerify || cfg.SSEKMSKeyID != "" || cfg.SSECustomerKey != "" {
		t.Errorf("ParseURL took parameters of the library's URLs: %+v", cfg)
	}
}

// The factory of the root package knows more parameters.
func TestNewReplicaClientFromURL(t *testing.T) {
	t.Setenv("LITESTREAM_S3_ENDPOINT", "localhost:9")
	c, err := litestream.NewReplicaClientFromURL("s3://bkt/p?skip-verify=yes&sse-kms-key-id=k")
	if err != nil {
		t.Fatal(err)
	}
	want := s3.Options{
		Bucket: "bkt", Path: "p", Endpoint: "http://localhost:9", ForcePathStyle: true, SkipVerify: true,
		SSEKMSKeyID: "k", SignPayload: true, SignAcceptEncoding: true, RequireContentMD5: true,
	}
	if diff := cmp.Diff(want, c.(*s3.ReplicaClient).Options); diff != "" {
		t.Errorf("Options (-want +got):\n%s", diff)
	}
	if _, err := (s3.Config{}).WithURL("s3://bkt/p"); err != nil {
		t.Error(err)
	}
}

func TestConfig_ProviderDefaults(t *testing.T) {
	for endpoint, want := range map[string]s3.Options{
		"https://t3.storage.dev":                    {RequireContentMD5: false, SignAcceptEncoding: true},
		"https://fly.storage.tigris.dev":            {RequireContentMD5: false, SignAcceptEncoding: true},
		"https://x.r2.cloudflarestorage.com":        {RequireContentMD5: true, SignAcceptEncoding: true},
		"https://storage.googleapis.com":            {RequireContentMD5: true, SignAcceptEncoding: false},
		"https://storage.europe.rep.googleapis.com": {RequireContentMD5: true, SignAcceptEncoding: false},
		"http://minio:9000":                         {RequireContentMD5: true, SignAcceptEncoding: true},
	} {
		got, err := s3.Config{Bucket: "b", Endpoint: endpoint}.Options()
		if err != nil {
			t.Fatal(err)
		}
		want.Bucket, want.Endpoint, want.ForcePathStyle, want.SignPayload = "b", endpoint, true, true
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", endpoint, diff)
		}
	}
	got, err := s3.Config{Bucket: "b", Endpoint: "https://t3.storage.dev", RequireContentMD5: new(true)}.Options()
	if err != nil {
		t.Fatal(err)
	}
	if !got.RequireContentMD5 {
		t.Error("provider's default won over the user's setting")
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{
		"s3://b/p?region=r&partSize=5", "s3://b.127.0.0.1:9000/x", "s3://b.s3.r.amazonaws.com/",
		"s3://arn:aws:s3:r:1:accesspoint/n/k", "s3://b.br-x.storage.c.r.aws.neon.tech/p?endpoint=:",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cfg, err := s3.Config{}.WithURL(s)
		if err != nil {
			return
		}
		if cfg.Bucket == "" {
			t.Errorf("%q: parsed without a bucket", s)
		}
		c, err := cfg.NewReplicaClient()
		if err != nil {
			t.Errorf("%q: %v", s, err)
			return
		}
		_ = c.Init(t.Context()) // must not panic
	})
}
