package metamorphic

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// worldLife is how long one world lives under load.
const worldLife = 4 * time.Second

// runWorlds lets worlds come and go, a few at a time, until the time is over
// or one of them fails.
func runWorlds(t *testing.T, seed uint64, d time.Duration, parallel int) {
	t.Helper()
	deadline := time.Now().Add(d)
	var next, restores, worlds atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for !failed.Load() && (time.Now().Before(deadline) || worlds.Load() == 0) {
				s := seed + uint64(next.Add(1)) - 1
				n, err := oneWorld(t, s, min(worldLife, max(time.Second, time.Until(deadline))))
				restores.Add(n)
				worlds.Add(1)
				if err != nil {
					failed.Store(true)
					t.Errorf("world %d: %v\nrepeat it with: go test ./internal/metamorphic -run TestSoak -args -soak 1s -seed %d", s, err, s)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("seed %d: %d worlds, %d restores", seed, worlds.Load(), restores.Load())
}

// oneWorld runs a world in memory, if there is room, and keeps what is left of
// one that failed.
func oneWorld(t *testing.T, seed uint64, d time.Duration) (int64, error) {
	t.Helper()
	dir, err := os.MkdirTemp(tempRoot(), "litestream-world-")
	if err != nil {
		return 0, err
	}
	w := newWorld(seed, dir)
	err = w.run(context.Background(), d)
	if err == nil {
		return w.restores.Load(), os.RemoveAll(dir)
	}
	if werr := os.WriteFile(filepath.Join(dir, "operations.log"), []byte(strings.Join(w.ops, "\n")+"\n"), 0o600); werr != nil {
		t.Error(werr)
	}
	t.Logf("world %d is kept in %s; the last operations:\n%s", seed, dir, strings.Join(w.ops[max(0, len(w.ops)-25):], "\n"))
	return w.restores.Load(), err
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
	d := 45 * time.Second
	if testing.Short() {
		d = 5 * time.Second
	}
	seed := chosenSeed()
	t.Logf("seed %d", seed)
	runWorlds(t, seed, d, 3)
}

// TestSoak is TestProperty for as long as -soak says.
func TestSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("give a duration: -args -soak 10m")
	}
	seed := chosenSeed()
	t.Logf("seed %d", seed)
	runWorlds(t, seed, *soakFor, 3)
}
