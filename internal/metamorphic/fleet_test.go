package metamorphic

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// A fleet is many databases with their applications, and one manager that
// replicates all of them with few places among the hot ones.
type fleet struct {
	*world // of the manager: its process, its log, the first failure
	mcfg   managerConfig
	apps   []*fleetApp
	spare  string // a folder for files that are being made

	tmu     sync.Mutex // guards the next two
	tenants []*tenant  // never shrinks
	byName  map[string]*tenant
}

// tenantKind is what lies at the path of a database of a fleet.
type tenantKind int

const (
	tenantAbsent tenantKind = iota
	tenantJunk              // a file that is no database, or not yet
	tenantHere
)

// A tenant is a path with all that ever lay there. Only the director uses the
// fields, unless it says otherwise.
type tenant struct {
	*world
	name    string
	kind    tenantKind
	resting bool        // no application has it open
	txid    ltx.TXID    // of the newest claim
	mortal  atomic.Bool // its replica may be deleted, or was; for all
}

func newFleet(seed uint64, dir string, tenantN int) *fleet {
	rng := rand.New(rand.NewPCG(seed, 3))
	const ms = time.Millisecond
	f := &fleet{
		world: &world{seed: seed, dir: dir, rng: rng, model: newModel(seed), start: time.Now(), reached: make(map[string]int)},
		spare: filepath.Join(dir, "spare"), byName: make(map[string]*tenant),
	}
	f.mcfg = managerConfig{
		Data: filepath.Join(dir, "data"), Replica: filepath.Join(dir, "replica"), State: filepath.Join(dir, "state"),
		Log: filepath.Join(dir, "replicator.log"), Seed: seed, Faults: oneOf(rng, "0 0 0 0", "0 0 0 0", "100 0 0 0", "20 20 20 20"),
		Checkpoint: oneOf(rng, litestream.MultiDBCheckpointNever, litestream.MultiDBCheckpointNever, litestream.MultiDBCheckpointPassive),
		MaxHot:     min(oneOf(rng, 5, 5, 5, 40), max(2, tenantN/5)), Scan: between(rng, 50*ms, 400*ms), HotFor: between(rng, 100*ms, 1000*ms),
		Monitor: between(rng, 10*ms, 100*ms), Sync: between(rng, 1*ms, 50*ms), IdleConnections: between(rng, 20*ms, 500*ms),
		MaxStagedBytes: oneOf[int64](rng, 1<<30, 1<<30, 100_000), Checksums: rng.IntN(3) > 0,
		Snapshot: between(rng, 100*ms, 2000*ms), SnapshotRetention: between(rng, 200*ms, 3*time.Second),
		L0Retention: between(rng, 100*ms, 2*time.Second), DeletedRetention: oneOf(rng, 0, 0, 1500*ms),
		Grace: 2000 * ms,
	}
	for range 1 + rng.IntN(3) {
		f.mcfg.Levels = append(f.mcfg.Levels, between(rng, 30*ms, 500*ms))
	}
	for range 4 {
		f.apps = append(f.apps, &fleetApp{names: make(map[string]bool)})
	}
	for i := range tenantN {
		f.addTenant(fmt.Sprintf("t%03d.db", i))
	}
	return f
}

// addTenant makes a path known. Nothing lies there.
func (f *fleet) addTenant(name string) *tenant {
	h := fnv.New64a()
	h.Write([]byte(name))
	t := &tenant{name: name, world: &world{
		seed: f.seed, dir: filepath.Join(f.dir, "work", name), rng: rand.New(rand.NewPCG(f.seed, h.Sum64())),
		model: f.model, start: f.start, seen: make(map[ltx.TXID]moment),
		cancel: func() { f.cancel() },
	}}
	t.cfg = replicatorConfig{
		DB:                filepath.Join(f.mcfg.Data, name),
		Replica:           filepath.Join(f.mcfg.Replica, strings.TrimSuffix(name, ".db")),
		SnapshotRetention: f.mcfg.SnapshotRetention, L0Retention: f.mcfg.L0Retention, Grace: f.mcfg.Grace,
	}
	f.tmu.Lock()
	defer f.tmu.Unlock()
	f.tenants = append(f.tenants, t)
	f.byName[name] = t
	return t
}

func (f *fleet) tenant(name string) *tenant {
	f.tmu.Lock()
	defer f.tmu.Unlock()
	return f.byName[name]
}

func (f *fleet) all() []*tenant {
	f.tmu.Lock()
	defer f.tmu.Unlock()
	return slices.Clone(f.tenants)
}

