// Package s3 stores LTX files in Amazon S3 and in services that speak its
// protocol, in the layout of Litestream v0.5: <path>/<level>/<min>-<max>.ltx
// with the level as four hexadecimal digits. Keys are plain concatenations that
// are never cleaned, so that existing backups are found.
//
// All clients of one endpoint and credential share one HTTP transport, so that
// any number of databases costs a bounded number of connections.
package s3

import (
	"crypto/md5" //nolint:gosec // the protocol names keys by their MD5
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

// Defaults and limits of the client.
const (
	DefaultPartSize    = 5 << 20 // bytes
	DefaultConcurrency = 5       // parts of one upload in flight
	DefaultRegion      = "us-east-1"

	// DefaultMaxConns bounds the connections to one endpoint.
	DefaultMaxConns = 200

	// DefaultResponseTimeout is how long a server may stay silent: after a
	// request was sent, and between two bytes in either direction. Litestream
	// v0.5 has a limit of 24 hours per request instead, and hangs that long
	// with a server that accepts a request and never answers.
	DefaultResponseTimeout = 60 * time.Second

	// MinPartSize is the smallest part that S3 accepts, the last one excepted.
	MinPartSize = 5 << 20
)

// Options are the settings of a ReplicaClient. They must not change after the
// client was first used.
type Options struct {
	AccessKeyID     string // without both keys the SDK's default chain is used
	SecretAccessKey string
	Region          string // empty: looked up, or us-east-1 with an Endpoint
	Bucket          string // or the ARN of an access point
	Path            string // prefix of every key, used as it is
	Endpoint        string // base URL of the service; empty: AWS

	ForcePathStyle bool // bucket in the path instead of the host name
	SkipVerify     bool // accept any TLS certificate

	SignPayload         bool // sign the hash of what is sent; else its MD5 is
	SignAcceptEncoding  bool // sign the Accept-Encoding header
	RequireContentMD5   bool // send Content-MD5 with batch deletes
	PutObjectContentMD5 bool // send Content-MD5 with objects and parts

	StorageClass string
	PartSize     int64 // bytes; 0: the provider's default
	Concurrency  int   // parts in flight per upload; 0: the provider's default

	SSECustomerAlgorithm string // "AES256"
	SSECustomerKey       string // base64 of 32 bytes
	SSECustomerKeyMD5    string // base64; computed if empty
	SSEKMSKeyID          string

	MaxConns        int           // connections to the endpoint; 0: DefaultMaxConns
	ResponseTimeout time.Duration // 0: DefaultResponseTimeout
}

// Config is the replica section of a configuration file or of a URL. Nil and
// zero mean "not set": then the provider's default holds, and after that the
// general one.
type Config struct {
	AccessKeyID     string
	SecretAccessKey string
	Region          string
	Bucket          string
	Path            string
	Endpoint        string

	ForcePathStyle      *bool
	SkipVerify          bool
	SignPayload         *bool
	SignAcceptEncoding  *bool
	RequireContentMD5   *bool
	PutObjectContentMD5 *bool

	StorageClass string
	PartSize     int64
	Concurrency  int

	SSECustomerAlgorithm string
	SSECustomerKey       string
	SSECustomerKeyPath   string // file with the key; wins over SSECustomerKey
	SSECustomerKeyMD5    string
	SSEKMSKeyID          string

	MaxConns int // connections that all clients of one endpoint and credential share
}

// Options applies the defaults of the provider behind the endpoint to what is
// not set. It reads the customer key's file if one is named.
func (cfg Config) Options() (Options, error) {
	if cfg.Bucket == "" {
		return Options{}, errors.New("bucket required for s3 replica")
	}
	endpoint := cfg.Endpoint
	if endpoint != "" && !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	p := detectProvider(endpoint)
	// A bucket host name needs a DNS entry that few services of one's own have,
	// so an endpoint means path style unless something says otherwise.
	o := Options{
		AccessKeyID:          cfg.AccessKeyID,
		SecretAccessKey:      cfg.SecretAccessKey,
		Region:               cfg.Region,
		Bucket:               cfg.Bucket,
		Path:                 cfg.Path,
		Endpoint:             endpoint,
		ForcePathStyle:       boolOr(cfg.ForcePathStyle, endpoint != ""),
		SkipVerify:           cfg.SkipVerify,
		SignPayload:          boolOr(cfg.SignPayload, true),
		SignAcceptEncoding:   boolOr(cfg.SignAcceptEncoding, !p.unsignedAcceptEncoding),
		RequireContentMD5:    boolOr(cfg.RequireContentMD5, !p.noContentMD5),
		PutObjectContentMD5:  boolOr(cfg.PutObjectContentMD5, false),
		StorageClass:         cfg.StorageClass,
		PartSize:             cfg.PartSize,
		Concurrency:          cfg.Concurrency,
		SSECustomerAlgorithm: cfg.SSECustomerAlgorithm,
		SSECustomerKey:       cfg.SSECustomerKey,
		SSECustomerKeyMD5:    cfg.SSECustomerKeyMD5,
		SSEKMSKeyID:          cfg.SSEKMSKeyID,
		MaxConns:             cfg.MaxConns,
	}
	if cfg.SSECustomerKeyPath != "" {
		b, err := os.ReadFile(cfg.SSECustomerKeyPath)
		if err != nil {
			return Options{}, fmt.Errorf("read sse customer key: %w", err)
		}
		o.SSECustomerKey = strings.TrimSpace(string(b))
	}
	return o, nil
}

// NewReplicaClient returns a client for the configuration.
func (cfg Config) NewReplicaClient() (*ReplicaClient, error) {
	o, err := cfg.Options()
	if err != nil {
		return nil, err
	}
	c := NewReplicaClient()
	c.Options = o
	return c, nil
}

func boolOr(p *bool, dflt bool) bool {
	if p != nil {
		return *p
	}
	return dflt
}

// withDefaults fills in what may be left zero.
func (o Options) withDefaults() Options {
	if o.Endpoint != "" && !strings.Contains(o.Endpoint, "://") {
		o.Endpoint = "https://" + o.Endpoint
	}
	p := detectProvider(o.Endpoint)
	if o.PartSize == 0 {
		o.PartSize = DefaultPartSize
		if p.partSize != 0 {
			o.PartSize = p.partSize
		}
	}
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
		if p.concurrency != 0 {
			o.Concurrency = p.concurrency
		}
	}
	if o.MaxConns == 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.ResponseTimeout == 0 {
		o.ResponseTimeout = DefaultResponseTimeout
	}
	if o.SSECustomerKey != "" && o.SSECustomerAlgorithm == "" {
		o.SSECustomerAlgorithm = "AES256"
	}
	if o.SSECustomerKey != "" && o.SSECustomerKeyMD5 == "" {
		if key, err := base64.StdEncoding.DecodeString(o.SSECustomerKey); err == nil {
			sum := md5.Sum(key) //nolint:gosec // names the key, protects nothing
			o.SSECustomerKeyMD5 = base64.StdEncoding.EncodeToString(sum[:])
		}
	}
	return o
}

