package litestream_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// prefixClient remembers what it was made of.
type prefixClient struct {
	*testutil.MemClient
	key, path string
	base      *prefixClient
}

func (c *prefixClient) WithPrefix(path string) litestream.ReplicaClient {
	return &prefixClient{MemClient: c.MemClient, key: c.key, path: path, base: c}
}

func TestS3ClientPool(t *testing.T) {
	pool := litestream.NewS3ClientPool(func(key string) (litestream.ReplicaClient, error) {
		return &prefixClient{MemClient: testutil.NewMemClient(), key: key}, nil
	})
	var mu sync.Mutex
	bases := make(map[string]map[*prefixClient]bool)
	var wg sync.WaitGroup
	for range 20 {
		for _, key := range []string{"a", "b"} {
			wg.Go(func() {
				c, err := pool.Client(key, "p/"+key)
				if err != nil {
					t.Error(err)
					return
				}
				pc := c.(*prefixClient)
				if pc.key != key || pc.path != "p/"+key {
					t.Errorf("client of %q with path %q, want %q and %q", pc.key, pc.path, key, "p/"+key)
				}
				mu.Lock()
				defer mu.Unlock()
				if bases[key] == nil {
					bases[key] = make(map[*prefixClient]bool)
				}
				bases[key][pc.base] = true
			})
		}
	}
	wg.Wait()
	for key, b := range bases {
		if len(b) != 1 {
			t.Errorf("key %q: %d base clients, want 1", key, len(b))
		}
	}
	if got := pool.Len(); got != 2 {
		t.Errorf("%d base clients, want 2", got)
	}
}

func TestS3ClientPool_Errors(t *testing.T) {
	broken := errors.New("no credentials")
	fail := true
	pool := litestream.NewS3ClientPool(func(string) (litestream.ReplicaClient, error) {
		if fail {
			return nil, broken
		}
		return testutil.NewMemClient(), nil
	})
	if _, err := pool.Client("a", "p"); !errors.Is(err, broken) {
		t.Errorf("err=%v, want the factory's", err)
	}
	if got := pool.Len(); got != 0 {
		t.Errorf("%d base clients after a failure, want 0", got)
	}
	fail = false
	if _, err := pool.Get("a"); err != nil {
		t.Errorf("second try: %v", err)
	}
	if _, err := pool.Client("a", "p"); err == nil {
		t.Error("a client that serves one path only: no error")
	}
}
