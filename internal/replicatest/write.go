package replicatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

func testOverwrite(t *testing.T, newClient NewFunc, _ Options) {
	c := newClient(t)
	for seed, n := range []int{5000, 200, 9000} {
		data := File(t, 1, 1, n, uint64(seed))
		Write(t, c, 0, 1, 1, data)
		got, err := Read(t, c, 0, 1, 1, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("write %d: read %d bytes, want the %d just written", seed, len(got), n)
		}
		if a := List(t, c, 0, 0, false); len(a) != 1 || a[0].Size != int64(n) {
			t.Errorf("write %d: listed %+v", seed, a)
		}
	}
}

func exclusive(t *testing.T, c litestream.ReplicaClient) litestream.ExclusiveWriter {
	t.Helper()
	w, ok := c.(litestream.ExclusiveWriter)
	if !ok {
		t.Skipf("%s has no exclusive write", c.Type())
	}
	return w
}

func testExclusive(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	w := exclusive(t, c)
	for i, n := range []int{400, int(opts.PartSize) + 1000} {
		txid := ltx.TXID(i + 1)
		data := File(t, txid, txid, n, 1)
		info, err := w.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data))
		if err != nil {
			t.Fatalf("first write of %d bytes: %v", n, err)
		}
		if info.Size != int64(n) || !info.CreatedAt.Equal(TimeOf(txid)) {
			t.Errorf("first write of %d bytes: info=%+v", n, info)
		}
		for _, r := range []io.Reader{bytes.NewReader(File(t, txid, txid, n, 2)), io.MultiReader(bytes.NewReader(data))} {
			_, err = w.WriteLTXFileExclusive(t.Context(), 0, txid, txid, r)
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("second write of %d bytes: err=%v, want fs.ErrExist", n, err)
			}
			wantReplicaError(t, opts, err)
			if litestream.IsPermanent(err) {
				t.Errorf("second write: %v is permanent", err)
			}
		}
		if got, err := Read(t, c, 0, txid, txid, 0, 0); err != nil || !bytes.Equal(got, data) {
			t.Errorf("after refusal: read %d bytes, err=%v, want the first write's %d", len(got), err, n)
		}
	}
}

func testExclusiveRace(t *testing.T, newClient NewFunc, opts Options) {
	if opts.NoRaces {
		t.Skip("the server lets several writers succeed")
	}
	c := newClient(t)
	w := exclusive(t, c)
	const writers = 16
	for round := range 5 {
		txid := ltx.TXID(round + 1)
		var wins atomic.Int64
		var winner atomic.Uint64
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range writers {
			data := File(t, txid, txid, 3000, uint64(i))
			wg.Go(func() {
				<-start
				_, err := w.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data))
				switch {
				case err == nil:
					wins.Add(1)
					winner.Store(uint64(i))
				case !errors.Is(err, fs.ErrExist):
					t.Errorf("writer %d: err=%v, want fs.ErrExist", i, err)
				}
			})
		}
		close(start)
		wg.Wait()
		if got := wins.Load(); got != 1 {
			t.Fatalf("round %d: %d winners, want 1", round, got)
		}
		got, err := Read(t, c, 0, txid, txid, 0, 0)
		if err != nil || !bytes.Equal(got, File(t, txid, txid, 3000, winner.Load())) {
			t.Errorf("round %d: object is not the winner's (err=%v)", round, err)
		}
	}
}

func testMetadata(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	ranges := [][2]ltx.TXID{{1, 1}, {2, 50}, {60, 60}}
	for i, r := range ranges {
		n := 200
		if i == 1 && opts.PartSize > 0 {
			n = int(opts.PartSize) + 1
		}
		info := Write(t, c, 3, r[0], r[1], File(t, r[0], r[1], n, 0))
		want := &ltx.FileInfo{Level: 3, MinTXID: r[0], MaxTXID: r[1], Size: int64(n), CreatedAt: TimeOf(r[0])}
		if diff := cmp.Diff(want, info); diff != "" {
			t.Errorf("write (-want +got):\n%s", diff)
		}
	}
	for i, info := range List(t, c, 3, 0, true) {
		if want := TimeOf(ranges[i][0]); !info.CreatedAt.Equal(want) {
			t.Errorf("%s: CreatedAt=%v, want %v", names([]*ltx.FileInfo{info}), info.CreatedAt, want)
		}
		if info.CreatedAt.Location() != time.UTC {
			t.Errorf("CreatedAt is in %v, want UTC", info.CreatedAt.Location())
		}
	}
}

