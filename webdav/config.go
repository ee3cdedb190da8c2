// Package webdav stores LTX files on a WebDAV server (RFC 4918), in the layout
// of Litestream v0.5: <path>/ltx/<level>/<min>-<max>.ltx.
//
// A file is sent under a temporary name and moved to its own, so that it
// appears whole or not at all whatever the server does with half a request. All
// clients of one server and credential share one HTTP transport.
package webdav

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/benbjohnson/litestream"
)

// Defaults of the client.
const (
	// DefaultMaxConns bounds the connections to one server.
	DefaultMaxConns = 200

	// DefaultResponseTimeout is how long a server may stay silent: after a
	// request was sent, and between two bytes in either direction.
	DefaultResponseTimeout = 60 * time.Second
)

// Options are the settings of a ReplicaClient. They must not change after the
// client was first used.
type Options struct {
	URL      string // http:// or https://, with the path that names are below
	Username string // empty: no credentials are sent
	Password string
	Path     string // folder below URL; a leading slash makes no difference

	MaxConns        int           // connections to the server; 0: DefaultMaxConns
	ResponseTimeout time.Duration // 0: DefaultResponseTimeout
}

// Config is the replica section of a configuration file or of a URL.
type Config struct {
	URL      string
	Username string
	Password string
	Path     string
	MaxConns int
}

// Options checks the settings. Credentials in the URL count where the keys
// have none.
func (cfg Config) Options() (Options, error) {
	o := Options{URL: cfg.URL, Username: cfg.Username, Password: cfg.Password, Path: cfg.Path, MaxConns: cfg.MaxConns}
	if u, err := url.Parse(o.URL); err == nil && u.User != nil {
		if o.Username == "" {
			o.Username = u.User.Username()
			o.Password, _ = u.User.Password()
		}
		u.User = nil
		o.URL = u.String()
	}
	_, err := o.validate()
	return o, err
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

// WithURL adds what a URL of the form webdav[s]://… says to the settings of a
// configuration file: server and path, and credentials if it has them.
func (cfg Config) WithURL(rawURL string) (Config, error) {
	scheme, host, urlPath, _, userinfo, err := litestream.ParseReplicaURL(rawURL)
	if err != nil {
		return Config{}, err
	}
	return cfg.withParts(scheme, host, urlPath, userinfo)
}

func (cfg Config) withParts(scheme, host, urlPath string, userinfo *url.Userinfo) (Config, error) {
	switch {
	case host == "":
		return Config{}, errors.New("host required for webdav replica")
	case scheme == "webdav":
		cfg.URL = "http://" + host
	case scheme == "webdavs":
		cfg.URL = "https://" + host
	default:
		return Config{}, fmt.Errorf("not a webdav URL: scheme %q", scheme)
	}
	cfg.Path = urlPath
	if userinfo != nil {
		cfg.Username = userinfo.Username()
		cfg.Password, _ = userinfo.Password()
	}
	return cfg, nil
}

func newReplicaClientFromURL(scheme, host, urlPath string, _ url.Values, userinfo *url.Userinfo) (litestream.ReplicaClient, error) {
	cfg, err := Config{}.withParts(scheme, host, urlPath, userinfo)
	if err != nil {
		return nil, err
	}
	return cfg.NewReplicaClient()
}

// withDefaults fills in what may be left zero.
func (o Options) withDefaults() Options {
	if o.MaxConns == 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.ResponseTimeout == 0 {
		o.ResponseTimeout = DefaultResponseTimeout
	}
	return o
}

// validate returns what is wrong with the settings and how to set it right.
func (o Options) validate() (hint string, err error) {
	const form = "set webdav-url to a URL such as https://dav.example.com/files"
	if o.URL == "" {
		return form, errors.New("webdav-url required for webdav replica")
	}
	u, err := url.Parse(o.URL)
	switch {
	case err != nil:
		return form, errors.New("invalid webdav-url") // whose text may hold a password
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return form, fmt.Errorf("invalid webdav-url: %q is no http:// or https:// URL with a host", u.Scheme+"://"+u.Host)
	case o.MaxConns < 0:
		return "allow 1 connection or more", fmt.Errorf("invalid number of connections: %d", o.MaxConns)
	}
	return "", nil
}

// target returns the URL of what lies below the path.
func (o Options) target(key string) *url.URL {
	u, err := url.Parse(o.URL)
	if err != nil {
		return &url.URL{} // refused by validate
	}
	u.Path = path.Join("/", u.Path, o.Path, key)
	u.RawPath, u.RawQuery, u.Fragment = "", "", ""
	return u
}

// dirTarget is target for a folder, whose name ends in a slash: without one
// some servers answer with a redirect, and nginx makes no folder.
func (o Options) dirTarget(key string) *url.URL {
	u := o.target(key)
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	return u
}
