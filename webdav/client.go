package webdav

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReplicaClientType is the name of this kind of replica in configurations.
const ReplicaClientType = "webdav"

// maxParallel is how many requests of one batch are under way (as in
// Litestream v0.5).
const maxParallel = 10

// ltxDir is the folder below a replica's path that holds one folder per level.
const ltxDir = "ltx"

var (
	_ litestream.ReplicaClient    = (*ReplicaClient)(nil)
	_ litestream.ExclusiveWriter  = (*ReplicaClient)(nil)
	_ litestream.UnsureWriter     = (*ReplicaClient)(nil)
	_ litestream.Prefixer         = (*ReplicaClient)(nil)
	_ litestream.ObservableClient = (*ReplicaClient)(nil)
	_ litestream.Locator          = (*ReplicaClient)(nil)
	_ litestream.TreeLister       = (*ReplicaClient)(nil)
	_ litestream.ObjectClient     = (*ReplicaClient)(nil)
	_ litestream.ObjectDeleter    = (*ReplicaClient)(nil)
)

// ReplicaClient stores the LTX files of one database below one folder of a
// server. It is safe for concurrent use once its options are set.
//
// A request is tried up to six times within some seconds. An answer may be
// lost, so that a failed write may have stored the file.
type ReplicaClient struct {
	Options

	pool     *Pool
	logger   atomic.Pointer[slog.Logger]
	observer atomic.Pointer[litestream.OperationObserver]
}

// NewReplicaClient returns a client with default options for a server that the
// caller sets.
func NewReplicaClient() *ReplicaClient {
	c := &ReplicaClient{pool: &sharedPool}
	c.logger.Store(slog.New(slog.DiscardHandler))
	return c
}

// Type returns "webdav".
func (c *ReplicaClient) Type() string { return ReplicaClientType }

// Location names the destination in one line, without secrets.
func (c *ReplicaClient) Location() string {
	u := c.target("")
	u.User = nil
	u.Scheme = strings.Replace(u.Scheme, "http", "webdav", 1)
	return u.Scheme + "://" + u.Host + u.Path
}

// place names the server in errors.
func (c *ReplicaClient) place() string {
	u, err := url.Parse(c.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// Unsure reports whether the server was seen to let two writers at the same
// moment both succeed.
func (c *ReplicaClient) Unsure() bool { return c.connection().racy.Load() }

// SetLogger sets where the client reports what it does beside its tasks.
func (c *ReplicaClient) SetLogger(logger *slog.Logger) {
	c.logger.Store(logger.With("replica", ReplicaClientType))
}

// SetObserver sets who is told of every operation.
func (c *ReplicaClient) SetObserver(o litestream.OperationObserver) { c.observer.Store(&o) }

// WithPrefix returns a client for another folder of the same server, which
// shares connections, logger and observer.
func (c *ReplicaClient) WithPrefix(path string) litestream.ReplicaClient {
	other := &ReplicaClient{Options: c.Options, pool: c.pool}
	other.Path = path
	other.logger.Store(c.logger.Load())
	other.observer.Store(c.observer.Load())
	return other
}

// Init checks the options. It makes no request.
func (c *ReplicaClient) Init(context.Context) error {
	hint, err := c.validate()
	if err == nil {
		return nil
	}
	return &litestream.ReplicaError{
		Type: ReplicaClientType, Op: "init", Bucket: c.place(), Key: c.Path,
		Permanent: true, Hint: hint, Err: err,
	}
}

func (c *ReplicaClient) connection() *connection { return c.pool.connection(c.withDefaults()) }

// DeleteLTXFiles deletes files, some at a time. One that is missing is no
// error. It goes on after an error and returns the first ones.
func (c *ReplicaClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	keys := make([]string, 0, len(a))
	for _, info := range a {
		keys = append(keys, fileKey(info.Level, info.MinTXID, info.MaxTXID))
	}
	return c.deleteKeys(ctx, keys)
}

func (c *ReplicaClient) deleteKeys(ctx context.Context, keys []string) error {
	err := blob.Each(ctx, len(keys), maxParallel, func(ctx context.Context, i int) error {
		began := time.Now()
		err := c.ask(ctx, request{method: http.MethodDelete, target: c.target(keys[i])})
		if code := statusOf(err); code == http.StatusNotFound || code == http.StatusGone {
			err = nil
		}
		c.observe("DELETE", 0, began, err)
		if err != nil {
			return c.wrap("delete", keys[i], err)
		}
		return nil
	}, nil)
	if err != nil {
		return c.wrap("delete", ltxDir, err)
	}
	return nil
}

// DeleteAll deletes every LTX file and every temporary file of a write.
// Anything else stays, and so do the folders: to delete one deletes what
// somebody else puts into it at that moment.
func (c *ReplicaClient) DeleteAll(ctx context.Context) error {
	for level := range litestream.SnapshotLevel + 1 {
		var keys []string
		err := c.readDir(ctx, levelKey(level), func(e entry) {
			_, _, err := ltx.ParseFilename(e.name)
			_, temporary := blob.ParseTempName(e.name)
			if !e.dir && (err == nil || temporary) {
				keys = append(keys, levelKey(level)+"/"+e.name)
			}
		})
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := c.deleteKeys(ctx, keys); err != nil {
			return err
		}
	}
	return nil
}

// levelKey and fileKey name a level and a file relative to the path.
func levelKey(level int) string { return ltxDir + "/" + strconv.Itoa(level) }

func fileKey(level int, minTXID, maxTXID ltx.TXID) string {
	return levelKey(level) + "/" + ltx.FormatFilename(minTXID, maxTXID)
}

// observe reports one finished operation.
func (c *ReplicaClient) observe(op string, bytes int64, began time.Time, err error) {
	o := c.observer.Load()
	if o == nil {
		return
	}
	code := ""
	if err != nil {
		if code = errorCode(err); code == "" {
			code = "error"
		}
	}
	(*o).ObserveOperation(ReplicaClientType, op, bytes, time.Since(began), code)
}
