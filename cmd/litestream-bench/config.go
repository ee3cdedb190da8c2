//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// replicated is a tool that replicates the databases of a folder.
type replicated struct {
	*process
	dir   string
	paths []string // of the databases
	addr  string   // of its metrics
	fds   int      // most that were open while the first backup was awaited
	watch bool     // the folder of the databases is watched; none is named
}

// replicate starts a tool on databases, each with a folder below dir/replica.
// Everything that is not said here has the tool's default.
func (b *bench) replicate(ctx context.Context, i int, dir string, paths []string) (*replicated, error) {
	var dbs strings.Builder
	r := &replicated{dir: dir, paths: paths}
	for n, path := range paths {
		fmt.Fprintf(&dbs, "  - path: %s\n    replica:\n      type: file\n      path: %s\n", path, r.replica(n))
	}
	return r, r.startWith(ctx, b.tools[i], dbs.String())
}

// replicateDir is replicate for all databases that lie in the folder, which is
// watched.
func (b *bench) replicateDir(ctx context.Context, i int, dir string, paths []string) (*replicated, error) {
	r := &replicated{dir: dir, paths: paths, watch: true}
	return r, r.startWith(ctx, b.tools[i], fmt.Sprintf("  - dir: %s\n    pattern: \"*.db\"\n    watch: true\n    replica:\n      type: file\n      path: %s\n",
		filepath.Join(dir, "data"), filepath.Join(dir, "replica")))
}

func (r *replicated) startWith(ctx context.Context, t tool, dbs string) error {
	var err error
	if r.addr, err = freeAddr(ctx); err != nil {
		return err
	}
	file := filepath.Join(r.dir, "litestream.yml")
	if err := os.WriteFile(file, []byte("addr: "+r.addr+"\ndbs:\n"+dbs), 0o600); err != nil {
		return err
	}
	r.process, err = start(r.dir, t.bin, "replicate", "-config", file)
	return err
}

// replica returns the folder of a database's replica.
func (r *replicated) replica(n int) string {
	if r.watch {
		return filepath.Join(r.dir, "replica", filepath.Base(r.paths[n]))
	}
	return filepath.Join(r.dir, "replica", fmt.Sprintf("%05d", n))
}

// level returns the folder of a level of a database's replica.
func (r *replicated) level(n, level int) string {
	return filepath.Join(r.replica(n), "ltx", fmt.Sprint(level))
}

// waitBackup waits until every database has a snapshot.
func (r *replicated) waitBackup(ctx context.Context) error {
	n := 0
	return r.wait(ctx, "first backup", func() (bool, error) {
		if u, err := r.usage(); err == nil { // it may have ended, which wait tells
			r.fds = max(r.fds, u.fds)
		}
		for ; n < len(r.paths); n++ {
			names, err := ltxNames(r.level(n, 9))
			if err != nil || len(names) == 0 {
				return false, err
			}
		}
		return true, nil
	})
}

// ltxNames lists the LTX files in a folder, which may be missing, in order.
func ltxNames(dir string) ([]string, error) {
	ents, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var names []string
	for _, e := range ents {
		if strings.HasSuffix(e.Name(), ".ltx") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
