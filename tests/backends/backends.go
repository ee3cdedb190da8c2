// Package backends tells tests of every storage on a real server how to start
// it and how to write to it. Only tests import it.
package backends

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/sftp"
	"github.com/benbjohnson/litestream/tests/servers"
	"github.com/benbjohnson/litestream/webdav"
)

const bucket = "litestream"

// A backend is one kind of storage, or one server of a kind that has several.
type backend struct {
	name  string
	start func(tb testing.TB) Place
	open  func(config []byte) (litestream.ReplicaClient, error)
}

// all are the backends that have a server for tests.
var all = []backend{
	{"s3", startS3, with(s3.Config.NewReplicaClient)},
	{"s3-ceph", startCeph, with(s3.Config.NewReplicaClient)},
	{"sftp", startSFTP, with(sftp.Config.NewReplicaClient)},
	{"abs", startABS, with(abs.Config.NewReplicaClient)},
	{"gs", startGS, with(gsConfig.newReplicaClient)},
	{"webdav", startWebDAV, with(webdav.Config.NewReplicaClient)},
	{"oss", startOSS, with(oss.Config.NewReplicaClient)},
	{"nats", startNATS, with(natsPool.Get)},
}

// Names returns the name of each backend.
func Names() []string {
	var names []string
	for _, b := range all {
		names = append(names, b.name)
	}
	return names
}

func find(name string) (backend, error) {
	i := slices.IndexFunc(all, func(b backend) bool { return b.name == name })
	if i < 0 {
		return backend{}, fmt.Errorf("unknown backend %q", name)
	}
	return all[i], nil
}

// with is how a backend's client is made of its configuration.
func with[C any, T litestream.ReplicaClient](newClient func(C) (T, error)) func([]byte) (litestream.ReplicaClient, error) {
	return func(b []byte) (litestream.ReplicaClient, error) {
		var config C
		if err := json.Unmarshal(b, &config); err != nil {
			return nil, err
		}
		return newClient(config)
	}
}

// A Place is where replicas lie on a running server, told in a way that other
// processes understand.
type Place struct {
	Backend string
	Config  json.RawMessage // of the backend's client, without a path

	// Base is the path on the server below which every replica lies.
	Base string

	// YAML is a replica section in lines, in which PATH stands for the path,
	// and Env is the environment of a program that reads it.
	YAML []string
	Env  []string
}

// Section returns the lines of a replica section for a folder below Base.
func (p Place) Section(folder string) []string {
	lines := slices.Clone(p.YAML)
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], "PATH", path.Join(p.Base, folder))
	}
	return lines
}

// Start starts the server of a backend, which ends with the test. The test is
// skipped where it is not installed.
func Start(tb testing.TB, name string) Place {
	tb.Helper()
	b, err := find(name)
	if err != nil {
		tb.Fatal(err)
	}
	p := b.start(tb)
	p.Backend = name
	if p.Env == nil {
		p.Env = os.Environ()
	}
	return p
}

// Storage is what the client of every backend can do.
type Storage interface {
	litestream.ReplicaClient
	litestream.ExclusiveWriter
	litestream.TreeLister
	litestream.ObjectClient
	litestream.Locator
}

// Client returns a client for a folder below Base.
func (p Place) Client(folder string) (Storage, error) {
	b, err := find(p.Backend)
	if err != nil {
		return nil, err
	}
	c, err := b.open(p.Config)
	if err != nil {
		return nil, err
	}
	prefixer, ok := c.(litestream.Prefixer)
	if !ok {
		return nil, fmt.Errorf("client of %s serves one path only", p.Backend)
	}
	storage, ok := prefixer.WithPrefix(path.Join(p.Base, folder)).(Storage)
	if !ok {
		return nil, fmt.Errorf("client of %s lacks a method of Storage", p.Backend)
	}
	return storage, nil
}

// withPath is the line of most sections that has the path.
const withPath = `path: "PATH"`

