// Package oss stores LTX files in Alibaba Cloud Object Storage Service, in the
// layout of Litestream v0.5: <path>/<level>/<min>-<max>.ltx with the level as
// four hexadecimal digits. Keys are plain concatenations that are never cleaned,
// so that existing backups are found.
//
// It speaks the service's own protocol over net/http, with signatures of version
// 4; docs/decisions/0007 says why not by Alibaba's library. The service also has
// an endpoint of S3's protocol, which is for the s3 package.
//
// All clients of one endpoint and credential share one HTTP transport, so that
// any number of databases costs a bounded number of connections.
package oss

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// Defaults and limits of the client. DefaultRegion is that of Litestream v0.5.
const (
	DefaultRegion      = "cn-hangzhou"
	DefaultPartSize    = 6 << 20 // bytes
	DefaultConcurrency = 3       // parts in flight per upload

	// MinPartSize is the smallest part in bytes that the service takes.
	MinPartSize = 100 << 10

	// DefaultMetadataEndpoint is where Alibaba's machines ask for the
	// credentials of their RAM role.
	DefaultMetadataEndpoint = "http://100.100.100.200"
)

// Options are the settings of a ReplicaClient. They must not change after the
// client was first used.
type Options struct {
	Bucket string
	Path   string // of the database in the bucket; never cleaned

	// Region is that of signatures and of the default endpoint. If it is empty
	// it is the endpoint's, if that names one, and else DefaultRegion.
	Region   string
	Endpoint string // https:// is added; empty: the public endpoint of the region

	// AccessKeyID and AccessKeySecret count together. If one of them is empty,
	// the credentials are those of the environment or of the machine's role.
	AccessKeyID     string
	AccessKeySecret string

	PartSize    int64 // bytes; 0: DefaultPartSize
	Concurrency int   // parts in flight per upload; 0: DefaultConcurrency

	MaxConns         int           // connections to the endpoint; 0: blob.DefaultMaxConns
	ResponseTimeout  time.Duration // of a silent server; 0: blob.DefaultResponseTimeout
	MetadataEndpoint string        // empty: DefaultMetadataEndpoint
}

// Config is the replica section of a configuration file or of a URL.
type Config struct {
	AccessKeyID     string
	AccessKeySecret string
	Bucket          string
	Path            string
	Region          string
	Endpoint        string
	PartSize        int64 // bytes; 0: DefaultPartSize
	Concurrency     int   // 0: DefaultConcurrency
	MaxConns        int   // connections that all clients share
}

// hostRegex splits the host of a URL such as b.oss-cn-shanghai.aliyuncs.com.
var hostRegex = regexp.MustCompile(`^(.+)\.oss-([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com$`)

// WithURL returns the configuration with what a URL names: the bucket, the
// path, the region if the host is a bucket's address, and the parameters
// endpoint and region, which Litestream v0.5 does not have. A region and an
// endpoint that are set already stay. The endpoint is never that of the host.
func (cfg Config) WithURL(rawURL string) (Config, error) {
	scheme, host, urlPath, query, _, err := litestream.ParseReplicaURL(rawURL)
	if err != nil {
		return Config{}, err
	}
	if scheme != ReplicaClientType {
		return Config{}, fmt.Errorf("not an oss URL: scheme %q", scheme)
	}
	return cfg.withParts(host, urlPath, query), nil
}

func (cfg Config) withParts(host, urlPath string, query url.Values) Config {
	cfg.Bucket, cfg.Path = host, urlPath
	cfg.Endpoint = cmp.Or(cfg.Endpoint, query.Get("endpoint"))
	cfg.Region = cmp.Or(cfg.Region, query.Get("region"))
	if m := hostRegex.FindStringSubmatch(host); m != nil {
		cfg.Bucket = m[1]
		cfg.Region = cmp.Or(cfg.Region, m[2])
	}
	return cfg
}

