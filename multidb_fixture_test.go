package litestream_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// memFleet is a directory of databases under a manager whose replicas lie in
// memory, where every request is counted and may fail.
type memFleet struct {
	t     *testing.T
	dir   string // of the databases
	cfg   litestream.MultiDBConfig
	named []*litestream.DB // databases that are named in the configuration
	setup func(*litestream.MultiDBManager)
	m     *litestream.MultiDBManager
	reg   *prometheus.Registry
	log   logLines
	ahead atomic.Int64 // of the clock of the manager, in nanoseconds

	// remote returns the replica of a path, and with "" that of the folder that
	// all lie in; nil: they lie in memory.
	remote func(path string) litestream.ReplicaClient

	// fail is asked about each operation on a tenant's replica.
	fail atomic.Pointer[func(replica, op string, level int) error]
	// hang makes uploads wait until their context is done.
	hang atomic.Bool
	// gate makes them wait until it is opened.
	gate gate

	failing int // databases that have a reason to fail

	mu      sync.Mutex // guards clients
	root    *testutil.MemClient
	clients map[string]*testutil.MemClient
}

// newMemFleet makes a fleet. Its tests are none of the short ones.
func newMemFleet(t *testing.T) *memFleet {
	t.Helper()
	waitsForClocks(t)
	base := t.TempDir()
	f := &memFleet{t: t, dir: filepath.Join(base, "data")}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.log.t = t
	f.emptyBucket()
	f.cfg = litestream.NewMultiDBConfig()
	f.cfg.Patterns = []string{f.dir + "/*.db"}
	f.cfg.ReplicaPath = "{{1}}"
	f.cfg.StateDir = filepath.Join(base, "state")
	f.cfg.ScanInterval = 20 * time.Millisecond
	f.cfg.HotDuration = 50 * time.Millisecond
	return f
}

// emptyBucket makes a replica that nothing lies in.
func (f *memFleet) emptyBucket() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.root, f.clients = testutil.NewMemClient(), make(map[string]*testutil.MemClient)
	f.root.Fail = f.hook("")
}

func (f *memFleet) hook(replica string) testutil.Hook {
	return func(op string, level int, _, _ ltx.TXID) error {
		if fail := f.fail.Load(); fail != nil {
			return (*fail)(replica, op, level)
		}
		return nil
	}
}

// breaks lets operations fail from now on; nil heals the replica.
func (f *memFleet) breaks(fail func(replica, op string, level int) error) {
	if fail == nil {
		f.fail.Store(nil)
		return
	}
	f.fail.Store(&fail)
}

// client returns the replica of a path.
func (f *memFleet) client(replica string) *testutil.MemClient {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.clients[replica]
	if c == nil {
		c = testutil.NewMemClient()
		c.Fail = f.hook(replica)
		f.clients[replica] = c
	}
	return c
}

// requests returns how many requests were made, without those to the root.
func (f *memFleet) requests() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clients {
		n += c.Requests()
	}
	return n
}

func (f *memFleet) resetCounts() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.root.ResetCounts()
	for _, c := range f.clients {
		c.ResetCounts()
	}
}

// hangingClient is a replica whose uploads may hang.
type hangingClient struct {
	*testutil.MemClient
	hang *atomic.Bool
}

