//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
)

// idle measures what databases cost that nobody uses. Both tools run at the
// same time, each on its own copies, so that both meet the same disturbances.
func (b *bench) idle(ctx context.Context) (t table, err error) {
	t.note = fmt.Sprintf("Small databases in WAL mode that nobody has open, file replica, all defaults; figures of the %s that begin %s after the last one was backed up.",
		b.idleWindow, b.restAfter)
	for _, n := range b.idleDBs {
		progress("idle: %d databases", n)
		if err := b.idleTurn(ctx, &t, n); err != nil {
			return t, fmt.Errorf("%d databases: %w", n, err)
		}
	}
	return t, nil
}

func databases(n int) string {
	if n == 1 {
		return "1 database"
	}
	return fmt.Sprintf("%d databases", n)
}

func (b *bench) idleTurn(ctx context.Context, t *table, n int) (err error) {
	runs, err := b.backUp(ctx, t, n, []int{0, 1}, b.replicate)
	defer func() { err = errors.Join(err, endRuns(runs)) }()
	if err != nil {
		return err
	}
	return b.rest(ctx, t, n, runs)
}

// backUp makes n databases for each tool, starts it and waits for the first
// backup of all. The tools of which runs are returned are running also after
// an error.
func (b *bench) backUp(ctx context.Context, t *table, n int, tools []int,
	replicate func(ctx context.Context, i int, dir string, paths []string) (*replicated, error),
) (runs [2]*replicated, err error) {
	for _, i := range tools {
		dir, err := os.MkdirTemp(b.dir, "idle-")
		if err != nil {
			return runs, err
		}
		paths, err := makeDatabases(ctx, dir, n)
		if err != nil {
			return runs, errors.Join(err, os.RemoveAll(dir))
		}
		begin := time.Now()
		r, err := replicate(ctx, i, dir, paths)
		if err != nil {
			return runs, errors.Join(err, os.RemoveAll(dir))
		}
		runs[i] = r
		if err := r.waitBackup(ctx); err != nil {
			return runs, err
		}
		t.add(i, databases(n)+": start to all backed up", "s", time.Since(begin).Seconds())
	}
	return runs, nil
}

// endRuns stops the tools and removes what they worked on.
func endRuns(runs [2]*replicated) (err error) {
	for _, r := range runs {
		if r != nil {
			r.stop()
			err = errors.Join(err, os.RemoveAll(r.dir))
		}
	}
	return err
}

// rest takes the figures of tools whose databases nobody uses.
func (b *bench) rest(ctx context.Context, t *table, n int, runs [2]*replicated) error {
	if err := backoff.Wait(ctx, b.restAfter); err != nil {
		return err
	}
	var before [2]usage
	var err error
	for i, r := range runs {
		if r == nil {
			continue
		}
		if before[i], err = r.usage(); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := backoff.Wait(ctx, b.idleWindow); err != nil {
		return err
	}
	for i, r := range runs {
		if r == nil {
			continue
		}
		if err := r.alive(); err != nil {
			return err
		}
		after, err := r.usage()
		if err != nil {
			return err
		}
		took := time.Since(begin)
		g, err := goroutines(ctx, r.addr)
		if err != nil {
			return err
		}
		name := func(what string) string { return databases(n) + ": " + what }
		t.add(i, name("memory (RSS)"), "MB", after.rss)
		t.add(i, name("peak memory"), "MB", after.peak)
		t.add(i, name("CPU"), "% of a core", 100*(after.cpu-before[i].cpu).Seconds()/took.Seconds())
		t.add(i, name("descriptors"), "", float64(after.fds))
		t.add(i, name("goroutines"), "", g)
		t.add(i, name("threads"), "", float64(after.threads))
	}
	return nil
}