// NewReplicaClient returns a client for the configuration. It makes no request.
func (cfg Config) NewReplicaClient() (*ReplicaClient, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("bucket required for oss replica")
	}
	c := NewReplicaClient()
	c.Options = Options{
		Bucket: cfg.Bucket, Path: cfg.Path, Region: cfg.Region, Endpoint: cfg.Endpoint,
		AccessKeyID: cfg.AccessKeyID, AccessKeySecret: cfg.AccessKeySecret,
		PartSize: cfg.PartSize, Concurrency: cfg.Concurrency, MaxConns: cfg.MaxConns,
	}
	return c, nil
}

// newReplicaClientFromURL is the factory behind NewReplicaClientFromURL of the
// root package.
func newReplicaClientFromURL(_, host, urlPath string, query url.Values, _ *url.Userinfo) (litestream.ReplicaClient, error) {
	return Config{}.withParts(host, urlPath, query).NewReplicaClient()
}

// endpointRegex finds the region in a host such as oss-cn-shanghai.aliyuncs.com.
var endpointRegex = regexp.MustCompile(`^oss-([a-z]+-[a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com$`)

// withDefaults fills in what may be left zero.
func (o Options) withDefaults() Options {
	if o.Endpoint != "" && !strings.Contains(o.Endpoint, "://") {
		o.Endpoint = "https://" + o.Endpoint
	}
	o.Endpoint = strings.TrimRight(o.Endpoint, "/")
	if o.Region == "" {
		o.Region = DefaultRegion
		if u, err := url.Parse(o.Endpoint); err == nil {
			if m := endpointRegex.FindStringSubmatch(u.Hostname()); m != nil && m[1] != "accelerate-overseas" {
				o.Region = m[1]
			}
		}
	}
	if o.Endpoint == "" {
		o.Endpoint = "https://oss-" + o.Region + ".aliyuncs.com"
	}
	if o.PartSize == 0 {
		o.PartSize = DefaultPartSize
	}
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.MaxConns == 0 {
		o.MaxConns = blob.DefaultMaxConns
	}
	if o.ResponseTimeout == 0 {
		o.ResponseTimeout = blob.DefaultResponseTimeout
	}
	if o.MetadataEndpoint == "" {
		o.MetadataEndpoint = DefaultMetadataEndpoint
	}
	return o
}

// regionRegex is what a region may be made of: it becomes a part of a host name.
var regionRegex = regexp.MustCompile(`^[a-z0-9-]+$`)

// validate returns what is wrong with the settings and how to set it right.
func (o Options) validate() (hint string, err error) {
	u, parseErr := url.Parse(o.Endpoint)
	switch {
	case o.Bucket == "":
		return "set bucket", errors.New("bucket required for oss replica")
	case strings.ContainsAny(o.Bucket, "/?#@:%"):
		return "set bucket to the name alone", fmt.Errorf("invalid bucket name: %q", o.Bucket)
	case !regionRegex.MatchString(o.Region):
		return "set region to a name such as cn-hangzhou", fmt.Errorf("invalid region: %q", o.Region)
	case parseErr != nil || u.Host == "" || u.Path != "" || u.User != nil || (u.Scheme != "http" && u.Scheme != "https"):
		return "set endpoint to a host such as oss-cn-hangzhou.aliyuncs.com", errors.New("invalid endpoint")
	case o.PartSize < MinPartSize:
		return fmt.Sprintf("set part-size to %d or more", MinPartSize), fmt.Errorf("part size too small: %d bytes", o.PartSize)
	case o.Concurrency < 0:
		return "set concurrency to 1 or more", fmt.Errorf("invalid concurrency: %d", o.Concurrency)
	case o.MaxConns < 0:
		return "allow 1 connection or more", fmt.Errorf("invalid number of connections: %d", o.MaxConns)
	}
	return "", nil
}

// usesPath reports whether the bucket stands in the path of URLs: an address has
// no names below it.
func usesPath(u *url.URL) bool {
	_, err := netip.ParseAddr(u.Hostname())
	return err == nil
}