// validate returns what is wrong with the settings and how to set it right.
func (o Options) validate() (hint string, err error) {
	switch {
	case o.Bucket == "":
		return "set bucket", errors.New("bucket required for s3 replica")
	case o.PartSize < MinPartSize:
		return "set part-size to 5MiB or more", fmt.Errorf("part size is %d bytes, S3 accepts %d and more", o.PartSize, MinPartSize)
	case o.Concurrency < 0:
		return "set concurrency to 1 or more", fmt.Errorf("invalid concurrency: %d", o.Concurrency)
	case o.MaxConns < 0:
		return "allow 1 connection or more", fmt.Errorf("invalid number of connections: %d", o.MaxConns)
	}
	if o.Endpoint != "" {
		if u, err := url.Parse(o.Endpoint); err != nil || u.Host == "" {
			return "set endpoint to a URL such as https://s3.example.com", fmt.Errorf("invalid endpoint: %q", publicEndpoint(o.Endpoint))
		}
	}
	return o.validateEncryption()
}

func (o Options) validateEncryption() (hint string, err error) {
	if o.SSECustomerKey == "" {
		if o.SSECustomerAlgorithm != "" {
			return "set sse-customer-key", errors.New("customer encryption has an algorithm and no key")
		}
		return "", nil
	}
	key, err := base64.StdEncoding.DecodeString(o.SSECustomerKey)
	switch {
	case o.SSEKMSKeyID != "":
		return "keep one of sse-customer-key and sse-kms-key-id", errors.New("two kinds of server-side encryption are set")
	case o.SSECustomerAlgorithm != "AES256":
		return "set sse-customer-algorithm to AES256", fmt.Errorf("unsupported customer encryption: %q", o.SSECustomerAlgorithm)
	case err != nil || len(key) != 32:
		return "make one with: openssl rand -base64 32", errors.New("sse customer key is not the base64 of 32 bytes")
	case strings.HasPrefix(o.Endpoint, "http://") && !isPrivateHost(hostname(o.Endpoint)):
		return "use https, or the key is sent in the clear", errors.New("customer encryption needs an https endpoint")
	}
	return "", nil
}

// publicEndpoint returns an endpoint without the user, password and parameters
// that may stand in it, for messages.
func publicEndpoint(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		scheme, _, _ := strings.Cut(endpoint, "://")
		return scheme + "://"
	}
	if u.User == nil && u.RawQuery == "" {
		return endpoint // as it is written: locations are compared
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// hostname returns the host of an endpoint without its port, in lower case.
func hostname(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// isPrivateHost reports whether a host is this one or in a private network
// (RFC 1918), by its name alone.
func isPrivateHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && (ip.IsLoopback() || (ip.To4() != nil && ip.IsPrivate()))
}
