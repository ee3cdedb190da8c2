package sftp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// refusal is an error of connecting that stays until somebody changes the
// configuration or the server. It hides what it wraps: a missing key file is
// no missing backup.
type refusal struct {
	err  error
	hint string
}

func (e *refusal) Error() string { return e.err.Error() }

// dial opens a connection with one session.
func dial(ctx context.Context, key connKey, logger *slog.Logger) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, key.dialTimeout)
	defer cancel()
	cfg, err := clientConfig(key)
	if err != nil {
		return nil, err
	}
	var refused error
	check := cfg.HostKeyCallback
	cfg.HostKeyCallback = func(host string, remote net.Addr, k ssh.PublicKey) error {
		refused = check(host, remote, k)
		return refused
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", key.addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", key.addr, err)
	}
	conn := &watchedConn{Conn: raw}
	conn.touch()
	// Neither handshake knows a context; without its connection each ends.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	l, err := handshake(conn, key, cfg)
	if !stop() && err == nil {
		err = l.close()
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("connect to %s: %w", key.addr, errors.Join(ctx.Err(), err))
	}
	if err != nil {
		_ = raw.Close() // the handshake failed before
		return nil, classify(key, err, refused)
	}
	if key.hostKey == AnyHostKey {
		logger.Warn("sftp host key not checked: host-key is \"any\"", "host", key.addr)
	}
	logger.Debug("sftp connection open", "host", key.addr, "server", string(l.ssh.ServerVersion()))
	return l, nil
}

// handshake logs in on a connection, and opens the first session.
func handshake(conn *watchedConn, key connKey, cfg *ssh.ClientConfig) (*link, error) {
	c, chans, requests, err := ssh.NewClientConn(conn, key.addr, cfg)
	if err != nil {
		return nil, err
	}
	return newLink(key, conn, ssh.NewClient(c, chans, requests))
}

func sessionOptions(key connKey) []sftp.ClientOption {
	return []sftp.ClientOption{
		sftp.UseConcurrentWrites(key.concurrentWrites),
		sftp.MaxConcurrentRequestsPerFile(partSize / packetSize),
	}
}

// clientConfig returns how to log in. Passwords and keys are offered as the
// server asks for them.
func clientConfig(key connKey) (*ssh.ClientConfig, error) {
	check, algorithms, err := hostKeyCheck(key.hostKey, key.addr)
	if err != nil {
		return nil, &refusal{err: err, hint: hostKeyForms}
	}
	cfg := &ssh.ClientConfig{
		User:              key.user,
		HostKeyCallback:   check,
		HostKeyAlgorithms: algorithms,
		ClientVersion:     "SSH-2.0-litestream",
		BannerCallback:    func(string) error { return nil },
	}
	if key.keyPath != "" {
		signer, err := readKey(key.keyPath)
		if err != nil {
			return nil, err
		}
		cfg.Auth = append(cfg.Auth, ssh.PublicKeys(signer))
	}
	if key.password != "" {
		cfg.Auth = append(cfg.Auth, ssh.Password(key.password),
			ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range answers {
					answers[i] = key.password
				}
				return answers, nil
			}))
	}
	return cfg, nil
}

func readKey(path string) (ssh.Signer, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, &refusal{err: fmt.Errorf("read private key: %w", err), hint: "correct key-path, or allow this user to read the file"}
	}
	signer, err := ssh.ParsePrivateKey(b)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		return nil, &refusal{err: fmt.Errorf("read private key %s: it is protected by a passphrase", path), hint: "use a key without one, readable by this user only"}
	} else if err != nil {
		return nil, &refusal{err: fmt.Errorf("read private key %s: %w", path, err), hint: "set key-path to a private key in OpenSSH or PEM form"}
	}
	return signer, nil
}

// classify tells a server that refuses us from one that is away.
func classify(key connKey, err, refused error) error {
	err = fmt.Errorf("log in to %s as %s: %w", key.addr, key.user, err)
	if refused != nil {
		hint := "correct known_hosts, or set host-key"
		if ke, ok := errors.AsType[*hostKeyError](refused); ok {
			hint = ke.hint()
		}
		return &refusal{err: fmt.Errorf("connect to %s: %w", key.addr, refused), hint: hint}
	}
	// The package has no types for these.
	switch s := err.Error(); {
	case strings.Contains(s, "unable to authenticate"):
		return &refusal{err: err, hint: "check user, password and key-path, and what the server allows"}
	case strings.Contains(s, "no common algorithm"):
		return &refusal{err: err, hint: "the server has no key of the kind that host-key or known_hosts names, or is too old"}
	case strings.Contains(s, "subsystem request failed"):
		return &refusal{err: err, hint: "the server does not offer sftp to this user"}
	}
	return err
}

// watchedConn knows when the server was heard last.
type watchedConn struct {
	net.Conn
	heard atomic.Int64 // Unix nanoseconds
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.touch()
	}
	return n, err
}

func (c *watchedConn) touch() { c.heard.Store(time.Now().UnixNano()) }

// silence returns for how long nothing came.
func (c *watchedConn) silence() time.Duration {
	return time.Since(time.Unix(0, c.heard.Load()))
}
