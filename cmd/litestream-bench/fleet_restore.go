//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// restoreBench is one run of `litestream-bench fleet-restore`: a fleet is backed
// up and lost, and restored by one command, killed and continued, and for
// comparison by a loop of upstream's command over some of the tenants.
type restoreBench struct {
	fleetBench
	n           int
	sample      int // tenants that upstream restores
	touched     int // one tenant in so many has a second file
	kills       int
	parallelism int

	f      *fleet
	r      fleetReplica
	config string
	oracle string // folder with the tree that was lost
}

// runFleetRestore is the command `litestream-bench fleet-restore`.
func runFleetRestore(ctx context.Context, args []string) (err error) {
	cache := cacheDir()
	b := &restoreBench{}
	fs := flag.NewFlagSet("litestream-bench fleet-restore", flag.ContinueOnError)
	ours := fs.String("litestream", "bin/litestream", "the program to measure")
	upstream := fs.String("upstream", filepath.Join(cache, "bin", "litestream-v0.5.18"), "the program to compare with")
	fs.StringVar(&b.versitygw, "versitygw", filepath.Join(cache, "bin", "versitygw"), "S3 server for -replica s3")
	fs.StringVar(&b.replica, "replica", "file", "file or s3")
	fs.IntVar(&b.n, "n", 10_000, "databases")
	fs.IntVar(&b.sample, "sample", 200, "databases that upstream restores")
	fs.IntVar(&b.touched, "touched", 10, "one database in so many gets a second file")
	fs.IntVar(&b.kills, "kills", 10, "times that the restore is killed and continued")
	fs.IntVar(&b.parallelism, "parallelism", 0, "requests in flight (default: the tool's)")
	fs.Uint64Var(&b.seed, "seed", uint64(time.Now().UnixNano()), "of everything random")
	fs.StringVar(&b.page, "out", "", "Markdown page whose marked part (fleet-restore-file-N, fleet-restore-s3-N) is replaced by the report")
	parent := fs.String("dir", "", "where the scratch folder is made (default: the system's)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || b.replica != "file" && b.replica != "s3" || b.n < 1 || b.touched < 1 {
		return fmt.Errorf("unexpected arguments %q, or a value that is none", fs.Args())
	}
	if b.tools, err = findTools(*ours, *upstream); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(*parent, "litestream-fleet-restore-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	machine, err := (&bench{tools: b.tools, dir: b.dir}).machine(ctx)
	if err != nil {
		return err
	}
	t, err := b.run(ctx)
	if err != nil {
		return err
	}
	text := machine + "\n" + t.markdown()
	fmt.Print("\n" + text)
	return updatePage(b.page, fmt.Sprintf("fleet-restore-%s-%d", b.replica, b.n), text)
}

// run makes the fleet and takes all figures.
func (b *restoreBench) run(ctx context.Context) (t table, err error) {
	load, err := loadAverage()
	if err != nil {
		return t, err
	}
	t.note = fmt.Sprintf("%d databases, 12 KB each, 1 %% of 1 MB, one in %d with a commit behind its snapshot; %s replica, page cache warm, same disk. Ours: one `restore -all`, from the start of the process to its end. Upstream: one `restore -config` per database, one after the other, for a random sample of %d, scaled to all. Every restored database was compared with the lost one byte by byte: 0 differences, or there is no report. Killed: `SIGKILL` at %d random moments, each time continued by the same command, time of all runs together. Seed %d. %s",
		b.n, b.touched, b.replica, b.sample, b.kills, b.seed, load)
	if err := b.lose(ctx); err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, b.r.close()) }()
	took, err := b.restoreOurs(ctx, &t)
	if err != nil {
		return t, fmt.Errorf("litestream: %w", err)
	}
	if err := b.restoreKilled(ctx, &t, took); err != nil {
		return t, fmt.Errorf("killed: %w", err)
	}
	if err := b.restoreUpstream(ctx, &t); err != nil {
		return t, fmt.Errorf("upstream: %w", err)
	}
	return t, nil
}

