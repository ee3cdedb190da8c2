package litestream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// errFleetSpace ends a fleet restore before a file system is full.
var errFleetSpace = errors.New("too little room is left")

const (
	minFleetReserve = 64 << 20
	fleetFileSlack  = 8 << 10 // what a file takes beyond its content, and its share of a folder
	minFleetInodes  = 1000    // names that stay free for others
)

// fleetSpace is the room on a file system.
type fleetSpace struct {
	total, free uint64 // bytes; free for users without privileges
	inodes      uint64 // that are free; 0 with noInodes
	noInodes    bool   // the file system does not count them
}

// freeSpace asks the file system of an open file.
func freeSpace(f *os.File) (fleetSpace, error) {
	var st unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(int(f.Fd()), &st) }); err != nil {
		return fleetSpace{}, &os.PathError{Op: "statfs", Path: f.Name(), Err: err}
	}
	return fleetSpace{
		total: uint64(st.Blocks) * uint64(st.Bsize), free: uint64(st.Bavail) * uint64(st.Bsize),
		inodes: uint64(st.Ffree), noInodes: st.Files == 0,
	}, nil
}

// fleetReserve is how much stays free on a file system.
func fleetReserve(want int64, total uint64) uint64 {
	if want > 0 {
		return uint64(want)
	}
	return max(total/100, minFleetReserve)
}

// fleetAccount grants room on file systems before it is used. It is safe for
// concurrent use.
type fleetAccount struct {
	reserve int64
	space   func(f *os.File) (fleetSpace, error)

	mu      sync.Mutex        // guards the rest
	granted map[uint64]uint64 // bytes that may not be written yet, by device
	changed chan struct{}     // closed when a grant ends
}

func newFleetAccount(reserve int64, space func(f *os.File) (fleetSpace, error)) *fleetAccount {
	return &fleetAccount{reserve: reserve, space: space, granted: make(map[uint64]uint64), changed: make(chan struct{})}
}

// take grants n bytes on the file system of a folder until release is called.
// While others may not use all that was granted to them it waits. The error is
// ErrDiskFull when the reserve would be touched.
func (a *fleetAccount) take(ctx context.Context, folder *fleetFolder, n int64) (release func(), err error) {
	need := uint64(max(n, 0)) + fleetFileSlack
	for {
		a.mu.Lock()
		space, err := a.space(folder.f)
		if err != nil {
			a.mu.Unlock()
			return nil, err
		}
		granted, reserve := a.granted[folder.dev], fleetReserve(a.reserve, space.total)
		if space.free >= granted+need+reserve && (space.noInodes || space.inodes >= minFleetInodes) {
			a.granted[folder.dev] += need
			a.mu.Unlock()
			return func() { a.release(folder.dev, need) }, nil
		}
		changed := a.changed
		a.mu.Unlock()
		if granted == 0 {
			return nil, fmt.Errorf("%w: %w on the file system of %s: %s are free, %d names; the next database takes %s, and %s stay free. Make room and start the same command again, it goes on from here",
				ErrDiskFull, errFleetSpace, folder.name(""), humanize.IBytes(space.free), space.inodes, humanize.IBytes(need), humanize.IBytes(reserve))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (a *fleetAccount) release(dev, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.granted[dev] -= n
	close(a.changed)
	a.changed = make(chan struct{})
}
