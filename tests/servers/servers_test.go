package servers_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/tests/servers"
)

func TestVersitygw(t *testing.T)    { testServer(t, servers.Versitygw(t, false), "http://") }
func TestVersitygwTLS(t *testing.T) { testServer(t, servers.Versitygw(t, true), "https://") }
func TestCeph(t *testing.T)         { testServer(t, servers.Ceph(t, false), "http://") }

func TestCephTLS(t *testing.T) {
	server := servers.Ceph(t, true)
	testServer(t, server, "https://")

	// What makes this server worth its price: it refuses the SDK's default.
	client := server.Client()
	_, err := client.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: aws.String("bucket"), Key: aws.String("trailing"), Body: strings.NewReader("x"),
	}, func(o *s3.Options) { o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported })
	if err == nil || !strings.Contains(err.Error(), "XAmzContentSHA256Mismatch") {
		t.Errorf("put with a trailing checksum: err=%v, want XAmzContentSHA256Mismatch", err)
	}
}

// testServer stores an object, takes the server away and brings it back.
func testServer(t *testing.T, server *servers.S3Server, scheme string) {
	t.Helper()
	if !strings.HasPrefix(server.Endpoint, scheme+"127.0.0.1:") {
		t.Errorf("endpoint=%s, want %s on loopback", server.Endpoint, scheme)
	}
	if err := goleak.Find(); err != nil {
		t.Errorf("goroutines while the server runs: %v", err)
	}

	server.CreateBucket("bucket")
	client := server.Client()
	want := []byte("an object")
	_, err := client.PutObject(t.Context(), &s3.PutObjectInput{
		Bucket: aws.String("bucket"), Key: aws.String("a/b"), Body: bytes.NewReader(want),
	})
	if err != nil {
		t.Fatalf("put: %v", err)
	}

	server.Stop()
	server.Stop()
	if got, err := get(t, client); err == nil {
		t.Errorf("get from a stopped server returned %q, want an error", got)
	}
	for range 2 { // the second time over a running one
		server.Restart()
		got, err := get(t, client)
		if err != nil {
			t.Fatalf("get after a restart: %v", err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("object=%q, want %q", got, want)
		}
	}

	if server.CAFile != "" {
		transport := &http.Transport{DisableKeepAlives: true}
		if resp, err := (&http.Client{Transport: transport}).Get(server.Endpoint); err == nil {
			resp.Body.Close()
			t.Error("a client that does not trust the certificate was served")
		}
	}
}

func get(t *testing.T, client *s3.Client) ([]byte, error) {
	t.Helper()
	out, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("bucket"), Key: aws.String("a/b")})
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	return io.ReadAll(out.Body)
}

// TestEnv lets upstream use a server over TLS with what Env gives it.
func TestEnv(t *testing.T) {
	upstream := servers.Upstream(t)
	server := servers.Versitygw(t, true)
	server.CreateBucket("bucket")
	t.Setenv("AWS_CA_BUNDLE", server.CAFile)
	t.Setenv("AWS_ACCESS_KEY_ID", "wrong")

	dir := t.TempDir()
	db, err := sql.Open("sqlite3", filepath.Join(dir, "a.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE t (x)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "litestream.yml")
	text := fmt.Sprintf("dbs:\n- path: %s\n  replica: {url: s3://bucket/a, endpoint: %q, region: %s}\n",
		filepath.Join(dir, "a.db"), server.Endpoint, server.Region)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(upstream, "replicate", "-once", "-config", config)
	cmd.Env = server.Env()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("replicate: %v\n%s", err, out)
	}
	list, err := server.Client().ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("bucket")})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Contents) == 0 {
		t.Error("the bucket is empty after a replication")
	}
}

func TestUpstream(t *testing.T) {
	out, err := exec.Command(servers.Upstream(t), "version").CombinedOutput()
	if err != nil {
		t.Fatalf("run upstream: %v\n%s", err, out)
	}
	if got, want := strings.TrimSpace(string(out)), "v0.5.18"; got != want {
		t.Errorf("version=%s, want %s", got, want)
	}
}

// A request that still meets one fault when the next is set is none of the next
// one's.
func TestHTTPProxy_Hits(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	defer wg.Wait()
	met, set := make(chan struct{}), make(chan struct{})
	p := servers.NewHTTPProxy(t, "http://127.0.0.1:1", 1)
	p.Break(func(*servers.HTTPProxy, http.ResponseWriter, *http.Request) bool {
		close(met)
		<-set
		return true
	})
	get := func() {
		resp, err := http.Get(p.URL)
		if err != nil {
			t.Error(err)
			return
		}
		_ = resp.Body.Close()
	}
	wg.Go(get)
	<-met
	p.Break(func(*servers.HTTPProxy, http.ResponseWriter, *http.Request) bool { return true })
	close(set)
	wg.Wait()
	if n := p.Hits(); n != 0 {
		t.Errorf("%d requests met a fault that none did", n)
	}
	get()
	if n := p.Hits(); n != 1 {
		t.Errorf("%d requests met the fault, want 1", n)
	}
}

// TestOSS_Restart starts the server again and again on its port while children
// are being started, which share the listener until their own program runs.
func TestOSS_Restart(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var children sync.WaitGroup
	for range 2 {
		children.Go(func() {
			for ctx.Err() == nil {
				_ = exec.CommandContext(ctx, "true").Run() // killed at the end
			}
		})
	}
	server := servers.OSS(t)
	for range 300 {
		server.Restart()
	}
	stop()
	children.Wait()
}
