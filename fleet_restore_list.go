package litestream

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/superfly/ltx"
)

// A restore of most of a fleet asks for the files of many databases with one
// request, in place of one for each: their keys lie beside each other. What it
// learns so is a first plan. A database that was not met, and one whose files
// are not as they were listed any more, is listed by itself.

const (
	// fleetRange is how many databases one listing is meant for.
	fleetRange = 256
	// minFleetLists is from how many databases on several are listed together.
	minFleetLists = 32
	// fleetRangeFiles bounds what one listing may meet of what is of no use: it
	// then takes longer than one listing for each.
	fleetRangeFiles = fleetRange * 1000
)

// errFleetRange means that a listing meets too much.
var errFleetRange = errors.New("too many files of other databases lie between")

// fleetLists are the files of databases, in a temporary file without a name.
type fleetLists struct {
	f     *os.File
	end   atomic.Int64
	place []atomic.Int64 // of each item's list, plus one; 0: none, -1: not usable
}

// replicaPlace finds an item by its replica.
type replicaPlace struct {
	hash uint64
	item uint32
}

// sampleReplica keeps the path of one replica in so many, as the borders of
// listings.
func (r *FleetRestore) sampleReplica(e *FleetRestoreEntry) {
	if r.opt.Lister == nil || e.Foreign || e.Problem != "" {
		return
	}
	if r.listable++; r.listable%fleetRange == 0 {
		r.borders = append(r.borders, e.Replica)
	}
}

// listFleet lists the replicas together, if that is worth it. That it fails is no
// reason not to go on.
func (r *FleetRestore) listFleet(ctx context.Context) {
	todo := r.listable - len(r.journal.index)
	if r.opt.Lister == nil || !r.opt.Timestamp.IsZero() || todo < minFleetLists || 4*todo < r.seen {
		return
	}
	places, err := r.replicaPlaces()
	if err == nil {
		err = r.listRanges(ctx, places)
	}
	if err != nil && ctx.Err() == nil {
		r.opt.Logger.Info("replicas are listed one by one", "reason", err)
	}
}

// replicaPlaces returns the items by their replicas, in order.
func (r *FleetRestore) replicaPlaces() ([]replicaPlace, error) {
	places := make([]replicaPlace, 0, len(r.items))
	for i, it := range r.items {
		e, err := r.entry(it)
		if err != nil {
			return nil, err
		}
		if !e.Foreign && e.Problem == "" {
			places = append(places, replicaPlace{fleetHash(e.Replica), uint32(i)})
		}
	}
	slices.SortFunc(places, func(a, b replicaPlace) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.item, b.item))
	})
	return places, nil
}

// listRanges lists what lies between the borders, some of it at a time.
func (r *FleetRestore) listRanges(ctx context.Context, places []replicaPlace) error {
	f, err := os.CreateTemp("", "litestream-restore-*")
	if err != nil {
		return fmt.Errorf("create list of files: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return errors.Join(fmt.Errorf("create list of files: %w", err), f.Close())
	}
	r.lists = &fleetLists{f: f, place: make([]atomic.Int64, len(r.items))}
	slices.Sort(r.borders)
	borders := append(append([]string{""}, slices.Compact(r.borders)...), "")
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, len(borders)-1)
	for range min(r.opt.Parallelism, len(errs)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(errs)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				errs[i] = r.listRange(ctx, places, borders[i], borders[i+1])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// listRange lists what lies between two borders.
func (r *FleetRestore) listRange(ctx context.Context, places []replicaPlace, after, until string) error {
	var of string
	var files []*ltx.FileInfo
	var buf []byte
	var keepErr error
	n := 0
	keep := func() {
		if len(files) > 0 && keepErr == nil {
			buf, keepErr = r.lists.keep(buf, places, fleetHash(of), files)
		}
		files = files[:0]
	}
	err := r.opt.Lister.LTXFilesBetween(ctx, after, until, func(replica string, info *ltx.FileInfo) bool {
		if replica != of {
			keep()
			of = replica
		}
		files = append(files, info)
		n++
		return n < fleetRangeFiles && keepErr == nil
	})
	if err != nil || keepErr != nil {
		return errors.Join(err, keepErr)
	}
	if n >= fleetRangeFiles {
		return errFleetRange // the last one may be without some of its files
	}
	keep()
	return keepErr
}

// keep writes the list of a replica that the restore knows. One that comes in two
// parts is listed by itself.
func (l *fleetLists) keep(buf []byte, places []replicaPlace, hash uint64, files []*ltx.FileInfo) ([]byte, error) {
	i, found := slices.BinarySearchFunc(places, hash, func(p replicaPlace, h uint64) int { return cmp.Compare(p.hash, h) })
	if !found {
		return buf, nil
	}
	buf = append(buf[:0], 0, 0, 0, 0)
	for _, f := range files {
		for _, v := range []int64{int64(f.Level), int64(f.MinTXID), int64(f.MaxTXID - f.MinTXID), f.Size, fleetMillis(f.CreatedAt)} {
			buf = binary.AppendVarint(buf, v)
		}
	}
	binary.BigEndian.PutUint32(buf, uint32(len(buf)-4))
	off := l.end.Add(int64(len(buf))) - int64(len(buf))
	if _, err := l.f.WriteAt(buf, off); err != nil {
		return buf, fmt.Errorf("write list of files: %w", err)
	}
	for ; i < len(places) && places[i].hash == hash; i++ {
		if at := &l.place[places[i].item]; !at.CompareAndSwap(0, off+1) {
			at.Store(-1)
		}
	}
	return buf, nil
}

// files returns the list of an item, nil if there is none.
func (l *fleetLists) files(item int64) []*ltx.FileInfo {
	if l == nil {
		return nil
	}
	off := l.place[item].Load() - 1
	if off < 0 {
		return nil
	}
	var head [4]byte
	if _, err := l.f.ReadAt(head[:], off); err != nil {
		return nil // it is listed by itself then
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := l.f.ReadAt(b, off+4); err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	var files []*ltx.FileInfo
	for len(b) > 0 {
		var v [5]int64
		for i := range v {
			n, k := binary.Varint(b)
			if k <= 0 {
				return nil
			}
			v[i], b = n, b[k:]
		}
		files = append(files, &ltx.FileInfo{
			Level: int(v[0]), MinTXID: ltx.TXID(v[1]), MaxTXID: ltx.TXID(v[1] + v[2]), Size: v[3], CreatedAt: fleetTime(v[4]),
		})
	}
	return files
}

// Close ends the file.
func (l *fleetLists) Close() error {
	if l == nil {
		return nil
	}
	return l.f.Close()
}

// listOnce returns how a plan lists: the first time what is known is used.
func (rs *restorer) listOnce(known []*ltx.FileInfo) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if known == nil {
			return rs.listTree(ctx)
		}
		rs.levels, known = levelsOf(known), nil
		if err := rs.client.Init(ctx); err != nil {
			return fmt.Errorf("init replica client: %w", err)
		}
		return nil
	}
}
