//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/abs"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/gs"
	"github.com/benbjohnson/litestream/internal/fakeoss"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/oss"
	"github.com/benbjohnson/litestream/s3"
	"github.com/benbjohnson/litestream/sftp"
	"github.com/benbjohnson/litestream/webdav"
)

// backendKind is a kind of storage and the server that stands for it.
type backendKind struct {
	name   string
	server string
	start  func(ctx context.Context, dir string) (*place, error)
}

// backendKinds are in the order of the table.
var backendKinds = []backendKind{
	{"file", "ext4", filePlace},
	{"s3", "versitygw", s3Place},
	{"sftp", "OpenSSH", sftpPlace},
	{"webdav", "lighttpd", webdavPlace},
	{"abs", "Azurite", absPlace},
	{"gs", "fake-gcs-server", gsPlace},
	{"oss", "fakeoss", ossPlace},
	{"nats", "nats-server", natsPlace},
}

func backendNames() []string {
	names := make([]string, len(backendKinds))
	for i, k := range backendKinds {
		names[i] = k.name
	}
	return names
}

// place is where both tools put replicas.
type place struct {
	section func(path string) string // of a configuration, in lines
	client  func(path string) (litestream.ReplicaClient, error)
	prepare func(ctx context.Context, path string) error // before the first use of a path; nil: nothing is needed
	stop    func()                                       // nil: there is no server
}

// ready makes what a replica needs before its first use.
func (p *place) ready(ctx context.Context, path string) error {
	if p.prepare == nil {
		return nil
	}
	return p.prepare(ctx, path)
}

// serverAt starts a server and waits until it listens.
func serverAt(ctx context.Context, dir, addr, bin string, args ...string) (*process, error) {
	p, err := start(dir, bin, args...)
	if err != nil {
		return nil, err
	}
	err = p.wait(ctx, filepath.Base(bin), func() (bool, error) {
		d := net.Dialer{Timeout: time.Second}
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet
		}
		return true, conn.Close()
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// program finds one of the distribution, also where a user's PATH does not lead.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(filepath.Join("/usr/sbin", name))
	if err != nil {
		return "", fmt.Errorf("find %s: %w (make servers)", name, err)
	}
	return path, nil
}

func filePlace(_ context.Context, dir string) (*place, error) {
	folder := func(path string) string { return filepath.Join(dir, path) }
	return &place{
		section: func(path string) string { return "type: file\npath: " + folder(path) },
		client:  func(path string) (litestream.ReplicaClient, error) { return file.NewReplicaClient(folder(path)), nil },
	}, nil
}

func s3Place(ctx context.Context, dir string) (*place, error) {
	g, err := startGateway(ctx, filepath.Join(cacheDir(), "bin", "versitygw"), dir)
	if err != nil {
		return nil, err
	}
	endpoint := g.target().String()
	return &place{
		section: func(path string) string {
			return fmt.Sprintf("type: s3\nbucket: %s\npath: %s\nendpoint: %s\nregion: us-east-1\nforce-path-style: true\naccess-key-id: %s\nsecret-access-key: %s",
				bucket, path, endpoint, accessKey, secretKey)
		},
		client: func(path string) (litestream.ReplicaClient, error) {
			c := s3.NewReplicaClient()
			c.AccessKeyID, c.SecretAccessKey, c.Region = accessKey, secretKey, "us-east-1"
			c.Endpoint, c.ForcePathStyle, c.Bucket, c.Path = endpoint, true, bucket, path
			return c, nil
		},
		stop: g.stop,
	}, nil
}

func sftpPlace(ctx context.Context, dir string) (*place, error) {
	sshd, err := program("sshd")
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 { // where it locks itself in before the login
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"host", "client"} {
		if err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).Run(); err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
	}
	hostKey, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	conf, key := filepath.Join(dir, "sshd_config"), filepath.Join(dir, "client")
	text := fmt.Sprintf("ListenAddress 127.0.0.1\nPort %s\nHostKey %s\nPidFile none\nAuthorizedKeysFile %s.pub\nStrictModes no\n"+
		"PasswordAuthentication no\nUsePAM no\nMaxStartups 200\nSubsystem sftp internal-sftp\n", port, filepath.Join(dir, "host"), key)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := serverAt(ctx, dir, addr, sshd, "-D", "-e", "-f", conf)
	if err != nil {
		return nil, err
	}
	folder := func(path string) string { return filepath.Join(dir, "data", path) }
	var pool sftp.Pool
	return &place{
		section: func(path string) string {
			return fmt.Sprintf("type: sftp\nhost: %s\nuser: %s\nkey-path: %s\nhost-key: %s\npath: %s",
				addr, me.Username, key, strings.TrimSpace(string(hostKey)), folder(path))
		},
		client: func(path string) (litestream.ReplicaClient, error) {
			return pool.Get(sftp.Config{Host: addr, User: me.Username, KeyPath: key, HostKey: string(hostKey), Path: folder(path)})
		},
		stop: p.stop,
	}, nil
}