// lose backs a fleet up and moves its tree away, so that nothing is left of it
// on this host but the configuration.
func (b *restoreBench) lose(ctx context.Context) (err error) {
	b.f = &fleet{dir: filepath.Join(b.dir, "fleet"), n: b.n}
	if err := os.Mkdir(b.f.dir, 0o755); err != nil {
		return err
	}
	progress("fleet-restore: generate %d databases", b.n)
	if err := b.f.generate(ctx); err != nil {
		return err
	}
	o := newOracle(b.n)
	if b.r, err = b.newReplica(ctx, b.f, o, false); err != nil {
		return err
	}
	b.maxHot, b.scan = 1000, 15*time.Second
	tool, err := b.newFleetTool(ctx, b.tools[0], false, b.f, b.r)
	if err != nil {
		return err
	}
	b.config = tool.config
	for _, what := range []string{"first backup", "second backup"} {
		progress("fleet-restore: %s", what)
		p, err := start(tool.dir, b.tools[0].bin, "replicate", "-once", "-config", b.config)
		if err != nil {
			return err
		}
		if err := p.await(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if what == "second backup" {
			break
		}
		for i := 0; i < b.n; i += b.touched {
			if err := b.f.touch(ctx, o, i, coldCommit); err != nil {
				return err
			}
		}
	}
	b.oracle = filepath.Join(b.dir, "oracle")
	if err := os.Rename(b.f.root(), b.oracle); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(tool.dir, "state"))
}

// await waits for the end of a program, which must be success.
func (p *process) await(ctx context.Context) error {
	select {
	case <-p.exited:
		if p.err != nil {
			return p.alive()
		}
		return nil
	case <-ctx.Done():
		p.stop()
		return ctx.Err()
	}
}

// killed reports whether a program that ended was killed by SIGKILL.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// command is the restore of everything to its place.
func (b *restoreBench) command() []string {
	args := []string{"restore", "-all", "-json", "-config", b.config}
	if b.parallelism > 0 {
		args = append(args, "-parallelism", fmt.Sprint(b.parallelism))
	}
	return args
}

// restoreOurs takes the figures of an undisturbed restore, and returns how long
// it took.
func (b *restoreBench) restoreOurs(ctx context.Context, t *table) (time.Duration, error) {
	progress("fleet-restore: litestream")
	if err := b.settle(ctx); err != nil {
		return 0, err
	}
	b.r.requests()
	begin := time.Now()
	p, err := start(b.dir, b.tools[0].bin, b.command()...)
	if err != nil {
		return 0, err
	}
	peak, err := p.peakUntilEnd(ctx)
	if err != nil {
		return 0, err
	}
	took := time.Since(begin)
	bytes, err := b.compare()
	if err != nil {
		return 0, err
	}
	cpu := p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	t.add(0, "databases", "/s", float64(b.n)/took.Seconds())
	t.add(0, "size of the databases", "MB/s", float64(bytes)/mib/took.Seconds())
	t.add(0, fmt.Sprintf("time for %d databases", b.n), "s", took.Seconds())
	t.add(0, "CPU per database", "ms", 1000*cpu.Seconds()/float64(b.n))
	t.add(0, "peak memory", "MB", peak)
	b.addRequests(t, 0, b.n)
	return took, nil
}

func (b *restoreBench) addRequests(t *table, tool, n int) {
	if sum := total(b.r.requests()); sum > 0 {
		t.add(tool, "requests per database", "", float64(sum)/float64(n))
	}
}

