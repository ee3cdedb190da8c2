package interop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
)

// upstream runs upstream's program to its end.
func (s *scene) upstream(args ...string) ([]byte, error) {
	cmd := exec.CommandContext(s.t.Context(), s.bin, args...)
	cmd.Env = s.env
	return cmd.CombinedOutput()
}

// theirsOnce replicates once with upstream.
func (s *scene) theirsOnce(flags ...string) {
	s.t.Helper()
	args := append([]string{"replicate", "-once"}, flags...)
	if msg, err := s.upstream(append(args, s.path, s.url)...); err != nil {
		s.t.Fatalf("upstream: %v\n%s", err, msg)
	}
}

// daemon is upstream's program or ours in the background.
type daemon struct {
	s    *scene
	name string
	cmd  *exec.Cmd // nil when it has ended
	log  string
}

// theirsRun starts upstream on the scene's database. Levels are the intervals
// of its compaction levels; extra is more of the configuration.
func (s *scene) theirsRun(levels []string, extra string) *daemon {
	s.t.Helper()
	return s.run(s.bin, levels, extra)
}

// run starts a program, upstream's or ours, with one and the same configuration.
func (s *scene) run(bin string, levels []string, extra string) *daemon {
	s.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "dbs:\n  - path: %s\n    monitor-interval: 50ms\n    replica:\n      %s\n      sync-interval: 20ms\n",
		s.path, strings.ReplaceAll(s.yaml, "\n", "\n      "))
	if len(levels) > 0 {
		b.WriteString("levels:\n")
		for _, l := range levels {
			fmt.Fprintf(&b, "  - interval: %s\n", l)
		}
	}
	b.WriteString(extra)
	return s.start(bin, b.String())
}

// start starts a program with a configuration. change may alter the command.
func (s *scene) start(bin, config string, change ...func(*exec.Cmd)) *daemon {
	s.t.Helper()
	s.n++
	conf := filepath.Join(s.dir, fmt.Sprintf("config-%d.yml", s.n))
	if err := os.WriteFile(conf, []byte(config), 0o644); err != nil { // for other users, too
		s.t.Fatal(err)
	}
	d := &daemon{s: s, name: filepath.Base(bin), cmd: exec.Command(bin, "replicate", "-config", conf), log: conf + ".log"}
	log, err := os.Create(d.log)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr = s.env, log, log
	for _, fn := range change {
		fn(d.cmd)
	}
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if d.cmd == nil {
			return
		}
		d.kill() // the test has failed
		s.t.Logf("log of %s:\n%s", d.name, d.output())
	})
	return d
}

func (d *daemon) output() []byte {
	data, err := os.ReadFile(d.log)
	if err != nil {
		d.s.t.Error(err)
	}
	return data
}

// logged reports whether the program has said something.
func (d *daemon) logged(text string) bool { return bytes.Contains(d.output(), []byte(text)) }

// lines returns what the program has said with all of some texts in it.
func (d *daemon) lines(texts ...string) []string {
	log := logLines{lines: strings.Split(string(d.output()), "\n")}
	return log.with(texts...)
}

// signal asks the program to end.
func (d *daemon) signal() {
	d.s.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.s.t.Fatal(err)
	}
}

// wait waits until the program has ended.
func (d *daemon) wait() error {
	timer := time.AfterFunc(20*time.Second, func() { _ = d.cmd.Process.Kill() }) // Wait reports it
	defer timer.Stop()
	err := d.cmd.Wait()
	d.cmd = nil
	return err
}

// kill ends the program without a warning.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // Wait reports it
	_ = d.wait()             // killed
}

// stop ends the program in an orderly way: all that was committed is replicated.
func (d *daemon) stop() {
	d.s.t.Helper()
	d.signal()
	if err := d.wait(); err != nil {
		d.s.t.Fatalf("%s: %v\n%s", d.name, err, d.output())
	}
	// Whatever one finds wrong with what the other left is our mistake.
	for line := range bytes.Lines(d.output()) {
		if bytes.Contains(line, []byte("level=ERROR")) {
			d.s.t.Errorf("%s reports: %s", d.name, line)
		}
	}
}

// engine is the code under test on one database, driven step by step.
type engine struct {
	s    *scene
	db   *litestream.DB
	comp *litestream.Compactor
}

