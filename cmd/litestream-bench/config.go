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
}

// replicate starts a tool on databases, each with a folder below dir/replica.
// Everything that is not said here has the tool's default.
func (b *bench) replicate(ctx context.Context, i int, dir string, paths []string) (*replicated, error) {
	r := &replicated{dir: dir, paths: paths}
	var err error
	if r.addr, err = freeAddr(ctx); err != nil {
		return nil, err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, "addr: %s\ndbs:\n", r.addr)
	for n, path := range paths {
		fmt.Fprintf(&conf, "  - path: %s\n    replica:\n      type: file\n      path: %s\n", path, r.replica(n))
	}
	file := filepath.Join(dir, "litestream.yml")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		return nil, err
	}
	if r.process, err = start(dir, b.tools[i].bin, "replicate", "-config", file); err != nil {
		return nil, err
	}
	return r, nil
}

// replica returns the folder of a database's replica.
func (r *replicated) replica(n int) string {
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
