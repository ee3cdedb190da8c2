// Package sftp stores LTX files on a server by SFTP, in the layout of
// Litestream v0.5: <path>/ltx/<level>/<min>-<max>.ltx.
//
// A file is written under a temporary name, made durable where the server
// offers fsync@openssh.com, and only then given its own name. All clients of
// one server and credential share one SSH connection with a few SFTP sessions
// on it, which is opened at the first use and closed when nobody uses it.
package sftp

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Defaults of the client.
const (
	// DefaultPort is appended to a host without a port.
	DefaultPort = "22"

	// DefaultMaxConns bounds the requests that are under way at a time. All of
	// them share one connection.
	DefaultMaxConns = 200

	// DefaultDialTimeout bounds the time until a connection can be used.
	DefaultDialTimeout = 30 * time.Second

	// DefaultResponseTimeout is how long a server may stay silent while it owes
	// an answer. Litestream v0.5 waits for ever.
	DefaultResponseTimeout = 60 * time.Second

	// idleTimeout is how long a connection is kept that nobody uses.
	idleTimeout = time.Minute
)

// AnyHostKey is the value of HostKey that accepts whatever key a server shows.
// Somebody on the way can then read and change everything.
const AnyHostKey = "any"

// Options are the settings of a ReplicaClient. They must not change after the
// client was first used.
type Options struct {
	Host     string // with a port
	User     string
	Password string
	KeyPath  string // file with a private key; read at each new connection
	Path     string // folder on the server; relative to where a login begins

	// HostKey is what the server must show: a line as in authorized_keys, a
	// fingerprint as "ssh-keygen -l" prints it (SHA256:…), or AnyHostKey. If it
	// is empty the key must be listed in ~/.ssh/known_hosts or
	// /etc/ssh/ssh_known_hosts.
	HostKey string

	ConcurrentWrites bool // send the next part of a file before the last one is answered

	MaxConns        int           // requests under way; 0: DefaultMaxConns
	DialTimeout     time.Duration // 0: DefaultDialTimeout
	ResponseTimeout time.Duration // 0: DefaultResponseTimeout
}

// Config is the replica section of a configuration file or of a URL. Zero
// means "not set".
type Config struct {
	Host     string
	User     string
	Password string
	KeyPath  string
	HostKey  string
	Path     string

	ConcurrentWrites *bool // nil: true

	MaxConns int
}

// Options applies the defaults to what is not set.
func (cfg Config) Options() (Options, error) {
	switch {
	case cfg.Host == "":
		return Options{}, errors.New("host required for sftp replica")
	case cfg.User == "":
		return Options{}, errors.New("user required for sftp replica")
	}
	o := Options{
		Host:             withPort(cfg.Host),
		User:             cfg.User,
		Password:         cfg.Password,
		KeyPath:          cfg.KeyPath,
		HostKey:          strings.TrimSpace(cfg.HostKey),
		Path:             cfg.Path,
		ConcurrentWrites: cfg.ConcurrentWrites == nil || *cfg.ConcurrentWrites,
		MaxConns:         cfg.MaxConns,
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

// withPort completes an address. An IPv6 address may stand without brackets.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), DefaultPort)
}

// withDefaults fills in what may be left zero.
func (o Options) withDefaults() Options {
	o.Host = withPort(o.Host)
	if o.MaxConns == 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = DefaultDialTimeout
	}
	if o.ResponseTimeout == 0 {
		o.ResponseTimeout = DefaultResponseTimeout
	}
	return o
}

// validate returns what is wrong with the settings and how to set it right.
func (o Options) validate() (hint string, err error) {
	switch {
	case o.Host == "":
		return "set host", errors.New("host required for sftp replica")
	case o.User == "":
		return "set user", errors.New("user required for sftp replica")
	case o.MaxConns < 0:
		return "allow 1 connection or more", fmt.Errorf("invalid number of connections: %d", o.MaxConns)
	case o.HostKey == "", o.HostKey == AnyHostKey, strings.HasPrefix(o.HostKey, fingerprintPrefix):
		return "", nil
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(o.HostKey)); err != nil {
		return hostKeyForms, fmt.Errorf("invalid host key: %w", err)
	}
	return "", nil
}
