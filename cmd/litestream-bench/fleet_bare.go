//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	bareWriters = 200   // as many as the tool has workers for uploads
	bareFiles   = 20000 // enough for a steady rate
	bareSize    = 2048  // about an LTX file of a small database
)

// bareWrites makes the system calls that store the first files of databases
// durably, and nothing else: three new folders and one new file for each, which
// is written, synced, renamed, and its folders synced. It returns files per
// second. What it wrote stays: deleting it would slow down what comes next.
func bareWrites(dir string, n int) (perSecond float64, err error) {
	n = min(n, bareFiles)
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		errs [bareWriters]error
	)
	took, _ := timed(func() error {
		for w := range bareWriters {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < int64(n) && errs[w] == nil; i = next.Add(1) - 1 {
					errs[w] = bareWrite(filepath.Join(dir, fmt.Sprintf("d%03d", i/1000), fmt.Sprintf("t%06d", i)))
				}
			})
		}
		wg.Wait()
		return nil
	})
	return float64(n) / took.Seconds(), errors.Join(errs[:]...)
}

func bareWrite(tenant string) error {
	level := filepath.Join(tenant, "ltx", "0")
	if err := os.MkdirAll(level, 0o700); err != nil {
		return err
	}
	name := filepath.Join(level, "0000000000000001-0000000000000001.ltx")
	f, err := os.OpenFile(name+".tmp", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, bareSize))
	now := time.Now()
	if err := errors.Join(err, os.Chtimes(f.Name(), now, now), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	for _, dir := range []string{level, filepath.Dir(level), tenant} {
		if err := syncFolder(dir); err != nil {
			return err
		}
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
