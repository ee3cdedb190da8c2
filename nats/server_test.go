package nats_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/replicatest"
	"github.com/benbjohnson/litestream/nats"
	"github.com/benbjohnson/litestream/tests/servers"
)

// impatient makes faults of the network known early.
func impatient(o *nats.Options) {
	o.ResponseTimeout, o.Timeout, o.ReconnectWait = time.Second, time.Second, 20*time.Millisecond
}

// objectStore returns the library's own object store of a bucket.
func objectStore(tb testing.TB, srv *servers.NATSServer) jetstream.ObjectStore {
	tb.Helper()
	js, done := srv.JetStream()
	tb.Cleanup(done)
	store, err := js.ObjectStore(tb.Context(), bucket)
	if err != nil {
		tb.Fatal(err)
	}
	return store
}

// messages returns how many messages the bucket holds.
func messages(tb testing.TB, srv *servers.NATSServer) uint64 {
	tb.Helper()
	js, done := srv.JetStream()
	defer done()
	stream, err := js.Stream(tb.Context(), "OBJ_"+bucket)
	if err != nil {
		tb.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

// TestLibrary holds that the library's object store and ours read each other's
// objects, and that nothing is left of one that was deleted or replaced.
func TestLibrary(t *testing.T) {
	t.Parallel()
	srv := start(t)
	store := objectStore(t, srv)
	base := newClient(t, nats.Config{Server: srv.Addr, Bucket: bucket})
	for _, folder := range []string{"", "a.b/c%d é/*"} {
		c := base.WithPrefix(folder)
		for i, n := range []int{100, 131072, 131073, 700_000} {
			txid := ltx.TXID(i + 1)
			data := replicatest.File(t, txid, txid, n, 0)
			replicatest.Write(t, c, 2, txid, txid, replicatest.File(t, txid, txid, n/2+100, 1)) // is replaced
			replicatest.Write(t, c, 2, txid, txid, data)
			name := path.Join(folder, "ltx/2", ltx.FormatFilename(txid, txid))
			got, err := store.GetBytes(t.Context(), name)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: the library reads %d bytes of %d, err=%v", name, len(got), n, err)
			}
			info, err := store.GetInfo(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Headers.Get(nats.TimestampHeader); got != replicatest.TimeOf(txid).Format(time.RFC3339Nano) {
				t.Errorf("%s: header %q", name, got)
			}
		}
		if err := c.DeleteAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := messages(t, srv); n != 0 {
			t.Errorf("%q: %d messages are left", folder, n)
		}
	}

	// What the library stores has chunks of any size.
	data := replicatest.File(t, 1, 1, 300_000, 0)
	name := "ltx/0/" + ltx.FormatFilename(1, 1)
	if _, err := store.Put(t.Context(), jetstream.ObjectMeta{Name: name}, io.MultiReader(bytes.NewReader(data[:100]), bytes.NewReader(data[100:]))); err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int64{0, 99, 250_000} {
		got, err := replicatest.Read(t, base, 0, 1, 1, offset, 0)
		if err != nil || !bytes.Equal(got, data[offset:]) {
			t.Errorf("from %d: %d bytes, err=%v", offset, len(got), err)
		}
	}
	if a := replicatest.List(t, base, 0, 0, true); len(a) != 1 || !a[0].CreatedAt.Equal(replicatest.TimeOf(1)) {
		t.Errorf("listed %+v", a)
	}
	// A deleted one may be written exclusively.
	if err := store.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if a := replicatest.List(t, base, 0, 0, true); len(a) != 0 {
		t.Errorf("listed %+v, want nothing", a)
	}
	if _, err := base.WriteLTXFileExclusive(t.Context(), 0, 1, 1, bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
}

// TestSweep holds that a listing removes what was left behind long ago, and
// nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	srv := start(t)
	store := objectStore(t, srv)
	js, done := srv.JetStream()
	t.Cleanup(done)
	base := newClient(t, nats.Config{Server: srv.Addr, Bucket: bucket})
	c := base.WithPrefix("p").(*nats.ReplicaClient)
	replicatest.Write(t, c, 0, 1, 1, replicatest.File(t, 1, 1, 100, 0))
	lost := "$O." + bucket + ".C.p.ltx.0.0000000000000002-0000000000000002%2Eltx."
	for _, id := range []string{fmt.Sprintf("%x-old", time.Now().Add(-25*time.Hour).Unix()), fmt.Sprintf("%x-new", time.Now().Unix())} {
		if _, err := js.Publish(t.Context(), lost+id, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []uint64{3, 3} { // the old one goes with the first listing
		if a := replicatest.List(t, c, 0, 0, false); len(a) != 1 {
			t.Errorf("listed %+v", a)
		}
		if got := messages(t, srv); got != want {
			t.Errorf("%d messages, want %d", got, want)
		}
	}

	// Marks of deleted objects, as other programs leave them.
	for _, name := range []string{"ltx/0/" + ltx.FormatFilename(1, 1), "mine"} {
		if _, err := store.PutString(t.Context(), name, "x"); err != nil {
			t.Fatal(err)
		}
		if err := store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	replicatest.List(t, base, 0, 0, false)
	if got := messages(t, srv); got != 5 {
		t.Errorf("%d messages, want 5", got)
	}
	nats.SetNow(base, func() time.Time { return time.Now().Add(25 * time.Hour) })
	replicatest.List(t, base, 0, 0, false)
	if got := messages(t, srv); got != 4 {
		t.Errorf("%d messages, want 4: one mark is ours", got)
	}
}

// TestSeek holds that little is read before an offset, also where the chunks of
// several files are mixed.
func TestSeek(t *testing.T) {
	t.Parallel()
	srv := start(t)
	proxy := servers.NewProxy(t, srv.Addr)
	c := newClient(t, nats.Config{Server: proxy.Addr, Bucket: bucket})
	const n = 6 << 20
	var wg sync.WaitGroup
	for i := range 4 {
		txid := ltx.TXID(i + 1)
		data := replicatest.File(t, txid, txid, n+i*1000, 0)
		wg.Go(func() {
			if _, err := c.WriteLTXFile(t.Context(), 9, txid, txid, bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 4 {
		txid := ltx.TXID(i + 1)
		data := replicatest.File(t, txid, txid, n+i*1000, 0)
		for _, offset := range []int64{4 << 20, 5<<20 + 77, n - 5} {
			before := proxy.Moved()
			got, err := replicatest.Read(t, c, 9, txid, txid, offset, 500)
			want := data[offset:min(offset+500, int64(len(data)))]
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("file %d from %d: %d bytes, err=%v", i, offset, len(got), err)
			}
			if moved := proxy.Moved() - before; moved > 24*(128<<10) {
				t.Errorf("file %d from %d: %d bytes moved", i, offset, moved)
			}
		}
	}
}

// TestCut cuts the connection at random bytes of uploads and downloads.
func TestCut(t *testing.T) {
	t.Parallel()
	srv := start(t)
	proxy := servers.NewProxy(t, srv.Addr)
	c := newClient(t, nats.Config{Server: proxy.Addr, Bucket: bucket, Path: "p"}, impatient)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range 12 {
		txid := ltx.TXID(i + 1)
		n := []int{500, 100_000, 1 << 20}[i%3]
		data := replicatest.File(t, txid, txid, n, 0)
		proxy.CutAfter(rng.Int64N(int64(n) + 2000))
		_, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			t.Errorf("write %d: %v", i, err)
		}
		proxy.CutAfter(rng.Int64N(int64(n)))
		got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d: %d bytes of %d, err=%v", i, len(got), n, err)
		}
	}
	proxy.CutAfter(-1)
	if a := replicatest.List(t, c, 0, 0, true); len(a) != 12 {
		t.Errorf("listed %d files, want 12", len(a))
	}
	if proxy.Cuts() == 0 {
		t.Error("nothing was cut")
	}
}

// TestHang keeps all bytes back. The call ends with an error, and the next one
// after the fault goes well.
func TestHang(t *testing.T) {
	t.Parallel()
	srv := start(t)
	proxy := servers.NewProxy(t, srv.Addr)
	c := newClient(t, nats.Config{Server: proxy.Addr, Bucket: bucket}, impatient)
	data := replicatest.File(t, 1, 1, 1000, 0)
	replicatest.Write(t, c, 0, 1, 1, data)
	proxy.Hang()
	if _, err := replicatest.Read(t, c, 0, 1, 1, 0, 0); err == nil || litestream.IsPermanent(err) {
		t.Errorf("read while the server hangs: err=%v, want a passing one", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := c.LTXFiles(ctx, 0, 0, false)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled while the server hangs: err=%v", err)
	}
	proxy.Resume()
	for deadline := time.Now().Add(time.Minute); ; {
		got, err := replicatest.Read(t, c, 0, 1, 1, 0, 0)
		if err == nil && bytes.Equal(got, data) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("does not recover: %v", err)
		}
	}
}

// TestKill kills the server under load, twice. What was acknowledged is there.
func TestKill(t *testing.T) {
	t.Parallel()
	srv := start(t)
	c := newClient(t, nats.Config{Server: srv.Addr, Bucket: bucket, Path: "p"}, impatient)
	const rounds, workers = 2, 8
	var written atomic.Int64
	var next atomic.Uint64
	var stop atomic.Bool
	var wg sync.WaitGroup
	var mu sync.Mutex // guards acked
	acked := make(map[ltx.TXID]int)
	for range workers {
		wg.Go(func() {
			for !stop.Load() {
				txid := ltx.TXID(next.Add(1))
				n := 100 + int(txid)%5*60_000
				data := replicatest.File(t, txid, txid, n, 0)
				_, err := c.WriteLTXFileExclusive(t.Context(), 0, txid, txid, bytes.NewReader(data))
				if litestream.IsPermanent(err) || errors.Is(err, fs.ErrExist) {
					t.Errorf("write %s: %v", txid, err)
				}
				if err == nil {
					mu.Lock()
					acked[txid] = n
					mu.Unlock()
					written.Add(1)
				}
			}
		})
	}
	await := func(more int64) {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for want, deadline := written.Load()+more, time.Now().Add(time.Minute); written.Load() < want; <-tick.C {
			if time.Now().After(deadline) {
				t.Error("no more writes")
				return
			}
		}
	}
	for range rounds {
		await(50)
		srv.Kill()
		srv.Restart()
	}
	await(50)
	stop.Store(true)
	wg.Wait()
	listed := make(map[ltx.TXID]*ltx.FileInfo)
	for _, info := range replicatest.List(t, c, 0, 0, true) {
		listed[info.MinTXID] = info
	}
	for txid, n := range acked {
		if listed[txid] == nil || listed[txid].Size != int64(n) {
			t.Errorf("%s was acknowledged, is listed as %+v", txid, listed[txid])
		}
	}
	for txid, info := range listed {
		got, err := replicatest.Read(t, c, 0, txid, txid, 0, 0)
		if err != nil || !bytes.Equal(got, replicatest.File(t, txid, txid, int(info.Size), 0)) {
			t.Errorf("%s: %d bytes of %d, err=%v", txid, len(got), info.Size, err)
		}
	}
	t.Logf("%d acknowledged, %d listed", len(acked), len(listed))
}

// TestRefusals holds what is said of buckets that cannot be used.
func TestRefusals(t *testing.T) {
	t.Parallel()
	srv := servers.NATS(t, "")
	srv.CreateBucket(jetstream.ObjectStoreConfig{Bucket: bucket, MaxBytes: 300_000})
	check := func(err error, permanent bool, want string) {
		t.Helper()
		if err == nil || litestream.IsPermanent(err) != permanent || !strings.Contains(err.Error(), want) {
			t.Errorf("err=%v (permanent %v), want permanent %v with %q", err, litestream.IsPermanent(err), permanent, want)
		}
	}
	missing := newClient(t, nats.Config{Server: srv.Addr, Bucket: "missing"})
	_, err := missing.LTXFiles(t.Context(), 0, 0, false)
	check(err, true, "create the bucket")
	for _, n := range []int{100, 1 << 20} {
		_, err = missing.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, n, 0)))
		check(err, true, "create the bucket")
	}
	_, err = replicatest.Read(t, missing, 0, 1, 1, 0, 0)
	check(err, true, "create the bucket")

	full := newClient(t, nats.Config{Server: srv.Addr, Bucket: bucket})
	_, err = full.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 1<<20, 0)))
	check(err, false, "the bucket may be full")
	replicatest.Write(t, full, 0, 1, 1, replicatest.File(t, 1, 1, 200_000, 0)) // nothing is left of the one before
	long := full.WithPrefix(strings.Repeat("é", 600))
	_, err = long.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(replicatest.File(t, 1, 1, 100, 0)))
	check(err, false, "too long")

	if err := objectStore(t, srv).Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = full.WriteLTXFile(t.Context(), 0, 2, 2, bytes.NewReader(replicatest.File(t, 2, 2, 100, 0)))
	check(err, true, "sealed")

	srv.Stop()
	_, err = full.LTXFiles(t.Context(), 0, 0, false)
	check(err, false, "connection")
	away := newClient(t, nats.Config{Server: srv.Addr, Bucket: bucket})
	_, err = away.LTXFiles(t.Context(), 0, 0, false)
	check(err, false, "does the server run")
}
