package blob

import (
	"fmt"
	"strings"

	"github.com/superfly/ltx"
)

// A Prefix is the path of one database where keys are plain concatenations that
// are never cleaned, without an ltx folder: <path>/<level>/<name> with the level
// as four hexadecimal digits.
type Prefix string

// levelPrefix is how the folder of every level begins; one digit follows.
const levelPrefix = "000"

// Objects returns what the keys of named objects begin with. It is where the
// keys of databases begin whose paths begin with this one.
func (p Prefix) Objects() string {
	switch {
	case p == "" || p == ".":
		return ""
	case p[len(p)-1] == '/':
		return string(p)
	default:
		return string(p) + "/"
	}
}

// Tree returns what the keys of the LTX files of all levels begin with. Those
// of most databases that are stored below this path begin otherwise.
func (p Prefix) Tree() string { return string(p) + "/" + levelPrefix }

// Level returns what the keys of one level begin with.
func (p Prefix) Level(level int) string { return fmt.Sprintf("%s/%04x/", string(p), level) }

// File returns the key of an LTX file.
func (p Prefix) File(level int, minTXID, maxTXID ltx.TXID) string {
	return p.Level(level) + ltx.FormatFilename(minTXID, maxTXID)
}

// Split takes a key apart that begins with Tree: into the level, a single digit
// from 0 to 9, and the name below its folder.
func (p Prefix) Split(key string) (level int, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, p.Tree())
	if !ok || len(rest) < 2 || rest[1] != '/' || rest[0] < '0' || rest[0] > '9' {
		return 0, "", false
	}
	return int(rest[0] - '0'), rest[2:], true
}

// IsFile reports whether a key is that of an LTX file of this path.
func (p Prefix) IsFile(key string) bool { return isFile(p.Split(key)) }
