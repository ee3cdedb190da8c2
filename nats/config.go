// Package nats stores LTX files in an object store of NATS JetStream, in the
// layout of Litestream v0.5: objects ltx/<level>/<min>-<max>.ltx of a bucket
// that exists already.
//
// A bucket is a stream that all objects share, and it cannot be listed by
// prefix: an object's name is one token of a subject. So that many databases
// can share a bucket, as they do below the paths of a multi-db template, the
// subject of an object's content begins with the object's path here, which the
// server finds without looking at others. Every other client of object stores
// reads such objects like its own.
//
// All clients of one server and credential share one connection.
package nats

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// Defaults of Options, as in Litestream v0.5.
const (
	DefaultServer        = "127.0.0.1:4222"
	DefaultMaxReconnects = -1 // no end
	DefaultReconnectWait = 2 * time.Second
	DefaultTimeout       = 10 * time.Second
)

// Options are the settings of a ReplicaClient. They must not change after the
// client was first used.
type Options struct {
	Server string // host:port; the port may be left out
	Bucket string
	Path   string // of the database in the bucket; empty as in Litestream v0.5

	// Credentials: the first that is set counts, in this order.
	JWT      string // with Seed
	Seed     string
	Creds    string // file with a JWT and a seed
	NKey     string // a seed, a file with one, or a public key whose seed is Seed
	Username string // with Password
	Password string
	Token    string

	TLS        bool     // refuse a server without TLS
	RootCAs    []string // PEM files with the authorities to trust
	ClientCert string   // PEM file, with ClientKey
	ClientKey  string

	MaxReconnects int           // attempts in a row to get a lost connection back; negative: no end
	ReconnectWait time.Duration // between two of them; 0: DefaultReconnectWait
	Timeout       time.Duration // of connecting; 0: DefaultTimeout
	MaxConns      int           // operations under way, of all clients; 0: blob.DefaultMaxConns

	ResponseTimeout time.Duration // of a server that owes an answer; 0: DefaultResponseTimeout
}

// Config is the replica section of a configuration file or of a URL.
type Config struct {
	Server     string
	Bucket     string
	Path       string
	JWT        string
	Seed       string
	Creds      string
	NKey       string
	Username   string
	Password   string
	Token      string
	TLS        bool
	RootCAs    []string
	ClientCert string
	ClientKey  string

	MaxReconnects *int // nil: DefaultMaxReconnects
	ReconnectWait time.Duration
	Timeout       time.Duration
	MaxConns      int // operations that all clients of one server and credential have under way
}

// WithURL adds what the URL says to the settings of a configuration file:
// server and bucket are the URL's, what follows the bucket's name is the path,
// and its user counts where the file has no credentials. Litestream v0.5 has no
// path, and reads the user on the control socket only.
func (cfg Config) WithURL(rawURL string) (Config, error) {
	scheme, host, urlPath, _, userinfo, err := litestream.ParseReplicaURL(rawURL)
	if err != nil {
		return Config{}, err
	}
	if scheme != ReplicaClientType {
		return Config{}, fmt.Errorf("not a nats URL: scheme %q", scheme)
	}
	return cfg.withParts(host, urlPath, userinfo), nil
}

func (cfg Config) withParts(host, urlPath string, userinfo *url.Userinfo) Config {
	cfg.Server = host
	if bucket, rest, _ := strings.Cut(urlPath, "/"); bucket != "" && bucket != "." {
		cfg.Bucket, cfg.Path = bucket, rest
	}
	if cmp.Or(cfg.JWT, cfg.Creds, cfg.NKey, cfg.Username, cfg.Token) == "" {
		// A user without a password is a token in URLs of NATS.
		if password, ok := userinfo.Password(); ok {
			cfg.Username, cfg.Password = userinfo.Username(), password
		} else {
			cfg.Token = userinfo.Username()
		}
	}
	return cfg
}

// NewReplicaClient returns a client for the configuration. It makes no request.
func (cfg Config) NewReplicaClient() (*ReplicaClient, error) {
	c := NewReplicaClient()
	c.Options = Options{
		Server: cfg.Server, Bucket: cfg.Bucket, Path: cfg.Path,
		JWT: cfg.JWT, Seed: cfg.Seed, Creds: cfg.Creds, NKey: cfg.NKey,
		Username: cfg.Username, Password: cfg.Password, Token: cfg.Token,
		TLS: cfg.TLS, RootCAs: cfg.RootCAs, ClientCert: cfg.ClientCert, ClientKey: cfg.ClientKey,
		MaxReconnects: DefaultMaxReconnects, ReconnectWait: cfg.ReconnectWait, Timeout: cfg.Timeout,
		MaxConns: cfg.MaxConns,
	}
	if cfg.MaxReconnects != nil {
		c.MaxReconnects = *cfg.MaxReconnects
	}
	if _, err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// newReplicaClientFromURL is the factory behind NewReplicaClientFromURL of the
// root package.
func newReplicaClientFromURL(_, host, urlPath string, _ url.Values, userinfo *url.Userinfo) (litestream.ReplicaClient, error) {
	return Config{}.withParts(host, urlPath, userinfo).NewReplicaClient()
}

// withDefaults fills in what may be left zero.
func (o Options) withDefaults() Options {
	o.Server = cmp.Or(o.Server, DefaultServer)
	if !hasPort.MatchString(o.Server) {
		o.Server += ":4222"
	}
	o.ReconnectWait = cmp.Or(o.ReconnectWait, DefaultReconnectWait)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	o.MaxConns = cmp.Or(o.MaxConns, blob.DefaultMaxConns)
	o.ResponseTimeout = cmp.Or(o.ResponseTimeout, DefaultResponseTimeout)
	o.RootCAs = slices.Clone(o.RootCAs)
	return o
}

var (
	hasPort = regexp.MustCompile(`:[0-9]+$`)

	// bucketName is what a server takes (ADR-20 of nats-architecture-and-design).
	bucketName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
)

// validate returns what is wrong with the settings and how to set it right.
func (o Options) validate() (hint string, err error) {
	switch {
	case o.Bucket == "":
		return "set bucket, or use a URL such as nats://host/bucket", errors.New("bucket required for nats replica")
	case !bucketName.MatchString(o.Bucket):
		return "use letters, digits, - and _", fmt.Errorf("invalid nats bucket name: %q", o.Bucket)
	case strings.ContainsAny(o.Server, "/ @"):
		return "set host:port alone", errors.New("invalid nats server address")
	case (o.ClientCert == "") != (o.ClientKey == ""):
		return "set both", errors.New("client-cert and client-key must be set together for nats replica")
	case o.JWT != "" && o.Seed == "":
		return "set seed to that of the user's key", errors.New("jwt without seed for nats replica")
	case isPublicKey(o.NKey) && o.Seed == "":
		return "set nkey to the seed or to a file with it, or add seed", errors.New("nkey is a public key, and there is no seed for nats replica")
	case o.ReconnectWait < 0, o.Timeout < 0:
		return "set a positive duration", errors.New("negative duration for nats replica")
	case o.MaxConns < 0:
		return "allow 1 or more", fmt.Errorf("invalid number of connections: %d", o.MaxConns)
	}
	return "", nil
}

// root returns the path in the one form that all its spellings have. There is
// no object whose name begins with a slash.
func (o Options) root() blob.Root {
	return blob.Root(strings.TrimPrefix(path.Clean("/"+o.Path), "/"))
}
