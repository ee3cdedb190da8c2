package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/blob"
)

// ReplicaClientType is the name of this kind of replica in configurations.
const ReplicaClientType = "s3"

// MetadataTimestampKey is the name of the user metadata that holds the
// timestamp of the LTX header, as in Litestream v0.5.
const MetadataTimestampKey = "litestream-timestamp"

// maxDeleteKeys is the most keys that one DeleteObjects takes.
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
	_ litestream.V03Client        = (*ReplicaClient)(nil)
)

// ReplicaClient stores the LTX files of one database below one prefix of a
// bucket. It is safe for concurrent use once its options are set.
//
// A request is tried up to eight times within some seconds. An answer may be
// lost, so that a failed write may have stored the object.
type ReplicaClient struct {
	Options

	pool     *Pool
	logger   atomic.Pointer[slog.Logger]
	observer atomic.Pointer[litestream.OperationObserver]
}

// NewReplicaClient returns a client with default options for a bucket that the
// caller sets.
func NewReplicaClient() *ReplicaClient {
	c := &ReplicaClient{
		Options: Options{SignPayload: true, SignAcceptEncoding: true, RequireContentMD5: true},
		pool:    &sharedPool,
	}
	c.logger.Store(slog.New(slog.DiscardHandler))
	return c
}

// Type returns "s3".
func (c *ReplicaClient) Type() string { return ReplicaClientType }

// Location names the destination in one line, without secrets.
func (c *ReplicaClient) Location() string {
	loc := "s3://" + c.Bucket + "/" + c.Path
	if c.Endpoint != "" {
		loc += "?endpoint=" + publicEndpoint(c.Endpoint)
	}
	return loc
}

// Unsure reports whether the server was seen to refuse conditions, so that a key
// is looked up before it is written.
func (c *ReplicaClient) Unsure() bool {
	o := c.withDefaults()
	return c.pool.connection(o.connKey()).unconditional.Load()
}

// SetLogger sets where the client reports what it learns of the server.
func (c *ReplicaClient) SetLogger(logger *slog.Logger) {
	c.logger.Store(logger.With("replica", ReplicaClientType))
}

// SetObserver sets who is told of every operation.
func (c *ReplicaClient) SetObserver(o litestream.OperationObserver) { c.observer.Store(&o) }

// WithPrefix returns a client for another prefix of the same bucket, which
// shares connections, logger and observer.
func (c *ReplicaClient) WithPrefix(path string) litestream.ReplicaClient {
	other := &ReplicaClient{Options: c.Options, pool: c.pool}
	other.Path = path
	other.logger.Store(c.logger.Load())
	other.observer.Store(c.observer.Load())
	return other
}

// Init checks the options. It makes no request: credentials, region and bucket
// are found right or wrong at first use.
func (c *ReplicaClient) Init(context.Context) error {
	if hint, err := c.withDefaults().validate(); err != nil {
		return &litestream.ReplicaError{
			Type: ReplicaClientType, Op: "init", Bucket: c.Bucket, Key: c.Path,
			Permanent: true, Hint: hint, Err: err,
		}
	}
	return nil
}

// InForce returns the options with all defaults. The region is empty if it is
// looked up.
func (c *ReplicaClient) InForce() Options {
	o := c.withDefaults()
	o.Region = o.connKey().region
	return o
}

// session is what one operation works with: the options with all defaults and
// the connection they lead to.
type session struct {
	*ReplicaClient
	Options
	conn *connection
	api  *s3.Client
}

func (c *ReplicaClient) session(ctx context.Context) (*session, error) {
	if err := c.Init(ctx); err != nil {
		return nil, err
	}
	s := &session{ReplicaClient: c, Options: c.withDefaults()}
	s.conn = c.pool.connection(s.connKey())
	api, err := s.conn.get(ctx, c.logger.Load())
	if err != nil {
		return nil, c.fail("connect", c.Path, err)
	}
	s.api = api
	return s, nil
}

// prefix is what all keys begin with. Nothing is cleaned: the path is part of
// existing keys as it stands.
func (c *ReplicaClient) prefix() blob.Prefix { return blob.Prefix(c.Path) }

// customerKey returns the three headers of every request that touches an object
// encrypted with the customer's key, or nothing.
func (s *session) customerKey() (algorithm, key, keyMD5 *string) {
	if s.SSECustomerKey == "" {
		return nil, nil, nil
	}
	return aws.String(s.SSECustomerAlgorithm), aws.String(s.SSECustomerKey), aws.String(s.SSECustomerKeyMD5)
}

