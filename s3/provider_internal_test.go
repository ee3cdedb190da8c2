package s3

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream"
)

// What users read of the services is what the code does.
func TestProviderTable_Documented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "BACKENDS.md"))
	if err != nil {
		t.Fatal(err)
	}
	header, rows := ProviderTable()
	want := "| " + strings.Join(header, " | ") + " |\n|" + strings.Repeat("---|", len(header)) + "\n"
	for _, row := range rows {
		want += "| " + strings.Join(row, " | ") + " |\n"
	}
	want = strings.ReplaceAll(want, "*", `\*`)
	if !strings.Contains(string(text), want) {
		t.Errorf("docs/BACKENDS.md lacks the table of services, which is:\n%s", want)
	}
}

// Every row is of a service that is found by it, and by its settings.
func TestProviderTable(t *testing.T) {
	_, rows := ProviderTable()
	all := append(append([]provider{}, providers...), minioLike, unknownProvider)
	for i, p := range all {
		if got := detectProvider(p.example()).name; got != p.name {
			t.Errorf("%s is %q, want %q", p.example(), got, p.name)
		}
		cfg, err := Config{}.WithURL("s3://bkt." + strings.TrimPrefix(strings.Replace(p.example(), "x.", "s3.fr.", 1), "https://") + "/p")
		if err != nil {
			t.Fatal(err)
		}
		o, err := cfg.Options()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := cfg.Endpoint != "" && !o.ForcePathStyle, p.bucketHosts; got != want {
			t.Errorf("%s: URL with a bucket in the host keeps it there: %t, want %t", p.name, got, want)
		}
		if rows[i][0] != p.name {
			t.Errorf("row %d is of %s, want %s", i, rows[i][0], p.name)
		}
	}
	for endpoint, want := range map[string]string{
		"": "aws", "s3.example.com": "other", "t3.storage.dev": "tigris", "localhost:9000": "minio", "://": "other",
	} {
		if got := ProviderName(endpoint); got != want {
			t.Errorf("ProviderName(%q)=%q, want %q", endpoint, got, want)
		}
	}
}

// A bucket without a host name of its own asks for path style, another missing
// name does not.
func TestReplicaClient_NoBucketHost(t *testing.T) {
	for _, tt := range []struct {
		endpoint  string
		name      string
		pathStyle bool
		want      string
	}{
		{"https://s3.example.com", "bkt.s3.example.com", false, "force-path-style"},
		{"https://s3.example.com", "s3.example.com", false, "name resolution"},
		{"https://s3.example.com", "bkt.s3.example.com", true, "name resolution"},
		{"", "bkt.s3.us-east-1.amazonaws.com", false, "name resolution"},
	} {
		c := NewReplicaClient()
		c.Bucket, c.Endpoint, c.ForcePathStyle = "bkt", tt.endpoint, tt.pathStyle
		err := c.fail("list", "p", fmt.Errorf("send: %w", &net.DNSError{Err: "no such host", Name: tt.name, IsNotFound: true}))
		if re := err.(*litestream.ReplicaError); re.Permanent || !strings.Contains(re.Hint, tt.want) { //nolint:errorlint // what fail returns
			t.Errorf("%+v: hint %q, want %q", tt, re.Hint, tt.want)
		}
	}
}
