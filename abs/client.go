package abs

import (
	"context"
	"crypto/md5" //nolint:gosec // the checksum that the service keeps
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReplicaClientType is the name of this kind of replica in configurations.
const ReplicaClientType = "abs"

// MetadataTimestampKey is the name of the metadata that holds the timestamp of
// the LTX header, in any case, as in Litestream v0.5.
const MetadataTimestampKey = "litestreamtimestamp"

var (
	_ litestream.ReplicaClient    = (*ReplicaClient)(nil)
	_ litestream.ExclusiveWriter  = (*ReplicaClient)(nil)
	_ litestream.Prefixer         = (*ReplicaClient)(nil)
	_ litestream.ObservableClient = (*ReplicaClient)(nil)
	_ litestream.Locator          = (*ReplicaClient)(nil)
	_ litestream.TreeLister       = (*ReplicaClient)(nil)
	_ litestream.ObjectClient     = (*ReplicaClient)(nil)
	_ litestream.ObjectDeleter    = (*ReplicaClient)(nil)
)

// ReplicaClient stores the LTX files of one database below one path of a
// container. It is safe for concurrent use once its options are set.
//
// A request is tried up to eight times within some seconds, and longer where
// the service asks for it. An answer may be lost, so that a failed write may
// have stored the blob.
type ReplicaClient struct {
	Options

	pool     *Pool
	logger   atomic.Pointer[slog.Logger]
	observer atomic.Pointer[litestream.OperationObserver]
}

// NewReplicaClient returns a client with default options for an account and a
// container that the caller sets.
func NewReplicaClient() *ReplicaClient {
	c := &ReplicaClient{pool: &sharedPool}
	c.logger.Store(slog.New(slog.DiscardHandler))
	return c
}

// Type returns "abs".
func (c *ReplicaClient) Type() string { return ReplicaClientType }

// Location names the destination in one line, without secrets.
func (c *ReplicaClient) Location() string {
	loc := "abs://"
	if c.AccountName != "" {
		loc += c.AccountName + "@"
	}
	loc += c.Bucket + "/" + c.root().Location()
	if c.Endpoint != "" {
		loc += "?endpoint=" + c.withDefaults().Endpoint
	}
	return loc
}

// SetLogger sets where the client reports what it learns of the server.
func (c *ReplicaClient) SetLogger(logger *slog.Logger) {
	c.logger.Store(logger.With("replica", ReplicaClientType))
}

// SetObserver sets who is told of every operation.
func (c *ReplicaClient) SetObserver(o litestream.OperationObserver) { c.observer.Store(&o) }

// WithPrefix returns a client for another path of the same container, which
// shares connections, credentials, logger and observer.
func (c *ReplicaClient) WithPrefix(path string) litestream.ReplicaClient {
	other := &ReplicaClient{Options: c.Options, pool: c.pool}
	other.Path = path
	other.logger.Store(c.logger.Load())
	other.observer.Store(c.observer.Load())
	return other
}

// Init checks the options. It makes no request: credentials and container are
// found right or wrong at first use.
func (c *ReplicaClient) Init(context.Context) error {
	if hint, err := c.withDefaults().validate(); err != nil {
		return &litestream.ReplicaError{
			Type: ReplicaClientType, Op: "init", Bucket: c.Bucket, Key: c.Path,
			Permanent: true, Hint: hint, Err: err,
		}
	}
	return nil
}

// session is what one operation works with: the options with all defaults and
// the container they lead to.
type session struct {
	*ReplicaClient
	Options
	container *container.Client
}

func (c *ReplicaClient) session(ctx context.Context) (*session, error) {
	if err := c.Init(ctx); err != nil {
		return nil, err
	}
	s := &session{ReplicaClient: c, Options: c.withDefaults()}
	cn, err := c.pool.connection(s.Options)
	if err != nil {
		return nil, c.fail("connect", c.Path, err)
	}
	s.container = cn.service.NewContainerClient(s.Bucket)
	return s, nil
}

func (c *ReplicaClient) root() blob.Root { return blob.Root(c.Path) }

func (s *session) blob(key string) *blockblob.Client { return s.container.NewBlockBlobClient(key) }

// OpenLTXFile reads size bytes of a file from offset on, or all that follow if
// size is 0. From the end of the file on there is nothing to read. A connection
// that breaks while reading is an error, never a short file, and so is a whole
// file that does not have its checksum. Above 256 KiB the file holds one of the
// MaxConns connections until it is closed.
func (c *ReplicaClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	key := c.root().File(level, minTXID, maxTXID)
	if offset < 0 || size < 0 {
		return nil, c.fail("get", key, fmt.Errorf("invalid range: offset %d, size %d", offset, size))
	}
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, key, offset, size)
}

