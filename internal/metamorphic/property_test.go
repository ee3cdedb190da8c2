package metamorphic

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/tests/backends"
)

// life is how long a world lives under load.
func life(seed uint64) time.Duration {
	return 2*time.Second + time.Duration(seed%5)*1500*time.Millisecond
}

// runWorlds lets worlds come and go, a few at a time, until the time is over
// or one of them fails. Their replicas lie on a server, or in local folders.
func runWorlds(t *testing.T, seed uint64, d time.Duration, parallel int, server *backends.Place) {
	t.Helper()
	deadline := time.Now().Add(d)
	test := "TestSoak"
	if server != nil {
		test = "TestBackendsSoak/" + server.Backend
	}
	var next, restores, worlds atomic.Int64
	var failed atomic.Bool
	var mu sync.Mutex // guards reached
	reached := make(map[string]int)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for !failed.Load() && (time.Now().Before(deadline) || worlds.Load() == 0) {
				s := seed + uint64(next.Add(1)) - 1
				w, err := oneWorld(t, s, min(life(s), max(time.Second, time.Until(deadline))), server)
				mu.Lock()
				for what, n := range w.reached {
					reached[what] += n
				}
				mu.Unlock()
				restores.Add(w.restores.Load())
				worlds.Add(1)
				if err != nil {
					failed.Store(true)
					t.Errorf("world %d: %v\nrepeat it with: go test ./internal/metamorphic -run %s -args -soak 1s -seed %d", s, err, test, s)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("seed %d: %d worlds, %d restores", seed, worlds.Load(), restores.Load())
	for _, what := range slices.Sorted(maps.Keys(reached)) {
		t.Logf("%7d %s", reached[what], what)
	}
}

// oneWorld runs a world in memory, if there is room, and keeps what is left of
// one that failed.
func oneWorld(t *testing.T, seed uint64, d time.Duration, server *backends.Place) (*world, error) {
	t.Helper()
	dir, err := os.MkdirTemp(tempRoot(), "litestream-world-") //nolint:usetesting // in memory, and kept after a failure
	w := newWorld(seed, dir)
	if server != nil {
		w.cfg.Server, w.cfg.Replica, w.cfg.Late = server, fmt.Sprintf("world-%d", seed), late
	}
	if err != nil {
		return w, err
	}
	err = w.run(context.Background(), d)
	if err == nil {
		return w, os.RemoveAll(dir)
	}
	if werr := os.WriteFile(filepath.Join(dir, "operations.log"), []byte(strings.Join(w.ops, "\n")+"\n"), 0o600); werr != nil {
		t.Error(werr)
	}
	t.Logf("world %d is kept in %s; the last operations:\n%s", seed, dir, strings.Join(w.ops[max(0, len(w.ops)-25):], "\n"))
	return w, err
}

// tempRoot is a file system in memory, or the default.
func tempRoot() string {
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// TestProperty checks random schedules against the oracle.
func TestProperty(t *testing.T) {
	t.Parallel()
	d := 25 * time.Second
	if testing.Short() {
		d = 2500 * time.Millisecond
	}
	seed := chosenSeed()
	t.Logf("seed %d", seed)
	runWorlds(t, seed, d, 3, nil)
}

// TestSoak is TestProperty for as long as -soak says.
func TestSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("give a duration: -args -soak 10m")
	}
	seed := chosenSeed()
	t.Logf("seed %d", seed)
	runWorlds(t, seed, *soakFor, 3, nil)
}
