// Package abs stores LTX files in Azure Blob Storage, in the layout of
// Litestream v0.5: <path>/ltx/<level>/<min>-<max>.ltx with the path cleaned.
//
// All clients of one endpoint and credential share one HTTP transport and one
// access token, so that any number of databases costs a bounded number of
// connections.
package abs

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// DefaultBlockSize is the size in bytes from which a file is stored in blocks,
// and of those blocks. Of a stream one block is held in memory.
const DefaultBlockSize = 8 << 20

// maxBlocks is the most blocks that a blob may have.
const maxBlocks = 50000

// Options are the settings of a ReplicaClient. They must not change after the
// client was first used.
type Options struct {
	AccountName string
	AccountKey  string // base64; empty: LITESTREAM_AZURE_ACCOUNT_KEY
	SASToken    string // wins over the key; empty: LITESTREAM_AZURE_SAS_TOKEN
	Bucket      string // the container
	Path        string // of the database in the container; cleaned

	// Endpoint is the base URL of the account; without a scheme it is https.
	// Empty: https://<account>.blob.core.windows.net.
	Endpoint string

	BlockSize       int64         // bytes; 0: DefaultBlockSize
	MaxConns        int           // connections to the endpoint; 0: blob.DefaultMaxConns
	ResponseTimeout time.Duration // of a silent server; 0: blob.DefaultResponseTimeout
}

// Config is the replica section of a configuration file or of a URL.
type Config struct {
	AccountName string
	AccountKey  string
	SASToken    string
	Bucket      string
	Path        string
	Endpoint    string
	MaxConns    int // connections that all clients of one endpoint and credential share
}

// WithURL adds what the URL says to the settings of a configuration file:
// container and path are the URL's, its account and its parameter "endpoint"
// count where the file sets none. Litestream v0.5 reads that parameter on the
// control socket only, so that its restore by URL knows Azure's own endpoint
// alone.
func (cfg Config) WithURL(rawURL string) (Config, error) {
	scheme, host, urlPath, query, userinfo, err := litestream.ParseReplicaURL(rawURL)
	if err != nil {
		return Config{}, err
	}
	if scheme != ReplicaClientType {
		return Config{}, fmt.Errorf("not an abs URL: scheme %q", scheme)
	}
	cfg.Bucket, cfg.Path = host, urlPath
	if name := userinfo.Username(); name != "" {
		cfg.AccountName = name
	}
	if cfg.Endpoint == "" {
		cfg.Endpoint = query.Get("endpoint")
	}
	return cfg, nil
}

// NewReplicaClient returns a client for the configuration. It makes no request.
func (cfg Config) NewReplicaClient() (*ReplicaClient, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("bucket required for abs replica")
	}
	if cfg.AccountName == "" && cfg.Endpoint == "" {
		return nil, errors.New("account-name required for abs replica")
	}
	c := NewReplicaClient()
	c.Options = Options{
		AccountName: cfg.AccountName,
		AccountKey:  cfg.AccountKey,
		SASToken:    cfg.SASToken,
		Bucket:      cfg.Bucket,
		Path:        cfg.Path,
		Endpoint:    cfg.Endpoint,
		MaxConns:    cfg.MaxConns,
	}
	return c, nil
}

// newReplicaClientFromURL is the factory behind NewReplicaClientFromURL of the
// root package.
func newReplicaClientFromURL(_, host, urlPath string, query url.Values, userinfo *url.Userinfo) (litestream.ReplicaClient, error) {
	return Config{
		AccountName: userinfo.Username(), Bucket: host, Path: urlPath, Endpoint: query.Get("endpoint"),
	}.NewReplicaClient()
}

// withDefaults fills in what may be left zero.
func (o Options) withDefaults() Options {
	if o.AccountKey == "" {
		o.AccountKey = os.Getenv("LITESTREAM_AZURE_ACCOUNT_KEY")
	}
	if o.SASToken == "" {
		o.SASToken = os.Getenv("LITESTREAM_AZURE_SAS_TOKEN")
	}
	o.SASToken = strings.TrimPrefix(o.SASToken, "?")
	switch {
	case o.Endpoint == "":
		o.Endpoint = "https://" + o.AccountName + ".blob.core.windows.net"
	case !strings.Contains(o.Endpoint, "://"):
		o.Endpoint = "https://" + o.Endpoint
	}
	o.Endpoint = strings.TrimRight(o.Endpoint, "/")
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
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
	_, keyErr := base64.StdEncoding.DecodeString(o.AccountKey)
	_, sasErr := url.ParseQuery(o.SASToken)
	switch {
	case o.Bucket == "":
		return "set bucket to the container", errors.New("bucket required for abs replica")
	case strings.Contains(o.Bucket, "/"):
		return "set bucket to the name alone", fmt.Errorf("invalid container name: %q", o.Bucket)
	case parseErr != nil || u.Host == "" || strings.HasPrefix(u.Host, ".") || (u.Scheme != "http" && u.Scheme != "https"):
		return "set account-name, or endpoint to a URL such as https://account.blob.core.windows.net", errors.New("invalid endpoint")
	case u.RawQuery != "" || u.User != nil:
		return "set sas-token, and keep endpoint to the address", errors.New("invalid endpoint: it holds credentials or parameters")
	case sasErr != nil:
		return "copy sas-token whole", errors.New("sas token cannot be read")
	case o.SASToken == "" && keyErr != nil:
		return "copy account-key whole", errors.New("account key is not base64")
	case o.MaxConns < 0:
		return "allow 1 connection or more", fmt.Errorf("invalid number of connections: %d", o.MaxConns)
	case o.BlockSize < 0:
		return "set a size in bytes", fmt.Errorf("invalid block size: %d", o.BlockSize)
	}
	return "", nil
}
