package litestream

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"github.com/superfly/ltx"
)

// ReplicaClient stores the LTX files of one database. It must be safe for
// concurrent use. Every error is, or wraps, a *ReplicaError; a missing object
// also satisfies errors.Is(err, fs.ErrNotExist).
type ReplicaClient interface {
	// Type returns the name used in configurations and metrics, such as "s3".
	Type() string

	// Init prepares the client. It is idempotent, is called before the first
	// use by whoever uses the client, and makes no request that the first use
	// could make itself.
	Init(ctx context.Context) error

	// LTXFiles lists one level in ascending order of MinTXID, then MaxTXID,
	// beginning with the first file whose MinTXID is seek or above. Names that
	// are no LTX file are skipped; a missing folder is an empty list, a
	// missing bucket an error. With useMetadata, CreatedAt is the timestamp of
	// the LTX header whatever it costs; without, it may be the time of upload.
	LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error)

	// OpenLTXFile reads a file from offset on: size bytes, or to its end if
	// size is 0. From the end of the file on there is nothing to read, which is
	// no error; a reader that ends earlier than it should is one. The caller
	// closes the reader, and may hold few open ones of large files at a time. A
	// Read ends with ctx, and Close may be called while it goes on.
	OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error)

	// WriteLTXFile stores a file, replacing one of the same name. The object
	// appears whole or not at all. The returned CreatedAt is the timestamp of
	// the LTX header, which is stored so that LTXFiles can return it.
	WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error)

	// DeleteLTXFiles deletes files. One that is missing is no error.
	DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error

	// DeleteAll deletes every LTX file of the database, on all levels.
	DeleteAll(ctx context.Context) error

	// SetLogger sets where the client reports what it retries.
	SetLogger(logger *slog.Logger)
}

// ExclusiveWriter is implemented by clients whose storage can refuse to
// overwrite. The refusal satisfies errors.Is(err, fs.ErrExist).
type ExclusiveWriter interface {
	WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error)
}

// UnsureWriter is implemented by those ExclusiveWriters whose storage may turn
// out not to refuse by itself: they look and then write, so that of two writers
// at the same moment both may succeed, and the later one's file is what stays.
type UnsureWriter interface {
	// Unsure reports whether that was seen, without a request.
	Unsure() bool
}

// Prefixer is implemented by clients that can serve another path with the same
// connections, so that any number of databases share one client.
type Prefixer interface {
	WithPrefix(path string) ReplicaClient
}

// TreeLister is implemented by clients that list all levels of a database with
// one request: what is asked of a database that nothing is known of.
type TreeLister interface {
	// LTXTree lists the files of the levels 0 to SnapshotLevel in ascending
	// order of level, MinTXID and MaxTXID. As in LTXFiles, other names are
	// skipped, a missing folder is empty, a missing bucket is an error, and
	// CreatedAt may be the time of upload.
	LTXTree(ctx context.Context) ([]*ltx.FileInfo, error)
}

// ReplicaLister is implemented by clients that find the replicas that lie below
// their path.
type ReplicaLister interface {
	// Replicas calls fn with the path of each folder that holds LTX files of a
	// database, relative to the client's own, with slashes. The order is not
	// told, and a path may come more than once. It stops at fn's first error.
	Replicas(ctx context.Context, fn func(path string) error) error
}

// RangeLister is implemented by clients that list the files of many databases
// with few requests: their keys lie beside each other.
type RangeLister interface {
	// LTXFilesBetween calls fn for each LTX file of the databases below the
	// client's path, with the database's path relative to that. It leaves out
	// keys that are not behind after, and those behind until; both are such
	// paths or parts of them, and empty ones are no limit. The files of one
	// database come one after the other, unless one of the limits lies between
	// them. CreatedAt may be the time of upload. It stops when fn returns false.
	LTXFilesBetween(ctx context.Context, after, until string, fn func(replica string, info *ltx.FileInfo) bool) error
}

// MaxObjectSize is the size in bytes of the largest object of an ObjectClient.
const MaxObjectSize = 1 << 20

// ObjectClient is implemented by clients that keep small named objects beside
// the LTX files, below the same path. A name is a relative path in the sense
// of fs.ValidPath. Other than with LTX files, an empty path and "." stand for
// the whole of a bucket, so that "a" is the object a there.
type ObjectClient interface {
	// ReadObject returns an object of at most MaxObjectSize bytes. A missing
	// one satisfies errors.Is(err, fs.ErrNotExist).
	ReadObject(ctx context.Context, name string) ([]byte, error)

	// WriteObject stores an object, whole or not at all. If exclusive is set it
	// replaces none: the refusal satisfies errors.Is(err, fs.ErrExist). After
	// a lost answer the object that is there may be the caller's own.
	WriteObject(ctx context.Context, name string, data []byte, exclusive bool) error

	// Empty reports whether nothing at all lies below the path: no file of any
	// database, and nothing of anybody else.
	Empty(ctx context.Context) (bool, error)
}

// ObjectDeleter is implemented by ObjectClients whose objects can be deleted.
type ObjectDeleter interface {
	// DeleteObject deletes a named object. One that is missing is no error. Of
	// the folders between it and the path, those that are empty go too where
	// the storage can delete a folder only if it is empty.
	DeleteObject(ctx context.Context, name string) error
}

// FilePermissions are the mode and owner of the files and folders that a local
// replica makes. They follow the database's, so that who may read it may read
// its backup, as in Litestream v0.5.
type FilePermissions struct {
	Mode    fs.FileMode // of files, before the umask
	DirMode fs.FileMode // of folders, before the umask
	UID     int         // owner; -1 leaves it
	GID     int         // group; -1 leaves it
}

// PermissionSetter is implemented by clients that store files on this host.
type PermissionSetter interface {
	SetPermissions(p FilePermissions)
}

// OperationObserver is told of every finished storage operation. It must be
// safe for concurrent use and must not block.
type OperationObserver interface {
	// ObserveOperation reports one operation: its name ("PUT", "GET", "LIST",
	// "DELETE"), the payload bytes moved, how long it took, and the service's
	// error code, which is empty if it succeeded.
	ObserveOperation(replicaType, op string, bytes int64, d time.Duration, code string)
}

// ObservableClient is implemented by clients that report their operations.
type ObservableClient interface {
	SetObserver(o OperationObserver)
}

// Locator is implemented by clients that can name their destination in one
// line without secrets, such as "s3://bucket/path?endpoint=…". Two clients of
// one destination give the same line: it is what a page ledger is bound to.
type Locator interface{ Location() string }
