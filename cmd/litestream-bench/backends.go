//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/backoff"
)

// backendSizes say how much is measured on each kind of storage.
type backendSizes struct {
	dbs    int           // that are written at a time
	pace   time.Duration // from one commit of a database to the next
	window time.Duration // of small files
	fileMB int           // of the large file
}

var (
	fullBackendSizes  = backendSizes{dbs: 32, pace: 10 * time.Millisecond, window: 5 * time.Second, fileMB: 256}
	quickBackendSizes = backendSizes{dbs: 4, pace: 10 * time.Millisecond, window: time.Second, fileMB: 16}
)

// backendBench measures both tools on one kind of storage after the other.
type backendBench struct {
	bench
	backendSizes

	source string // database of fileMB that does not compress
	want   [sha256.Size]byte
}

// runBackends is the command "backends".
func runBackends(ctx context.Context, args []string) (err error) {
	cache := cacheDir()
	fs := flag.NewFlagSet("litestream-bench backends", flag.ContinueOnError)
	ours := fs.String("litestream", "bin/litestream", "the program to measure")
	upstream := fs.String("upstream", filepath.Join(cache, "bin", "litestream-v0.5.18"), "the program to compare with")
	only := fs.String("only", "", "comma-separated kinds: "+strings.Join(backendNames(), ", "))
	quick := fs.Bool("quick", false, "small sizes: does it work, not how fast")
	rounds := fs.Int("rounds", 1, "repetitions")
	out := fs.String("out", "", "Markdown page whose part \"backends\" is replaced by the table")
	dir := fs.String("dir", "", "scratch folder (default: a temporary one)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	b := &backendBench{backendSizes: fullBackendSizes}
	if *quick {
		b.backendSizes = quickBackendSizes
	}
	b.rounds = *rounds
	if b.tools, err = findTools(*ours, *upstream); err != nil {
		return err
	}
	names := splitList(*only)
	for _, name := range names {
		if !slices.Contains(backendNames(), name) {
			return fmt.Errorf("no backend %q", name)
		}
	}
	if b.dir, err = os.MkdirTemp(*dir, "litestream-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	head, err := b.machine(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	t, err := b.all(ctx, names)
	if err != nil {
		return err
	}
	text := t.markdown()
	fmt.Printf("%s\nbackends (%s)\n\n%s", head, time.Since(began).Round(time.Second), text)
	return updatePage(*out, "backends", text)
}

// all measures the kinds of storage that are named, all if there is no name.
func (b *backendBench) all(ctx context.Context, names []string) (t table, err error) {
	t.note = fmt.Sprintf("Small files: %d databases, each with a commit of one row every %s, `monitor-interval` and `sync-interval` 1 ms; level-0 files that arrived within %s, one commit or more in each. "+
		"Large file: a database of %d MB of random bytes; from the start of the program until its first file is on the replica, and a restore of a snapshot of it, compared byte by byte. %d turn(s) each.",
		b.dbs, b.pace, b.window, b.fileMB, b.rounds)
	load, err := loadAverage()
	if err != nil {
		return t, err
	}
	t.note += " " + load
	b.source = filepath.Join(b.dir, "source.db")
	if err := makeRandomSource(ctx, b.source, b.fileMB); err != nil {
		return t, err
	}
	if b.want, err = fileHash(b.source); err != nil {
		return t, err
	}
	for _, k := range backendKinds {
		if len(names) > 0 && !slices.Contains(names, k.name) {
			continue
		}
		if err := b.kind(ctx, &t, k); err != nil {
			return t, fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return t, nil
}

// kind measures one kind of storage.
func (b *backendBench) kind(ctx context.Context, t *table, k backendKind) (err error) {
	progress("%s: %s", k.name, k.server)
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := k.start(ctx, dir)
	if err != nil {
		return err
	}
	if p.stop != nil {
		defer p.stop()
	}
	row := k.name + " (" + k.server + "): "
	turn := 0
	measure := func(f func(i int, dir, path string) error) error {
		return b.eachTurn(func(_, i int, dir string) error {
			turn++
			return f(i, dir, fmt.Sprintf("turn%d", turn))
		})
	}
	err = measure(func(i int, dir, path string) error {
		return b.smallFiles(ctx, t, backendTurn{p, i, dir, path, row + "small files"})
	})
	if err != nil {
		return err
	}
	err = measure(func(i int, dir, path string) error {
		return b.largeFile(ctx, t, backendTurn{p, i, dir, path, row + "large file up"})
	})
	if err != nil {
		return err
	}
	if err := p.ready(ctx, "source"); err != nil {
		return err
	}
	client, err := p.client("source")
	if err == nil {
		err = writeReplica(ctx, client, b.source, 0)
	}
	if err != nil {
		return err
	}
	return measure(func(i int, dir, _ string) error {
		return b.restoreFrom(ctx, t, backendTurn{p, i, dir, "source", row + "large file down"})
	})
}

// backendTurn is one tool on one place.
type backendTurn struct {
	*place
	i    int    // the tool
	dir  string // scratch
	path string // of the replica
	row  string
}

// config returns a configuration of databases with replicas below the turn's
// path. The intervals are the shortest, so that it is not them that are measured.
func (bt backendTurn) config(paths []string) string {
	var conf strings.Builder
	conf.WriteString("dbs:\n")
	for n, path := range paths {
		fmt.Fprintf(&conf, "  - path: %s\n    monitor-interval: 1ms\n    replica:\n      sync-interval: 1ms\n      %s\n",
			path, strings.ReplaceAll(bt.section(bt.replica(n)), "\n", "\n      "))
	}
	return conf.String()
}

func (bt backendTurn) replica(n int) string { return fmt.Sprintf("%s/db%02d", bt.path, n) }

func (b *backendBench) startTool(bt backendTurn, conf string, args ...string) (*process, error) {
	file := filepath.Join(bt.dir, "litestream.yml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return start(bt.dir, b.tools[bt.i].bin, append([]string{args[0], "-config", file}, args[1:]...)...)
}

// smallFiles measures how many files of a commit arrive in a second.
func (b *backendBench) smallFiles(ctx context.Context, t *table, bt backendTurn) (err error) {
	paths, err := copyDatabases(ctx, bt.dir, b.dbs)
	if err != nil {
		return err
	}
	for n := range paths {
		if err := bt.ready(ctx, bt.replica(n)); err != nil {
			return err
		}
	}
	p, err := b.startTool(bt, bt.config(paths), "replicate")
	if err != nil {
		return err
	}
	defer p.kill()
	files := make([]arrivals, len(paths))
	for n := range files {
		if files[n].client, err = bt.client(bt.replica(n)); err != nil {
			return err
		}
		err := p.wait(ctx, "first backup", func() (bool, error) { return files[n].count(ctx) > 0, files[n].err })
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	errs := make([]error, len(paths))
	for n, path := range paths {
		wg.Go(func() { errs[n] = b.write(ctx, path, uint64(n)) })
	}
	defer func() {
		cancel()
		wg.Wait()
		err = errors.Join(append(errs, err)...)
	}()
	if err := backoff.Wait(ctx, b.window/4); err != nil {
		return err
	}
	before, began := countAll(ctx, files)
	if err := backoff.Wait(ctx, b.window); err != nil {
		return err
	}
	after, ended := countAll(ctx, files)
	for n := range files {
		if files[n].err != nil {
			return files[n].err
		}
	}
	t.add(bt.i, bt.row, "/s", float64(after-before)/ended.Sub(began).Seconds())
	return p.alive()
}

// write commits one row at a pace until ctx ends.
func (b *backendBench) write(ctx context.Context, path string, seed uint64) (err error) {
	app, err := openApplication(ctx, path, seed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	tick := time.NewTicker(b.pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := app.commit(context.WithoutCancel(ctx), 1); err != nil {
			return err
		}
	}
}

// arrivals counts the level-0 files of a replica.
type arrivals struct {
	client litestream.ReplicaClient
	newest ltx.TXID
	n      int
	err    error
}

// count returns how many files have come so far.
func (a *arrivals) count(ctx context.Context) int {
	if a.err = a.client.Init(ctx); a.err != nil {
		return a.n
	}
	itr, err := a.client.LTXFiles(ctx, 0, a.newest+1, false)
	if err != nil {
		a.err = err
		return a.n
	}
	for itr.Next() {
		a.n++
		a.newest = itr.Item().MaxTXID
	}
	a.err = errors.Join(itr.Err(), itr.Close())
	return a.n
}

// countAll counts the files of all replicas at once. It returns the moment in the
// middle.
func countAll(ctx context.Context, files []arrivals) (n int, at time.Time) {
	began := time.Now()
	counts := make([]int, len(files))
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() { counts[i] = files[i].count(ctx) })
	}
	wg.Wait()
	for _, c := range counts {
		n += c
	}
	return n, began.Add(time.Since(began) / 2)
}

// largeFile measures how long the first backup of a large database takes.
func (b *backendBench) largeFile(ctx context.Context, t *table, bt backendTurn) error {
	path := filepath.Join(bt.dir, "app.db")
	if err := copyFile(path, b.source); err != nil {
		return err
	}
	if err := exec.CommandContext(ctx, "sync").Run(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := bt.ready(ctx, bt.replica(0)); err != nil {
		return err
	}
	client, err := bt.client(bt.replica(0))
	if err == nil {
		err = client.Init(ctx)
	}
	if err != nil {
		return err
	}
	began := time.Now()
	p, err := b.startTool(bt, bt.config([]string{path}), "replicate")
	if err != nil {
		return err
	}
	defer p.kill()
	err = p.wait(ctx, "first file", func() (bool, error) { return b.hasLarge(ctx, client) })
	if err != nil {
		return err
	}
	t.add(bt.i, bt.row, "MB/s", float64(b.fileMB)/time.Since(began).Seconds())
	return nil
}

// hasLarge reports whether a file with the whole database is on the replica, on
// the level that a tool begins with.
func (b *backendBench) hasLarge(ctx context.Context, client litestream.ReplicaClient) (bool, error) {
	for _, level := range []int{0, litestream.SnapshotLevel} {
		itr, err := client.LTXFiles(ctx, level, 0, false)
		if err != nil {
			return false, err
		}
		found := false
		for itr.Next() {
			found = found || itr.Item().Size >= int64(b.fileMB)*mib*9/10
		}
		if err := errors.Join(itr.Err(), itr.Close()); err != nil || found {
			return found, err
		}
	}
	return false, nil
}

// restoreFrom measures how long the restore of a snapshot takes.
func (b *backendBench) restoreFrom(ctx context.Context, t *table, bt backendTurn) error {
	if err := exec.CommandContext(ctx, "sync").Run(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	name, out := filepath.Join(bt.dir, "app.db"), filepath.Join(bt.dir, "out.db")
	conf := fmt.Sprintf("dbs:\n  - path: %s\n    replica:\n      %s\n", name, strings.ReplaceAll(bt.section(bt.path), "\n", "\n      "))
	began := time.Now()
	p, err := b.startTool(bt, conf, "restore", "-o", out, name)
	if err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.stop()
		return ctx.Err()
	}
	if p.err != nil {
		return p.alive()
	}
	took := time.Since(began)
	got, err := fileHash(out)
	if err != nil {
		return err
	}
	if got != b.want {
		return errors.New("restored database differs from its source")
	}
	t.add(bt.i, bt.row, "MB/s", float64(b.fileMB)/took.Seconds())
	return nil
}

// makeRandomSource makes a database of so many megabytes of random bytes, which
// LTX files cannot hold in less.
func makeRandomSource(ctx context.Context, path string, size int) (err error) {
	app, err := openApplication(ctx, path, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	for _, q := range []string{
		`PRAGMA journal_mode = OFF`, `PRAGMA synchronous = OFF`,
		fmt.Sprintf(`WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO t (v) SELECT randomblob(1048576) FROM n`, size),
		`PRAGMA journal_mode = WAL`,
	} {
		if _, err := app.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	return nil
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
