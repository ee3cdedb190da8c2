package nats

import (
	"errors"
	"fmt"
	"os"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// library returns the options of the library that ours stand for.
func (o Options) library() (*natsgo.Options, error) {
	opts := natsgo.GetDefaultOptions()
	opts.Url = "nats://" + o.Server
	opts.Name = "litestream"
	opts.Timeout = o.Timeout
	opts.MaxReconnect = o.MaxReconnects
	opts.ReconnectWait = o.ReconnectWait
	opts.PingInterval, opts.MaxPingsOut = pingInterval, maxPingsOut
	// What is sent while the connection is away must fail. Litestream v0.5 keeps
	// up to 8 MiB for later, when nobody waits for it any more.
	opts.ReconnectBufSize = -1
	credentials, err := o.credentials()
	if err != nil {
		return nil, &credentialsError{err}
	}
	for _, set := range append(credentials, o.encryption()...) {
		if err := set(&opts); err != nil {
			return nil, &credentialsError{err}
		}
	}
	return &opts, nil
}

// credentials returns those that count.
func (o Options) credentials() ([]natsgo.Option, error) {
	switch {
	case o.JWT != "":
		return []natsgo.Option{natsgo.UserJWTAndSeed(o.JWT, o.Seed)}, nil
	case o.Creds != "":
		if _, err := os.Stat(o.Creds); err != nil {
			return nil, fmt.Errorf("read credentials: %w", err)
		}
		return []natsgo.Option{natsgo.UserCredentials(o.Creds)}, nil
	case o.NKey != "":
		return o.nkey()
	case o.Username != "":
		return []natsgo.Option{natsgo.UserInfo(o.Username, o.Password)}, nil
	case o.Token != "":
		return []natsgo.Option{natsgo.Token(o.Token)}, nil
	}
	return nil, nil
}

// nkey returns the login by the key pair whose seed the key names in one of
// three ways. Litestream v0.5 takes the key but no seed, and cannot log in.
func (o Options) nkey() ([]natsgo.Option, error) {
	seed := o.Seed
	if !isPublicKey(o.NKey) {
		seed = o.NKey
	}
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil && seed == o.NKey {
		var data []byte
		if data, err = os.ReadFile(o.NKey); err != nil {
			// The key may be a seed with a typing error: it is not shown.
			return nil, errors.New("nkey is neither a seed nor a file that can be read")
		}
		pair, err = nkeys.ParseDecoratedUserNKey(data)
	}
	if err != nil {
		return nil, errors.New("nkey: seed cannot be read")
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("nkey: %w", err)
	}
	return []natsgo.Option{natsgo.Nkey(public, pair.Sign)}, nil
}

// isPublicKey reports whether a key is the public half of a user's pair.
func isPublicKey(key string) bool { return nkeys.IsValidPublicUserKey(key) }

// encryption returns what the keys for TLS ask for. A server that wants TLS
// gets it without any of them.
func (o Options) encryption() (opts []natsgo.Option) {
	if o.TLS {
		opts = append(opts, natsgo.Secure())
	}
	if len(o.RootCAs) > 0 {
		opts = append(opts, natsgo.RootCAs(o.RootCAs...))
	}
	if o.ClientCert != "" {
		opts = append(opts, natsgo.ClientCert(o.ClientCert, o.ClientKey))
	}
	return opts
}

// credentialsError is a credential of this machine that could not be read. It
// does not wrap its cause, which may be a missing file: that is no missing
// object.
type credentialsError struct{ err error }

// Error returns the cause.
func (e *credentialsError) Error() string { return e.err.Error() }
