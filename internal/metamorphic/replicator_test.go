package metamorphic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/tests/backends"
)

// Settings of a replicator under test.
type replicatorConfig struct {
	DB, Replica, Log string
	Seed             uint64
	Boot             byte // of the machine

	// Server is where Replica is a folder; nil for a folder of this host.
	Server *backends.Place
	// Late is how much longer what is replaced or old is kept than the test
	// counts on: servers are slow, and some have times in whole seconds.
	Late time.Duration

	Skew               time.Duration // of its clock, so that files settle early
	RestAfter          time.Duration
	RestBytes          int64
	Monitor, Sync      time.Duration
	CheckpointInterval time.Duration
	MinCheckpointPageN int
	TruncatePageN      int
	MaxSyncWALBytes    int64
	MaxStagedBytes     int64
	Checksums          bool
	Levels             []time.Duration // intervals from level 1 on
	Snapshot           time.Duration
	SnapshotRetention  time.Duration
	L0Retention        time.Duration
	Grace              time.Duration
}

// faults is how often an operation of the storage goes wrong, in percent.
type faults struct {
	Fail int // it is not done
	Lose int // it is done and the answer lost
	Slow int // it takes up to 30 ms
	Cut  int // an upload ends early
	Hang int // it is not done, and that takes long
}

func (f *faults) parse(arg string) error {
	n, err := fmt.Sscan(arg, &f.Fail, &f.Lose, &f.Slow, &f.Cut, &f.Hang)
	if n == 4 {
		return nil // it hangs only where that is asked for
	}
	return err
}

var errFault = errors.New("injected fault")

// badNetwork decides what goes wrong. It is safe for concurrent use.
type badNetwork struct {
	rates atomic.Pointer[faults]

	mu  sync.Mutex
	rng *rand.Rand
}

func newBadNetwork(seed uint64) *badNetwork {
	n := &badNetwork{rng: rand.New(rand.NewPCG(seed, 77))}
	n.rates.Store(&faults{})
	return n
}

// storage returns a client for the replica.
func (cfg *replicatorConfig) storage() (backends.Storage, error) {
	if cfg.Server == nil {
		return file.NewReplicaClient(cfg.Replica), nil
	}
	return cfg.Server.Client(cfg.Replica)
}

// faultyClient is a client whose network is bad. Its identity is that of the
// plain client.
type faultyClient struct {
	backends.Storage
	*badNetwork
}

func (n *badNetwork) hit(percent int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rng.IntN(100) < percent
}

func (n *badNetwork) delay(limit time.Duration) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return between(n.rng, 0, limit)
}

func (n *badNetwork) before(ctx context.Context) error {
	f := n.rates.Load()
	if n.hit(f.Slow) {
		pause(ctx, n.delay(30*time.Millisecond))
	}
	if n.hit(f.Hang) {
		pause(ctx, n.delay(400*time.Millisecond))
		return context.DeadlineExceeded
	}
	if n.hit(f.Fail) {
		return errFault
	}
	return ctx.Err()
}

func (n *badNetwork) after(err error) error {
	if err == nil && n.hit(n.rates.Load().Lose) {
		return errFault
	}
	return err
}

func (c *faultyClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	if err := c.before(ctx); err != nil {
		return nil, err
	}
	return c.Storage.LTXFiles(ctx, level, seek, useMetadata)
}

// LTXTree implements litestream.TreeLister.
func (c *faultyClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	if err := c.before(ctx); err != nil {
		return nil, err
	}
	return c.Storage.LTXTree(ctx)
}

// ReadObject implements litestream.ObjectClient, like the next two.
func (c *faultyClient) ReadObject(ctx context.Context, name string) ([]byte, error) {
	if err := c.before(ctx); err != nil {
		return nil, err
	}
	return c.Storage.ReadObject(ctx, name)
}

func (c *faultyClient) WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error {
	if err := c.before(ctx); err != nil {
		return err
	}
	return c.after(c.Storage.WriteObject(ctx, name, data, exclusive))
}

func (c *faultyClient) Empty(ctx context.Context) (bool, error) {
	if err := c.before(ctx); err != nil {
		return false, err
	}
	return c.Storage.Empty(ctx)
}

func (c *faultyClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	if err := c.before(ctx); err != nil {
		return nil, err
	}
	return c.Storage.OpenLTXFile(ctx, level, minTXID, maxTXID, offset, size)
}

