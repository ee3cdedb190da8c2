package metamorphic

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"
)

// A world is one database with its application, its replicator and people who
// restore, all of them driven by one seed.
type world struct {
	seed uint64
	dir  string
	cfg  replicatorConfig
	rng  *rand.Rand // of the director
	*model

	start    time.Time
	restores atomic.Int64
	seq      atomic.Int64
	reached  map[string]int // what the replicator says it did, by kind
	cancel   context.CancelFunc

	// gate is held for reading by each step of a writer, and for writing by
	// the director while the application is down.
	gate sync.RWMutex
	// storage is held for reading by restores that the director does not wait
	// for, and for writing by the director while the replica is lost.
	storage sync.RWMutex
	conns   []*appConn // of the writers; nil is closed

	mu        sync.Mutex // guards the rest
	attempted moment     // newest commit that was tried
	acked     moment     // newest commit that succeeded
	claimed   moment     // newest commit that is on the replica for sure
	marks     []mark
	seen      map[ltx.TXID]moment
	putBack   map[moment]ltx.TXID // by a restore in place that was replicated unchanged, from this position
	blind     [][2]ltx.TXID       // (from, to]: see errTolerated
	ops       []string
	failure   error

	repl   *replicator // nil while it is down; set by the director
	writer *child      // nil while there is none; set by the director
	readWG sync.WaitGroup
}

// mark is a time at which something was on the replica.
type mark struct {
	at time.Time
	m  moment
}

func (w *world) metaPath() string {
	return filepath.Join(filepath.Dir(w.cfg.DB), "."+filepath.Base(w.cfg.DB)+"-litestream")
}

func (w *world) logf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ops = append(w.ops, fmt.Sprintf("%8.3f ", time.Since(w.start).Seconds())+fmt.Sprintf(format, args...))
}

// fail records the first failure and stops the world.
func (w *world) fail(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	w.logf("FAIL %v", err)
	w.mu.Lock()
	if w.failure == nil {
		w.failure = err
	}
	w.mu.Unlock()
	w.cancel()
	return err
}

func (w *world) try(m moment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempted.less(m) {
		w.attempted = m
	}
}

func (w *world) ack(m moment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.acked.less(m) {
		w.acked = m
	}
}

func (w *world) ackedNow() moment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

func (w *world) attemptedNow() moment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.attempted
}

// openEnd is above every position.
const openEnd ltx.TXID = 1 << 62

// blindness returns how often there was a moment without a database, and
// whether there is one now.
func (w *world) blindness() (n int, now bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n = len(w.blind)
	return n, n > 0 && w.blind[n-1][1] == openEnd
}

func (w *world) tolerated(txids ...ltx.TXID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.blind {
		for _, txid := range txids {
			if r[0] < txid && txid <= r[1] {
				return true
			}
		}
	}
	return false
}

// eventually waits a little for what other processes say.
func (w *world) eventually(ctx context.Context, cond func() bool) bool {
	for range 200 {
		if cond() || ctx.Err() != nil {
			return true
		}
		pause(ctx, 10*time.Millisecond)
	}
	return false
}

// keepFile saves a file from being removed, for whoever looks into a failure.
func (w *world) keepFile(path, name string) {
	if err := os.Rename(path, filepath.Join(w.dir, "failed-"+strings.ReplaceAll(name, " ", "-"))); err != nil {
		w.logf("keep %s: %v", path, err)
	}
}

func between(rng *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(rng.Int64N(int64(hi-lo)+1))
}

func oneOf[T any](rng *rand.Rand, a ...T) T { return a[rng.IntN(len(a))] }