func (c hangingClient) wait(ctx context.Context) error {
	if !c.hang.Load() {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// WriteLTXFile implements litestream.ReplicaClient.
func (c hangingClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	return c.MemClient.WriteLTXFile(ctx, level, minTXID, maxTXID, r)
}

// WriteLTXFileExclusive implements litestream.ExclusiveWriter.
func (c hangingClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	return c.MemClient.WriteLTXFileExclusive(ctx, level, minTXID, maxTXID, r)
}

// gate holds up whoever passes while it is shut.
type gate struct{ ch atomic.Pointer[chan struct{}] }

func (g *gate) shut() {
	ch := make(chan struct{})
	g.ch.Store(&ch)
}

func (g *gate) open() { close(*g.ch.Swap(nil)) }

func (g *gate) pass(ctx context.Context) error {
	ch := g.ch.Load()
	if ch == nil {
		return nil
	}
	select {
	case <-*ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// gateClient is a replica whose uploads may be held up.
type gateClient struct {
	hangingClient
	gate *gate
}

// WriteLTXFile implements litestream.ReplicaClient.
func (c gateClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	if err := c.gate.pass(ctx); err != nil {
		return nil, err
	}
	return c.hangingClient.WriteLTXFile(ctx, level, minTXID, maxTXID, r)
}

// WriteLTXFileExclusive implements litestream.ExclusiveWriter.
func (c gateClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	if err := c.gate.pass(ctx); err != nil {
		return nil, err
	}
	return c.hangingClient.WriteLTXFileExclusive(ctx, level, minTXID, maxTXID, r)
}

// path returns the path of a database of that name.
func (f *memFleet) path(name string) string { return filepath.Join(f.dir, name) }

// manager makes the manager of the next run.
func (f *memFleet) manager() *litestream.MultiDBManager {
	f.t.Helper()
	store := litestream.NewStore(f.named, nil)
	clients := litestream.TenantClients{
		Root: f.root,
		Tenant: func(t *litestream.Tenant) (litestream.ReplicaClient, error) {
			return gateClient{hangingClient{f.client(t.ReplicaPath), &f.hang}, &f.gate}, nil
		},
	}
	if f.remote != nil {
		clients.Root = f.remote("")
		clients.Tenant = func(t *litestream.Tenant) (litestream.ReplicaClient, error) { return f.remote(t.ReplicaPath), nil }
	}
	m, err := litestream.NewMultiDBManager(f.cfg, store, clients)
	if err != nil {
		f.t.Fatal(err)
	}
	m.Logger = slog.New(slog.NewTextHandler(&f.log, nil))
	m.SyncInterval = 10 * time.Millisecond
	m.SetNow(func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) })
	f.reg = prometheus.NewRegistry()
	m.Metrics = litestream.NewAggregatedMetrics(f.reg, 0)
	if f.setup != nil {
		f.setup(m)
	}
	f.m = m
	return m
}

func (f *memFleet) open() {
	f.t.Helper()
	if err := f.manager().Open(context.Background()); err != nil {
		f.t.Fatal(err)
	}
	m := f.m
	f.t.Cleanup(func() { // a test that failed leaves no goroutine
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if f.m == m && f.t.Failed() {
			_ = m.Close(ctx)
		}
	})
}

func (f *memFleet) close() {
	f.t.Helper()
	if err := f.tryClose(20 * time.Second); err != nil {
		f.t.Fatal(err)
	}
}

func (f *memFleet) tryClose(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	m := f.m
	f.m = nil
	return m.Close(ctx)
}

// advance moves the manager's clock.
func (f *memFleet) advance(d time.Duration) { f.ahead.Add(int64(d)) }

// scans waits for the end of scans that begin from now on.
func (f *memFleet) scans(n int) {
	f.t.Helper()
	for range n + 1 { // one may run now
		last := f.m.ScanEnd()
		waitFor(f.t, "a scan", func() bool { return f.m.ScanEnd() != last })
	}
}

// awaitState waits until a database is in a state.
func (f *memFleet) awaitState(name, want string) {
	f.t.Helper()
	waitFor(f.t, name+" to be "+want, func() bool {
		state, _ := f.m.TenantState(f.path(name))
		return state == want
	})
}

// awaitFailed waits until a database failed, and checks the class of the reason
// in the summary.
func (f *memFleet) awaitFailed(name, class string) {
	f.t.Helper()
	var state string
	var reason error
	waitFor(f.t, name+" to fail", func() bool {
		state, reason = f.m.TenantState(f.path(name))
		return state == "failed"
	})
	for _, failure := range f.m.Summary().Failures {
		if failure.Reason == class {
			return
		}
	}
	f.t.Errorf("%s failed with %v; the summary has %+v, want %s", name, reason, f.m.Summary().Failures, class)
}

// awaitCounts waits until so many databases are in each of the states.
func (f *memFleet) awaitCounts(want map[string]int) {
	f.t.Helper()
	defer func() {
		if f.t.Failed() {
			f.t.Logf("counts: %v, failures: %+v", f.m.Counts(), f.m.Summary().Failures)
			for _, line := range f.m.HotFacts() {
				f.t.Log(line)
			}
		}
	}()
	waitFor(f.t, fmt.Sprint(want), func() bool {
		got := f.m.Counts()
		for state, n := range want {
			if got[state] != n {
				return false
			}
		}
		return true
	})
}

// replicated waits until a scan has seen all that was written up to now, and
// nothing is left to do about it.
func (f *memFleet) replicated() {
	f.t.Helper()
	f.scans(1)
	waitFor(f.t, "everything to be replicated", func() bool {
		got := f.m.Counts()
		return got["unknown"]+got["queued"]+got["hot"] == 0 && got["failed"] == f.failing
	})
}

// rows checks how many rows a restore of a database has.
func (f *memFleet) rows(replica string, want int) {
	f.t.Helper()
	got := count(f.t, restoredFrom(f.t, f.client(replica)), "SELECT count(*) FROM t")
	if got != want {
		f.t.Errorf("restored %d rows of %s, want %d", got, replica, want)
	}
}

// rested makes databases with a row each that nobody has open, old enough to be
// read at once.
func (f *memFleet) rested(n int) (names []string) {
	f.t.Helper()
	for i := range n {
		name := fmt.Sprintf("t%03d.db", i)
		makeRestedRows(f.t, f.path(name), 1)
		names = append(names, name)
	}
	return names
}

// makeRestedRows makes a database with rows that nobody has open.
func makeRestedRows(tb testing.TB, path string, rows int) {
	tb.Helper()
	app := openApp(tb, path, "_journal_mode=wal")
	mustExec(tb, app, "CREATE TABLE IF NOT EXISTS t (x)")
	for range rows {
		mustExec(tb, app, "INSERT INTO t VALUES (randomblob(16))")
	}
	if err := app.Close(); err != nil {
		tb.Fatal(err)
	}
}

// logLines keeps what was logged.
type logLines struct {
	t  *testing.T
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Logf("%s", bytes.TrimSpace(b))
	return l.b.Write(b)
}

// has returns how many lines hold a text.
func (l *logLines) has(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// waitsForClocks says why a test is none of the short ones: a database comes to
// rest when its files' times are older than clockMargin.
func waitsForClocks(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a fleet waits for clocks to tick, for seconds")
	}
}