func (c *faultyClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, r, func(r io.Reader) (*ltx.FileInfo, error) {
		return c.Storage.WriteLTXFile(ctx, level, minTXID, maxTXID, r)
	})
}

func (c *faultyClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, r, func(r io.Reader) (*ltx.FileInfo, error) {
		return c.Storage.WriteLTXFileExclusive(ctx, level, minTXID, maxTXID, r)
	})
}

func (c *faultyClient) write(ctx context.Context, r io.Reader, write func(io.Reader) (*ltx.FileInfo, error)) (*ltx.FileInfo, error) {
	if err := c.before(ctx); err != nil {
		return nil, err
	}
	if c.hit(c.rates.Load().Cut) {
		r = io.MultiReader(io.LimitReader(r, 150), brokenReader{})
	}
	info, err := write(r)
	if err := c.after(err); err != nil {
		return nil, err
	}
	return info, nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errFault }

func (c *faultyClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	if err := c.before(ctx); err != nil {
		return err
	}
	return c.after(c.Storage.DeleteLTXFiles(ctx, a))
}

func (c *faultyClient) DeleteAll(ctx context.Context) error {
	if err := c.before(ctx); err != nil {
		return err
	}
	return c.after(c.Storage.DeleteAll(ctx))
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// runReplicator is the child process that replicates. It obeys lines on its
// input and answers each by one; see replicator.
func runReplicator(cfg replicatorConfig) error {
	logFile, err := os.OpenFile(cfg.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	storage, err := cfg.storage()
	if err != nil {
		return err
	}
	s := &replicatorServer{
		cfg: cfg, client: &faultyClient{storage, newBadNetwork(cfg.Seed)}, reg: prometheus.NewRegistry(),
		logger: slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: slog.LevelDebug})).With("pid", os.Getpid()),
	}
	ctx := context.Background()
	if err := s.open(ctx); err != nil {
		return err
	}
	return obey(func(verb, arg string) (string, error) { return s.do(ctx, verb, arg) })
}

// obey answers each line of the input by one, until its end or that of "close".
func obey(do func(verb, arg string) (string, error)) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		answer, err := do(verb, arg)
		if err != nil {
			answer = "err " + strings.ReplaceAll(err.Error(), "\n", "; ")
		} else {
			answer = "ok " + answer
		}
		fmt.Println(answer)
		if verb == "close" && err == nil {
			return nil
		}
	}
	return in.Err()
}

type replicatorServer struct {
	cfg    replicatorConfig
	client *faultyClient
	reg    *prometheus.Registry
	logger *slog.Logger
	db     *litestream.DB
	store  *litestream.Store
}

func (s *replicatorServer) open(ctx context.Context) error {
	cfg := s.cfg
	now := func() time.Time { return time.Now().Add(cfg.Skew) }
	db := litestream.NewDB(cfg.DB)
	db.Tune(knob.DB{Now: now, RestAfter: cfg.RestAfter, RestBytes: cfg.RestBytes, BootID: [16]byte{1 + cfg.Boot}})
	db.MonitorInterval, db.CheckpointInterval = cfg.Monitor, cfg.CheckpointInterval
	db.MinCheckpointPageN, db.TruncatePageN = cfg.MinCheckpointPageN, cfg.TruncatePageN
	db.MaxSyncWALBytes, db.Checksums, db.Logger = cfg.MaxSyncWALBytes, cfg.Checksums, s.logger
	db.Replica = litestream.NewReplicaWithClient(db, s.client)
	db.Replica.SyncInterval = cfg.Sync
	levels := litestream.CompactionLevels{{Level: 0}}
	for i, d := range cfg.Levels {
		levels = append(levels, &litestream.CompactionLevel{Level: i + 1, Interval: d})
	}
	store := litestream.NewStore([]*litestream.DB{db}, levels)
	store.Tune(knob.Store{Now: now, Grace: cfg.Grace + cfg.Late, RetryDelay: 10 * time.Millisecond})
	store.SnapshotInterval, store.SnapshotRetention = cfg.Snapshot, cfg.SnapshotRetention+cfg.Late
	store.L0Retention, store.L0RetentionCheckInterval = cfg.L0Retention+cfg.Late, 50*time.Millisecond
	store.ShutdownSyncTimeout, store.ShutdownSyncInterval = 500*time.Millisecond, 10*time.Millisecond
	store.MaxStagedBytes = cfg.MaxStagedBytes
	store.Logger, store.Metrics = s.logger, litestream.NewMetrics(s.reg)
	s.db, s.store = db, store
	return store.Open(ctx)
}

