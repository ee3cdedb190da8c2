// Package v03 reads backups of Litestream v0.3: which files there are
// (names), which of them restore a moment (plan), and what database they make
// (apply). It does no I/O of its own beside a temporary file; the caller lists
// and downloads. docs/formats/v03.md describes the format.
package v03

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Dir is the folder below a replica's path that holds a backup.
const Dir = "generations"

// A File is an object of a backup: a copy of the database, or a stretch of its
// write-ahead log, both compressed.
type File struct {
	// Name is the object's name relative to the replica's path, with slashes.
	Name       string
	Generation string // 16 hexadecimal digits
	Snapshot   bool   // a copy of the database; else a stretch of the log
	Index      uint32 // number of the log, which rises by one at each restart
	Offset     int64  // bytes; where the stretch begins in its log
	Size       int64  // bytes, compressed
	CreatedAt  time.Time
}

const (
	snapshotSuffix = ".snapshot.lz4"
	walSuffix      = ".wal.lz4"
)

// ParseName reads the name of an object. It reports false for one that is
// none of a backup.
func ParseName(name string) (File, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || parts[0] != Dir || !isHex(parts[1], 16, 16) {
		return File{}, false
	}
	f := File{Name: name, Generation: parts[1]}
	var ok bool
	switch parts[2] {
	case "snapshots":
		f.Snapshot = true
		base, cut := strings.CutSuffix(parts[3], snapshotSuffix)
		f.Index, ok = parseIndex(base)
		return f, cut && ok
	case "wal":
		base, cut := strings.CutSuffix(parts[3], walSuffix)
		index, offset, found := strings.Cut(base, "_")
		if !cut || !found || !isHex(offset, 8, 16) {
			return File{}, false
		}
		f.Index, ok = parseIndex(index)
		n, err := strconv.ParseInt(offset, 16, 64)
		f.Offset = n
		return f, ok && err == nil
	}
	return File{}, false
}

func parseIndex(s string) (uint32, bool) {
	if !isHex(s, 8, 8) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 32)
	return uint32(n), err == nil
}

// isHex reports whether s has between min and max hexadecimal digits, in lower
// case as v0.3 writes them.
func isHex(s string, shortest, longest int) bool {
	if len(s) < shortest || len(s) > longest {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// String returns where the file stands in its generation.
func (f File) String() string {
	if f.Snapshot {
		return fmt.Sprintf("snapshot %08x of generation %s", f.Index, f.Generation)
	}
	return fmt.Sprintf("wal segment %08x:%08x of generation %s", f.Index, f.Offset, f.Generation)
}

// compareWAL orders the log of a generation.
func compareWAL(a, b File) int {
	return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Name, b.Name))
}
