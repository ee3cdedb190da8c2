package blob

import (
	"path"
	"strings"

	"github.com/superfly/ltx"
)

// Replica returns the path, relative to the root, of the database that an LTX
// file belongs to. It is false for keys of anything else.
func (r Root) Replica(key string) (replica string, ok bool) {
	dir, level, ok := splitFile(key, r.Objects())
	if !ok || len(level) != 1 || level[0] < '0' || level[0] > '9' {
		return "", false
	}
	if dir == "ltx" {
		return "", true
	}
	return strings.CutSuffix(dir, "/ltx")
}

// Replica returns the path, relative to this one, of the database that an LTX
// file belongs to. It is false for keys of anything else.
func (p Prefix) Replica(key string) (replica string, ok bool) {
	dir, level, ok := splitFile(key, p.Objects())
	digit, found := strings.CutPrefix(level, levelPrefix)
	return dir, ok && found && len(digit) == 1 && digit[0] >= '0' && digit[0] <= '9'
}

// splitFile cuts the key of an LTX file into the folder of its level, below a
// prefix, and what that lies in.
func splitFile(key, prefix string) (dir, level string, ok bool) {
	rest, ok := strings.CutPrefix(key, prefix)
	slash := strings.LastIndexByte(rest, '/')
	if !ok || slash < 0 {
		return "", "", false
	}
	if _, _, err := ltx.ParseFilename(rest[slash+1:]); err != nil {
		return "", "", false
	}
	rest = rest[:slash]
	slash = strings.LastIndexByte(rest, '/')
	return rest[:max(slash, 0)], rest[slash+1:], true
}

// Replicas calls fn with what keys name, and leaves out what comes right behind
// its like.
type Replicas struct {
	Of   func(key string) (replica string, ok bool)
	Func func(replica string) error

	last  string
	found bool
	err   error
}

// Add takes the next key of a listing. It is false when fn has failed.
func (r *Replicas) Add(key string) bool {
	replica, ok := r.Of(key)
	if r.err == nil && ok && (!r.found || replica != r.last) {
		r.last, r.found = replica, true
		r.err = r.Func(replica)
	}
	return r.err == nil
}

// Err returns the error of fn.
func (r *Replicas) Err() error { return r.err }

// ReplicaFile returns the database, relative to this path, that an LTX file
// belongs to, and the file. It is false for keys of anything else.
func (p Prefix) ReplicaFile(e Entry) (replica string, info *ltx.FileInfo, ok bool) {
	replica, ok = p.Replica(e.Key)
	if !ok {
		return "", nil, false
	}
	dir, name := path.Split(e.Key)
	minTXID, maxTXID, err := ltx.ParseFilename(name)
	if err != nil {
		return "", nil, false
	}
	level := int(dir[len(dir)-2] - '0') // Replica has looked at it
	return replica, &ltx.FileInfo{Level: level, MinTXID: minTXID, MaxTXID: maxTXID, Size: e.Size, CreatedAt: e.Stored.UTC()}, true
}
