package sftp

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const fingerprintPrefix = "SHA256:"

const hostKeyForms = `set host-key to a line as in authorized_keys ("ssh-ed25519 AAAA…"), to a fingerprint (SHA256:…), or to "any"`

// hostKeyError is a server whose key is not what it should be.
type hostKeyError struct {
	host    string
	key     ssh.PublicKey
	changed bool // another key is known
}

func (e *hostKeyError) Error() string {
	what := "is not known"
	if e.changed {
		what = "is not the one that is known: somebody may stand between this host and the server"
	}
	return fmt.Sprintf("host key of %s %s: %s %s", e.host, what, e.key.Type(), ssh.FingerprintSHA256(e.key))
}

func (e *hostKeyError) hint() string {
	if e.changed {
		return "if the server has a new key, correct host-key or known_hosts"
	}
	return "compare the fingerprint with the server's, then set host-key to it or add the server to ~/.ssh/known_hosts"
}

// hostKeyCheck returns what decides about a server's key, and which kinds of
// keys to ask for; nil leaves that to the two sides.
func hostKeyCheck(hostKey, addr string) (check ssh.HostKeyCallback, algorithms []string, err error) {
	refuse := func(key ssh.PublicKey, changed bool) error {
		return &hostKeyError{host: addr, key: key, changed: changed}
	}
	switch {
	case hostKey == AnyHostKey:
		return func(string, net.Addr, ssh.PublicKey) error { return nil }, nil, nil
	case hostKey == "":
		return knownHostsCheck(addr, refuse)
	case len(hostKey) > len(fingerprintPrefix) && hostKey[:len(fingerprintPrefix)] == fingerprintPrefix:
		return func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if ssh.FingerprintSHA256(key) != hostKey {
				return refuse(key, true)
			}
			return nil
		}, nil, nil
	}
	want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(hostKey))
	if err != nil {
		return nil, nil, fmt.Errorf("invalid host key: %w", err)
	}
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if !slices.Equal(key.Marshal(), want.Marshal()) {
			return refuse(key, true)
		}
		return nil
	}, algorithmsOf(want.Type()), nil
}

// knownHostsCheck looks a key up in the user's and the system's known_hosts.
func knownHostsCheck(addr string, refuse func(ssh.PublicKey, bool) error) (ssh.HostKeyCallback, []string, error) {
	var files []string
	candidates := []string{"/etc/ssh/ssh_known_hosts"}
	if home, err := os.UserHomeDir(); err == nil {
		candidates = append(candidates, filepath.Join(home, ".ssh", "known_hosts"))
	}
	for _, file := range candidates {
		if _, err := os.Stat(file); err == nil {
			files = append(files, file)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("read known hosts: %w", err)
		}
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, nil, fmt.Errorf("read known hosts: %w", err)
	}
	check := func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := known(host, remote, key)
		if ke, ok := errors.AsType[*knownhosts.KeyError](err); ok {
			return refuse(key, len(ke.Want) > 0)
		}
		return err
	}

	// A server may have keys of several kinds and show the one that is not in
	// the file. So only the kinds are asked for that are. The look-up of a key
	// that nobody has tells which.
	var algorithms []string
	if ke, ok := errors.AsType[*knownhosts.KeyError](known(addr, &net.TCPAddr{}, noKey{})); ok {
		for _, want := range ke.Want {
			algorithms = append(algorithms, algorithmsOf(want.Key.Type())...)
		}
	}
	return check, algorithms, nil
}

// noKey is a key that no server has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// algorithmsOf returns the signatures that a kind of key makes.
func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA}
	}
	return []string{keyType}
}