func webdavPlace(ctx context.Context, dir string) (*place, error) {
	const user, password = "bench", "benchpass"
	lighttpd, err := program("lighttpd")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"data", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	_, port, _ := strings.Cut(addr, ":")
	users, conf := filepath.Join(dir, "users"), filepath.Join(dir, "lighttpd.conf")
	text := fmt.Sprintf("server.port = %s\nserver.bind = \"127.0.0.1\"\nserver.document-root = %q\n"+
		"server.modules = (\"mod_auth\", \"mod_authn_file\", \"mod_webdav\")\nserver.errorlog = %q\nserver.upload-dirs = ( %q )\n"+
		"auth.backend = \"plain\"\nauth.backend.plain.userfile = %q\nwebdav.activate = \"enable\"\nwebdav.sqlite-db-name = %q\n"+
		"auth.require = ( \"/\" => (\"method\" => \"basic\", \"realm\" => \"dav\", \"require\" => \"valid-user\") )\n",
		port, filepath.Join(dir, "data"), filepath.Join(dir, "error.log"), filepath.Join(dir, "tmp"), users, filepath.Join(dir, "locks.db"))
	err = errors.Join(os.WriteFile(users, []byte(user+":"+password+"\n"), 0o600), os.WriteFile(conf, []byte(text), 0o600))
	if err != nil {
		return nil, err
	}
	p, err := serverAt(ctx, dir, addr, lighttpd, "-D", "-f", conf)
	if err != nil {
		return nil, err
	}
	return &place{
		section: func(path string) string {
			return fmt.Sprintf("type: webdav\nwebdav-url: http://%s\nwebdav-username: %s\nwebdav-password: %s\npath: /%s", addr, user, password, path)
		},
		client: func(path string) (litestream.ReplicaClient, error) {
			return webdav.Config{URL: "http://" + addr, Username: user, Password: password, Path: "/" + path}.NewReplicaClient()
		},
		stop: p.stop,
	}, nil
}

