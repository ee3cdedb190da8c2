package sftp

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	"github.com/benbjohnson/litestream"
)

// WithURL adds what the URL says to the settings of a configuration file. Host
// and path are the URL's, and user and password if it has them. The path is
// absolute.
func (cfg Config) WithURL(rawURL string) (Config, error) {
	scheme, host, urlPath, query, userinfo, err := litestream.ParseReplicaURL(rawURL)
	if err != nil {
		return Config{}, err
	}
	if scheme != ReplicaClientType {
		return Config{}, fmt.Errorf("not an sftp URL: scheme %q", scheme)
	}
	return cfg.withParts(host, urlPath, query, userinfo), nil
}

func (cfg Config) withParts(host, urlPath string, query url.Values, userinfo *url.Userinfo) Config {
	cfg.Host, cfg.Path = host, urlPath
	if password, ok := userinfo.Password(); ok {
		cfg.Password = password
	}
	cfg.User = cmp.Or(userinfo.Username(), cfg.User)
	cfg.KeyPath = cmp.Or(cfg.KeyPath, query.Get("keyPath"), query.Get("key-path"))
	cfg.HostKey = cmp.Or(cfg.HostKey, query.Get("hostKey"), query.Get("host-key"))
	return cfg
}

// newReplicaClientFromURL is the factory behind NewReplicaClientFromURL of the
// root package. As in Litestream v0.5 the path has no leading slash there: it
// is relative to where a login begins.
func newReplicaClientFromURL(_, host, urlPath string, query url.Values, userinfo *url.Userinfo) (litestream.ReplicaClient, error) {
	return Config{}.withParts(host, strings.TrimPrefix(urlPath, "/"), query, userinfo).NewReplicaClient()
}
