package testutil

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/superfly/ltx"
)

// Names of the operations of a MemClient, as its hooks and counters use them.
const (
	OpInit           = "init"
	OpList           = "list"
	OpOpen           = "open"
	OpWrite          = "write"
	OpWriteExclusive = "write-exclusive"
	OpDelete         = "delete"
	OpDeleteAll      = "delete-all"
	OpReadObject     = "read-object"
	OpWriteObject    = "write-object"
	OpDeleteObject   = "delete-object"
	OpEmpty          = "empty"
)

// AllLevels is the level that hooks are given of an operation that belongs to
// no single one: OpList of the whole tree, and those on named objects.
const AllLevels = -1

// Hook is asked about one operation. A list passes its seek as minTXID; a
// delete asks once per file. An error is returned to the caller of the
// operation.
type Hook func(op string, level int, minTXID, maxTXID ltx.TXID) error

// MemClient is a replica in memory. It has the methods of
// litestream.ReplicaClient and of its ExclusiveWriter, TreeLister and
// ObjectClient, which it must not name: the root package's own tests use it. It
// is safe for concurrent use; the fields are set before the first operation.
type MemClient struct {
	// Fail is called before each operation. After an error nothing is done.
	Fail Hook

	// After is called when an operation is done. Its error replaces the
	// answer, as when a connection breaks after the request was served.
	After Hook

	// Now is the clock of uploads; nil means time.Now.
	Now func() time.Time

	mu       sync.Mutex // guards the fields below; not held while hooks run
	objects  map[objectKey]object
	named    map[string][]byte
	counts   map[string]int
	sent     int64
	received int64
	logger   *slog.Logger
}

type objectKey struct {
	level    int
	min, max ltx.TXID
}

type object struct {
	data      []byte
	createdAt time.Time // timestamp of the LTX header
	writtenAt time.Time
}

// NewMemClient returns an empty replica.
func NewMemClient() *MemClient {
	return &MemClient{
		objects: make(map[objectKey]object), named: make(map[string][]byte), counts: make(map[string]int),
	}
}

// Type returns "mem".
func (c *MemClient) Type() string { return "mem" }

// Init does nothing but call the hooks.
func (c *MemClient) Init(ctx context.Context) error {
	if err := c.begin(ctx, OpInit, objectKey{}); err != nil {
		return err
	}
	return c.end(OpInit, objectKey{})
}

// LTXFiles lists one level from seek on. Without useMetadata, CreatedAt is the
// time of the upload.
func (c *MemClient) LTXFiles(ctx context.Context, level int, seek ltx.TXID, useMetadata bool) (ltx.FileIterator, error) {
	key := objectKey{level: level, min: seek}
	if err := c.begin(ctx, OpList, key); err != nil {
		return nil, err
	}
	infos := c.list(useMetadata, func(k objectKey) bool { return k.level == level && k.min >= seek })
	if err := c.end(OpList, key); err != nil {
		return nil, err
	}
	return ltx.NewFileInfoSliceIterator(infos), nil // it sorts
}

// LTXTree lists all levels. It counts as one OpList, of AllLevels.
func (c *MemClient) LTXTree(ctx context.Context) ([]*ltx.FileInfo, error) {
	key := objectKey{level: AllLevels}
	if err := c.begin(ctx, OpList, key); err != nil {
		return nil, err
	}
	infos := c.list(false, func(objectKey) bool { return true })
	slices.SortFunc(infos, func(a, b *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(a.MinTXID, b.MinTXID), cmp.Compare(a.MaxTXID, b.MaxTXID))
	})
	if err := c.end(OpList, key); err != nil {
		return nil, err
	}
	return infos, nil
}

// list returns the files that are wanted, in no order.
func (c *MemClient) list(useMetadata bool, want func(k objectKey) bool) (infos []*ltx.FileInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, o := range c.objects {
		if !want(k) {
			continue
		}
		info := k.info(o)
		if !useMetadata {
			info.CreatedAt = o.writtenAt
		}
		infos = append(infos, info)
	}
	return infos
}

// OpenLTXFile reads a file from offset on, size bytes or all.
func (c *MemClient) OpenLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, offset, size int64) (io.ReadCloser, error) {
	key := objectKey{level, minTXID, maxTXID}
	if err := c.begin(ctx, OpOpen, key); err != nil {
		return nil, err
	}
	c.mu.Lock()
	o, ok := c.objects[key]
	c.mu.Unlock()
	if !ok {
		return nil, key.errorf("open", fs.ErrNotExist)
	}
	if offset < 0 || size < 0 {
		return nil, key.errorf("open", fmt.Errorf("range %d+%d of %d bytes", offset, size, len(o.data)))
	}
	data := o.data[min(offset, int64(len(o.data))):]
	if size > 0 {
		data = data[:min(size, int64(len(data)))]
	}
	if err := c.end(OpOpen, key); err != nil {
		return nil, err
	}
	return &countingReader{c: c, r: bytes.NewReader(data)}, nil
}