func (s *replicatorServer) do(ctx context.Context, verb, arg string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	switch verb {
	case "sync": // capture and send everything, or say why not
		return s.syncAll(ctx)
	case "pos": // captured, acknowledged
		return s.db.Pos().TXID.String() + " " + s.db.Replica.Pos().TXID.String(), nil
	case "snapshot": // a copy of a staged snapshot
		snap, err := s.db.StageSnapshot(ctx)
		if err != nil {
			return "", err
		}
		return snap.MaxTXID.String(), errors.Join(copySnapshot(snap, arg), snap.Close())
	case "faults":
		var f faults
		err := f.parse(arg)
		s.client.rates.Store(&f)
		return "", err
	case "audit":
		return s.audit()
	case "close":
		audit, err := s.audit()
		return audit, errors.Join(err, s.store.Close(ctx))
	default:
		return "", fmt.Errorf("unknown order %q", verb)
	}
}

// syncAll returns when what was committed before is on the replica.
func (s *replicatorServer) syncAll(ctx context.Context) (string, error) {
	if err := s.db.Replica.Sync(ctx); err != nil { // it knows its position now
		return "", err
	}
	if err := s.db.SyncFully(ctx); err != nil {
		return "", err
	}
	want := s.db.Pos().TXID
	for range 50 {
		if err := s.db.Replica.Sync(ctx); err != nil {
			return "", err
		}
		if pos := s.db.Replica.Pos().TXID; pos >= want {
			return pos.String(), nil
		}
	}
	return "", fmt.Errorf("replica at %s, want %s: staged files were dropped", s.db.Replica.Pos().TXID, want)
}

func (s *replicatorServer) audit() (string, error) {
	return counterOf(s.reg, "litestream_audit_failure_count")
}

// counterOf reads a counter of a registry.
func counterOf(reg *prometheus.Registry, name string) (string, error) {
	families, err := reg.Gather()
	if err != nil {
		return "", err
	}
	for _, f := range families {
		if f.GetName() == name {
			return fmt.Sprint(f.GetMetric()[0].GetCounter().GetValue()), nil
		}
	}
	return "", fmt.Errorf("no counter %s", name)
}

func copySnapshot(snap *litestream.StagedSnapshot, path string) (err error) {
	src, err := snap.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// A child is a process that runs this test binary.
type child struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	killed atomic.Bool
	stderr *os.File
}

func startChild(role, arg, stderrPath string) (*child, error) {
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), roleEnv+"="+role, argEnv+"="+arg, "GOMAXPROCS=2", "GORACE=atexit_sleep_ms=0")
	var err error
	if c.stderr, err = os.OpenFile(stderrPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	c.cmd.Stderr = c.stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	return c, c.cmd.Start()
}

// kill ends the process at once. Its output can be read to the end before wait.
func (c *child) kill() {
	c.killed.Store(true)
	_ = c.cmd.Process.Signal(syscall.SIGKILL) // it may have ended already
}

// wait returns an error if the process failed by itself.
func (c *child) wait() error {
	defer c.stderr.Close()
	err := c.cmd.Wait()
	if c.killed.Load() {
		return nil
	}
	return err
}

// errKilled is the answer of a replicator that was killed meanwhile.
var errKilled = errors.New("replicator was killed")

// refusal is an error that a replicator answered.
type refusal string

func (e refusal) Error() string { return string(e) }

// A replicator is the parent's side of runReplicator. It is safe for
// concurrent use; orders wait for each other.
type replicator struct {
	*child
	mu sync.Mutex
}

func (r *replicator) order(line string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := fmt.Fprintln(r.in, line); err != nil {
		return "", r.gone(err)
	}
	answer, err := r.out.ReadString('\n')
	if err != nil {
		return "", r.gone(err)
	}
	verdict, rest, _ := strings.Cut(strings.TrimSuffix(answer, "\n"), " ")
	if verdict != "ok" {
		return "", refusal(rest)
	}
	return rest, nil
}

func (r *replicator) gone(err error) error {
	if r.killed.Load() {
		return errKilled
	}
	return fmt.Errorf("replicator ended by itself: %w", err)
}