// broken returns the first failure of anybody.
func (f *fleet) broken() error {
	for _, t := range f.all() {
		if err := t.broken(); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return f.world.broken()
}

// run lets the fleet live for a while. The error is its first failure.
func (f *fleet) run(ctx context.Context, d time.Duration) error {
	ctx, f.cancel = context.WithCancel(ctx)
	defer f.cancel()
	f.logf("seed %d, settings %+v", f.seed, f.mcfg)
	if err := f.begin(); err != nil {
		return f.fail("begin: %v", err)
	}
	busy, rest := context.WithTimeout(ctx, d)
	defer rest()
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() { f.restoreAll(busy, i) })
	}
	f.direct(busy)
	wg.Wait()
	if f.broken() == nil {
		f.finish(ctx)
	}
	f.endReplicator()
	for _, a := range f.apps {
		a.end(true)
	}
	f.readWG.Wait()
	f.readLogs()
	return f.broken()
}

// begin makes the first databases and starts everybody.
func (f *fleet) begin() error {
	for _, dir := range []string{f.mcfg.Data, f.spare} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	early := f.rng.IntN(3) == 0
	if early {
		if err := f.startManager(); err != nil {
			return err
		}
	}
	for i, t := range f.tenants {
		if err := os.MkdirAll(t.dir, 0o700); err != nil {
			return err
		}
		var err error
		switch n := f.rng.IntN(20); {
		case n < 1 && i > 3:
		case n < 2 && i > 3:
			err = f.putJunk(t)
		default:
			err = f.create(t)
		}
		if err != nil {
			return err
		}
	}
	for _, a := range f.apps {
		if err := f.startApp(a); err != nil {
			return err
		}
	}
	if early {
		return nil
	}
	return f.startManager()
}

func (f *fleet) startManager() error {
	arg, err := json.Marshal(f.mcfg)
	if err != nil {
		return err
	}
	c, err := startChild("manager", string(arg), filepath.Join(f.dir, "replicator.err"))
	if err != nil {
		return err
	}
	f.repl = &replicator{child: c}
	f.logf("manager %d started", c.cmd.Process.Pid)
	return nil
}

// restoreAll restores what people restore, all the time.
func (f *fleet) restoreAll(ctx context.Context, i int) {
	rng := rand.New(rand.NewPCG(f.seed, 200+uint64(i)))
	for n := 0; ctx.Err() == nil; n++ {
		pause(ctx, between(rng, 0, 10*time.Millisecond))
		if t := oneOf(rng, f.all()...); !t.mortal.Load() {
			t.restoreOne(ctx, n)
		}
	}
}

// oneFleet runs a fleet and keeps what is left of one that failed.
func oneFleet(t *testing.T, seed uint64, d time.Duration, tenantN int) map[string]int {
	t.Helper()
	dir, err := os.MkdirTemp(tempRoot(), "litestream-fleet-") //nolint:usetesting // in memory, and kept after a failure
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet(seed, dir, tenantN)
	err = f.run(context.Background(), d)
	restores := int64(0)
	for _, tn := range f.all() {
		restores += tn.restores.Load()
	}
	f.reached["restores"] += int(restores)
	f.reached["fleets"]++
	if err == nil {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		return f.reached
	}
	ops := slices.Clone(f.ops)
	for _, tn := range f.all() {
		for _, op := range tn.ops {
			at, what, _ := strings.Cut(strings.TrimSpace(op), " ")
			ops = append(ops, fmt.Sprintf("%8s %s: %s", at, tn.name, what))
		}
	}
	slices.Sort(ops)
	if werr := os.WriteFile(filepath.Join(dir, "operations.log"), []byte(strings.Join(ops, "\n")+"\n"), 0o600); werr != nil {
		t.Error(werr)
	}
	t.Errorf("fleet %d: %v\nit is kept in %s; repeat it with: go test ./internal/metamorphic -run TestFleetSoak -args -soak 1s -seed %d",
		seed, err, dir, seed)
	return f.reached
}

func logReached(t *testing.T, reached map[string]int) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(reached)) {
		t.Logf("%7d %s", reached[what], what)
	}
}

// TestFleet checks one random schedule of a fleet against the oracle.
func TestFleet(t *testing.T) {
	t.Parallel()
	d, tenantN := 7*time.Second, 200
	if testing.Short() {
		d, tenantN = 2*time.Second, 40
	}
	seed := chosenSeed()
	t.Logf("seed %d", seed)
	logReached(t, oneFleet(t, seed, d, tenantN))
}

// TestFleetSoak lets fleets come and go for as long as -soak says.
func TestFleetSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("give a duration: -args -soak 10m")
	}
	seed := chosenSeed()
	t.Logf("seed %d", seed)
	reached := make(map[string]int)
	deadline := time.Now().Add(*soakFor)
	for s := seed; !t.Failed() && (s == seed || time.Now().Before(deadline)); s++ {
		for what, n := range oneFleet(t, s, 8*time.Second+time.Duration(s%4)*6*time.Second, oneOf(rand.New(rand.NewPCG(s, 5)), 200, 200, 40, 12, 12)) {
			reached[what] += n
		}
	}
	logReached(t, reached)
}