// WriteLTXFile stores a file. It must begin with an LTX header; what follows
// is not looked at.
func (c *MemClient) WriteLTXFile(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, OpWrite, objectKey{level, minTXID, maxTXID}, r)
}

// WriteLTXFileExclusive stores a file unless there is one of that name, which
// is fs.ErrExist.
func (c *MemClient) WriteLTXFileExclusive(ctx context.Context, level int, minTXID, maxTXID ltx.TXID, r io.Reader) (*ltx.FileInfo, error) {
	return c.write(ctx, OpWriteExclusive, objectKey{level, minTXID, maxTXID}, r)
}

func (c *MemClient) write(ctx context.Context, op string, key objectKey, r io.Reader) (*ltx.FileInfo, error) {
	if err := c.begin(ctx, op, key); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, key.errorf(op, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, key.errorf(op, err)
	}
	info, err := c.store(key, data, op == OpWriteExclusive)
	if err != nil {
		return nil, key.errorf(op, err)
	}
	if err := c.end(op, key); err != nil {
		return nil, err
	}
	return info, nil
}

// store puts an object in place.
func (c *MemClient) store(key objectKey, data []byte, exclusive bool) (*ltx.FileInfo, error) {
	hdr, _, err := ltx.PeekHeader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	o := object{data: data, createdAt: time.UnixMilli(hdr.Timestamp).UTC(), writtenAt: c.now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.objects[key]; ok && exclusive {
		return nil, fs.ErrExist
	}
	c.sent += int64(len(data))
	c.objects[key] = o
	return key.info(o), nil
}

// DeleteLTXFiles deletes files one after the other, as far as no hook fails.
func (c *MemClient) DeleteLTXFiles(ctx context.Context, a []*ltx.FileInfo) error {
	for _, info := range a {
		key := objectKey{info.Level, info.MinTXID, info.MaxTXID}
		if err := c.begin(ctx, OpDelete, key); err != nil {
			return err
		}
		c.Delete(key.level, key.min, key.max)
		if err := c.end(OpDelete, key); err != nil {
			return err
		}
	}
	return nil
}

// DeleteAll deletes every file.
func (c *MemClient) DeleteAll(ctx context.Context) error {
	if err := c.begin(ctx, OpDeleteAll, objectKey{}); err != nil {
		return err
	}
	c.mu.Lock()
	clear(c.objects)
	c.mu.Unlock()
	return c.end(OpDeleteAll, objectKey{})
}

// SetLogger keeps the logger for Logger.
func (c *MemClient) SetLogger(logger *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.logger = logger
}

// Logger returns what SetLogger was given last.
func (c *MemClient) Logger() *slog.Logger {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logger
}

// begin counts an operation and asks whether it fails.
func (c *MemClient) begin(ctx context.Context, op string, key objectKey) error {
	c.mu.Lock()
	c.counts[op]++
	c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return key.errorf(op, err)
	}
	if c.Fail == nil {
		return nil
	}
	if err := c.Fail(op, key.level, key.min, key.max); err != nil {
		return key.errorf(op, err)
	}
	return nil
}

// end asks whether the answer of an operation is lost.
func (c *MemClient) end(op string, key objectKey) error {
	if c.After == nil {
		return nil
	}
	if err := c.After(op, key.level, key.min, key.max); err != nil {
		return key.errorf(op, err)
	}
	return nil
}

func (c *MemClient) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

func (k objectKey) info(o object) *ltx.FileInfo {
	return &ltx.FileInfo{
		Level: k.level, MinTXID: k.min, MaxTXID: k.max,
		Size: int64(len(o.data)), CreatedAt: o.createdAt,
	}
}

func (k objectKey) errorf(op string, err error) error {
	return fmt.Errorf("mem %s level %d %s: %w", op, k.level, ltx.FormatFilename(k.min, k.max), err)
}

// countingReader counts what is read from an object.
type countingReader struct {
	c *MemClient
	r *bytes.Reader
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.c.mu.Lock()
	r.c.received += int64(n)
	r.c.mu.Unlock()
	return n, err
}

func (r *countingReader) Close() error { return nil }
