package litestream

import (
	"fmt"
	"sync"
)

// S3ClientPool hands out replica clients that share connections: one base
// client per key, which stands for one endpoint and credential, and for each
// database a client of its path on top of it. It bounds nothing itself: the
// number of connections is a setting of the base client, which the factory
// makes (docs/decisions/0004). Base clients live as long as the pool. It is
// safe for concurrent use.
type S3ClientPool struct {
	factory func(key string) (ReplicaClient, error)

	mu    sync.Mutex // guards bases; not held while the factory runs
	bases map[string]ReplicaClient
}

// NewS3ClientPool returns a pool whose base clients are made by factory. It
// must be safe for concurrent use and make no request. Two calls for one key
// are possible, of which one result is dropped.
func NewS3ClientPool(factory func(key string) (ReplicaClient, error)) *S3ClientPool {
	return &S3ClientPool{factory: factory, bases: make(map[string]ReplicaClient)}
}

// Get returns the base client of a key, and makes it at the first call. An
// error of the factory is not remembered: the next call tries again.
func (p *S3ClientPool) Get(key string) (ReplicaClient, error) {
	p.mu.Lock()
	base := p.bases[key]
	p.mu.Unlock()
	if base != nil {
		return base, nil
	}
	made, err := p.factory(key)
	if err != nil {
		return nil, fmt.Errorf("make replica client: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if base := p.bases[key]; base != nil {
		return base, nil
	}
	p.bases[key] = made
	return made, nil
}

// Client returns a client for a path that shares the connections of a key's
// base client. It costs the caller some hundred bytes and no request.
func (p *S3ClientPool) Client(key, path string) (ReplicaClient, error) {
	base, err := p.Get(key)
	if err != nil {
		return nil, err
	}
	prefixer, ok := base.(Prefixer)
	if !ok {
		return nil, fmt.Errorf("replica type %q cannot be shared by many databases", base.Type())
	}
	return prefixer.WithPrefix(path), nil
}

// Len returns the number of base clients.
func (p *S3ClientPool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.bases)
}
