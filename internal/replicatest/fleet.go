package replicatest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// PrefixSize checks what a client for one more path costs: a hundred thousand
// databases have a client each.
func PrefixSize(t *testing.T, base litestream.Prefixer) {
	t.Helper()
	const n = 10000
	clients := make([]litestream.ReplicaClient, n)
	paths := make([]string, n)
	for i := range paths {
		paths[i] = fmt.Sprint("p01/d01/main/t", i)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range clients {
		clients[i] = base.WithPrefix(paths[i])
	}
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(clients)
	if got := (after.TotalAlloc - before.TotalAlloc) / n; got >= 500 {
		t.Errorf("%d bytes per client, want less than 500", got)
	}
}

// ListAtOnce lists fifty paths below each client, all at the same time.
func ListAtOnce(t *testing.T, clients ...litestream.Prefixer) {
	t.Helper()
	var wg sync.WaitGroup
	for _, c := range clients {
		for i := range 50 {
			client := c.WithPrefix(fmt.Sprint(i))
			wg.Go(func() {
				if _, err := client.LTXFiles(t.Context(), 0, 0, false); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

// OpenMany opens twenty small files before it closes one, like whoever merges
// files. Every file is there.
func OpenMany(t *testing.T, c litestream.ReplicaClient) {
	t.Helper()
	for txid := ltx.TXID(1); txid <= 20; txid++ {
		r, err := c.OpenLTXFile(t.Context(), 0, txid, txid, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
	}
}

// Recorder is an observer that remembers. It is safe for concurrent use.
type Recorder struct {
	mu  sync.Mutex // guards all
	all []string
}

var _ litestream.OperationObserver = (*Recorder)(nil)

// ObserveOperation implements litestream.OperationObserver.
func (r *Recorder) ObserveOperation(_, op string, n int64, _ time.Duration, code string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, strings.TrimSpace(fmt.Sprint(op, " ", n, " ", code)))
}

// All returns what was observed, in order: operation, bytes, and the code of an
// error.
func (r *Recorder) All() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}
