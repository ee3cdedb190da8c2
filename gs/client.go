package gs

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
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
const ReplicaClientType = "gs"

// MetadataTimestampKey is the name of the metadata that holds the timestamp of
// the LTX header, as in Litestream v0.5.
const MetadataTimestampKey = "litestream-timestamp"

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

// crcTable is of the checksum that the service keeps for every object.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

// ReplicaClient stores the LTX files of one database below one path of a
// bucket. It is safe for concurrent use once its options are set.
//
// A request is tried up to eight times within some seconds, and longer where
// the service asks for it. An answer may be lost, so that a failed write may
// have stored the object.
type ReplicaClient struct {
	Options

	pool     *Pool
	logger   atomic.Pointer[slog.Logger]
	observer atomic.Pointer[litestream.OperationObserver]
}

// NewReplicaClient returns a client with default options for a bucket that the
// caller sets.
func NewReplicaClient() *ReplicaClient {
	c := &ReplicaClient{pool: &sharedPool}
	c.logger.Store(slog.New(slog.DiscardHandler))
	return c
}

// Type returns "gs".
func (c *ReplicaClient) Type() string { return ReplicaClientType }

// Location names the destination in one line, without secrets.
func (c *ReplicaClient) Location() string {
	loc := "gs://" + c.Bucket + "/" + c.root().Location()
	if o := c.withDefaults(); o.Endpoint != DefaultEndpoint {
		loc += "?endpoint=" + o.Endpoint
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
// connections, credentials, logger and observer.
func (c *ReplicaClient) WithPrefix(path string) litestream.ReplicaClient {
	other := &ReplicaClient{Options: c.Options, pool: c.pool}
	other.Path = path
	other.logger.Store(c.logger.Load())
	other.observer.Store(c.observer.Load())
	return other
}

// Init checks the options. It makes no request: credentials and bucket are
// found right or wrong at first use.
func (c *ReplicaClient) Init(context.Context) error {
	_, err := c.session()
	return err
}

// session is what one operation works with: the options with all defaults and
// the connection they lead to.
type session struct {
	*ReplicaClient
	Options
	conn *connection
}

func (c *ReplicaClient) session() (*session, error) {
	s := &session{ReplicaClient: c, Options: c.withDefaults()}
	if hint, err := s.validate(); err != nil {
		return nil, &litestream.ReplicaError{
			Type: ReplicaClientType, Op: "init", Bucket: c.Bucket, Key: c.Path,
			Permanent: true, Hint: hint, Err: err,
		}
	}
	s.conn = c.pool.connection(s.Options)
	return s, nil
}

func (c *ReplicaClient) root() blob.Root { return blob.Root(c.Path) }

// objectsURL returns the URL of all objects of the bucket.
func (s *session) objectsURL() string {
	return s.conn.base + "/storage/v1/b/" + url.PathEscape(s.Bucket) + "/o"
}

func (s *session) objectURL(key string) string {
	return s.objectsURL() + "/" + url.PathEscape(key)
}

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
	s, err := c.session()
	if err != nil {
		return nil, err
	}
	return s.open(ctx, key, offset, size)
}

func (s *session) open(ctx context.Context, key string, offset, size int64) (io.ReadCloser, error) {
	began := time.Now()
	r := &request{method: http.MethodGet, url: s.objectURL(key) + "?alt=media", header: make(http.Header)}
	if offset > 0 || size > 0 {
		rng := fmt.Sprintf("bytes=%d-", offset)
		if size > 0 {
			rng += strconv.FormatInt(offset+size-1, 10)
		}
		r.header.Set("Range", rng)
	}
	resp, err := s.conn.do(ctx, r)
	if api, ok := errors.AsType[*apiError](err); ok && api.status == http.StatusRequestedRangeNotSatisfiable {
		s.observe("GET", 0, began, nil)
		return http.NoBody, nil // offset lies at or behind the end
	}
	if err != nil {
		s.observe("GET", 0, began, err)
		return nil, s.fail("get", key, err)
	}
	d, err := blob.NewDownload(resp.Body, blob.ContentRange(resp), resp.ContentLength, offset, size)
	if err != nil {
		err = errors.Join(err, resp.Body.Close())
		s.observe("GET", 0, began, err)
		return nil, s.fail("get", key, err)
	}
	if sum := headerChecksum(resp.Header); sum != nil && d.Whole {
		d.Hash, d.Sum = crc32.New(crcTable), sum
	}
	d.Fail = func(err error) error { return s.fail("get", key, err) }
	d.Done = func(n int64, err error) { s.observe("GET", n, began, err) }
	return d.Open()
}

// headerChecksum returns the checksum of the whole object that an answer names.
func headerChecksum(h http.Header) []byte {
	for _, line := range h.Values("X-Goog-Hash") {
		for field := range strings.SplitSeq(line, ",") {
			if text, ok := strings.CutPrefix(strings.TrimSpace(field), "crc32c="); ok {
				if sum, err := base64.StdEncoding.DecodeString(text); err == nil && len(sum) == crc32.Size {
					return sum
				}
			}
		}
	}
	return nil
}

// deleteWorkers is the number of deletes in flight. The service has no request
// that deletes several objects.
const deleteWorkers = 16

// DeleteLTXFiles deletes files with one request each, several at a time. One
// that is missing is no error. It goes on after an error and returns the first
// few of them.
func (c *ReplicaClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	if len(a) == 0 {
		return nil
	}
	s, err := c.session()
	if err != nil {
		return err
	}
	return s.deleteFiles(ctx, a)
}

// DeleteAll deletes every LTX file below the path. Other objects stay.
func (c *ReplicaClient) DeleteAll(ctx context.Context) error {
	infos, err := c.LTXTree(ctx)
	if err != nil {
		return err
	}
	return c.DeleteLTXFiles(ctx, infos)
}

func (s *session) deleteFiles(ctx context.Context, a []*ltx.FileInfo) error {
	err := blob.Each(ctx, len(a), deleteWorkers, func(ctx context.Context, i int) error {
		return s.deleteObject(ctx, s.root().File(a[i].Level, a[i].MinTXID, a[i].MaxTXID))
	}, litestream.IsPermanent)
	if err != nil {
		return s.wrap("delete", s.root().Tree(), err)
	}
	return nil
}

func (s *session) deleteObject(ctx context.Context, key string) error {
	began := time.Now()
	err := s.conn.call(ctx, &request{method: http.MethodDelete, url: s.objectURL(key)}, nil)
	if err != nil {
		if err = s.fail("delete", key, err); isMissing(err) {
			err = nil
		}
	}
	s.observe("DELETE", 0, began, err)
	return err
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
