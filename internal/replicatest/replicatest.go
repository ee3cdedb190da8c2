// Package replicatest holds the tests that every replica client must pass,
// whatever it stores files in.
package replicatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// Options tell what is particular to a backend.
type Options struct {
	// PartSize is the size in bytes from which the client uploads in parts;
	// files around it are tested. Zero tests none but the common sizes.
	PartSize int64

	// Quick lists two pages of files instead of three, and leaves out the
	// largest files: for servers that differ little from another one.
	Quick bool

	// PlainErrors allows errors that are no *litestream.ReplicaError, of a
	// client that stands below the root package.
	PlainErrors bool

	// Short lists a hundred files instead of several pages, with Quick: for
	// protocols without pages.
	Short bool

	// NoRaces leaves out the exclusive writes of the same moment, of which a
	// weak server lets several succeed.
	NoRaces bool

	// Base returns a path below which the client can serve prefixes of a test.
	// Nil leaves out the test of prefixes.
	Base func(tb testing.TB) string

	// Foreign, if set, puts objects of somebody else beside the LTX files.
	Foreign Foreign
}

// Foreign reaches into the storage behind a client, past the client. Names are
// relative to the folder of a level.
type Foreign struct {
	Put func(tb testing.TB, c litestream.ReplicaClient, level int, name string)
	Has func(tb testing.TB, c litestream.ReplicaClient, level int, name string) bool
}

// NewFunc returns an initialized client for an empty place of its own.
type NewFunc func(tb testing.TB) litestream.ReplicaClient

// Run runs all tests. Each gets a client of its own.
func Run(t *testing.T, newClient NewFunc, opts Options) {
	t.Helper()
	for _, tt := range []struct {
		name string
		run  func(*testing.T, NewFunc, Options)
	}{
		{"Type", testType},
		{"Empty", testEmpty},
		{"Order", testOrder},
		{"Paging", testPaging},
		{"Ranges", testRanges},
		{"Missing", testMissing},
		{"Delete", testDelete},
		{"DeleteAll", testDeleteAll},
		{"Overwrite", testOverwrite},
		{"Exclusive", testExclusive},
		{"ExclusiveRace", testExclusiveRace},
		{"Metadata", testMetadata},
		{"BadHeader", testBadHeader},
		{"BrokenSource", testBrokenSource},
		{"Canceled", testCanceled},
		{"Sizes", testSizes},
		{"Prefix", testPrefix},
		{"Concurrent", testConcurrent},
		{"Close", testClose},
		{"Tree", testTree},
		{"TreePaging", testTreePaging},
		{"TreePrefix", testTreePrefix},
		{"Objects", testObjects},
		{"ObjectErrors", testObjectErrors},
		{"ObjectDelete", testObjectDelete},
		{"ObjectRace", testObjectRace},
		{"ObjectsEmpty", testObjectsEmpty},
		{"Replicas", testReplicas},
		{"V03", testV03},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newClient, opts) })
	}
}

// baseTime is the timestamp of the first file; others follow in milliseconds.
var baseTime = time.Date(2021, 3, 4, 5, 6, 7, 123e6, time.UTC)

// TimeOf returns the timestamp in the header that File makes.
func TimeOf(minTXID ltx.TXID) time.Time {
	return baseTime.Add(time.Duration(minTXID) * time.Millisecond)
}

// File returns n bytes (at least a header's) that begin with an LTX header and
// go on with noise that depends on all arguments.
func File(tb testing.TB, minTXID, maxTXID ltx.TXID, n int, seed uint64) []byte {
	tb.Helper()
	hdr := ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: 4096, Commit: 1,
		MinTXID: minTXID, MaxTXID: maxTXID, Timestamp: TimeOf(minTXID).UnixMilli(),
	}
	b, err := hdr.MarshalBinary()
	if err != nil {
		tb.Fatal(err)
	}
	if n < len(b) {
		tb.Fatalf("file of %d bytes has no room for its header", n)
	}
	out := make([]byte, n)
	copy(out, b)
	var key [32]byte
	copy(key[:], fmt.Sprintf("%d-%d-%d-%d", minTXID, maxTXID, n, seed))
	if _, err := rand.NewChaCha8(key).Read(out[len(b):]); err != nil {
		tb.Fatal(err)
	}
	return out
}