func testBadHeader(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	for name, data := range map[string][]byte{
		"empty": {}, "short": []byte("LTX1"), "other": bytes.Repeat([]byte("x"), 500),
	} {
		_, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(data))
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		wantReplicaError(t, opts, err)
	}
	if a := List(t, c, 0, 0, false); len(a) != 0 {
		t.Errorf("listed %q, want nothing", names(a))
	}
}

// testBrokenSource checks that an object is never stored by half.
func testBrokenSource(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	broken := errors.New("source broke")
	for _, n := range []int64{100, 5000, opts.PartSize + 100, 2*opts.PartSize + 100} {
		data := File(t, 1, 1, int(max(n, 100)), 0)
		_, err := c.WriteLTXFile(t.Context(), 0, 1, 1, io.MultiReader(bytes.NewReader(data), errReader{broken}))
		if !errors.Is(err, broken) {
			t.Errorf("source of %d bytes: err=%v, want the source's", len(data), err)
		}
		wantReplicaError(t, opts, err)
		if _, err := Read(t, c, 0, 1, 1, 0, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("source of %d bytes: read err=%v, want fs.ErrNotExist", len(data), err)
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func testCanceled(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	Write(t, c, 0, 1, 1, File(t, 1, 1, 200, 0))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()

	errs := make(map[string]error)
	_, errs["list"] = c.LTXFiles(ctx, 0, 0, false)
	_, errs["list with metadata"] = c.LTXFiles(ctx, 0, 0, true)
	_, errs["open"] = c.OpenLTXFile(ctx, 0, 1, 1, 0, 0)
	_, errs["write"] = c.WriteLTXFile(ctx, 0, 2, 2, bytes.NewReader(File(t, 2, 2, 200, 0)))
	errs["delete"] = c.DeleteLTXFiles(ctx, []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}})
	errs["delete all"] = c.DeleteAll(ctx)
	for name, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: err=%v, want context.Canceled", name, err)
		}
		if litestream.IsPermanent(err) {
			t.Errorf("%s: %v is permanent", name, err)
		}
	}

	// Canceled in the middle of a write: nothing may appear.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	data := File(t, 3, 3, int(opts.PartSize)+2000, 0)
	r := io.MultiReader(bytes.NewReader(data[:len(data)-1000]), funcReader(cancel), bytes.NewReader(data[len(data)-1000:]))
	if _, err := c.WriteLTXFile(ctx, 0, 3, 3, r); !errors.Is(err, context.Canceled) {
		t.Errorf("write canceled half way: err=%v, want context.Canceled", err)
	}
	if diff := cmp.Diff([]string{ltx.FormatFilename(1, 1)}, names(List(t, c, 0, 0, false))); diff != "" {
		t.Errorf("after cancel (-want +got):\n%s", diff)
	}
}

// funcReader calls itself at the first read, and is empty.
type funcReader func()

func (f funcReader) Read([]byte) (int, error) { f(); return 0, io.EOF }

