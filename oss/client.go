package oss

import (
	"context"
	"crypto/md5" //nolint:gosec // the checksum that the service compares
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/crc64"
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
const ReplicaClientType = "oss"

// MetadataTimestampKey is the name of the user metadata that holds the
// timestamp of the LTX header, as in Litestream v0.5.
const MetadataTimestampKey = "litestream-timestamp"

// metadataPrefix is what the headers of user metadata begin with.
const metadataPrefix = "X-Oss-Meta-"

// maxDeleteKeys is the most keys that one request deletes.
const maxDeleteKeys = 1000

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

// crcTable is of the checksum that the service keeps for every object.
var crcTable = crc64.MakeTable(crc64.ECMA)

// ReplicaClient stores the LTX files of one database below one prefix of a
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

// Type returns "oss".
func (c *ReplicaClient) Type() string { return ReplicaClientType }

// Location names the destination in one line, without secrets.
func (c *ReplicaClient) Location() string {
	loc := "oss://" + c.Bucket + "/" + c.Path
	if c.Endpoint != "" {
		loc += "?endpoint=" + c.withDefaults().Endpoint
	}
	return loc
}

// Unsure reports whether the bucket was seen to keep versions, where the service
// refuses no overwrite.
func (c *ReplicaClient) Unsure() bool {
	s, err := c.session()
	if err != nil {
		return false
	}
	_, versioned := s.conn.versioned.Load(c.Bucket)
	return versioned
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
	conn, err := c.pool.connection(s.Options)
	if err != nil {
		return nil, c.fail("init", c.Path, err)
	}
	s.conn = conn
	return s, nil
}

func (c *ReplicaClient) prefix() blob.Prefix { return blob.Prefix(c.Path) }

// OpenLTXFile reads size bytes of a file from offset on, or all that follow if
// size is 0. From the end of the file on there is nothing to read. A connection
// that breaks while reading is an error, never a short file, and so is a whole
// file that does not have its checksum. Above 256 KiB the file holds one of the
// MaxConns connections until it is closed.
func (c *ReplicaClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	key := c.prefix().File(level, minTXID, maxTXID)
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
	r := &request{method: http.MethodGet, bucket: s.Bucket, key: key, header: make(http.Header)}
	if offset > 0 || size > 0 {
		rng := fmt.Sprintf("bytes=%d-", offset)
		if size > 0 {
			rng += strconv.FormatInt(offset+size-1, 10)
		}
		r.header.Set("Range", rng)
		// Otherwise a range that begins behind the end is answered with all.
		r.header.Set("X-Oss-Range-Behavior", "standard")
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
		d.Hash, d.Sum = crc64.New(crcTable), sum
	}
	d.Fail = func(err error) error { return s.fail("get", key, err) }
	d.Done = func(n int64, err error) { s.observe("GET", n, began, err) }
	return d.Open()
}

// headerChecksum returns the checksum of the whole object that an answer names,
// in the bytes of hash.Hash; nil if there is none.
func headerChecksum(h http.Header) []byte {
	sum, err := strconv.ParseUint(h.Get("X-Oss-Hash-Crc64ecma"), 10, 64)
	if err != nil {
		return nil
	}
	return binary.BigEndian.AppendUint64(nil, sum)
}

// DeleteLTXFiles deletes files, up to 1,000 with one request. One that is
// missing is no error. It goes on after an error and returns all of them.
func (c *ReplicaClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	if len(a) == 0 {
		return nil
	}
	s, err := c.session()
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(a))
	for _, info := range a {
		keys = append(keys, s.prefix().File(info.Level, info.MinTXID, info.MaxTXID))
	}
	return s.deleteKeys(ctx, keys)
}

// DeleteAll deletes every LTX file below the path. Other objects stay.
func (c *ReplicaClient) DeleteAll(ctx context.Context) error {
	infos, err := c.LTXTree(ctx)
	if err != nil {
		return err
	}
	return c.DeleteLTXFiles(ctx, infos)
}

func (s *session) deleteKeys(ctx context.Context, keys []string) error {
	var errs []error
	for len(keys) > 0 {
		n := min(len(keys), maxDeleteKeys)
		if err := s.deleteBatch(ctx, keys[:n]); err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil || litestream.IsPermanent(err) {
				break // the rest would fail like this batch
			}
		}
		keys = keys[n:]
	}
	return errors.Join(errs...)
}

// maxKeyErrors bounds how many keys of one batch are named that were not
// deleted.
const maxKeyErrors = 5

// deletion is the body of a batch delete.
type deletion struct {
	XMLName xml.Name `xml:"Delete"`
	Quiet   bool
	Object  []deleteObject
}

// deleteObject names one object of a deletion.
type deleteObject struct{ Key string }

// deleteBatch asks for the names of what was deleted: a key that the answer does
// not repeat is still there, and there is no other word of it.
func (s *session) deleteBatch(ctx context.Context, keys []string) error {
	began := time.Now()
	err := s.deleteNamed(ctx, keys)
	s.observe("DELETE", 0, began, err)
	return err
}

func (s *session) deleteNamed(ctx context.Context, keys []string) error {
	doc := deletion{Object: make([]deleteObject, len(keys))}
	for i, key := range keys {
		doc.Object[i].Key = key
	}
	b, err := xml.Marshal(doc)
	if err != nil {
		return s.fail("delete", s.Path, fmt.Errorf("encode keys: %w", err))
	}
	r := &request{
		method: http.MethodPost, bucket: s.Bucket, query: url.Values{"delete": {""}, "encoding-type": {"url"}},
		header: http.Header{"Content-Type": {"application/xml"}, "Content-Md5": {contentMD5(b)}},
		size:   int64(len(b)), body: func() io.Reader { return strings.NewReader(string(b)) },
	}
	var out struct {
		XMLName      xml.Name `xml:"DeleteResult"`
		EncodingType string
		Deleted      []deleteObject
	}
	if _, err := s.conn.call(ctx, r, &out); err != nil {
		return s.fail("delete", s.Path, err)
	}
	deleted := make(map[string]bool, len(out.Deleted))
	for _, obj := range out.Deleted {
		key := obj.Key
		if out.EncodingType == "url" {
			if key, err = url.QueryUnescape(key); err != nil {
				return s.fail("delete", s.Path, fmt.Errorf("decode key: %w", err))
			}
		}
		deleted[key] = true
	}
	var errs []error
	for _, key := range keys {
		if !deleted[key] {
			errs = append(errs, s.fail("delete", key, errNotDeleted))
		}
	}
	if n := len(errs); n > maxKeyErrors {
		errs = append(errs[:maxKeyErrors], fmt.Errorf("and %d more keys", n-maxKeyErrors))
	}
	return errors.Join(errs...)
}

// errNotDeleted is all that the service says of one key of several.
var errNotDeleted = errors.New("not deleted")

// contentMD5 returns the checksum of a small body for its header.
func contentMD5(b []byte) string {
	sum := md5.Sum(b) //nolint:gosec // what the protocol asks for
	return base64.StdEncoding.EncodeToString(sum[:])
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
