// Package blob holds what the clients of object stores have in common: the
// keys below <path>/ltx, uploads from files and from streams, downloads that
// cannot end early unnoticed, and connections that give up on a silent peer.
package blob

import (
	"path"
	"strconv"
	"strings"

	"github.com/superfly/ltx"
)

// A Root is the path that the objects of one database, or of a whole fleet, lie
// below. It is cleaned where it is used, so that "", "." and "./" are the whole
// of a bucket.
type Root string

// Location returns the root in the one form that all its spellings have.
func (r Root) Location() string {
	if p := path.Clean(string(r)); p != "." {
		return p
	}
	return ""
}

// Objects returns what the keys of everything below the root begin with.
func (r Root) Objects() string {
	if p := path.Clean(string(r)); p != "." && p != "/" {
		return p + "/"
	}
	return ""
}

// Tree returns what the keys of the LTX files of all levels begin with.
func (r Root) Tree() string { return path.Join(string(r), "ltx") + "/" }

// Level returns what the keys of one level begin with.
func (r Root) Level(level int) string { return r.Tree() + strconv.Itoa(level) + "/" }

// File returns the key of an LTX file.
func (r Root) File(level int, minTXID, maxTXID ltx.TXID) string {
	return r.Level(level) + ltx.FormatFilename(minTXID, maxTXID)
}

// Split takes a key apart that begins with Tree: into the level, a single digit
// from 0 to 9, and the name below its folder.
func (r Root) Split(key string) (level int, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, r.Tree())
	if !ok || len(rest) < 2 || rest[1] != '/' || rest[0] < '0' || rest[0] > '9' {
		return 0, "", false
	}
	return int(rest[0] - '0'), rest[2:], true
}

// IsFile reports whether a key is that of an LTX file of this root.
func (r Root) IsFile(key string) bool { return isFile(r.Split(key)) }

// isFile reports whether Split took the key of an LTX file apart.
func isFile(_ int, name string, ok bool) bool {
	if !ok {
		return false
	}
	_, _, err := ltx.ParseFilename(name)
	return err == nil
}
