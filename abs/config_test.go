package abs_test

import (
	"strings"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
)

func TestConfig_WithURL(t *testing.T) {
	for url, want := range map[string][4]string{ // account, container, path, location
		"abs://acct@cont/some/path":            {"acct", "cont", "some/path", "abs://acct@cont/some/path"},
		"abs://acct@cont":                      {"acct", "cont", ".", "abs://acct@cont/"},
		"abs://acct@cont/":                     {"acct", "cont", "", "abs://acct@cont/"},
		"ABS://acct@cont/a//b/../c%20d/":       {"acct", "cont", "a/c d", "abs://acct@cont/a/c d"},
		"abs://acct@cont/p?endpoint=http://h/": {"acct", "cont", "p", "abs://acct@cont/p?endpoint=http://h"},
		"abs://cont/p?endpoint=h:1":            {"", "cont", "p", "abs://cont/p?endpoint=https://h:1"},
	} {
		cfg, err := abs.Config{}.WithURL(url)
		if err != nil {
			t.Fatal(err)
		}
		c, err := cfg.NewReplicaClient()
		if err != nil {
			t.Fatal(err)
		}
		if got := [4]string{c.AccountName, c.Bucket, c.Path, c.Location()}; got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
		other, err := litestream.NewReplicaClientFromURL(url)
		if err != nil {
			t.Fatal(err)
		}
		if got := other.(*abs.ReplicaClient).Location(); got != want[3] {
			t.Errorf("%s: factory leads to %s, want %s", url, got, want[3])
		}
	}
	for url, want := range map[string]string{
		"abs://a@/p": "bucket required", "s3://b/p": "not an abs URL", "abs://cont/p": "account-name required",
	} {
		cfg, err := abs.Config{}.WithURL(url)
		if err == nil {
			_, err = cfg.NewReplicaClient()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: err=%v, want %q in it", url, err, want)
		}
	}

	// The file's endpoint wins, and its account serves URLs without one.
	cfg, err := abs.Config{AccountName: "file", AccountKey: "k", Endpoint: "https://file"}.WithURL("abs://cont/p?endpoint=https://url")
	if err != nil || cfg != (abs.Config{AccountName: "file", AccountKey: "k", Bucket: "cont", Path: "p", Endpoint: "https://file"}) {
		t.Errorf("got %+v, err=%v", cfg, err)
	}
}

func TestReplicaClient_Init(t *testing.T) {
	for name, tt := range map[string]struct {
		set  func(*abs.Options)
		want string // in the error; empty: none
	}{
		"Good":        {func(*abs.Options) {}, ""},
		"NoKey":       {func(o *abs.Options) { o.AccountKey = "" }, ""},
		"Bucket":      {func(o *abs.Options) { o.Bucket = "" }, "bucket required"},
		"BucketSlash": {func(o *abs.Options) { o.Bucket = "b/p" }, "container name"},
		"Account":     {func(o *abs.Options) { o.AccountName = "" }, "endpoint"},
		"Key":         {func(o *abs.Options) { o.AccountKey = "geheim!" }, "base64"},
		"KeyUnused":   {func(o *abs.Options) { o.AccountKey, o.SASToken = "geheim!", "sig=x" }, ""},
		"SAS":         {func(o *abs.Options) { o.SASToken = "sig=%geheim" }, "sas token"},
		"Endpoint":    {func(o *abs.Options) { o.Endpoint = "http://" }, "endpoint"},
		"Scheme":      {func(o *abs.Options) { o.Endpoint = "ftp://h" }, "endpoint"},
		"SASEndpoint": {func(o *abs.Options) { o.Endpoint = "https://h?sig=geheim" }, "credentials"},
		"Connections": {func(o *abs.Options) { o.MaxConns = -1 }, "connections"},
		"BlockSize":   {func(o *abs.Options) { o.BlockSize = -1 }, "block size"},
	} {
		c := abs.NewReplicaClient()
		c.AccountName, c.AccountKey, c.Bucket = "acct", accountKey, "cont"
		tt.set(&c.Options)
		err := c.Init(t.Context())
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: err=%v, want none", name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !litestream.IsPermanent(err)):
			t.Errorf("%s: err=%v, want a permanent one with %q", name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "geheim"):
			t.Errorf("%s: %v holds a secret", name, err)
		}
	}
}

// Key and token of the environment count where the file has none.
func TestReplicaClient_Environment(t *testing.T) {
	t.Setenv("LITESTREAM_AZURE_ACCOUNT_KEY", "not base64!")
	c := abs.NewReplicaClient()
	c.AccountName, c.Bucket = "acct", "cont"
	if err := c.Init(t.Context()); err == nil {
		t.Error("the key of the environment was not read")
	}
	c.AccountKey = accountKey
	if err := c.Init(t.Context()); err != nil {
		t.Errorf("with a key of its own: %v", err)
	}
	t.Setenv("LITESTREAM_AZURE_SAS_TOKEN", "sig=%")
	if err := c.Init(t.Context()); err == nil {
		t.Error("the token of the environment was not read")
	}
}

func FuzzWithURL(f *testing.F) {
	for _, s := range []string{"abs://a@b/p", "abs://b", "abs://a:b@c/%2f..?endpoint=:", "abs://:1/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		cfg, err := abs.Config{}.WithURL(s)
		if err != nil {
			return
		}
		if c, err := cfg.NewReplicaClient(); err == nil {
			_ = c.Init(t.Context()) // must not panic
			_ = c.Location()
		}
	})
}
