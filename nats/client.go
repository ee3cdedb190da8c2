package nats

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReplicaClientType is the name of this kind of replica in configurations.
const ReplicaClientType = "nats"

// TimestampHeader is the object's header that holds the timestamp of the LTX
// header, as in Litestream v0.5.
const TimestampHeader = "Litestream-Timestamp"

var (
	_ litestream.ReplicaClient    = (*ReplicaClient)(nil)
	_ litestream.ExclusiveWriter  = (*ReplicaClient)(nil)
	_ litestream.Prefixer         = (*ReplicaClient)(nil)
	_ litestream.ObservableClient = (*ReplicaClient)(nil)
	_ litestream.Locator          = (*ReplicaClient)(nil)
	_ litestream.TreeLister       = (*ReplicaClient)(nil)
	_ litestream.ReplicaLister    = (*ReplicaClient)(nil)
	_ litestream.ObjectClient     = (*ReplicaClient)(nil)
	_ litestream.ObjectDeleter    = (*ReplicaClient)(nil)
)

// ReplicaClient stores the LTX files of one database in a bucket, or below one
// path of it. It is safe for concurrent use once its options are set.
//
// An operation whose connection is lost is repeated for some seconds. An answer
// may be lost, so that a failed write may have stored the file.
type ReplicaClient struct {
	Options

	pool     *Pool
	logger   atomic.Pointer[slog.Logger]
	observer atomic.Pointer[litestream.OperationObserver]
}

// NewReplicaClient returns a client with default options for a server and a
// bucket that the caller sets.
func NewReplicaClient() *ReplicaClient {
	c := &ReplicaClient{Options: Options{MaxReconnects: DefaultMaxReconnects}, pool: &sharedPool}
	c.logger.Store(slog.New(slog.DiscardHandler))
	return c
}

// Type returns "nats".
func (c *ReplicaClient) Type() string { return ReplicaClientType }

// Location names the destination in one line, without secrets.
func (c *ReplicaClient) Location() string {
	loc := "nats://" + c.withDefaults().Server + "/" + c.Bucket
	if root := c.root(); root != "" {
		loc += "/" + string(root)
	}
	return loc
}

// SetLogger sets where the client reports what it learns of the server.
func (c *ReplicaClient) SetLogger(logger *slog.Logger) {
	c.logger.Store(logger.With("replica", ReplicaClientType))
}

// SetObserver sets who is told of every operation.
func (c *ReplicaClient) SetObserver(o litestream.OperationObserver) { c.observer.Store(&o) }

// WithPrefix returns a client for another path of the same bucket, which shares
// connection, logger and observer.
func (c *ReplicaClient) WithPrefix(path string) litestream.ReplicaClient {
	other := &ReplicaClient{Options: c.Options, pool: c.pool}
	other.Path = path
	other.logger.Store(c.logger.Load())
	other.observer.Store(c.observer.Load())
	return other
}

// Init checks the options. It makes no request: server, credentials and bucket
// are found right or wrong at first use.
func (c *ReplicaClient) Init(context.Context) error {
	hint, err := c.validate()
	if err == nil {
		return nil
	}
	return &litestream.ReplicaError{
		Type: ReplicaClientType, Op: "init", Bucket: c.Bucket, Key: c.Path,
		Permanent: true, Hint: hint, Err: err,
	}
}

// connection returns the way to the server.
func (c *ReplicaClient) connection(ctx context.Context) (*connection, error) {
	if err := c.Init(ctx); err != nil {
		return nil, err
	}
	return c.pool.connection(c.withDefaults()), nil
}

// do runs an operation on the bucket, again if its connection is lost.
func (c *ReplicaClient) do(ctx context.Context, op func(ctx context.Context, b *bucket) error) error {
	cn, err := c.connection(ctx)
	if err != nil {
		return err
	}
	return cn.do(ctx, c.logger.Load(), func(ctx context.Context, l *link) error {
		return op(ctx, &bucket{link: l, name: c.Bucket})
	})
}

// deleteWorkers is the number of deletes in flight.
const deleteWorkers = 16

// DeleteLTXFiles deletes files, some at a time. One that is missing is no
// error. It goes on after an error and returns the first few of them.
func (c *ReplicaClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	if len(a) == 0 {
		return nil
	}
	err := blob.Each(ctx, len(a), deleteWorkers, func(ctx context.Context, i int) error {
		return c.deleteObject(ctx, c.root().File(a[i].Level, a[i].MinTXID, a[i].MaxTXID))
	}, litestream.IsPermanent)
	if err != nil {
		return c.wrap("delete", c.root().Tree(), err)
	}
	return nil
}

func (c *ReplicaClient) deleteObject(ctx context.Context, key string) error {
	began := time.Now()
	r := &removal{key: key}
	err := c.do(ctx, func(ctx context.Context, b *bucket) error { return b.remove(ctx, r) })
	c.observe("DELETE", 0, began, err)
	if err != nil {
		return c.wrap("delete", key, err)
	}
	return nil
}

// DeleteAll deletes every LTX file below the path. Other objects stay.
func (c *ReplicaClient) DeleteAll(ctx context.Context) error {
	infos, err := c.LTXTree(ctx)
	if err != nil {
		return err
	}
	return c.DeleteLTXFiles(ctx, infos)
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

func checkRange(offset, size int64) error {
	if offset < 0 || size < 0 {
		return fmt.Errorf("invalid range: offset %d, size %d", offset, size)
	}
	return nil
}
