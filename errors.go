package litestream

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// Errors of capturing and staging.
var (
	// ErrDiskFull means that the local file system had no room for a staged
	// file. Nothing is lost: the capture is repeated when there is room.
	ErrDiskFull = ltxfile.ErrDiskFull

	// ErrNotDatabase means that a file does not begin with SQLite's header.
	ErrNotDatabase = sqlitefile.ErrFormat

	// ErrDatabaseLocked means that another process kept the database locked
	// for longer than the busy timeout.
	ErrDatabaseLocked = errors.New("database is locked by another process")
)

// Errors of planning and running a restore.
var (
	// ErrTxNotAvailable means that no chain of files on the replica ends at
	// the wanted position.
	ErrTxNotAvailable = errors.New("transaction not available")

	// ErrNoBackups means that the replica holds no LTX file at all.
	ErrNoBackups = errors.New("no matching backup files available")

	// ErrNoSnapshots is ErrNoBackups by the name that Litestream v0.5 has for it.
	ErrNoSnapshots = ErrNoBackups

	// ErrNonContiguous means that TXIDs are missing between two files of the
	// replica, so that what lies behind the gap is not restorable.
	ErrNonContiguous = errors.New("non-contiguous transaction files")

	// ErrIntegrity means that SQLite found the restored database damaged.
	ErrIntegrity = errors.New("integrity check of the restored database found errors")

	// ErrEmptyDatabase means that the newest state of a replica is a database
	// without pages, which a restore does not leave behind as a success.
	ErrEmptyDatabase = errors.New("replicated database has no pages")

	// ErrOutputExists means that a restore would overwrite a database or mix
	// with files that SQLite left beside it.
	ErrOutputExists = errors.New("output path already exists")
)

// ErrNoCompaction means that the level below has no file that the level to be
// written does not cover already.
var ErrNoCompaction = errors.New("no compaction needed")

// Errors of a replica's storage. A client wraps them so that errors.Is works.
var (
	// ErrLTXFileNotFound means that the object does not exist.
	ErrLTXFileNotFound = fs.ErrNotExist

	// ErrLTXFileExists is the answer to an exclusive write whose object is
	// there already. It may be our own after a lost answer: fetch and compare.
	ErrLTXFileExists = fs.ErrExist
)

// LTXError names the LTX file that an operation failed on, and what to do.
type LTXError struct {
	Op      string // what was done, such as "decode"
	Path    string // local path or object key
	Level   int
	MinTXID ltx.TXID
	MaxTXID ltx.TXID
	Hint    string // what the operator can do next; may be empty
	Err     error
}

// Error returns one line with the operation, the file, the cause and the hint.
func (e *LTXError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s ltx file", e.Op)
	if e.Path != "" {
		fmt.Fprintf(&b, " %s", e.Path)
	} else {
		fmt.Fprintf(&b, " %s (level %d)", ltx.FormatFilename(e.MinTXID, e.MaxTXID), e.Level)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *LTXError) Unwrap() error { return e.Err }

// ReplicaError is a storage operation that failed, with the names an operator
// needs to find the cause. Clients return it for every failed request.
type ReplicaError struct {
	Type      string // client type, such as "s3"
	Op        string // "put", "get", "list", "delete"
	Bucket    string // bucket, container or root folder; may be empty
	Key       string // object key or prefix
	Code      string // the service's own error code; may be empty
	Permanent bool   // retrying without a change of configuration cannot help
	Hint      string // what to change; may be empty
	Err       error
}

// Error returns one line with operation, bucket, key, code and cause.
func (e *ReplicaError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Type, e.Op)
	if e.Bucket != "" {
		fmt.Fprintf(&b, " bucket=%s", e.Bucket)
	}
	if e.Key != "" {
		fmt.Fprintf(&b, " key=%s", e.Key)
	}
	if e.Code != "" {
		fmt.Fprintf(&b, " code=%s", e.Code)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *ReplicaError) Unwrap() error { return e.Err }

// IsPermanent reports whether err came from storage with the verdict that a
// retry alone cannot heal it, such as wrong credentials, a missing bucket or
// another writer.
func IsPermanent(err error) bool {
	var re *ReplicaError
	return errors.As(err, &re) && re.Permanent || errors.Is(err, ErrSecondWriter)
}
