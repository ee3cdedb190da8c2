// Package servers starts real servers for tests on free loopback ports, and finds
// the binaries that scripts/install.sh installed. Only tests import it.
//
// A server keeps its data in the test's temporary directory and is gone when
// the test ends. No goroutine runs between two calls but those of a Proxy and an
// OSSServer, so tests may look for leaks while another server is up.
package servers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Credentials that every server accepts, and the region it is in.
const (
	accessKey = "testkey"
	secretKey = "testsecret123"
	region    = "us-east-1"
)

// S3Server is a running S3 server. Its methods are for the test's goroutine.
type S3Server struct {
	Endpoint  string // such as https://127.0.0.1:21000; buckets are addressed by path
	AccessKey string
	SecretKey string
	Region    string
	CAFile    string // PEM file with the certificate to trust; empty for plain http

	tb testing.TB
	p  *process
}

// newS3Server describes the server that p runs, over TLS if caFile is not
// empty.
func newS3Server(p *process, caFile string) *S3Server {
	s := &S3Server{
		Endpoint:  "http://" + p.addr,
		AccessKey: accessKey,
		SecretKey: secretKey,
		Region:    region,
		CAFile:    caFile,
		tb:        p.tb,
		p:         p,
	}
	if caFile != "" {
		s.Endpoint = "https://" + p.addr
	}
	return s
}

// Env returns the environment for a child process that uses the server: ours
// without what the AWS SDK reads (AWS_CA_BUNDLE alone stops upstream from
// starting), with the server's credentials and certificate.
func (s *S3Server) Env() []string {
	env := cleanEnv()
	env = append(env, "AWS_ACCESS_KEY_ID="+s.AccessKey, "AWS_SECRET_ACCESS_KEY="+s.SecretKey)
	if s.CAFile != "" {
		env = append(env, "SSL_CERT_FILE="+s.CAFile)
	}
	return env
}

// cleanEnv returns our environment without what tells a program where replicas
// are and how to reach them.
func cleanEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		for _, prefix := range []string{"AWS_", "AZURE_", "GOOGLE_", "LITESTREAM_", "OSS_", "ALIBABA_CLOUD_", "SSL_CERT_", "STORAGE_EMULATOR_"} {
			if strings.HasPrefix(kv, prefix) {
				return true
			}
		}
		return false
	})
}

// Stop ends the server's process and waits for it. Its data stays, and its port
// refuses connections until Restart. Stopping a stopped server does nothing.
func (s *S3Server) Stop() {
	s.tb.Helper()
	s.p.stop()
}

// Restart starts a stopped server again on the same port with the same data,
// and waits until it accepts connections. One that runs is stopped first.
func (s *S3Server) Restart() {
	s.tb.Helper()
	s.p.stop()
	s.p.start()
}

// CreateBucket makes a bucket.
func (s *S3Server) CreateBucket(name string) {
	s.tb.Helper()
	if _, err := s.Client().CreateBucket(s.tb.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		s.tb.Fatalf("create bucket %s on %s: %v", name, s.Endpoint, err)
	}
}

// Client returns a plain client for the server, with which tests prepare and
// inspect objects beside the code under test. It retries nothing.
func (s *S3Server) Client() *s3.Client {
	s.tb.Helper()
	// No keep-alive: an idle connection would hold two goroutines.
	transport := &http.Transport{DisableKeepAlives: true}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			s.tb.Fatalf("read certificate: %v", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			s.tb.Fatalf("%s holds no certificate", s.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return s3.New(s3.Options{
		BaseEndpoint: &s.Endpoint,
		Region:       s.Region,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
		HTTPClient:   &http.Client{Transport: transport},
		Retryer:      aws.NopRetryer{},
		// Older servers, Ceph among them, refuse the trailing checksums
		// that the SDK sends over TLS by default.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})
}

// Versitygw starts a versitygw on an empty directory. The test is skipped where
// it is not installed.
func Versitygw(tb testing.TB, overTLS bool) *S3Server {
	tb.Helper()
	return startVersitygw(tb, overTLS, false)
}

// VersitygwVersions is Versitygw with buckets that can keep versions.
func VersitygwVersions(tb testing.TB) *S3Server {
	tb.Helper()
	return startVersitygw(tb, false, true)
}

func startVersitygw(tb testing.TB, overTLS, versions bool) *S3Server {
	tb.Helper()
	path := binary(tb, "LITESTREAM_TEST_VERSITYGW", "versitygw", "servers")
	dir, addr := tb.TempDir(), freeAddr(tb)
	data := filepath.Join(dir, "data")
	mkdir(tb, data)

	args := []string{"--port", addr, "--access", accessKey, "--secret", secretKey, "--region", region, "--quiet", "--keep-alive"}
	var caFile string
	if overTLS {
		// The paths are absolute because the server changes its directory.
		cert, key := newCertificate(tb, dir)
		args = append(args, "--cert", cert, "--key", key)
		caFile = cert
	}
	args = append(args, "posix")
	if versions {
		versionDir := filepath.Join(dir, "versions")
		mkdir(tb, versionDir)
		args = append(args, "--versioning-dir", versionDir)
	}
	if !hasUserXattrs(data) {
		sidecar := filepath.Join(dir, "sidecar")
		mkdir(tb, sidecar)
		args = append(args, "--sidecar", sidecar)
	}
	p := &process{tb: tb, name: "versitygw", path: path, args: append(args, data), dir: dir, addr: addr}
	p.start()
	return newS3Server(p, caFile)
}

// Upstream returns the path of upstream's litestream v0.5.18, which tests run as
// a black box. The test is skipped where it is not installed.
func Upstream(tb testing.TB) string {
	tb.Helper()
	return binary(tb, "LITESTREAM_TEST_UPSTREAM", "litestream-v0.5.18", "upstream")
}

// UpstreamV03 returns the path of upstream's litestream v0.3.14, likewise.
func UpstreamV03(tb testing.TB) string {
	tb.Helper()
	return binary(tb, "LITESTREAM_TEST_UPSTREAM_V03", "litestream-v0.3.14", "upstream")
}

// binary returns the path in the environment variable env, or that of name in
// the cache. target is the make target that installs it.
func binary(tb testing.TB, env, name, target string) string {
	tb.Helper()
	path := os.Getenv(env)
	if path == "" {
		path = filepath.Join(cacheDir(), "bin", name)
	}
	if _, err := exec.LookPath(path); err != nil {
		missing(tb, name, target)
	}
	return path
}

// cacheDir returns the folder that scripts/install.sh installs into.
func cacheDir() string {
	if cache := os.Getenv("LITESTREAM_TEST_CACHE"); cache != "" {
		return cache
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "" // nothing is found there
	}
	return filepath.Join(home, ".cache", "litestream-test")
}

// missing skips the test, or fails it where the caller promised by
// LITESTREAM_TEST_REQUIRE that everything is installed, as make test does.
func missing(tb testing.TB, name, target string) {
	tb.Helper()
	if os.Getenv("LITESTREAM_TEST_REQUIRE") != "" {
		tb.Fatalf("%s is not installed: run `make %s`", name, target)
	}
	tb.Skipf("%s is not installed: run `make %s`", name, target)
}

func mkdir(tb testing.TB, dir string) {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
}

// run runs a command that ends by itself.
func run(tb testing.TB, path string, args ...string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), readyTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
		tb.Fatalf("run %s %q: %v\n%s", path, args, err, out)
	}
}