// place describes a server by its client's configuration and the same in YAML.
func place(tb testing.TB, config any, base string, env []string, yaml ...string) Place {
	tb.Helper()
	b, err := json.Marshal(config)
	if err != nil {
		tb.Fatal(err)
	}
	return Place{Config: b, Base: base, YAML: yaml, Env: env}
}

func startS3(tb testing.TB) Place {
	tb.Helper()
	return s3Place(tb, servers.Versitygw(tb, false))
}

func startCeph(tb testing.TB) Place {
	tb.Helper()
	return s3Place(tb, servers.Ceph(tb, false))
}

func s3Place(tb testing.TB, srv *servers.S3Server) Place {
	tb.Helper()
	srv.CreateBucket(bucket)
	return place(tb, s3.Config{
		Bucket: bucket, Endpoint: srv.Endpoint, Region: srv.Region, AccessKeyID: srv.AccessKey, SecretAccessKey: srv.SecretKey,
	}, "some", srv.Env(), "type: s3", withPath, "bucket: "+bucket, "endpoint: "+srv.Endpoint, "region: "+srv.Region)
}

func startSFTP(tb testing.TB) Place {
	tb.Helper()
	srv := servers.SSHD(tb)
	return place(tb, sftp.Config{Host: srv.Addr, User: srv.User, KeyPath: srv.KeyPath, HostKey: srv.HostKey}, srv.Dir, nil,
		"type: sftp", withPath, "host: "+srv.Addr, "user: "+srv.User, "key-path: "+srv.KeyPath, "host-key: "+srv.HostKey)
}

func startABS(tb testing.TB) Place {
	tb.Helper()
	srv := servers.Azurite(tb)
	srv.CreateContainer(bucket)
	return place(tb, abs.Config{Bucket: bucket, Endpoint: srv.Endpoint, AccountName: srv.AccountName, AccountKey: srv.AccountKey},
		"some", srv.Env(), "type: abs", withPath, "bucket: "+bucket, "endpoint: "+srv.Endpoint, "account-name: "+srv.AccountName)
}

// gsConfig is that of another server than Google's, which a program is told of
// by its environment.
type gsConfig struct {
	gs.Config
	Endpoint string
}

func (cfg gsConfig) newReplicaClient() (*gs.ReplicaClient, error) {
	c, err := cfg.NewReplicaClient()
	if err != nil {
		return nil, err
	}
	c.Endpoint, c.Anonymous = cfg.Endpoint, true
	return c, nil
}

func startGS(tb testing.TB) Place {
	tb.Helper()
	srv := servers.FakeGCS(tb, true)
	srv.CreateBucket(bucket)
	return place(tb, gsConfig{gs.Config{Bucket: bucket}, srv.Endpoint}, "some", srv.Env(), "type: gs", withPath, "bucket: "+bucket)
}

func startWebDAV(tb testing.TB) Place {
	tb.Helper()
	srv := servers.Lighttpd(tb)
	return place(tb, webdav.Config{URL: srv.URL, Username: srv.Username, Password: srv.Password}, "some", nil,
		"type: webdav", withPath, "webdav-url: "+srv.URL, "webdav-username: "+srv.Username, "webdav-password: "+srv.Password)
}

func startOSS(tb testing.TB) Place {
	tb.Helper()
	srv := servers.OSS(tb)
	srv.CreateBucket(bucket, false)
	return place(tb, oss.Config{
		Bucket: bucket, Endpoint: srv.Endpoint, Region: srv.Region, AccessKeyID: srv.AccessKeyID, AccessKeySecret: srv.AccessKeySecret,
	}, "some", srv.Env(), "type: oss", withPath, "bucket: "+bucket, "endpoint: "+srv.Endpoint, "region: "+srv.Region)
}

// natsPool has the connections of this process, which a test closes before the
// server ends: they would look for it again and again.
var natsPool nats.Pool

func startNATS(tb testing.TB) Place {
	tb.Helper()
	srv := servers.NATS(tb, "")
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket})
	tb.Cleanup(natsPool.Close)
	return place(tb, nats.Config{Server: srv.Addr, Bucket: bucket}, "some", srv.Env(),
		`url: "nats://`+srv.Addr+"/"+bucket+`/PATH"`)
}
