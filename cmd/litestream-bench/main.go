//go:build linux

// Command litestream-bench measures this litestream and another one, upstream's
// v0.5.18, side by side. Both are programs that it starts and watches from
// outside, in turns within one run, because only figures of the same minutes on
// the same machine can be compared. `make bench` runs it; docs/benchmarks.md
// holds what came out and says how each figure is taken.
//
// With the argument fleet it measures a whole host of databases instead, which
// this litestream replicates by pattern (`make bench-fleet`), with
// fleet-restore the restore of such a host, and with backends both programs on
// each kind of storage (`make bench-backends`).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
		os.Exit(1)
	}
}

// tool is one of the two programs that are compared.
type tool struct {
	name string
	bin  string
}

// sizes say how much is measured. They are the same for both tools.
type sizes struct {
	rounds       int           // repetitions, in turns
	syncMB       int           // write-ahead log written in one window
	syncWindow   time.Duration // of which 5/6 are the load
	commits      int           // whose time to the replica is taken
	restoreMB    int
	restoreFiles int
	idleDBs      []int
	restAfter    time.Duration // from the first backup to the idle window
	idleWindow   time.Duration
	dirDBs       []int // the last one without upstream
	s3DBs        int
	s3Window     time.Duration
}

var (
	fullSizes = sizes{
		rounds: 3, syncMB: 200, syncWindow: time.Minute, commits: 200,
		restoreMB: 1024, restoreFiles: 1000, idleDBs: []int{1, 100, 2000}, dirDBs: []int{3000, 10000},
		restAfter: 75 * time.Second, idleWindow: 30 * time.Second, s3DBs: 10, s3Window: 2 * time.Minute,
	}
	quickSizes = sizes{
		rounds: 1, syncMB: 20, syncWindow: 12 * time.Second, commits: 20,
		restoreMB: 64, restoreFiles: 100, idleDBs: []int{1, 50}, dirDBs: []int{20, 100},
		restAfter: 15 * time.Second, idleWindow: 5 * time.Second, s3DBs: 3, s3Window: 15 * time.Second,
	}
)

// bench is one run.
type bench struct {
	sizes
	tools     [2]tool // ours, upstream
	dir       string  // scratch
	versitygw string
}

// section is a group of figures.
type section struct {
	name string
	run  func(*bench, context.Context) (table, error)
}

// sections are in the order of the page.
var sections = []section{
	{"sync", (*bench).sync},
	{"latency", (*bench).latency},
	{"restore", (*bench).restore},
	{"idle", (*bench).idle},
	{"dir", (*bench).dirs},
	{"requests", (*bench).requests},
}

func run(ctx context.Context, args []string) (err error) {
	if len(args) > 0 && args[0] == "fleet" {
		return runFleet(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "fleet-restore" {
		return runFleetRestore(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "backends" {
		return runBackends(ctx, args[1:])
	}
	cache := cacheDir()
	fs := flag.NewFlagSet("litestream-bench", flag.ContinueOnError)
	ours := fs.String("litestream", "bin/litestream", "the program to measure")
	upstream := fs.String("upstream", filepath.Join(cache, "bin", "litestream-v0.5.18"), "the program to compare with")
	gateway := fs.String("versitygw", filepath.Join(cache, "bin", "versitygw"), "S3 server for the section requests")
	only := fs.String("only", "", "comma-separated sections: sync, latency, restore, idle, dir, requests")
	quick := fs.Bool("quick", false, "small sizes: does it work, not how fast")
	out := fs.String("out", "", "Markdown page whose marked parts are replaced by the tables")
	dir := fs.String("dir", "", "scratch folder (default: a temporary one)")
	commits := fs.Int("commits", 0, "commits in the section latency (default 200; 20 with -quick)")
	idleDBs := fs.String("idle-dbs", "", "numbers of idle databases (default 1,100,2000; 1,50 with -quick)")
	rounds := fs.Int("rounds", 0, "repetitions (default 3; 1 with -quick)")
	rest := fs.Duration("rest", 0, "time at rest before an idle window (default 75s; 15s with -quick)")
	if err := fs.Parse(args); err != nil {
		return err
	}
	b := &bench{sizes: fullSizes, versitygw: *gateway}
	if *quick {
		b.sizes = quickSizes
	}
	if *rounds > 0 {
		b.rounds = *rounds
	}
	if *commits > 0 {
		b.commits = *commits
	}
	if *idleDBs != "" {
		b.idleDBs = nil
	}
	for _, s := range splitList(*idleDBs) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("-idle-dbs: %w", err)
		}
		b.idleDBs = append(b.idleDBs, n)
	}
	if *rest > 0 {
		b.restAfter = *rest
	}
	if b.tools, err = findTools(*ours, *upstream); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(*dir, "litestream-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	return b.run(ctx, splitList(*only), *out)
}

// cacheDir is where scripts/install.sh puts programs.
func cacheDir() string {
	cache := os.Getenv("LITESTREAM_TEST_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "litestream-test")
	}
	return cache
}

func findTools(ours, upstream string) (tools [2]tool, err error) {
	for i, t := range []tool{{"litestream", ours}, {"upstream", upstream}} {
		if t.bin, err = filepath.Abs(t.bin); err != nil {
			return tools, err
		}
		if _, err := os.Stat(t.bin); err != nil {
			return tools, fmt.Errorf("find %s: %w (make build upstream)", t.name, err)
		}
		tools[i] = t
	}
	return tools, nil
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// run measures the sections named in only, all if it is empty.
func (b *bench) run(ctx context.Context, only []string, page string) error {
	for _, name := range only {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == name }) {
			return fmt.Errorf("no section %q", name)
		}
	}
	head, err := b.machine(ctx)
	if err != nil {
		return err
	}
	fmt.Println(head)
	if err := updatePage(page, "machine", head); err != nil {
		return err
	}
	for _, s := range sections {
		if len(only) > 0 && !slices.Contains(only, s.name) {
			continue
		}
		start := time.Now()
		load, err := loadAverage()
		if err != nil {
			return err
		}
		t, err := s.run(b, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		t.note += " " + load
		text := t.markdown()
		fmt.Printf("\n%s (%s)\n\n%s", s.name, time.Since(start).Round(time.Second), text)
		if err := updatePage(page, s.name, text); err != nil {
			return err
		}
	}
	return nil
}

// eachTurn calls f for both tools, rounds times, in alternating order. f gets
// a folder of its own, which is removed afterwards.
func (b *bench) eachTurn(f func(round, i int, dir string) error) error {
	for round := range b.rounds {
		for n := range b.tools {
			i := (n + round) % len(b.tools)
			dir, err := os.MkdirTemp(b.dir, "turn-")
			if err != nil {
				return err
			}
			if err := f(round, i, dir); err != nil {
				return fmt.Errorf("%s: %w", b.tools[i].name, err)
			}
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// progress tells the person who waits what is being done.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
