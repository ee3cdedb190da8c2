//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fleetBench is one run of the fleet benchmark: tens of thousands of databases
// in one tree, which this litestream replicates by pattern (multi-db) and
// upstream's in its directory mode.
type fleetBench struct {
	tools       [2]tool // ours, upstream
	versitygw   string
	dir         string // scratch
	replica     string // file or s3
	sizes       []int
	upstreamMax int // databases that upstream is tried with
	fleetShape
	fleetTimes
	fleetOutput
}

// fleetShape says what the fleet and its load look like.
type fleetShape struct {
	large      int // databases of largePages
	largePages int
	withWAL    bool
	hot        int // tenants that are written all the time
	watched    int // of these, followed to the replica
	cold       int // tenants of which one commit is followed to the replica
	maxHot     int
	verifyN    int // tenants that are restored
	seed       uint64
}

// fleetTimes are how long things are done.
type fleetTimes struct {
	scan     time.Duration // scan-interval
	rest     time.Duration // before the idle window
	idle     time.Duration
	load     time.Duration
	hotPause time.Duration // between two commits of a hot tenant: at least this, at most twice
	burst    time.Duration // 0: none
	outage   time.Duration // 0: none
	patience time.Duration // for anything to come to its end
	stall    time.Duration // for a first backup that makes no progress
	maxRSS   float64       // MB; a tool that needs more is stopped
}

// fleetOutput says where the report goes besides the terminal.
type fleetOutput struct{ page, json, profiles string }

var fullFleet = fleetBench{
	sizes: []int{1_000, 10_000, 100_000},
	fleetShape: fleetShape{
		large: 10, largePages: 100 * mib / pageSize, hot: 1000, watched: 300, cold: 200, maxHot: 1000, verifyN: 1000,
	},
	fleetTimes: fleetTimes{
		scan: 15 * time.Second, rest: 45 * time.Second, idle: time.Minute, load: 2 * time.Minute, hotPause: 5 * time.Second,
		burst: time.Minute, patience: 20 * time.Minute, stall: time.Minute, maxRSS: 12 << 10,
	},
}

// quickFleet shows that it works, not how fast.
var quickFleet = fleetBench{
	sizes: []int{50},
	fleetShape: fleetShape{
		large: 1, largePages: 2 * mib / pageSize, hot: 10, watched: 10, cold: 6, maxHot: 5, verifyN: 20,
	},
	fleetTimes: fleetTimes{
		scan: time.Second, rest: 3 * time.Second, idle: 2 * time.Second, load: 12 * time.Second, hotPause: 2 * time.Second,
		burst: 2 * time.Second, outage: 3 * time.Second, patience: time.Minute, stall: 20 * time.Second, maxRSS: 4 << 10,
	},
}

