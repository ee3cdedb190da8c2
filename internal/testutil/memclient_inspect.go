package testutil

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/superfly/ltx"
)

// The functions below look at a MemClient from outside: they call no hook and
// count nothing.

// Count returns how often an operation was begun, failed ones included.
func (c *MemClient) Count(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[op]
}

// Counts returns all counters by operation.
func (c *MemClient) Counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}

// Requests returns the sum of all counters but OpInit.
func (c *MemClient) Requests() (n int) {
	for op, count := range c.Counts() {
		if op != OpInit {
			n += count
		}
	}
	return n
}

// BytesSent returns how many bytes were stored by writes.
func (c *MemClient) BytesSent() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// BytesReceived returns how many bytes were read from opened files.
func (c *MemClient) BytesReceived() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received
}

// ResetCounts sets all counters to zero.
func (c *MemClient) ResetCounts() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.counts)
	c.sent, c.received = 0, 0
}

// Files returns what a level holds, in order.
func (c *MemClient) Files(level int) []*ltx.FileInfo {
	c.mu.Lock()
	var infos ltx.FileInfoSlice
	for k, o := range c.objects {
		if k.level == level {
			infos = append(infos, k.info(o))
		}
	}
	c.mu.Unlock()
	slices.SortFunc(infos, func(a, b *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(a.MinTXID, b.MinTXID), cmp.Compare(a.MaxTXID, b.MaxTXID))
	})
	return infos
}

// Data returns a copy of a file's bytes, or false if there is none.
func (c *MemClient) Data(level int, minTXID, maxTXID ltx.TXID) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[objectKey{level, minTXID, maxTXID}]
	return bytes.Clone(o.data), ok
}

// Put stores any bytes as a file, LTX or not. createdAt takes the place of the
// timestamp of an LTX header and of the time of the upload.
func (c *MemClient) Put(level int, minTXID, maxTXID ltx.TXID, data []byte, createdAt time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[objectKey{level, minTXID, maxTXID}] = object{data: bytes.Clone(data), createdAt: createdAt, writtenAt: createdAt}
}

// Delete removes a file and reports whether it was there.
func (c *MemClient) Delete(level int, minTXID, maxTXID ltx.TXID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := objectKey{level, minTXID, maxTXID}
	_, ok := c.objects[key]
	delete(c.objects, key)
	return ok
}

// Corrupt inverts one byte of a file. A negative offset counts from its end.
func (c *MemClient) Corrupt(tb testing.TB, level int, minTXID, maxTXID ltx.TXID, offset int) {
	tb.Helper()
	c.edit(tb, objectKey{level, minTXID, maxTXID}, func(data []byte) []byte {
		if offset < 0 {
			offset += len(data)
		}
		data[offset] ^= 0xff
		return data
	})
}

// Truncate keeps the first size bytes of a file. A negative size cuts so many
// bytes from its end.
func (c *MemClient) Truncate(tb testing.TB, level int, minTXID, maxTXID ltx.TXID, size int) {
	tb.Helper()
	c.edit(tb, objectKey{level, minTXID, maxTXID}, func(data []byte) []byte {
		if size < 0 {
			size += len(data)
		}
		return data[:size]
	})
}

// edit replaces the bytes of an object by a changed copy: readers that are
// open keep what they had.
func (c *MemClient) edit(tb testing.TB, key objectKey, fn func([]byte) []byte) {
	tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[key]
	if !ok {
		tb.Fatal(key.errorf("edit", ltx.ErrInvalidFile))
	}
	o.data = fn(bytes.Clone(o.data))
	c.objects[key] = o
}

// Named returns the names of all named objects, sorted.
func (c *MemClient) Named() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.named))
}