// testSizes writes files of many sizes from each kind of source.
func testSizes(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	ps := int(opts.PartSize)
	small := []int{ltx.HeaderSize, ltx.HeaderSize + 1, 4096, 65536, 1<<20 + 7}
	for _, source := range []struct {
		name  string
		open  func([]byte) io.Reader
		sizes []int // beside the small ones
	}{
		{"Memory", func(b []byte) io.Reader { return bytes.NewReader(b) }, []int{ps - 1, ps + 1}},
		{"Stream", func(b []byte) io.Reader { return io.MultiReader(bytes.NewReader(b)) }, []int{ps - 1, ps, ps + 1, 2 * ps, 2*ps + 1, 20 << 20}},
		{"File", func(b []byte) io.Reader { return tempFile(t, nil, b) }, []int{ps, 2 * ps, 20 << 20}},
		{"Offset", func(b []byte) io.Reader { return tempFile(t, make([]byte, 777), b) }, []int{ps + 1}},
	} {
		t.Run(source.name, func(t *testing.T) {
			sizes := small
			for _, n := range source.sizes {
				if n > ltx.HeaderSize && (n <= ps+1 || (!opts.Quick && !testing.Short())) {
					sizes = append(slices.Clip(sizes), n)
				}
			}
			for i, n := range sizes {
				txid := ltx.TXID(i + 1)
				data := File(t, txid, txid, n, 0)
				info, err := c.WriteLTXFile(t.Context(), 0, txid, txid, source.open(data))
				if err != nil {
					t.Fatalf("write %d bytes: %v", n, err)
				}
				if info.Size != int64(n) {
					t.Errorf("write %d bytes: size=%d", n, info.Size)
				}
				got, err := Read(t, c, 0, txid, txid, 0, 0)
				if err != nil {
					t.Fatalf("read %d bytes: %v", n, err)
				}
				if !bytes.Equal(got, data) {
					t.Errorf("read %d bytes, want the %d written", len(got), n)
				}
			}
			for i, info := range List(t, c, 0, 0, false) {
				if info.Size != int64(sizes[i]) {
					t.Errorf("listed size %d, want %d", info.Size, sizes[i])
				}
			}
			if err := c.DeleteAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// tempFile returns a file that is positioned between before and b.
func tempFile(tb testing.TB, before, b []byte) *os.File {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "source"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	if _, err := f.Write(append(before, b...)); err != nil {
		tb.Fatal(err)
	}
	if _, err := f.Seek(int64(len(before)), io.SeekStart); err != nil {
		tb.Fatal(err)
	}
	return f
}

func testPrefix(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	p, ok := c.(litestream.Prefixer)
	if !ok || opts.Base == nil {
		t.Skipf("%s serves one path only", c.Type())
	}
	base := opts.Base(t)
	a, b := p.WithPrefix(base+"/a"), p.WithPrefix(base+"/b")
	Write(t, a, 0, 1, 1, File(t, 1, 1, 200, 0))
	Write(t, b, 0, 2, 2, File(t, 2, 2, 200, 0))
	for c, want := range map[litestream.ReplicaClient]string{a: ltx.FormatFilename(1, 1), b: ltx.FormatFilename(2, 2)} {
		if diff := cmp.Diff([]string{want}, names(List(t, c, 0, 0, true))); diff != "" {
			t.Errorf("list (-want +got):\n%s", diff)
		}
	}
	if err := a.DeleteAll(t.Context()); err != nil {
		t.Error(err)
	}
	if got := len(List(t, b, 0, 0, false)); got != 1 {
		t.Errorf("DeleteAll of one prefix left %d files of another, want 1", got)
	}
	if err := b.DeleteAll(t.Context()); err != nil {
		t.Error(err)
	}
}

func testConcurrent(t *testing.T, newClient NewFunc, _ Options) {
	c := newClient(t)
	parallel(t, 64, func(i int) error {
		txid := ltx.TXID(i + 1)
		data := File(t, txid, txid, 1000+i, 0)
		if _, err := c.WriteLTXFile(t.Context(), 0, txid, txid, bytes.NewReader(data)); err != nil {
			return err
		}
		got, err := Read(t, c, 0, txid, txid, 0, 0)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, data) {
			return fmt.Errorf("read %d bytes, want %d", len(got), len(data))
		}
		if _, err := c.LTXFiles(t.Context(), 0, txid, i%8 == 0); err != nil {
			return err
		}
		if i%2 == 0 {
			return c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: txid, MaxTXID: txid}})
		}
		return nil
	})
	if got := len(List(t, c, 0, 0, true)); got != 32 {
		t.Errorf("%d files left, want 32", got)
	}
}