// Write stores a file and fails the test if it cannot.
func Write(tb testing.TB, c litestream.ReplicaClient, level int, minTXID, maxTXID ltx.TXID, data []byte) *ltx.FileInfo {
	tb.Helper()
	info, err := c.WriteLTXFile(tb.Context(), level, minTXID, maxTXID, bytes.NewReader(data))
	if err != nil {
		tb.Fatalf("write %s on level %d: %v", ltx.FormatFilename(minTXID, maxTXID), level, err)
	}
	return info
}

// Read returns a file, or the part of it that offset and size name.
func Read(tb testing.TB, c litestream.ReplicaClient, level int, minTXID, maxTXID ltx.TXID, offset, size int64) ([]byte, error) {
	tb.Helper()
	r, err := c.OpenLTXFile(tb.Context(), level, minTXID, maxTXID, offset, size)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// List returns the files of a level.
func List(tb testing.TB, c litestream.ReplicaClient, level int, seek ltx.TXID, useMetadata bool) []*ltx.FileInfo {
	tb.Helper()
	itr, err := c.LTXFiles(tb.Context(), level, seek, useMetadata)
	if err != nil {
		tb.Fatalf("list level %d from %s: %v", level, seek, err)
	}
	var a []*ltx.FileInfo
	for itr.Next() {
		a = append(a, itr.Item())
	}
	if err := errors.Join(itr.Err(), itr.Close()); err != nil {
		tb.Fatalf("list level %d from %s: %v", level, seek, err)
	}
	return a
}

func names(a []*ltx.FileInfo) []string {
	out := make([]string, 0, len(a))
	for _, info := range a {
		out = append(out, ltx.FormatFilename(info.MinTXID, info.MaxTXID))
	}
	return out
}

func wantReplicaError(tb testing.TB, opts Options, err error) {
	tb.Helper()
	if opts.PlainErrors && err != nil {
		return
	}
	re, ok := errors.AsType[*litestream.ReplicaError](err)
	if !ok {
		tb.Errorf("err=%v (%T), want a *ReplicaError in it", err, err)
		return
	}
	if re.Type == "" || re.Op == "" {
		tb.Errorf("err=%#v, want type and operation", re)
	}
}

func testType(t *testing.T, newClient NewFunc, _ Options) {
	c := newClient(t)
	if c.Type() == "" {
		t.Error("client has no type")
	}
	for range 2 {
		if err := c.Init(t.Context()); err != nil {
			t.Errorf("Init: %v", err)
		}
	}
}

func testEmpty(t *testing.T, newClient NewFunc, _ Options) {
	c := newClient(t)
	for _, useMetadata := range []bool{false, true} {
		if a := List(t, c, 0, 0, useMetadata); len(a) != 0 {
			t.Errorf("empty place lists %q", names(a))
		}
	}
	if err := c.DeleteAll(t.Context()); err != nil {
		t.Errorf("DeleteAll: %v", err)
	}
	if err := c.DeleteLTXFiles(t.Context(), nil); err != nil {
		t.Errorf("DeleteLTXFiles of nothing: %v", err)
	}
}

func testOrder(t *testing.T, newClient NewFunc, _ Options) {
	c := newClient(t)
	for _, r := range [][2]ltx.TXID{{0x100, 0x100}, {2, 9}, {2, 3}, {0xffffffffffffffff, 0xffffffffffffffff}, {1, 1}, {10, 10}} {
		Write(t, c, 1, r[0], r[1], File(t, r[0], r[1], 200, 0))
	}
	Write(t, c, 0, 5, 5, File(t, 5, 5, 200, 0)) // another level
	Write(t, c, 9, 1, 7, File(t, 1, 7, 300, 0))

	all := []string{
		ltx.FormatFilename(1, 1), ltx.FormatFilename(2, 3), ltx.FormatFilename(2, 9), ltx.FormatFilename(10, 10),
		ltx.FormatFilename(0x100, 0x100), ltx.FormatFilename(0xffffffffffffffff, 0xffffffffffffffff),
	}
	for seek, want := range map[ltx.TXID][]string{
		0: all, 1: all, 2: all[1:], 3: all[3:], 9: all[3:], 10: all[3:], 11: all[4:], 0x101: all[5:],
		0xffffffffffffffff: all[5:],
	} {
		if diff := cmp.Diff(want, names(List(t, c, 1, seek, false))); diff != "" {
			t.Errorf("list from %s (-want +got):\n%s", seek, diff)
		}
	}
	if diff := cmp.Diff([]string{ltx.FormatFilename(1, 7)}, names(List(t, c, 9, 0, false))); diff != "" {
		t.Errorf("snapshot level (-want +got):\n%s", diff)
	}
}

// testPaging lists and deletes more files than one page of any service holds.
func testPaging(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	listN := 2300
	if opts.Quick || testing.Short() {
		listN = 1010
	}
	if opts.Short {
		listN = 100
	}
	parallel(t, listN, func(i int) error {
		txid := ltx.TXID(i + 1)
		_, err := c.WriteLTXFile(t.Context(), 0, txid, txid, bytes.NewReader(File(t, txid, txid, 120, 0)))
		return err
	})
	a := List(t, c, 0, 0, false)
	if got, want := len(a), listN; got != want {
		t.Fatalf("listed %d files, want %d", got, want)
	}
	for i, info := range a {
		if info.MinTXID != ltx.TXID(i+1) || info.Size != 120 || info.Level != 0 {
			t.Fatalf("file %d is %+v", i, info)
		}
	}
	seek := ltx.TXID(listN / 2)
	if a := List(t, c, 0, seek, false); len(a) != listN-int(seek)+1 || a[0].MinTXID != seek {
		t.Errorf("from %s: listed %d files, want %d", seek, len(a), listN-int(seek)+1)
	}

	// Two thirds are deleted at once, and as many that never were.
	n := listN * 2 / 3
	victims := append([]*ltx.FileInfo(nil), a[:n]...)
	for i := range n {
		txid := ltx.TXID(1e9 + i)
		victims = append(victims, &ltx.FileInfo{MinTXID: txid, MaxTXID: txid})
	}
	if err := c.DeleteLTXFiles(t.Context(), victims); err != nil {
		t.Fatalf("delete %d files: %v", len(victims), err)
	}
	if diff := cmp.Diff(names(a[n:]), names(List(t, c, 0, 0, false))); diff != "" {
		t.Errorf("after delete (-want +got):\n%s", diff)
	}
	if err := c.DeleteAll(t.Context()); err != nil {
		t.Errorf("DeleteAll: %v", err)
	}
	if a := List(t, c, 0, 0, false); len(a) != 0 {
		t.Errorf("%d files left after DeleteAll", len(a))
	}
}

// parallelism is the number of calls that parallel has in flight.
const parallelism = 16

// parallel runs n calls, some at a time.
func parallel(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range parallelism {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					t.Errorf("call %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func testRanges(t *testing.T, newClient NewFunc, _ Options) {
	c := newClient(t)
	data := File(t, 1, 4, 10000, 0)
	Write(t, c, 2, 1, 4, data)
	for _, tt := range []struct{ offset, size, want int64 }{
		{0, 0, 10000},
		{0, 1, 1},
		{0, 100, 100},
		{0, 10000, 10000},
		{0, 20000, 10000},
		{100, 0, 9900},
		{100, 50, 50},
		{9999, 0, 1},
		{9999, 1, 1},
		{9999, 5, 1},
		{9000, 5000, 1000},
		{10000, 0, 0},
		{10000, 1, 0},
		{12345, 0, 0},
		{12345, 10, 0},
	} {
		got, err := Read(t, c, 2, 1, 4, tt.offset, tt.size)
		if err != nil {
			t.Errorf("read offset %d size %d: %v", tt.offset, tt.size, err)
			continue
		}
		from := min(tt.offset, 10000)
		if want := data[from : from+tt.want]; !bytes.Equal(got, want) {
			t.Errorf("read offset %d size %d: %d bytes, want %d equal ones", tt.offset, tt.size, len(got), len(want))
		}
	}
	for _, tt := range [][2]int64{{-1, 0}, {0, -1}} {
		if _, err := Read(t, c, 2, 1, 4, tt[0], tt[1]); err == nil {
			t.Errorf("read offset %d size %d: no error", tt[0], tt[1])
		}
	}

	// A reader may be closed before its end, and others go on.
	r, err := c.OpenLTXFile(t.Context(), 2, 1, 4, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r, 10); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("close early: %v", err)
	}
}

func testMissing(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	Write(t, c, 0, 1, 1, File(t, 1, 1, 150, 0))
	for _, offset := range []int64{0, 10} {
		_, err := Read(t, c, 0, 2, 2, offset, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read missing file: err=%v, want fs.ErrNotExist", err)
		}
		wantReplicaError(t, opts, err)
		if litestream.IsPermanent(err) {
			t.Errorf("read missing file: %v is permanent", err)
		}
	}
}

func testDelete(t *testing.T, newClient NewFunc, _ Options) {
	c := newClient(t)
	for txid := ltx.TXID(1); txid <= 3; txid++ {
		Write(t, c, 0, txid, txid, File(t, txid, txid, 150, 0))
		Write(t, c, 1, txid, txid, File(t, txid, txid, 150, 0))
	}
	victims := []*ltx.FileInfo{{Level: 0, MinTXID: 2, MaxTXID: 2}, {Level: 1, MinTXID: 3, MaxTXID: 3}, {Level: 5, MinTXID: 7, MaxTXID: 8}}
	for range 2 { // the second time nothing is there
		if err := c.DeleteLTXFiles(t.Context(), victims); err != nil {
			t.Fatal(err)
		}
	}
	for level, want := range map[int][]string{
		0: {ltx.FormatFilename(1, 1), ltx.FormatFilename(3, 3)},
		1: {ltx.FormatFilename(1, 1), ltx.FormatFilename(2, 2)},
	} {
		if diff := cmp.Diff(want, names(List(t, c, level, 0, false))); diff != "" {
			t.Errorf("level %d (-want +got):\n%s", level, diff)
		}
	}
}

func testDeleteAll(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	for level := range litestream.SnapshotLevel + 1 {
		Write(t, c, level, 1, 1, File(t, 1, 1, 150, 0))
	}
	foreign := []string{"notes.txt", "0000000000000001-0000000000000001.ltx.bak"}
	if opts.Foreign.Put != nil {
		for _, name := range foreign {
			opts.Foreign.Put(t, c, 0, name)
		}
		if got := len(List(t, c, 0, 0, true)); got != 1 {
			t.Errorf("listed %d files beside foreign ones, want 1", got)
		}
	}
	if err := c.DeleteAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for level := range litestream.SnapshotLevel + 1 {
		if a := List(t, c, level, 0, false); len(a) != 0 {
			t.Errorf("level %d still lists %q", level, names(a))
		}
	}
	if opts.Foreign.Has != nil {
		for _, name := range foreign {
			if !opts.Foreign.Has(t, c, 0, name) {
				t.Errorf("foreign object %s is gone", name)
			}
		}
	}
	Write(t, c, 0, 1, 1, File(t, 1, 1, 150, 0)) // the place can be used again
}

// testClose gives readers up while they are read, as a restore does that ends
// early. What the race detector says of it is the test.
func testClose(t *testing.T, newClient NewFunc, _ Options) {
	c := newClient(t)
	const size = 1 << 20 // more than a client reads ahead
	data := File(t, 1, 1, size, 0)
	Write(t, c, 0, 1, 1, data)
	for round := range 8 {
		ctx, cancel := context.WithCancel(t.Context())
		rc, err := c.OpenLTXFile(ctx, 0, 1, 1, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		reading := make(chan struct{})
		wg.Go(func() {
			got, told := make([]byte, 0, size), false
			for buf := make([]byte, 16<<10); ; {
				n, err := rc.Read(buf)
				got = append(got, buf[:n]...)
				if len(got) > round*size/8 && !told {
					close(reading)
					told = true
				}
				if err != nil {
					break
				}
			}
			if !bytes.HasPrefix(data, got) {
				t.Error("what was read is not what was written")
			}
			if !told {
				close(reading)
			}
		})
		<-reading
		cancel()
		if err := rc.Close(); err != nil {
			t.Logf("round %d: close: %v", round, err) // of a connection that is given up
		}
		wg.Wait()
		if _, err := rc.Read(make([]byte, 1)); err == nil {
			t.Errorf("round %d: a closed reader reads on", round)
		}
	}
}
