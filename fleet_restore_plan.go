package litestream

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"path"
	"slices"
	"strings"
)

// fleetTempPrefix begins the names of unfinished databases of a fleet restore.
const fleetTempPrefix = ".litestream-restore-"

// fleetItem is the place of an entry in the order of a fleet restore.
type fleetItem struct {
	offset int64  // in the spool
	key    int64  // ascending
	hash   uint64 // of the path
}

// leavesOut reports whether an entry is not restored because its file was
// deleted.
func (opt *FleetRestoreOptions) leavesOut(e *FleetRestoreEntry) bool {
	deleted := !e.DeletedAt.IsZero() && (opt.Timestamp.IsZero() || !e.DeletedAt.After(opt.Timestamp))
	return deleted && !opt.Deleted
}

// fleetKey is what an order compares.
func fleetKey(e *FleetRestoreEntry, order FleetRestoreOrder) int64 {
	switch {
	case order == FleetRestoreBySize && e.Size <= 0:
		return math.MaxInt64
	case order == FleetRestoreBySize:
		return e.Size
	case order == FleetRestoreByRecent && e.SyncedAt.IsZero():
		return math.MaxInt64
	case order == FleetRestoreByRecent:
		return -e.SyncedAt.UnixMilli()
	default:
		return 0
	}
}

// sortFleet puts items in order. What is equal is as the source has it.
func sortFleet(items []fleetItem) {
	slices.SortFunc(items, func(a, b fleetItem) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.offset, b.offset))
	})
}

func fleetHash(path string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(path)) // never fails
	return h.Sum64()
}

// fleetTarget returns the path below the root for the path of a database. It
// refuses all that does not name one file there, and names that mean something
// else: an entry may come from a damaged catalog, or from a hostile one.
func fleetTarget(file string) (string, error) {
	rel := strings.TrimPrefix(file, "/")
	switch {
	case rel == "" || rel == ".":
		return "", errors.New("unsafe path: it names no file")
	case strings.IndexByte(rel, 0) >= 0:
		return "", fmt.Errorf("unsafe path %q: it holds a zero byte", file)
	case path.Clean(rel) != rel || !filepathIsLocal(rel):
		return "", fmt.Errorf("unsafe path %q: it is not in its shortest form, or leaves the folder", file)
	}
	for element := range strings.SplitSeq(rel, "/") {
		if element == FleetRestoreJournalName || strings.HasPrefix(element, fleetTempPrefix) {
			return "", fmt.Errorf("unsafe path %q: %s is a name that the restore itself uses", file, element)
		}
	}
	for _, suffix := range sidecarSuffixes {
		if strings.HasSuffix(rel, suffix) {
			return "", fmt.Errorf("unsafe path %q: SQLite would take the file for a part of another database", file)
		}
	}
	return rel, nil
}

// filepathIsLocal is fs.ValidPath for names of any bytes.
func filepathIsLocal(rel string) bool {
	for element := range strings.SplitSeq(rel, "/") {
		if element == "" || element == "." || element == ".." {
			return false
		}
	}
	return true
}

// findDoubles drops entries that the source gave twice, and marks those whose
// path stands for two replicas: which one is right is not for a restore to
// guess. It leaves the items in another order.
func (r *FleetRestore) findDoubles() error {
	slices.SortFunc(r.items, func(a, b fleetItem) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.offset, b.offset))
	})
	for i := 0; i < len(r.items); {
		j := i + 1
		for j < len(r.items) && r.items[j].hash == r.items[i].hash {
			j++
		}
		if j-i > 1 {
			if err := r.markDoubles(r.items[i:j]); err != nil {
				return err
			}
		}
		i = j
	}
	r.items = slices.DeleteFunc(r.items, func(it fleetItem) bool { return it.offset < 0 })
	return r.spool.flush()
}

// markDoubles looks at entries of one hash. The offset of one to drop becomes
// negative.
func (r *FleetRestore) markDoubles(items []fleetItem) error {
	type seen struct {
		e    *FleetRestoreEntry
		item *fleetItem
	}
	byPath := make(map[string]seen)
	mark := func(s seen, other *FleetRestoreEntry) (err error) {
		s.e.Problem = fmt.Sprintf("two entries have this path, with the replicas %s and %s: restore the right one by its URL", s.e.Replica, other.Replica)
		s.item.offset, err = r.spool.append(s.e)
		return err
	}
	for i := range items {
		e, err := r.entry(items[i])
		if err != nil {
			return err
		}
		first, ok := byPath[e.Path]
		switch {
		case !ok:
			byPath[e.Path] = seen{e, &items[i]}
		case first.e.Replica == e.Replica:
			items[i].offset = -1
			r.countSize(e, -1)
		default:
			err = errors.Join(mark(first, e), mark(seen{e, &items[i]}, first.e))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// countSize adds an entry to the totals, or takes it off them.
func (r *FleetRestore) countSize(e *FleetRestoreEntry, n int) {
	if e.Size > 0 {
		r.totalBytes += int64(n) * e.Size
	} else {
		r.unknownSizes += n
	}
}

// entry reads an entry back.
func (r *FleetRestore) entry(it fleetItem) (*FleetRestoreEntry, error) {
	return r.spool.read(it.offset)
}