// oursRun opens the engine on the scene's database.
func (s *scene) oursRun() *engine {
	s.t.Helper()
	return s.oursStart(0)
}

// oursStart is oursRun with a threshold for checkpoints in pages, if it is not 0.
func (s *scene) oursStart(checkpointN int) *engine {
	s.t.Helper()
	db := litestream.NewDB(s.path)
	if checkpointN > 0 {
		db.MinCheckpointPageN = checkpointN
	}
	client := s.client()
	db.Logger = slog.New(slog.NewTextHandler(testWriter{s.t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	db.Replica = litestream.NewReplicaWithClient(db, client)
	if err := db.Open(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	comp := litestream.NewCompactor(client, db.Logger)
	comp.Path, comp.StagingDir = s.path, db.MetaPath()
	e := &engine{s: s, db: db, comp: comp}
	// The storage says which position the first capture follows.
	if err := db.Replica.Sync(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return e
}

// sync replicates what was committed and remembers it.
func (e *engine) sync() {
	e.s.t.Helper()
	if err := e.db.SyncFully(e.s.t.Context()); err != nil {
		e.s.t.Fatal(err)
	}
	if err := e.db.Replica.Sync(e.s.t.Context()); err != nil {
		e.s.t.Fatal(err)
	}
	e.s.remember()
}

// stop syncs a last time and closes the database.
func (e *engine) stop() {
	e.s.t.Helper()
	e.sync()
	if err := e.db.Close(e.s.t.Context()); err != nil {
		e.s.t.Fatal(err)
	}
}

// snapshot puts a snapshot on the replica.
func (e *engine) snapshot() {
	t := e.s.t
	t.Helper()
	snap, err := e.db.StageSnapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.db.Replica.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := snap.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.comp.WriteSnapshot(t.Context(), snap.MaxTXID, f); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), snap.Close()); err != nil {
		t.Fatal(err)
	}
}

// compact merges into every level up to one, as often as there is something.
func (e *engine) compact(level int) {
	e.s.t.Helper()
	e.comp.Invalidate()
	for dst := 1; dst <= level; dst++ {
		_, err := e.comp.Compact(e.s.t.Context(), dst)
		if err != nil && !errors.Is(err, litestream.ErrNoCompaction) {
			e.s.t.Fatalf("compact into level %d: %v", dst, err)
		}
	}
}

// testWriter shows log lines with the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// background is the engine as a program would run it.
type background struct {
	s     *scene
	store *litestream.Store
	db    *litestream.DB
	log   *logLines
}

// oursStore starts the engine in the background.
func (s *scene) oursStore(levels []time.Duration, configure func(*litestream.Store)) *background {
	s.t.Helper()
	b := &background{s: s, db: litestream.NewDB(s.path), log: &logLines{}}
	logger := slog.New(slog.NewTextHandler(b.log, nil))
	b.db.MonitorInterval, b.db.Logger = 20*time.Millisecond, logger
	b.db.Replica = litestream.NewReplicaWithClient(b.db, s.client())
	b.db.Replica.SyncInterval = 20 * time.Millisecond
	all := litestream.CompactionLevels{{Level: 0}}
	for i, interval := range levels {
		all = append(all, &litestream.CompactionLevel{Level: i + 1, Interval: interval})
	}
	b.store = litestream.NewStore([]*litestream.DB{b.db}, all)
	b.store.Logger = logger
	if configure != nil {
		configure(b.store)
	}
	if err := b.store.Open(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = b.close() }) // does nothing unless the test has failed
	return b
}

// close ends the engine.
func (b *background) close() error {
	// The test's own context has ended where this is its clean-up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.s.t.Context()), 30*time.Second)
	defer cancel()
	return b.store.Close(ctx)
}

// stop ends the engine in an orderly way: all that was committed is replicated.
func (b *background) stop() {
	b.s.t.Helper()
	if err := b.close(); err != nil {
		b.s.t.Fatalf("close store: %v", err)
	}
}

// logLines keeps the lines of a log.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

// Write implements io.Writer for a slog handler, which writes whole lines.
func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.TrimSpace(string(p)))
	return len(p), nil
}

// with returns the lines that contain all of some texts.
func (l *logLines) with(texts ...string) (a []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for _, line := range l.lines {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		a = append(a, line)
	}
	return a
}
