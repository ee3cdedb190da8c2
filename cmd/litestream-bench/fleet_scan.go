//go:build linux

package main

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bareThreads = 2
	bareRuns    = 5
)

// bareScan makes the system calls of a scan and nothing else, on two threads:
// fstatat of each database and -wal, relative to its directory, and with
// readdir the getdents that give the names, which are at hand otherwise. It
// returns how long that takes, the median of some runs.
func (f *fleet) bareScan(readdir bool) (time.Duration, error) {
	dirs := f.leafDirs()
	names := make([][]string, len(dirs))
	for i, dir := range dirs {
		var err error
		if names[i], err = readNames(dir); err != nil {
			return 0, err
		}
	}
	var samples []float64
	for range bareRuns {
		d, err := timed(func() error { return bareRun(dirs, names, readdir) })
		if err != nil {
			return 0, err
		}
		samples = append(samples, d.Seconds())
	}
	return time.Duration(median(samples) * float64(time.Second)), nil
}

func bareRun(dirs []string, names [][]string, readdir bool) error {
	var (
		wg   sync.WaitGroup
		errs [bareThreads]error
	)
	for t := range bareThreads {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			buf := make([]byte, 64<<10)
			for i := t; i < len(dirs) && errs[t] == nil; i += bareThreads {
				errs[t] = bareDir(dirs[i], names[i], readdir, buf)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

func bareDir(dir string, names []string, readdir bool, buf []byte) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd) //nolint:errcheck // it was only read
	for readdir {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return fmt.Errorf("read %s: %w", dir, err)
		}
		if n == 0 {
			break
		}
	}
	var st unix.Stat_t
	for _, name := range names {
		if err := unix.Fstatat(fd, name, &st, 0); err != nil {
			return fmt.Errorf("stat %s/%s: %w", dir, name, err)
		}
	}
	return nil
}

// readNames lists the databases and logs in a directory in the order in which
// the file system gives them.
func readNames(dir string) (names []string, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd) //nolint:errcheck // it was only read
	buf := make([]byte, 64<<10)
	var all []string
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dir, err)
		}
		if n == 0 {
			break
		}
		_, _, all = unix.ParseDirent(buf[:n], -1, all)
	}
	for _, name := range all {
		if strings.HasSuffix(name, ".db") || strings.HasSuffix(name, "-wal") {
			names = append(names, name)
		}
	}
	return names, nil
}