// The account that every Azurite has; it is in Microsoft's documentation.
const (
	azuriteAccount = "devstoreaccount1"
	azuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

func absPlace(ctx context.Context, dir string) (*place, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	p, err := serverAt(ctx, dir, addr, filepath.Join(cacheDir(), "azurite", "node_modules", ".bin", "azurite-blob"),
		"--silent", "--disableTelemetry", "--blobHost", "127.0.0.1", "--blobPort", port, "--location", dir, "--skipApiVersionCheck")
	if err != nil {
		return nil, err
	}
	endpoint := "http://" + addr + "/" + azuriteAccount
	cred, err := container.NewSharedKeyCredential(azuriteAccount, azuriteKey)
	if err == nil {
		var c *container.Client
		if c, err = container.NewClientWithSharedKeyCredential(endpoint+"/"+bucket, cred, nil); err == nil {
			_, err = c.Create(ctx, nil)
		}
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("create container: %w", err)
	}
	return &place{
		section: func(path string) string {
			return fmt.Sprintf("type: abs\naccount-name: %s\naccount-key: %s\nbucket: %s\npath: %s\nendpoint: %s", azuriteAccount, azuriteKey, bucket, path, endpoint)
		},
		client: func(path string) (litestream.ReplicaClient, error) {
			return abs.Config{AccountName: azuriteAccount, AccountKey: azuriteKey, Bucket: bucket, Path: path, Endpoint: endpoint}.NewReplicaClient()
		},
		stop: p.stop,
	}, nil
}

func gsPlace(ctx context.Context, dir string) (*place, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	p, err := serverAt(ctx, dir, addr, filepath.Join(cacheDir(), "bin", "fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1",
		"-port", port, "-public-host", addr, "-external-url", "http://"+addr, "-log-level", "error", "-backend", "memory")
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/storage/v1/b?project=bench", strings.NewReader(`{"name":"`+bucket+`"}`))
	if err == nil {
		var resp *http.Response
		if resp, err = http.DefaultClient.Do(req); err == nil {
			err = resp.Body.Close()
		}
	}
	if err == nil {
		err = os.Setenv("STORAGE_EMULATOR_HOST", addr) // what both tools inherit
	}
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("create bucket: %w", err)
	}
	return &place{
		section: func(path string) string { return fmt.Sprintf("type: gs\nbucket: %s\npath: %s", bucket, path) },
		client: func(path string) (litestream.ReplicaClient, error) {
			return gs.Config{Bucket: bucket, Path: path}.NewReplicaClient()
		},
		stop: p.stop,
	}, nil
}

// ossPlace serves from this process: there is no server to install.
func ossPlace(ctx context.Context, _ string) (*place, error) {
	srv := fakeoss.New(fakeoss.Options{AccessKeyID: accessKey, AccessKeySecret: secretKey, Region: oss.DefaultRegion})
	srv.CreateBucket(bucket, false)
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: srv}
	go server.Serve(l) //nolint:errcheck // it ends when it is closed
	endpoint := "http://" + l.Addr().String()
	return &place{
		section: func(path string) string {
			return fmt.Sprintf("type: oss\nbucket: %s\npath: %s\nendpoint: %s\naccess-key-id: %s\nsecret-access-key: %s", bucket, path, endpoint, accessKey, secretKey)
		},
		client: func(path string) (litestream.ReplicaClient, error) {
			return oss.Config{AccessKeyID: accessKey, AccessKeySecret: secretKey, Bucket: bucket, Path: path, Endpoint: endpoint}.NewReplicaClient()
		},
		stop: func() { _ = server.Close() }, // nothing hangs on how it ends
	}, nil
}

// natsPlace gives each replica a bucket of its own: Litestream v0.5 has no paths
// in one.
func natsPlace(ctx context.Context, dir string) (*place, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nats.conf")
	text := fmt.Sprintf("listen: %q\njetstream { store_dir: %q, max_file_store: 100GB }\n", addr, filepath.Join(dir, "data"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := serverAt(ctx, dir, addr, filepath.Join(cacheDir(), "bin", "nats-server"), "-c", conf)
	if err != nil {
		return nil, err
	}
	var pool nats.Pool
	nc, err := natsgo.Connect("nats://" + addr)
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	stop := func() { nc.Close(); pool.Close(); p.stop() }
	js, err := jetstream.New(nc)
	if err != nil {
		stop()
		return nil, err
	}
	bucketOf := func(path string) string { return strings.ReplaceAll(path, "/", "-") }
	return &place{
		section: func(path string) string { return fmt.Sprintf("url: nats://%s/%s", addr, bucketOf(path)) },
		client: func(path string) (litestream.ReplicaClient, error) {
			return pool.Get(nats.Config{Server: addr, Bucket: bucketOf(path)})
		},
		prepare: func(ctx context.Context, path string) error {
			_, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: bucketOf(path)})
			return err
		},
		stop: stop,
	}, nil
}
