package doctor_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/benbjohnson/litestream/internal/doctor"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/tests/servers"
)

// OSS ignores the condition of a write in a bucket that keeps versions. What a
// new user mistakes is named with its cure.
func TestRun_OSS(t *testing.T) {
	t.Parallel()
	srv := servers.OSS(t)
	srv.CreateBucket(bucket, false)
	srv.CreateBucket("versioned", true)
	client := func(set func(*oss.Config)) *oss.ReplicaClient {
		pool := &oss.Pool{}
		t.Cleanup(pool.CloseIdleConnections)
		cfg := oss.Config{
			Bucket: bucket, Path: folder, Endpoint: srv.Endpoint, Region: srv.Region,
			AccessKeyID: srv.AccessKeyID, AccessKeySecret: srv.AccessKeySecret,
		}
		set(&cfg)
		c, err := pool.Get(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := client(func(*oss.Config) {})
	wantAll(t, run(t, c, folder, doctor.Full))
	wantEmpty(t, c)

	c = client(func(cfg *oss.Config) { cfg.Bucket = "versioned" })
	r := run(t, c, folder, doctor.Quick)
	wantCheck(t, r, "second writer", doctor.Warning, "", "one daemon alone")
	if n := r.Count(doctor.Failed); n > 0 {
		t.Errorf("a bucket with versions: %+v, want no failure", r.Checks)
	}
	wantEmpty(t, c)

	for name, tt := range map[string]struct {
		set          func(*oss.Config)
		text, advice string
	}{
		"Bucket": {func(cfg *oss.Config) { cfg.Bucket = "nosuchbucket" }, "NoSuchBucket", "create the bucket"},
		"Secret": {func(cfg *oss.Config) { cfg.AccessKeySecret = "wrong" }, "SignatureDoesNotMatch", "secret-access-key"},
		"Key":    {func(cfg *oss.Config) { cfg.AccessKeyID = "wrong" }, "InvalidAccessKeyId", "access-key-id"},
		"Away":   {func(cfg *oss.Config) { cfg.Endpoint = "http://127.0.0.1:1" }, "connection refused", ""},
	} {
		t.Run(name, func(t *testing.T) {
			wantCheck(t, run(t, client(tt.set), folder, doctor.Quick), "connect", doctor.Failed, tt.text, tt.advice)
		})
	}
}

// Nothing is left in the bucket of an object store, not even a mark.
func TestRun_NATS(t *testing.T) {
	t.Parallel()
	srv := servers.NATS(t, "")
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket})
	client := func(set func(*nats.Config)) *nats.ReplicaClient {
		pool := &nats.Pool{}
		t.Cleanup(pool.Close)
		cfg := nats.Config{Server: srv.Addr, Bucket: bucket}
		set(&cfg)
		c, err := pool.Get(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, path := range []string{folder, ""} {
		c := client(func(cfg *nats.Config) { cfg.Path = path })
		wantAll(t, run(t, c, path, doctor.Full))
		wantEmpty(t, c)
	}
	js, done := srv.JetStream()
	defer done()
	stream, err := js.Stream(t.Context(), "OBJ_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages are left, want none", n)
	}

	for name, tt := range map[string]struct {
		set          func(*nats.Config)
		text, advice string
	}{
		"Bucket": {func(cfg *nats.Config) { cfg.Bucket = "nosuchbucket" }, "", "create the bucket"},
		"TLS":    {func(cfg *nats.Config) { cfg.TLS = true }, "", "the server has no TLS"},
		"Away":   {func(cfg *nats.Config) { cfg.Server = "127.0.0.1:1" }, "", "does the server run"},
	} {
		t.Run(name, func(t *testing.T) {
			wantCheck(t, run(t, client(tt.set), "", doctor.Quick), "connect", doctor.Failed, tt.text, tt.advice)
		})
	}
}