func (s *session) open(ctx context.Context, key string, offset, size int64) (io.ReadCloser, error) {
	began := time.Now()
	resp, err := s.blob(key).DownloadStream(ctx, &azblob.DownloadStreamOptions{
		Range: azblob.HTTPRange{Offset: offset, Count: size},
	})
	if errorCode(err) == codeInvalidRange {
		s.observe("GET", 0, began, nil)
		return http.NoBody, nil // offset lies at or behind the end
	}
	if err != nil {
		s.observe("GET", 0, began, err)
		return nil, s.fail("get", key, err)
	}
	d, err := newDownload(&resp, offset, size)
	if err != nil {
		err = errors.Join(err, resp.Body.Close())
		s.observe("GET", 0, began, err)
		return nil, s.fail("get", key, err)
	}
	d.Fail = func(err error) error { return s.fail("get", key, err) }
	d.Done = func(n int64, err error) { s.observe("GET", n, began, err) }
	return d.Open()
}

// newDownload makes sure that the body is the range that was asked for.
func newDownload(resp *azblob.DownloadStreamResponse, offset, size int64) (*blob.Download, error) {
	length := int64(-1)
	if resp.ContentLength != nil {
		length = *resp.ContentLength
	}
	d, err := blob.NewDownload(resp.Body, resp.ContentRange, length, offset, size)
	if err == nil && d.Whole && len(resp.ContentMD5) == md5.Size {
		d.Hash, d.Sum = md5.New(), resp.ContentMD5 //nolint:gosec // against accidents
	}
	return d, err
}

// deleteWorkers is the number of deletes in flight. There is a request that
// deletes 256 blobs, but not every kind of SAS token may use it.
const deleteWorkers = 16

// DeleteLTXFiles deletes files with one request each, several at a time. One
// that is missing is no error. It goes on after an error and returns the first
// few of them.
func (c *ReplicaClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	if len(a) == 0 {
		return nil
	}
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	err = blob.Each(ctx, len(a), deleteWorkers, func(ctx context.Context, i int) error {
		return s.deleteBlob(ctx, s.root().File(a[i].Level, a[i].MinTXID, a[i].MaxTXID))
	}, litestream.IsPermanent)
	if err != nil {
		return s.wrap("delete", s.root().Tree(), err)
	}
	return nil
}

// DeleteAll deletes every LTX file below the path. Other blobs stay.
func (c *ReplicaClient) DeleteAll(ctx context.Context) error {
	infos, err := c.LTXTree(ctx)
	if err != nil {
		return err
	}
	return c.DeleteLTXFiles(ctx, infos)
}

func (s *session) deleteBlob(ctx context.Context, key string) error {
	began := time.Now()
	_, err := s.blob(key).Delete(ctx, nil)
	if errorCode(err) == codeBlobNotFound {
		err = nil
	}
	s.observe("DELETE", 0, began, err)
	if err != nil {
		return s.fail("delete", key, err)
	}
	return nil
}

// observe reports one finished operation.
func (c *ReplicaClient) observe(op string, bytes int64, began time.Time, err error) {
	o := c.observer.Load()
	if o == nil {
		return
	}
	code := ""
	if err != nil {
		if re, ok := errors.AsType[*litestream.ReplicaError](err); ok {
			code = re.Code
		} else {
			code = errorCode(err)
		}
		if code == "" {
			code = "error"
		}
	}
	(*o).ObserveOperation(ReplicaClientType, op, bytes, time.Since(began), strings.TrimSpace(code))
}