// newWorld draws the settings of a world.
func newWorld(seed uint64, dir string) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	const ms = time.Millisecond
	w := &world{
		seed: seed, dir: dir, rng: rng, model: newModel(seed), start: time.Now(),
		seen: make(map[ltx.TXID]moment), putBack: make(map[moment]ltx.TXID), reached: make(map[string]int), conns: make([]*appConn, 1+rng.IntN(3)),
	}
	w.cfg = replicatorConfig{
		DB: filepath.Join(dir, "app", "db"), Replica: filepath.Join(dir, "replica"),
		Log: filepath.Join(dir, "replicator.log"), Seed: seed,
		Skew: oneOf(rng, 0, 1900*ms, 1900*ms), RestAfter: oneOf(rng, time.Minute, 2100*ms, 2300*ms),
		RestBytes: oneOf[int64](rng, 0, 0, 1), Monitor: between(rng, 2*ms, 40*ms), Sync: between(rng, 1*ms, 30*ms),
		CheckpointInterval: oneOf(rng, 0, 50*ms, time.Second), MinCheckpointPageN: oneOf(rng, 2, 10, 50, 1000),
		TruncatePageN: oneOf(rng, 0, 30, 121359), MaxSyncWALBytes: oneOf[int64](rng, 64<<20, 4096, 100_000),
		MaxStagedBytes: oneOf[int64](rng, 0, 1<<30, 20_000, 200_000), Checksums: rng.IntN(2) == 0,
		Snapshot: between(rng, 100*ms, 2000*ms), SnapshotRetention: between(rng, 200*ms, 3*time.Second),
		L0Retention: between(rng, 100*ms, 2*time.Second), Grace: 1500 * ms,
	}
	for range 1 + rng.IntN(3) {
		w.cfg.Levels = append(w.cfg.Levels, between(rng, 30*ms, 500*ms))
	}
	return w
}

// run lets the world live for a while. The error is its first failure.
func (w *world) run(ctx context.Context, d time.Duration) error {
	ctx, w.cancel = context.WithCancel(ctx)
	defer w.cancel()
	w.logf("seed %d, settings %+v", w.seed, w.cfg)
	if err := w.begin(); err != nil {
		return w.fail("begin: %v", err)
	}
	busy, rest := context.WithTimeout(ctx, d)
	defer rest()
	var wg sync.WaitGroup
	for i := range w.conns {
		wg.Go(func() { w.write(busy, i) })
	}
	wg.Go(func() { w.restoreAll(busy) })
	w.direct(busy)
	wg.Wait()
	if w.broken() == nil {
		w.finish(ctx)
	}
	w.endReplicator()
	w.endWriter()
	w.closeConns()
	w.readWG.Wait()
	w.readLogs()
	return w.broken()
}

func (w *world) broken() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure
}

// begin makes the first database and starts everybody.
func (w *world) begin() error {
	if err := os.MkdirAll(filepath.Dir(w.cfg.DB), 0o700); err != nil {
		return err
	}
	first := moment{Epoch: 1}
	if w.rng.IntN(4) == 0 { // the replicator comes first
		if err := w.startReplicator(); err != nil {
			return err
		}
	}
	made := w.cfg.DB + ".new" // nobody sees it without its tables
	if err := w.makeDatabase(made, first.Epoch); err != nil {
		return err
	}
	if err := os.Rename(made, w.cfg.DB); err != nil {
		return err
	}
	w.attempted, w.acked = first, first
	if w.repl == nil {
		return w.startReplicator()
	}
	return nil
}

// makeDatabase makes an empty database of a random kind.
func (w *world) makeDatabase(path string, epoch uint64) error {
	pageSize := oneOf(w.rng, 512, 512, 1024, 1024, 2048, 4096, 4096, 4096, 8192, 16384, 32768, 65536)
	c, err := openApp(path, "mode=rwc")
	if err != nil {
		return err
	}
	w.beginEpoch(epoch, pageSize)
	err = c.exec(fmt.Sprintf("PRAGMA page_size=%d; PRAGMA auto_vacuum=%d; PRAGMA journal_mode=%s; PRAGMA synchronous=off",
		pageSize, w.rng.IntN(3), oneOf(w.rng, "wal", "wal", "delete")))
	if err == nil {
		err = c.create(moment{Epoch: epoch})
	}
	w.logf("made a database of page size %d for epoch %d", pageSize, epoch)
	return errors.Join(err, c.close())
}

func (w *world) startReplicator() error {
	arg, err := json.Marshal(w.cfg)
	if err != nil {
		return err
	}
	c, err := startChild("replicator", string(arg), filepath.Join(w.dir, "replicator.err"))
	if err != nil {
		return err
	}
	w.repl = &replicator{child: c}
	w.logf("replicator %d started", c.cmd.Process.Pid)
	return nil
}

// killReplicator is its crash.
func (w *world) killReplicator() {
	if w.repl == nil {
		return
	}
	w.logf("replicator killed")
	w.repl.kill()
	w.endReplicator()
}

// closeReplicator stops it as a signal would.
func (w *world) closeReplicator() {
	if w.repl == nil {
		return
	}
	audit, err := w.repl.order("close")
	w.logf("replicator closed: audit %s, %v", audit, err)
	if err == nil && audit != "0" {
		_ = w.fail("audit counter is %s at close", audit)
	} else if err != nil {
		w.repl.kill() // what it did not send stays staged
	}
	w.endReplicator()
}