// runFleet is the command `litestream-bench fleet`.
func runFleet(ctx context.Context, args []string) (err error) {
	b, limit, parent, err := parseFleetFlags(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if b.dir, err = os.MkdirTemp(parent, "litestream-fleet-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	return b.run(ctx)
}

func parseFleetFlags(args []string) (b *fleetBench, limit time.Duration, parent string, err error) {
	cache := cacheDir()
	b = new(fullFleet)
	if slices.Contains(args, "-quick") {
		b = new(quickFleet)
	}
	fs := flag.NewFlagSet("litestream-bench fleet", flag.ContinueOnError)
	ours := fs.String("litestream", "bin/litestream", "the program to measure")
	upstream := fs.String("upstream", filepath.Join(cache, "bin", "litestream-v0.5.18"), "the program to compare with, in directory mode; empty for none")
	fs.Bool("quick", false, "a small fleet: does it work, not how fast")
	fs.StringVar(&b.versitygw, "versitygw", filepath.Join(cache, "bin", "versitygw"), "S3 server for -replica s3")
	fs.StringVar(&b.replica, "replica", "file", "file or s3")
	fs.Func("sizes", "numbers of databases, such as 1k,10k,100k (default)", func(s string) (err error) {
		b.sizes, err = parseSizes(s)
		return err
	})
	fs.IntVar(&b.upstreamMax, "upstream-max", 10_000, "largest number of databases that upstream is tried with")
	fs.IntVar(&b.large, "large", b.large, "databases of 100 MB")
	fs.BoolVar(&b.withWAL, "wal", false, "every database rests with a -wal beside it")
	fs.IntVar(&b.hot, "hot", b.hot, "tenants that commit at random every 5-10 s")
	fs.IntVar(&b.cold, "cold", b.cold, "resting tenants of which a commit is followed")
	fs.IntVar(&b.maxHot, "max-hot", b.maxHot, "max-hot-databases")
	fs.IntVar(&b.verifyN, "verify", b.verifyN, "tenants that are restored at the end; 0 leaves it out")
	fs.Uint64Var(&b.seed, "seed", uint64(time.Now().UnixNano()), "of everything random")
	fs.DurationVar(&b.scan, "scan-interval", b.scan, "scan-interval")
	fs.DurationVar(&b.rest, "rest", b.rest, "time at rest before the idle window")
	fs.DurationVar(&b.idle, "idle", b.idle, "the idle window")
	fs.DurationVar(&b.load, "load", b.load, "the window under load; 0 leaves it out")
	fs.DurationVar(&b.burst, "burst", b.burst, "time in which all databases are touched; 0 leaves it out")
	fs.DurationVar(&b.outage, "outage", b.outage, "outage of the replica in a second burst; 0 leaves it out")
	fs.DurationVar(&b.patience, "patience", b.patience, "longest time for a first backup, a restart or a burst to end")
	fs.Float64Var(&b.maxRSS, "max-rss", b.maxRSS, "memory in MB above which a tool is stopped")
	fs.DurationVar(&limit, "limit", 4*time.Hour, "longest time for all")
	fs.StringVar(&b.page, "out", "", "Markdown page whose marked part (fleet-file, fleet-s3, with -wal behind it) is replaced by the report")
	fs.StringVar(&b.json, "json", "", "file for the report as JSON")
	fs.StringVar(&b.profiles, "profiles", "", "folder for heap and goroutine profiles")
	fs.StringVar(&parent, "dir", "", "where the scratch folder is made (default: the system's)")
	if err := fs.Parse(args); err != nil {
		return nil, 0, "", err
	}
	if fs.NArg() > 0 {
		return nil, 0, "", fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if b.replica != "file" && b.replica != "s3" {
		return nil, 0, "", fmt.Errorf("-replica %s: want file or s3", b.replica)
	}
	if *upstream == "" {
		*upstream, b.upstreamMax = *ours, 0
	}
	b.tools, err = findTools(*ours, *upstream)
	return b, limit, parent, err
}

// parseSizes reads numbers such as 500, 10k and 1m.
func parseSizes(s string) (sizes []int, err error) {
	for _, text := range splitList(s) {
		digits, factor := strings.ToLower(text), 1
		if d, ok := strings.CutSuffix(digits, "k"); ok {
			digits, factor = d, 1000
		} else if d, ok := strings.CutSuffix(digits, "m"); ok {
			digits, factor = d, 1_000_000
		}
		n, err := strconv.Atoi(digits)
		if err != nil || n <= 0 || n*factor > 999_999 {
			return nil, fmt.Errorf("size %q: want 1 to 999999, or a number with k", text)
		}
		sizes = append(sizes, n*factor)
	}
	return sizes, nil
}

// run measures all sizes, ours and then upstream's, and reports after each.
func (b *fleetBench) run(ctx context.Context) error {
	machine, err := (&bench{tools: b.tools, dir: b.dir}).machine(ctx)
	if err != nil {
		return err
	}
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return err
		}
	}
	report := &fleetReport{Machine: machine, Replica: b.replica, Note: b.note()}
	fmt.Println(machine)
	var errs []error
	for _, n := range b.sizes {
		for i, t := range b.tools {
			if i == 1 && n > b.upstreamMax {
				continue
			}
			run, err := b.turn(ctx, t, n, i == 1)
			if ctx.Err() != nil {
				return errors.Join(context.Cause(ctx), err)
			}
			if err != nil {
				run.Ended = err.Error()
				progress("%s with %d databases ended early: %v", t.name, n, err)
				if i == 0 {
					errs = append(errs, fmt.Errorf("%d databases: %w", n, err))
				}
			}
			report.Runs = append(report.Runs, run)
			if err := b.write(report); err != nil {
				return err
			}
		}
	}
	fmt.Print("\n" + report.markdown())
	return errors.Join(errs...)
}

func (b *fleetBench) write(r *fleetReport) error {
	if err := r.writeJSON(b.json); err != nil {
		return err
	}
	section := "fleet-" + b.replica
	if b.withWAL {
		section += "-wal"
	}
	return updatePage(b.page, section, r.markdown())
}

// note says what was measured, in the words of the page.
func (b *fleetBench) note() string {
	wal := ""
	if b.withWAL {
		wal = ", each with a `-wal` beside it"
	}
	return fmt.Sprintf("Databases in WAL mode%s, mostly of 12 KB, 1 %% of 1 MB, %d of %d MB, in 10 projects with 10 databases each; %s replica; `max-hot-databases: %d`, `scan-interval: %s`, all else default; upstream in directory mode (`dir`, `pattern`, `recursive`). Idle window %s, load %s with %d hot tenants, each of which commits every %s–%s. The load ran on the same machine. Seed %d.",
		wal, b.large, b.largePages*pageSize/mib, b.replica, b.maxHot, b.scan, b.idle, b.load, b.hot, b.hotPause, 2*b.hotPause, b.seed)
}
