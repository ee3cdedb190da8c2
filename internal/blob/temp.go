package blob

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"
)

// tempSeq tells apart the temporary files that this process begins in the same
// nanosecond.
var tempSeq atomic.Uint64

// TempName returns an unused name beside that of a file, which tells when the
// write began: <name>.<unix nanoseconds>-<process>-<sequence>.tmp. Litestream
// v0.5 skips it in listings like any name that is not an LTX file's.
func TempName(name string, now time.Time) string {
	return fmt.Sprintf("%s.%d-%d-%d.tmp", name, now.UnixNano(), os.Getpid(), tempSeq.Add(1))
}

// ParseTempName returns when the write of an LTX file's temporary file began. It
// is false for all other names.
func ParseTempName(name string) (begun time.Time, ok bool) {
	name, ok = strings.CutSuffix(name, ".tmp")
	i := strings.LastIndexByte(name, '.')
	if !ok || i < 0 {
		return time.Time{}, false
	}
	if _, _, err := ltx.ParseFilename(name[:i]); err != nil {
		return time.Time{}, false
	}
	nanos, _, ok := strings.Cut(name[i+1:], "-")
	if !ok {
		return time.Time{}, false
	}
	ns, err := strconv.ParseInt(nanos, 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	return time.Unix(0, ns), true
}