func (w *world) endReplicator() {
	r := w.repl
	if r == nil {
		return
	}
	w.repl = nil
	_ = r.in.Close()
	_, _ = io.Copy(io.Discard, r.out)
	if err := r.wait(); err != nil {
		_ = w.fail("replicator failed: %v", err)
	}
}

func (w *world) startWriter() error {
	arg, err := json.Marshal(writerConfig{DB: w.cfg.DB, Seed: w.seed, Stream: w.rng.Uint64()})
	if err != nil {
		return err
	}
	c, err := startChild("writer", string(arg), filepath.Join(w.dir, "writer.err"))
	if err != nil {
		return err
	}
	w.writer = c
	w.readWG.Go(func() { w.listen(c) })
	w.logf("writer %d started", c.cmd.Process.Pid)
	return nil
}

// listen takes down what a writer says until it ends.
func (w *world) listen(c *child) {
	in := bufio.NewScanner(c.out)
	for in.Scan() {
		if err := parseLedger(in.Text(), w); err != nil && !c.killed.Load() {
			_ = w.fail("%v", err)
		}
	}
	if err := c.wait(); err != nil {
		_ = w.fail("writer failed: %v", err)
	}
}

// endWriter stops the other process: in the middle of something, or politely.
func (w *world) endWriter() {
	c := w.writer
	if c == nil {
		return
	}
	w.writer = nil
	if w.rng.IntN(2) == 0 {
		w.logf("writer killed")
		c.kill()
	} else {
		w.logf("writer ends")
		_ = c.in.Close()
	}
	w.readWG.Wait()
}

func (w *world) closeConns() {
	for i, c := range w.conns {
		if c == nil {
			continue
		}
		w.conns[i] = nil
		if err := c.close(); err != nil {
			_ = w.fail("close application's connection: %v", err)
		}
	}
}

// write is one connection of the application.
func (w *world) write(ctx context.Context, i int) {
	rng := rand.New(rand.NewPCG(w.seed, 100+uint64(i)))
	for ctx.Err() == nil {
		if err := w.step(ctx, rng, i); err != nil && !isBusy(err) {
			_ = w.fail("writer %d: %v", i, err)
			return
		}
		if rng.IntN(30) == 0 {
			pause(ctx, between(rng, 0, 150*time.Millisecond))
		} else {
			pause(ctx, between(rng, 0, 8*time.Millisecond))
		}
	}
}

func (w *world) step(ctx context.Context, rng *rand.Rand, i int) error {
	w.gate.RLock()
	defer w.gate.RUnlock()
	if c := w.conns[i]; c != nil && rng.IntN(60) == 0 {
		w.conns[i] = nil
		return c.close()
	}
	if w.conns[i] == nil {
		c, err := openWriter(w.cfg.DB, w.seed)
		if err != nil {
			return err
		}
		w.conns[i] = c
	}
	return w.conns[i].step(ctx, rng, w)
}

// reasonOf finds in a log line of the replicator how it captured, and why so.
var reasonOf = regexp.MustCompile(`msg=captured .*(kind=\S+ reason=\S+)`)

// readLogs looks for what must never be said, and counts what was done.
func (w *world) readLogs() {
	for _, name := range []string{"replicator.log", "replicator.err", "writer.err"} {
		b, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			_ = w.fail("%v", err)
		}
		for line := range strings.Lines(string(b)) {
			w.count(line)
			for _, bad := range []string{
				"audit:", "DATA RACE", "panic", "another writer", "staged file is gone", "damaged local ltx",
				"malformed",
			} {
				if bad == "malformed" && len(w.blind) > 0 {
					continue // of a new file with an old log beside it
				}
				if strings.Contains(line, bad) {
					_ = w.fail("%s says: %s", name, strings.TrimSpace(line))
				}
			}
		}
	}
}

func (w *world) count(line string) {
	if m := reasonOf.FindStringSubmatch(line); m != nil {
		w.reached[m[1]]++
	}
	for _, said := range []string{
		"capture is suspended", "capture resumed", "compaction complete", "snapshot complete", "l0 retention enforced",
		"msg=checkpoint", "adopting", "starting over", "was replaced", "sync error", "page ledger is dropped",
		"compaction failed", "snapshot failed", "retention enforcement failed",
	} {
		if strings.Contains(line, said) {
			w.reached[said]++
		}
	}
}