// OpenLTXFile reads size bytes of a file from offset on, or all that follow if
// size is 0. From the end of the file on there is nothing to read. A connection
// that breaks while reading is an error, never a short file. Above 256 KiB the
// file holds one of the MaxConns connections until it is closed.
func (c *ReplicaClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	key := c.prefix().File(level, minTXID, maxTXID)
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
	rng := fmt.Sprintf("bytes=%d-", offset)
	if size > 0 {
		rng += strconv.FormatInt(offset+size-1, 10)
	}
	in := &s3.GetObjectInput{Bucket: aws.String(s.Bucket), Key: aws.String(key), Range: aws.String(rng)}
	in.SSECustomerAlgorithm, in.SSECustomerKey, in.SSECustomerKeyMD5 = s.customerKey()
	out, err := s.api.GetObject(ctx, in)
	if isRangeError(err) {
		s.observe("GET", 0, began, nil)
		return http.NoBody, nil // offset lies at or behind the end
	}
	if err != nil {
		s.observe("GET", 0, began, err)
		return nil, s.fail("get", key, err)
	}
	d, err := s.newDownload(out, offset, size)
	if err != nil {
		err = errors.Join(err, out.Body.Close())
		s.observe("GET", 0, began, err)
		return nil, s.fail("get", key, err)
	}
	d.Fail = func(err error) error { return s.fail("get", key, err) }
	d.Done = func(n int64, err error) { s.observe("GET", n, began, err) }
	return d.Open()
}

// newDownload makes sure that the body is the range that was asked for.
func (s *session) newDownload(out *s3.GetObjectOutput, offset, size int64) (*blob.Download, error) {
	length := int64(-1)
	if out.ContentLength != nil {
		length = *out.ContentLength
	}
	d, err := blob.NewDownload(out.Body, out.ContentRange, length, offset, size)
	if err == nil && out.ContentRange == nil && !d.Whole {
		s.warnRangeless()
	}
	return d, err
}

// warnRangeless tells once of a server that sends whole objects whatever part is
// asked for.
func (s *session) warnRangeless() {
	if s.conn.rangeless.CompareAndSwap(false, true) {
		s.logger.Load().Warn("s3 server ignores the range of reads and sends whole objects: reads of parts are slow and cost traffic",
			"endpoint", publicEndpoint(s.Endpoint), "bucket", s.Bucket)
	}
}

// isRangeError reports whether a range begins behind the end of its object.
func isRangeError(err error) bool {
	var re *awshttp.ResponseError
	return errors.As(err, &re) && re.HTTPStatusCode() == http.StatusRequestedRangeNotSatisfiable
}

// DeleteLTXFiles deletes files, up to 1,000 with one request. One that is
// missing is no error. It goes on after an error and returns all of them.
func (c *ReplicaClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	if len(a) == 0 {
		return nil
	}
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(a))
	for _, info := range a {
		keys = append(keys, c.prefix().File(info.Level, info.MinTXID, info.MaxTXID))
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

// maxKeyErrors bounds how many failed keys of one batch are named.
const maxKeyErrors = 5

func (s *session) deleteBatch(ctx context.Context, keys []string) error {
	began := time.Now()
	objects := make([]types.ObjectIdentifier, len(keys))
	for i := range keys {
		objects[i].Key = &keys[i]
	}
	var opts []func(*s3.Options)
	if s.RequireContentMD5 {
		opts = append(opts, withContentMD5)
	}
	out, err := s.api.DeleteObjects(ctx, &s3.DeleteObjectsInput{
		Bucket: aws.String(s.Bucket),
		Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)},
	}, opts...)
	if err != nil {
		s.observe("DELETE", 0, began, err)
		return s.fail("delete", s.Path, err)
	}

	var errs []error
	failed := 0
	for _, e := range out.Errors {
		if code := aws.ToString(e.Code); code != "NoSuchKey" {
			if failed++; failed <= maxKeyErrors {
				errs = append(errs, s.fail("delete", aws.ToString(e.Key), &keyError{code: code, message: aws.ToString(e.Message)}))
			}
		}
	}
	if failed > maxKeyErrors {
		errs = append(errs, fmt.Errorf("and %d more keys", failed-maxKeyErrors))
	}
	err = errors.Join(errs...)
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
	(*o).ObserveOperation(ReplicaClientType, op, bytes, time.Since(began), strings.TrimSpace(code))
}