// settle lets what was written before reach the disk.
func (b *restoreBench) settle(ctx context.Context) error {
	if err := exec.CommandContext(ctx, "sync").Run(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// compare compares the whole tree with the one that was lost, removes it, and
// returns its size.
func (b *restoreBench) compare() (size int64, err error) {
	found := 0
	err = filepath.WalkDir(b.f.root(), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(b.f.root(), name)
		if err != nil {
			return err
		}
		found++
		n, err := equalFiles(name, filepath.Join(b.oracle, rel))
		size += n
		return err
	})
	if err != nil {
		return 0, err
	}
	if found != b.n {
		return 0, fmt.Errorf("%d files were restored, want %d", found, b.n)
	}
	return size, os.RemoveAll(b.f.root())
}

// equalFiles compares two databases and returns their size.
func equalFiles(got, want string) (int64, error) {
	a, err := os.ReadFile(got)
	if err != nil {
		return 0, err
	}
	c, err := os.ReadFile(want)
	if err != nil {
		return 0, err
	}
	for i := 0; i < max(len(a), len(c)); i += pageSize {
		if !bytes.Equal(a[min(i, len(a)):min(i+pageSize, len(a))], c[min(i, len(c)):min(i+pageSize, len(c))]) {
			return 0, fmt.Errorf("page %d of %s differs from the one that was lost", i/pageSize+1, got)
		}
	}
	return int64(len(a)), nil
}

// restoreKilled kills the restore at random moments and continues it, until a
// run comes to its end.
func (b *restoreBench) restoreKilled(ctx context.Context, t *table, took time.Duration) error {
	rnd := rand.New(rand.NewPCG(b.seed, 7))
	var spent time.Duration
	var last *process
	killed := 0
	for last == nil {
		begin := time.Now()
		p, err := start(b.dir, b.tools[0].bin, b.command()...)
		if err != nil {
			return err
		}
		if killed < b.kills {
			after := time.Duration(rnd.Int64N(int64(took)/int64(b.kills)*2 + int64(time.Millisecond)))
			progress("fleet-restore: kill %d of %d after %s", killed+1, b.kills, after.Round(time.Millisecond))
			timer := time.AfterFunc(after, func() { _ = p.cmd.Process.Kill() }) // it may have ended
			defer timer.Stop()
		}
		err = p.await(ctx)
		spent += time.Since(begin)
		switch {
		case err == nil:
			last = p
		case ctx.Err() == nil && p.killed():
			killed++
		default:
			return err
		}
	}
	sum, err := lastSummary(last.log)
	if err != nil {
		return err
	}
	if sum.Restored+sum.Verified != b.n {
		return fmt.Errorf("the last run restored %d and verified %d of %d", sum.Restored, sum.Verified, b.n)
	}
	if _, err := b.compare(); err != nil {
		return err
	}
	t.add(0, fmt.Sprintf("killed %d times: time of all runs", killed), "s", spent.Seconds())
	t.add(0, "… verified by the last run, not fetched again", "%", 100*float64(sum.Verified)/float64(b.n))
	return nil
}

// restoreSums are what the bench reads of the report's last line.
type restoreSums struct{ Restored, Verified int }

func lastSummary(log string) (restoreSums, error) {
	data, err := os.ReadFile(log)
	if err != nil {
		return restoreSums{}, err
	}
	at := bytes.LastIndex(data, []byte(`{"summary":`))
	if at < 0 {
		return restoreSums{}, errors.New("the report has no last line")
	}
	var line struct{ Summary restoreSums }
	err = json.NewDecoder(bytes.NewReader(data[at:])).Decode(&line)
	return line.Summary, err
}

// restoreUpstream restores a sample as upstream is told to restore: one command
// for each database.
func (b *restoreBench) restoreUpstream(ctx context.Context, t *table) error {
	n := min(b.sample, b.n)
	if n == 0 {
		return nil
	}
	progress("fleet-restore: upstream, %d of %d databases", n, b.n)
	dir := filepath.Join(b.dir, "upstream")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	tenants := rand.New(rand.NewPCG(b.seed, 8)).Perm(b.n)[:n]
	for k, i := range tenants {
		text := fmt.Sprintf("dbs:\n  - path: %s\n    replica:\n%s", b.f.path(i), b.r.section("      ", b.f.replicaPath(i)))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yml", k)), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	b.r.requests()
	var size int64
	var cpu time.Duration
	begin := time.Now()
	for k, i := range tenants {
		p, err := start(dir, b.tools[1].bin, "restore", "-config", filepath.Join(dir, fmt.Sprintf("%d.yml", k)), "-o", filepath.Join(dir, fmt.Sprintf("%d.db", k)), b.f.path(i))
		if err != nil {
			return err
		}
		if err := p.await(ctx); err != nil {
			return err
		}
		cpu += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	}
	took := time.Since(begin)
	b.addRequests(t, 1, n)
	for k, i := range tenants {
		bytes, err := equalFiles(filepath.Join(dir, fmt.Sprintf("%d.db", k)), filepath.Join(b.oracle, strings.TrimPrefix(b.f.path(i), b.f.root())))
		if err != nil {
			return err
		}
		size += bytes
	}
	t.add(1, "databases", "/s", float64(n)/took.Seconds())
	t.add(1, "size of the databases", "MB/s", float64(size)/mib/took.Seconds())
	t.add(1, fmt.Sprintf("time for %d databases", b.n), "s", took.Seconds()/float64(n)*float64(b.n))
	t.add(1, "CPU per database", "ms", 1000*cpu.Seconds()/float64(n))
	return nil
}
