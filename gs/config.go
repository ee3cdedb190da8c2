// Package gs stores LTX files in Google Cloud Storage, in the layout of
// Litestream v0.5: <path>/ltx/<level>/<min>-<max>.ltx with the path cleaned.
//
// It speaks the service's JSON API over net/http. Google's own client library
// brings gRPC with it, which makes the program a third larger
// (docs/decisions/0007). Credentials come from where Google's tools look for
// them, through golang.org/x/oauth2/google.
//
// All clients share one HTTP transport and one access token, so that any number
// of databases costs a bounded number of connections.
package gs

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// Defaults and limits of the client.
const (
	// DefaultEndpoint is the base URL of the service.
	DefaultEndpoint = "https://storage.googleapis.com"

	// DefaultChunkSize is how much of a stream is held in memory to be sent
	// again, in bytes: half of what Litestream v0.5 holds for every upload.
	DefaultChunkSize = 8 << 20

	// chunkUnit is what the size of every chunk but the last is a multiple of,
	// as the protocol of resumable uploads demands.
	chunkUnit = 256 << 10
)

// Options are the settings of a ReplicaClient. They must not change after the
// client was first used.
type Options struct {
	Bucket string
	Path   string // of the database in the bucket; cleaned

	// Endpoint is the base URL of the service. If it is empty, that is
	// STORAGE_EMULATOR_HOST, to which no credentials are sent, and otherwise
	// DefaultEndpoint.
	Endpoint  string
	Anonymous bool // send no credentials

	ChunkSize       int64         // bytes, rounded up to 256 KiB; 0: DefaultChunkSize
	MaxConns        int           // connections to the endpoint; 0: blob.DefaultMaxConns
	ResponseTimeout time.Duration // of a silent server; 0: blob.DefaultResponseTimeout
}

// Config is the replica section of a configuration file or of a URL.
type Config struct {
	Bucket   string
	Path     string
	MaxConns int // connections that all clients share
}

// WithURL returns the configuration with the bucket and path of a URL.
func (cfg Config) WithURL(rawURL string) (Config, error) {
	scheme, host, urlPath, _, _, err := litestream.ParseReplicaURL(rawURL)
	if err != nil {
		return Config{}, err
	}
	if scheme != ReplicaClientType {
		return Config{}, fmt.Errorf("not a gs URL: scheme %q", scheme)
	}
	cfg.Bucket, cfg.Path = host, urlPath
	return cfg, nil
}

// NewReplicaClient returns a client for the configuration. It makes no request.
func (cfg Config) NewReplicaClient() (*ReplicaClient, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("bucket required for gs replica")
	}
	c := NewReplicaClient()
	c.Options = Options{Bucket: cfg.Bucket, Path: cfg.Path, MaxConns: cfg.MaxConns}
	return c, nil
}

// newReplicaClientFromURL is the factory behind NewReplicaClientFromURL of the
// root package. A gs URL has no parameters.
func newReplicaClientFromURL(_, host, urlPath string, _ url.Values, _ *url.Userinfo) (litestream.ReplicaClient, error) {
	return Config{Bucket: host, Path: urlPath}.NewReplicaClient()
}

// withDefaults fills in what may be left zero.
func (o Options) withDefaults() Options {
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
		if env := os.Getenv("STORAGE_EMULATOR_HOST"); env != "" {
			o.Endpoint, o.Anonymous = env, true
			if !strings.Contains(env, "://") {
				o.Endpoint = "http://" + env
			}
		}
	}
	o.Endpoint = strings.TrimRight(o.Endpoint, "/")
	if o.ChunkSize == 0 {
		o.ChunkSize = DefaultChunkSize
	}
	o.ChunkSize = (o.ChunkSize + chunkUnit - 1) / chunkUnit * chunkUnit
	if o.MaxConns == 0 {
		o.MaxConns = blob.DefaultMaxConns
	}
	if o.ResponseTimeout == 0 {
		o.ResponseTimeout = blob.DefaultResponseTimeout
	}
	return o
}

// validate returns what is wrong with the settings and how to set it right.
func (o Options) validate() (hint string, err error) {
	u, parseErr := url.Parse(o.Endpoint)
	switch {
	case o.Bucket == "":
		return "set bucket", errors.New("bucket required for gs replica")
	case strings.Contains(o.Bucket, "/"):
		return "set bucket to the name alone", fmt.Errorf("invalid bucket name: %q", o.Bucket)
	case parseErr != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return "set STORAGE_EMULATOR_HOST to a host with a port, or to nothing", fmt.Errorf("invalid endpoint: %q", o.Endpoint)
	case o.MaxConns < 0:
		return "allow 1 connection or more", fmt.Errorf("invalid number of connections: %d", o.MaxConns)
	}
	return "", nil
}
