//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
)

const (
	rowsPerCommit = 4
	mib           = 1 << 20
)

// sync measures what it costs a tool to follow a database that is written
// evenly, in small transactions. The window begins with the first commit and
// ends a sixth of it after the last, so that both tools have sent everything
// and made the same number of compactions into level 1.
func (b *bench) sync(ctx context.Context) (t table, err error) {
	perCommit, err := b.walPerCommit(ctx, 2000, rowsPerCommit)
	if err != nil {
		return t, err
	}
	commits := int(float64(b.syncMB*mib) / perCommit)
	load := b.syncWindow * 5 / 6
	progress("sync: %d commits of %.0f KB of log in %s", commits, perCommit/1024, load)
	t.note = fmt.Sprintf("Load: %d transactions (%d MB of write-ahead log, %.0f KB each) at an even pace in %s; figures of the %s from the first commit on; median (lowest–highest) of %d turns.",
		commits, b.syncMB, perCommit/1024, load, b.syncWindow, b.rounds)
	err = b.eachTurn(func(round, i int, dir string) (err error) {
		progress("sync: round %d, %s", round+1, b.tools[i].name)
		paths := []string{filepath.Join(dir, "app.db")}
		app, err := openApplication(ctx, paths[0], 1)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, app.Close()) }()
		if err := app.commit(ctx, 1000); err != nil {
			return err
		}
		p, err := b.replicate(ctx, i, dir, paths)
		if err != nil {
			return err
		}
		defer p.stop()
		if err := p.waitBackup(ctx); err != nil {
			return err
		}
		return b.syncTurn(ctx, &t, i, app, p, pace{commits: commits, load: load, perCommit: perCommit})
	})
	return t, err
}

// pace is a load and how long it takes.
type pace struct {
	commits   int
	load      time.Duration
	perCommit float64 // bytes of log
}

func (b *bench) syncTurn(ctx context.Context, t *table, i int, app *application, p *replicated, pc pace) error {
	before, err := p.usage()
	if err != nil {
		return err
	}
	begin := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for done := 0; done < pc.commits; {
		due := int(float64(pc.commits) * min(1, float64(time.Since(begin))/float64(pc.load)))
		for ; done < due; done++ {
			if err := app.commit(ctx, rowsPerCommit); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	wrote := time.Since(begin)
	if wrote > pc.load*11/10 {
		progress("sync: the load took %s instead of %s", wrote.Round(time.Millisecond), pc.load)
	}
	if err := backoff.Wait(ctx, b.syncWindow-wrote); err != nil {
		return err
	}
	if err := p.alive(); err != nil {
		return err
	}
	after, err := p.usage()
	if err != nil {
		return err
	}
	stored, err := treeSize(p.replica(0))
	if err != nil {
		return err
	}
	wal := float64(pc.commits) * pc.perCommit / mib
	t.add(i, "CPU per MB of write-ahead log", "ms", (after.cpu-before.cpu).Seconds()*1000/wal)
	t.add(i, "peak memory while syncing", "MB", after.peak)
	t.add(i, "stored on the replica per MB of log", "MB", float64(stored)/mib/wal)
	return nil
}

func treeSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		} else if err != nil {
			return err
		}
		n += info.Size()
		return nil
	})
	return n, err
}

const latencyDBs = 4

// latency measures the time from the return of a commit until a new level-0
// file is on the replica. The commits fall on random phases of the tools' one
// second, in several databases at a time.
func (b *bench) latency(ctx context.Context) (t table, err error) {
	t.note = fmt.Sprintf("%d commits of one row in %d databases, spread evenly over the second in random order, file replica, looked for every 0.5 ms; all defaults (1 s `monitor-interval`, 1 s `sync-interval`); median (lowest–highest) of %d turns.",
		b.commits, latencyDBs, b.rounds)
	err = b.eachTurn(func(round, i int, dir string) error {
		progress("latency: round %d, %s", round+1, b.tools[i].name)
		paths, err := makeDatabases(ctx, dir, latencyDBs)
		if err != nil {
			return err
		}
		p, err := b.replicate(ctx, i, dir, paths)
		if err != nil {
			return err
		}
		defer p.stop()
		if err := p.waitBackup(ctx); err != nil {
			return err
		}
		var (
			wg      sync.WaitGroup
			samples [latencyDBs][]float64
			errs    [latencyDBs]error
		)
		for n := range latencyDBs {
			wg.Go(func() { samples[n], errs[n] = p.commitTimes(ctx, n, b.commits/latencyDBs) })
		}
		wg.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		var all []float64
		for _, s := range samples {
			all = append(all, s...)
		}
		t.add(i, "commit to file on the replica, p50", "ms", quantile(all, 0.5))
		t.add(i, "commit to file on the replica, p99", "ms", quantile(all, 0.99))
		return nil
	})
	return t, err
}

// commitTimes returns for each of some commits how many milliseconds later it
// was on the replica.
func (r *replicated) commitTimes(ctx context.Context, n, commits int) (ms []float64, err error) {
	app, err := openApplication(ctx, r.paths[n], uint64(n))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	// The first commit after a rest is another case: the tool finds the
	// database in use again. It is not counted.
	phases := rand.Perm(commits)
	for k := range commits + 1 {
		// Each commit has its own part of the second, in random order: the
		// phases are even, and the figures do not hang on how they fell.
		phase := time.Duration((float64(phases[k%commits]) + rand.Float64()) / float64(commits) * float64(time.Second))
		if err := backoff.Wait(ctx, untilPhase(time.Now(), phase)); err != nil {
			return nil, err
		}
		next, err := r.nextFile(n)
		if err != nil {
			return nil, err
		}
		if err := app.commit(ctx, 1); err != nil {
			return nil, err
		}
		begin := time.Now()
		if err := r.waitFile(ctx, next); err != nil {
			return nil, err
		}
		if k > 0 {
			ms = append(ms, time.Since(begin).Seconds()*1000)
		}
	}
	return ms, nil
}

// untilPhase returns how long it is to the next moment that is phase behind the
// beginning of a second.
func untilPhase(now time.Time, phase time.Duration) time.Duration {
	return (phase - time.Duration(now.Nanosecond()) + time.Second) % time.Second
}

// nextFile returns the path of the level-0 file of the next transaction.
func (r *replicated) nextFile(n int) (string, error) {
	names, err := ltxNames(r.level(n, 0))
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", fmt.Errorf("%s: no level-0 file", r.replica(n))
	}
	var lo, hi uint64
	if _, err := fmt.Sscanf(names[len(names)-1], "%016x-%016x.ltx", &lo, &hi); err != nil {
		return "", fmt.Errorf("%s: %w", names[len(names)-1], err)
	}
	return filepath.Join(r.level(n, 0), fmt.Sprintf("%016x-%016x.ltx", hi+1, hi+1)), nil
}

func (r *replicated) waitFile(ctx context.Context, path string) error {
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for begin := time.Now(); ; {
		if _, err := os.Stat(path); err == nil {
			return nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if time.Since(begin) > readyTimeout {
			return fmt.Errorf("%s: not after %s", path, readyTimeout)
		}
		select {
		case <-tick.C:
		case <-r.exited:
			return r.alive()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
