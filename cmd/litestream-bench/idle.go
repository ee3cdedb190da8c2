//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
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
	var runs [2]*replicated
	for i := range b.tools {
		var dir string
		if dir, err = os.MkdirTemp(b.dir, "idle-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		paths, err := makeDatabases(ctx, dir, n)
		if err != nil {
			return err
		}
		r, err := b.replicate(ctx, i, dir, paths)
		if err != nil {
			return err
		}
		defer r.stop()
		begin := time.Now()
		if err := r.waitBackup(ctx); err != nil {
			return err
		}
		t.add(i, databases(n)+": start to all backed up", "s", time.Since(begin).Seconds())
		runs[i] = r
	}
	if err := pause(ctx, b.restAfter); err != nil {
		return err
	}
	var before [2]usage
	for i, r := range runs {
		if before[i], err = r.usage(); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := pause(ctx, b.idleWindow); err != nil {
		return err
	}
	for i, r := range runs {
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
