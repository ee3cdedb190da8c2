package replicatest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// tree lists all levels at once, and fails the test if the files are not those
// that the levels list one by one.
func tree(t *testing.T, c litestream.ReplicaClient) []*ltx.FileInfo {
	t.Helper()
	l, ok := c.(litestream.TreeLister)
	if !ok {
		t.Skipf("%s lists single levels only", c.Type())
	}
	got, err := l.LTXTree(t.Context())
	if err != nil {
		t.Fatalf("list all levels: %v", err)
	}
	var want []*ltx.FileInfo
	for level := range litestream.SnapshotLevel + 1 {
		want = append(want, List(t, c, level, 0, false)...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("all levels at once (-one by one +at once):\n%s", diff)
	}
	return got
}

func testTree(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	if got := tree(t, c); len(got) != 0 {
		t.Errorf("empty place lists %q", names(got))
	}
	for level := litestream.SnapshotLevel; level >= 0; level-- {
		if level == 4 {
			continue // an empty level between others
		}
		for _, r := range [][2]ltx.TXID{{0x100, 0x100}, {2, 9}, {2, 3}, {1, 1}} {
			Write(t, c, level, r[0], r[1], File(t, r[0], r[1], 200+level, 0))
		}
	}
	if opts.Foreign.Put != nil {
		for _, name := range []string{"notes.txt", "0000000000000001-0000000000000001.ltx.bak"} {
			opts.Foreign.Put(t, c, 3, name)
		}
	}
	got := tree(t, c)
	if want := 4 * litestream.SnapshotLevel; len(got) != want {
		t.Fatalf("listed %d files, want %d", len(got), want)
	}
	if info := got[len(got)-1]; info.Level != litestream.SnapshotLevel || info.MinTXID != 0x100 || info.Size != 209 {
		t.Errorf("last file is %+v, want the last of the snapshots", info)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.(litestream.TreeLister).LTXTree(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: err=%v, want context.Canceled", err)
	}
	wantReplicaError(t, opts, err)
}

// testTreePaging lists more files than one page of any service holds.
func testTreePaging(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	perLevel := 700
	if opts.Quick || testing.Short() {
		perLevel = 340
	}
	if opts.Short {
		perLevel = 40
	}
	levels := []int{0, 1, litestream.SnapshotLevel}
	parallel(t, perLevel*len(levels), func(i int) error {
		txid := ltx.TXID(i/len(levels) + 1)
		_, err := c.WriteLTXFile(t.Context(), levels[i%len(levels)], txid, txid, bytes.NewReader(File(t, txid, txid, 120, 0)))
		return err
	})
	if got, want := len(tree(t, c)), perLevel*len(levels); got != want {
		t.Errorf("listed %d files, want %d", got, want)
	}
}

// testTreePrefix has databases below and beside the one that is listed, one of
// them in a folder that is named like a level.
func testTreePrefix(t *testing.T, newClient NewFunc, opts Options) {
	p, ok := newClient(t).(litestream.Prefixer)
	if !ok || opts.Base == nil {
		t.Skip("client serves one path only")
	}
	base := opts.Base(t)
	for i, path := range []string{"/a", "/a/b", "/a/0003", "/a/3", "/a/0003x", "/ab", "/a0"} {
		txid := ltx.TXID(i + 1)
		c := p.WithPrefix(base + path)
		Write(t, c, 0, txid, txid, File(t, txid, txid, 200, 0))
		Write(t, c, 3, txid, txid, File(t, txid, txid, 200, 0))
	}
	want := []string{ltx.FormatFilename(1, 1), ltx.FormatFilename(1, 1)}
	if diff := cmp.Diff(want, names(tree(t, p.WithPrefix(base+"/a")))); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func objects(t *testing.T, c litestream.ReplicaClient) litestream.ObjectClient {
	t.Helper()
	o, ok := c.(litestream.ObjectClient)
	if !ok {
		t.Skipf("%s stores LTX files only", c.Type())
	}
	return o
}

func testObjects(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	o := objects(t, c)
	const name = "!litestream/epoch"
	_, err := o.ReadObject(t.Context(), name)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read missing object: err=%v, want fs.ErrNotExist", err)
	}
	wantReplicaError(t, opts, err)
	read := func(name string, want []byte) {
		t.Helper()
		if got, err := o.ReadObject(t.Context(), name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %q: %d bytes, err=%v, want %d", name, len(got), err, len(want))
		}
	}
	for _, data := range [][]byte{[]byte("first"), {}, bytes.Repeat([]byte("x"), litestream.MaxObjectSize)} {
		if err := o.WriteObject(t.Context(), name, data, false); err != nil {
			t.Fatalf("write %d bytes: %v", len(data), err)
		}
		read(name, data)
	}

	other := []byte("other")
	if err := o.WriteObject(t.Context(), "other", other, true); err != nil {
		t.Fatalf("exclusive write: %v", err)
	}
	err = o.WriteObject(t.Context(), "other", []byte("again"), true)
	if !errors.Is(err, fs.ErrExist) || litestream.IsPermanent(err) {
		t.Errorf("second exclusive write: err=%v, want fs.ErrExist", err)
	}
	wantReplicaError(t, opts, err)
	read("other", other)

	Write(t, c, 0, 1, 1, File(t, 1, 1, 200, 0))
	if err := c.DeleteAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	read("other", other)
}

func testObjectErrors(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	o := objects(t, c)
	large := make([]byte, litestream.MaxObjectSize+1)
	errs := map[string]error{"write too large": o.WriteObject(t.Context(), "large", large, false)}
	for _, name := range []string{"", ".", "/a", "a/", "a//b", "../a", "a/../b"} {
		_, errs["read "+name] = o.ReadObject(t.Context(), name)
		errs["write "+name] = o.WriteObject(t.Context(), name, nil, false)
	}
	for name, err := range errs {
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		wantReplicaError(t, opts, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	errs = map[string]error{"write": o.WriteObject(ctx, "a", nil, false)}
	_, errs["read"] = o.ReadObject(ctx, "a")
	_, errs["empty"] = o.Empty(ctx)
	for name, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: err=%v, want context.Canceled", name, err)
		}
		wantReplicaError(t, opts, err)
	}
	wantEmpty(t, o, true)
}

func testObjectDelete(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	o := objects(t, c)
	d, ok := c.(litestream.ObjectDeleter)
	if !ok {
		t.Skipf("%s deletes no named objects", c.Type())
	}
	const name, beside = "!litestream/a/b/object", "!litestream/other"
	for _, name := range []string{name, beside} {
		if err := o.WriteObject(t.Context(), name, []byte("x"), true); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a missing one is no error
		if err := d.DeleteObject(t.Context(), name); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	if _, err := o.ReadObject(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read deleted object: err=%v, want fs.ErrNotExist", err)
	}
	if _, err := o.ReadObject(t.Context(), beside); err != nil {
		t.Errorf("read object beside the deleted one: %v", err)
	}
	if err := o.WriteObject(t.Context(), name, []byte("again"), true); err != nil {
		t.Errorf("write deleted object again: %v", err)
	}
	for _, name := range []string{name, beside} {
		if err := d.DeleteObject(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	wantEmpty(t, o, true) // no folder is left either
	for _, name := range []string{"", ".", "/a", "../a"} {
		err := d.DeleteObject(t.Context(), name)
		if err == nil {
			t.Errorf("delete %q: no error", name)
		} else {
			wantReplicaError(t, opts, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := d.DeleteObject(ctx, name)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: err=%v, want context.Canceled", err)
	}
	wantReplicaError(t, opts, err)
}

func testObjectRace(t *testing.T, newClient NewFunc, opts Options) {
	if opts.NoRaces {
		t.Skip("the server lets several writers succeed")
	}
	o := objects(t, newClient(t))
	const writers = 16
	for round := range 5 {
		name := fmt.Sprintf("!litestream/object%d", round)
		var wins atomic.Int64
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range writers {
			wg.Go(func() {
				<-start
				err := o.WriteObject(t.Context(), name, []byte{byte(i)}, true)
				switch {
				case err == nil:
					wins.Add(1)
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
	}
}

func wantEmpty(t *testing.T, o litestream.ObjectClient, want bool) {
	t.Helper()
	if got, err := o.Empty(t.Context()); err != nil || got != want {
		t.Errorf("empty=%t, err=%v, want %t", got, err, want)
	}
}

func testObjectsEmpty(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	o := objects(t, c)
	wantEmpty(t, o, true)
	Write(t, c, litestream.SnapshotLevel, 1, 1, File(t, 1, 1, 200, 0))
	wantEmpty(t, o, false)
	if err := c.DeleteAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, o, true)
	if err := o.WriteObject(t.Context(), "a/b", []byte("x"), false); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, o, false)

	p, ok := c.(litestream.Prefixer)
	if !ok || opts.Base == nil {
		return
	}
	base := opts.Base(t)
	Write(t, p.WithPrefix(base+"/p1/t1"), 0, 1, 1, File(t, 1, 1, 200, 0))
	for path, want := range map[string]bool{"": false, "/p1": false, "/p1/t1": false, "/p": true, "/p1/t": true, "/p2": true} {
		wantEmpty(t, objects(t, p.WithPrefix(base+path)), want)
	}
	for _, path := range []string{"", "/p1"} {
		o := objects(t, p.WithPrefix(base+path))
		if err := o.WriteObject(t.Context(), "!litestream/epoch", []byte(path), true); err != nil {
			t.Fatal(err)
		}
		if got, err := o.ReadObject(t.Context(), "!litestream/epoch"); err != nil || !slices.Equal(got, []byte(path)) {
			t.Errorf("read %q below %q: err=%v", got, path, err)
		}
	}
}
