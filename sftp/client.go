package sftp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReplicaClientType is the name of this kind of replica in configurations.
const ReplicaClientType = "sftp"

// maxParallel is how many requests of one batch are under way. Servers do one
// thing after another in a session, so that more would only wait there.
const maxParallel = 16

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
// An operation whose connection is lost is repeated on another one for some
// seconds. An answer may be lost, so that a failed write may have stored the
// file.
type ReplicaClient struct {
	Options

	pool     *Pool
	logger   atomic.Pointer[slog.Logger]
	observer atomic.Pointer[litestream.OperationObserver]
}

// NewReplicaClient returns a client with default options for a server that the
// caller sets.
func NewReplicaClient() *ReplicaClient {
	c := &ReplicaClient{Options: Options{ConcurrentWrites: true}, pool: &sharedPool}
	c.logger.Store(slog.New(slog.DiscardHandler))
	return c
}

// Type returns "sftp".
func (c *ReplicaClient) Type() string { return ReplicaClientType }

// Location names the destination in one line, without secrets. "~" stands for
// where a login begins.
func (c *ReplicaClient) Location() string {
	p := path.Clean(c.Path)
	if !path.IsAbs(p) {
		p = path.Join("/~", p)
	}
	return "sftp://" + c.place() + p
}

// place names the server in errors.
func (c *ReplicaClient) place() string { return c.User + "@" + withPort(c.Host) }

// Unsure reports whether the server was seen to make no hard links, so that a
// name is looked up before it is given.
func (c *ReplicaClient) Unsure() bool {
	return c.pool.connection(c.withDefaults().connKey()).unconditional.Load()
}

// SetLogger sets where the client reports what it learns of the server.
func (c *ReplicaClient) SetLogger(logger *slog.Logger) {
	c.logger.Store(logger.With("replica", ReplicaClientType))
}

// SetObserver sets who is told of every operation.
func (c *ReplicaClient) SetObserver(o litestream.OperationObserver) { c.observer.Store(&o) }

// WithPrefix returns a client for another folder of the same server, which
// shares connection, logger and observer.
func (c *ReplicaClient) WithPrefix(path string) litestream.ReplicaClient {
	other := &ReplicaClient{Options: c.Options, pool: c.pool}
	other.Path = path
	other.logger.Store(c.logger.Load())
	other.observer.Store(c.observer.Load())
	return other
}

// Init checks the options. It makes no request: server, credentials and folder
// are found right or wrong at first use.
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

// connection returns the way to the server.
func (c *ReplicaClient) connection(ctx context.Context) (*connection, error) {
	if err := c.Init(ctx); err != nil {
		return nil, err
	}
	return c.pool.connection(c.withDefaults().connKey()), nil
}

// do runs an operation, again if its connection is lost.
func (c *ReplicaClient) do(ctx context.Context, op func(ctx context.Context, s *session) error) error {
	cn, err := c.connection(ctx)
	if err != nil {
		return err
	}
	return cn.do(ctx, c.logger.Load(), op)
}

// ask is do for an operation that is one call.
func (c *ReplicaClient) ask(ctx context.Context, fn func(c *sftp.Client) error) error {
	return c.do(ctx, func(ctx context.Context, s *session) error { return s.call(ctx, fn) })
}

// DeleteLTXFiles deletes files, some at a time. One that is missing is no
// error. It goes on after an error and returns all of them.
func (c *ReplicaClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	keys := make([]string, 0, len(a))
	for _, info := range a {
		keys = append(keys, fileKey(info.Level, info.MinTXID, info.MaxTXID))
	}
	return c.deleteKeys(ctx, keys)
}

// deleteKeys deletes files, named relative to the path.
func (c *ReplicaClient) deleteKeys(ctx context.Context, keys []string) error {
	err := blob.Each(ctx, len(keys), maxParallel, func(ctx context.Context, i int) error {
		began := time.Now()
		err := c.ask(ctx, func(client *sftp.Client) error {
			err := client.Remove(c.join(keys[i]))
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
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

// DeleteAll deletes every LTX file and every temporary file of a write, and
// then the level folders that are empty. Anything else stays.
func (c *ReplicaClient) DeleteAll(ctx context.Context) error {
	for level := range litestream.SnapshotLevel + 1 {
		entries, err := c.readDir(ctx, levelKey(level))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		var keys []string
		for _, entry := range entries {
			_, _, err := ltx.ParseFilename(entry.Name())
			_, temporary := blob.ParseTempName(entry.Name())
			if !entry.IsDir() && (err == nil || temporary) {
				keys = append(keys, levelKey(level)+"/"+entry.Name())
			}
		}
		if err := c.deleteKeys(ctx, keys); err != nil {
			return err
		}
		if err := c.removeDir(ctx, levelKey(level)); err != nil {
			return err
		}
	}
	return c.removeDir(ctx, ltxDir)
}

// removeDir removes a folder if nothing is in it. One that is not empty holds
// files of somebody else, which is no error.
func (c *ReplicaClient) removeDir(ctx context.Context, key string) error {
	err := c.ask(ctx, func(client *sftp.Client) error { return client.RemoveDirectory(c.join(key)) })
	if _, refused := errors.AsType[*sftp.StatusError](err); refused || errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return c.wrap("delete", key, err)
	}
	return nil
}

// join returns the name on the server of what lies below the path.
func (c *ReplicaClient) join(key string) string { return cmp.Or(path.Join(c.Path, key), ".") }

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

func checkRange(offset, size int64) error {
	if offset < 0 || size < 0 {
		return fmt.Errorf("invalid range: offset %d, size %d", offset, size)
	}
	return nil
}
