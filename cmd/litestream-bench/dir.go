//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// dirs measures a watched folder with many databases that nobody uses.
// Upstream takes part in the sizes that it survives within the 20,000
// descriptors of this machine.
func (b *bench) dirs(ctx context.Context) (t table, err error) {
	t.note = fmt.Sprintf("One `dir` entry with `watch`; small databases in WAL mode that nobody has open, file replica, all defaults; figures of the %s that begin %s after the last one was backed up. Then %d databases are put into the folder, one after the other.",
		b.idleWindow, b.restAfter, newDatabases)
	for k, n := range b.dirDBs {
		tools := []int{0}
		if k < len(b.dirDBs)-1 {
			tools = []int{0, 1}
		}
		progress("dir: %d databases", n)
		if err := b.dirTurn(ctx, &t, n, tools); err != nil {
			return t, fmt.Errorf("%d databases: %w", n, err)
		}
	}
	return t, nil
}

// newDatabases is how many databases are added.
const newDatabases = 10

func (b *bench) dirTurn(ctx context.Context, t *table, n int, tools []int) (err error) {
	runs, err := b.backUp(ctx, t, n, tools, b.replicateDir)
	defer func() { err = errors.Join(err, endRuns(runs)) }()
	if err != nil {
		return err
	}
	for i, r := range runs {
		if r != nil {
			t.add(i, databases(n)+": most descriptors at the start", "", float64(r.fds))
		}
	}
	if err := b.rest(ctx, t, n, runs); err != nil {
		return err
	}
	for i, r := range runs {
		for k := range newDatabases {
			if r == nil {
				continue
			}
			took, err := timed(func() error { return r.addDatabase(ctx, k) })
			if err != nil {
				return err
			}
			t.add(i, databases(n)+": a new one on the replica", "s", took.Seconds())
		}
	}
	return nil
}

// addDatabase puts a database into the folder, under another name first, and
// waits until its first file is on the replica.
func (r *replicated) addDatabase(ctx context.Context, k int) error {
	content, err := os.ReadFile(filepath.Join(r.dir, "data", "first"))
	if err != nil {
		return err
	}
	path := filepath.Join(r.dir, "data", fmt.Sprintf("new%d.db", k))
	if err := os.WriteFile(path+".tmp", content, 0o600); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	r.paths = append(r.paths, path)
	begin := time.Now()
	return r.wait(ctx, "a new database", func() (bool, error) {
		names, err := ltxNames(r.level(len(r.paths)-1, 0))
		if time.Since(begin) > time.Minute {
			return false, fmt.Errorf("%s was not found within a minute", path)
		}
		return len(names) > 0, err
	})
}
