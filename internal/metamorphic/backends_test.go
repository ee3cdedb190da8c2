package metamorphic

import (
	"testing"
	"time"

	"github.com/benbjohnson/litestream/tests/backends"
)

// late is for servers that are slow and that tell times in whole seconds.
const late = 5 * time.Second

// TestBackends checks one random schedule on each kind of storage against the
// oracle, on a real server.
func TestBackends(t *testing.T) {
	t.Parallel()
	d := 4 * time.Second
	if testing.Short() {
		d = time.Second
	}
	for _, name := range backends.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBackend(t, name, d, 1)
		})
	}
}

// TestBackendsSoak is TestBackends for as long as -soak says, on each.
func TestBackendsSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("give a duration: -args -soak 10m")
	}
	for _, name := range backends.Names() {
		t.Run(name, func(t *testing.T) { onBackend(t, name, *soakFor, 3) })
	}
}

func onBackend(t *testing.T, name string, d time.Duration, parallel int) {
	t.Helper()
	server := backends.Start(t, name)
	seed := chosenSeed()
	t.Logf("seed %d", seed)
	runWorlds(t, seed, d, parallel, &server)
}
