//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
)

// fleetTool is a tool that replicates a fleet.
type fleetTool struct {
	*process
	tool     tool
	upstream bool
	dir      string // of configuration, state and logs
	config   string
	addr     string // of its metrics
	starts   int
}

// newFleetTool writes the configuration of a tool.
func (b *fleetBench) newFleetTool(ctx context.Context, t tool, upstream bool, f *fleet, r fleetReplica) (*fleetTool, error) {
	ft := &fleetTool{tool: t, upstream: upstream, dir: filepath.Join(f.dir, "tool")}
	if err := os.Mkdir(ft.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if ft.addr, err = freeAddr(ctx); err != nil {
		return nil, err
	}
	ft.config = filepath.Join(ft.dir, "litestream.yml")
	text := b.multiDBConfig(f, r, ft)
	if upstream {
		text = fmt.Sprintf("addr: %s\ndbs:\n  - dir: %s\n    pattern: \"*.db\"\n    recursive: true\n    replica:\n%s",
			ft.addr, f.root(), r.section("      ", upstreamPrefix))
	}
	return ft, os.WriteFile(ft.config, []byte(text), 0o600)
}

// upstreamPrefix is the path of upstream's replica, to which it appends the
// path of each database below the directory.
const upstreamPrefix = "fleet"

func (b *fleetBench) multiDBConfig(f *fleet, r fleetReplica, t *fleetTool) string {
	return fmt.Sprintf("addr: %s\nmulti-db:\n  enabled: true\n  patterns:\n    - %q\n  state-dir: %s\n  max-hot-databases: %d\n  scan-interval: %s\n  replica-template:\n%s",
		t.addr, f.pattern(), filepath.Join(t.dir, "state"), b.maxHot, b.scan, r.section("    ", replicaTemplate))
}

// start starts the tool, each time with a log of its own.
func (t *fleetTool) start() (err error) {
	t.starts++
	dir := filepath.Join(t.dir, fmt.Sprintf("run%d", t.starts))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	t.process, err = start(dir, t.tool.bin, "replicate", "-config", t.config)
	return err
}

// await waits until ok, which is asked in some interval, for as long as the tool
// runs and at most as long as there is patience.
func (t *fleetTool) await(ctx context.Context, what string, every, patience time.Duration, ok func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for begin := time.Now(); ; {
		if done, err := ok(); err != nil || done {
			return err
		}
		if err := t.alive(); err != nil {
			return err
		}
		if time.Since(begin) > patience {
			return fmt.Errorf("%s: not after %s\n%s", what, patience, t.logTail())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// peaks are the highest figures that were seen of a process.
type peaks struct {
	rss        float64 // MB
	fds        int
	goroutines float64
}

// sampler looks at a process again and again.
type sampler struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	peaks  peaks // read after stop
	err    error
}

const (
	sampleInterval  = 500 * time.Millisecond
	goroutineSample = 10 // samples, after which the goroutines are asked for
)

// sample starts a sampler, which stops the tool by force if it takes more
// memory than allowed: upstream would take that of the whole machine.
func (t *fleetTool) sample(ctx context.Context, maxRSS float64) *sampler {
	s := &sampler{}
	ctx, s.cancel = context.WithCancel(ctx)
	p, addr := t.process, t.addr
	s.wg.Go(func() {
		for n := 0; backoff.Wait(ctx, sampleInterval) == nil; n++ {
			u, err := p.usage()
			if err != nil {
				return // it has ended, which others tell
			}
			s.peaks.rss, s.peaks.fds = max(s.peaks.rss, u.rss), max(s.peaks.fds, u.fds)
			if u.rss > maxRSS {
				s.err = fmt.Errorf("stopped at %.0f MB of memory", u.rss)
				_ = p.cmd.Process.Kill() // it may have ended
				return
			}
			if n%goroutineSample == 0 {
				if g, err := goroutines(ctx, addr); err == nil { // it may not serve yet
					s.peaks.goroutines = max(s.peaks.goroutines, g)
				}
			}
		}
	})
	return s
}

// stop ends the sampler and returns what it saw. err is what the window ended
// with; that the sampler stopped the tool explains it.
func (s *sampler) stop(err error) (peaks, error) {
	s.cancel()
	s.wg.Wait()
	if s.err != nil {
		err = s.err
	}
	return s.peaks, err
}

// cpuWindow lets f run and returns how much of a core the tool took meanwhile,
// in percent.
func (t *fleetTool) cpuWindow(f func() error) (percent float64, err error) {
	before, err := t.usage()
	if err != nil {
		return 0, err
	}
	took, err := timed(f)
	if err != nil {
		return 0, errors.Join(err, t.alive())
	}
	after, err := t.usage()
	if err != nil {
		return 0, err
	}
	return 100 * (after.cpu - before.cpu).Seconds() / took.Seconds(), nil
}
