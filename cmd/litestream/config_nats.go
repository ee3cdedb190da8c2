package main

import (
	"strings"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/nats"
)

// inheritNATS fills what a replica leaves open of the keys for NATS.
func (c *ReplicaConfig) inheritNATS(def *ReplicaSettings) {
	inheritValue(&c.JWT, def.JWT)
	inheritValue(&c.Seed, def.Seed)
	inheritValue(&c.Creds, def.Creds)
	inheritValue(&c.NKey, def.NKey)
	inheritValue(&c.Username, def.Username)
	inheritValue(&c.Token, def.Token)
	inheritPtr(&c.TLS, def.TLS)
	if c.RootCAs == nil {
		c.RootCAs = def.RootCAs
	}
	inheritValue(&c.ClientCert, def.ClientCert)
	inheritValue(&c.ClientKey, def.ClientKey)
	inheritPtr(&c.MaxReconnects, def.MaxReconnects)
	inheritPtr(&c.ReconnectWait, def.ReconnectWait)
	inheritPtr(&c.Timeout, def.Timeout)
}

// natsClient returns a client of what the keys of the file say, and the URL.
// The key path has no effect on it, as in Litestream v0.5; who lets databases
// share a bucket asks the client for one of each path.
func (c *ReplicaConfig) natsClient() (litestream.ReplicaClient, error) {
	cfg := nats.Config{
		Bucket:        c.Bucket,
		JWT:           string(c.JWT),
		Seed:          string(c.Seed),
		Creds:         c.Creds,
		NKey:          string(c.NKey),
		Username:      c.Username,
		Password:      string(c.Password),
		Token:         string(c.Token),
		TLS:           orDefault(c.TLS, false),
		RootCAs:       c.RootCAs,
		ClientCert:    c.ClientCert,
		ClientKey:     c.ClientKey,
		MaxReconnects: c.MaxReconnects,
		ReconnectWait: orDefault(c.ReconnectWait, 0),
		Timeout:       orDefault(c.Timeout, 0),
		MaxConns:      c.maxConns,
	}
	if c.URL != "" {
		var err error
		if cfg, err = cfg.WithURL(c.URL); err != nil {
			return nil, err
		}
	}
	return cfg.NewReplicaClient()
}

// belowBucket returns the path of a replica from that of its URL, which begins
// with the bucket if the type is nats.
func belowBucket(typ, urlPath string) string {
	if typ == replicaTypeNATS {
		_, urlPath, _ = strings.Cut(urlPath, "/")
	}
	return urlPath
}
