package oss

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// renewBefore is how long before their end temporary keys are replaced.
const renewBefore = 5 * time.Minute

// accessKeys are what requests are signed with.
type accessKeys struct {
	id, secret string
	token      string    // of temporary keys
	expires    time.Time // zero: good until they are refused
}

// lasts reports whether the keys are good for some more time.
func (k *accessKeys) lasts(d time.Duration) bool {
	return k != nil && (k.expires.IsZero() || time.Until(k.expires) > d)
}

// keySource hands out keys: those of the configuration, else of the environment
// (OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET, OSS_SESSION_TOKEN), else of the
// RAM role of the machine.
type keySource struct {
	fixed *accessKeys // of the configuration; nil: none
	role  *roleSource

	// fetching is held by the one that fetches keys. Others wait for it no
	// longer than their context allows.
	fetching chan struct{}
	current  atomic.Pointer[accessKeys]
}

func newKeySource(k connKey) *keySource {
	ks := &keySource{role: newRoleSource(k.metadataEndpoint), fetching: make(chan struct{}, 1)}
	if k.accessKeyID != "" && k.accessKeySecret != "" {
		ks.fixed = &accessKeys{id: k.accessKeyID, secret: k.accessKeySecret}
	}
	return ks
}

// get returns keys that are valid, and looks for some if there are none. An
// error is not remembered: the next call tries again.
func (ks *keySource) get(ctx context.Context) (*accessKeys, error) {
	if ks.fixed != nil {
		return ks.fixed, nil
	}
	if k := ks.current.Load(); k.lasts(renewBefore) {
		return k, nil
	}
	select {
	case ks.fetching <- struct{}{}:
		defer func() { <-ks.fetching }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	old := ks.current.Load()
	if old.lasts(renewBefore) {
		return old, nil
	}
	k, err := ks.find(ctx)
	switch {
	case err == nil:
		ks.current.Store(k)
		return k, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case old.lasts(0):
		return old, nil // the next call asks again
	}
	return nil, err
}

func (ks *keySource) find(ctx context.Context) (*accessKeys, error) {
	id, secret := os.Getenv("OSS_ACCESS_KEY_ID"), os.Getenv("OSS_ACCESS_KEY_SECRET")
	if id != "" && secret != "" {
		return &accessKeys{id: id, secret: secret, token: os.Getenv("OSS_SESSION_TOKEN")}, nil
	}
	return ks.role.get(ctx)
}

// drop forgets keys that the service refused, and reports whether others may
// take their place.
func (ks *keySource) drop(k *accessKeys) bool {
	if k == ks.fixed {
		return false
	}
	ks.current.CompareAndSwap(k, nil)
	return true
}

// credentialsError says that there were no keys to sign with. It does not wrap
// its cause, whose text may hold a secret or the name of a missing file.
type credentialsError struct {
	text    string
	missing bool // nothing was found; otherwise what was found did not work
}

// Error returns the cause.
func (e *credentialsError) Error() string { return "get credentials: " + e.text }

func badCredentials(format string, args ...any) error {
	return &credentialsError{text: fmt.Sprintf(format, args...)}
}
