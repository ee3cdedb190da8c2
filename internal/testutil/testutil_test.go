package testutil_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

var (
	_ litestream.ReplicaClient   = (*testutil.MemClient)(nil)
	_ litestream.ExclusiveWriter = (*testutil.MemClient)(nil)
)

// build returns a file of one TXID without checksums.
func build(tb testing.TB, txid ltx.TXID) []byte {
	tb.Helper()
	hdr := ltx.Header{Flags: ltx.HeaderFlagNoChecksum, MinTXID: txid, Timestamp: 1_700_000_000_000 + int64(txid)}
	return testutil.BuildLTX(tb, hdr, testutil.RandomPages(uint64(txid), 512, 3))
}

func list(t *testing.T, c *testutil.MemClient, level int, seek ltx.TXID) []ltx.TXID {
	t.Helper()
	itr, err := c.LTXFiles(t.Context(), level, seek, true)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := ltx.SliceFileIterator(itr)
	if err != nil {
		t.Fatal(err)
	}
	var a []ltx.TXID
	for _, info := range infos {
		if want := time.UnixMilli(1_700_000_000_000 + int64(info.MinTXID)); !info.CreatedAt.Equal(want) {
			t.Fatalf("created at %v, want the header's %v", info.CreatedAt, want)
		}
		a = append(a, info.MinTXID)
	}
	return a
}

func read(t *testing.T, c *testutil.MemClient, txid ltx.TXID, offset, size int64) []byte {
	t.Helper()
	r, err := c.OpenLTXFile(t.Context(), 0, txid, txid, offset, size)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMemClient_Operations(t *testing.T) {
	ctx := t.Context()
	c := testutil.NewMemClient()
	for _, txid := range []ltx.TXID{3, 1, 2} {
		data := build(t, txid)
		info, err := c.WriteLTXFile(ctx, 0, txid, txid, bytes.NewReader(data))
		if err != nil || info.Size != int64(len(data)) || info.CreatedAt.UnixMilli() != 1_700_000_000_000+int64(txid) {
			t.Fatalf("write: %+v, %v", info, err)
		}
		if got := read(t, c, txid, 0, 0); !bytes.Equal(got, data) {
			t.Fatal("read other bytes than written")
		}
		if got := read(t, c, txid, 10, 5); !bytes.Equal(got, data[10:15]) {
			t.Fatalf("range read %q", got)
		}
	}
	if diff := cmp.Diff([]ltx.TXID{1, 2, 3}, list(t, c, 0, 0)); diff != "" {
		t.Fatalf("list (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]ltx.TXID{2, 3}, list(t, c, 0, 2)); diff != "" {
		t.Fatalf("list from 2 (-want +got):\n%s", diff)
	}
	if got := list(t, c, 1, 0); got != nil {
		t.Fatalf("level 1: %v", got)
	}
	if _, err := c.OpenLTXFile(ctx, 0, 9, 9, 0, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open of a missing file: %v", err)
	}
	if _, err := c.WriteLTXFileExclusive(ctx, 0, 2, 2, bytes.NewReader(build(t, 2))); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("exclusive write over a file: %v", err)
	}
	if _, err := c.WriteLTXFileExclusive(ctx, 0, 4, 4, bytes.NewReader(build(t, 4))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteLTXFile(ctx, 0, 5, 5, bytes.NewReader([]byte("no ltx"))); err == nil {
		t.Fatal("stored what has no LTX header")
	}
	gone := []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}, {MinTXID: 77, MaxTXID: 77}}
	if err := c.DeleteLTXFiles(ctx, gone); err != nil {
		t.Fatal(err)
	}
	if got := len(c.Files(0)); got != 3 {
		t.Fatalf("%d files after delete, want 3", got)
	}
	if err := c.DeleteAll(ctx); err != nil || len(c.Files(0)) != 0 {
		t.Fatalf("delete all: %v, %d files", err, len(c.Files(0)))
	}
	want := map[string]int{
		testutil.OpWrite: 4, testutil.OpWriteExclusive: 2, testutil.OpOpen: 7, testutil.OpList: 3,
		testutil.OpDelete: 2, testutil.OpDeleteAll: 1,
	}
	if diff := cmp.Diff(want, c.Counts()); diff != "" {
		t.Fatalf("counts (-want +got):\n%s", diff)
	}
	if c.Requests() != 19 || c.Count(testutil.OpWrite) != 4 || c.BytesSent() == 0 || c.BytesReceived() == 0 {
		t.Fatalf("requests=%d sent=%d received=%d", c.Requests(), c.BytesSent(), c.BytesReceived())
	}
	c.ResetCounts()
	if c.Requests() != 0 || c.BytesSent() != 0 {
		t.Fatal("counts after reset")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.LTXFiles(cancelled, 0, 0, false); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled list: %v", err)
	}
}

func TestMemClient_Hooks(t *testing.T) {
	ctx := t.Context()
	errAway, errLost := errors.New("away"), errors.New("lost answer")
	var fail, after error
	c := testutil.NewMemClient()
	c.Fail = func(op string, _ int, minTXID, _ ltx.TXID) error {
		if op == testutil.OpWrite && minTXID == 1 {
			return fail
		}
		return nil
	}
	c.After = func(string, int, ltx.TXID, ltx.TXID) error { return after }

	fail = errAway
	if _, err := c.WriteLTXFile(ctx, 0, 1, 1, bytes.NewReader(build(t, 1))); !errors.Is(err, errAway) {
		t.Fatalf("err=%v, want %v", err, errAway)
	}
	if _, ok := c.Data(0, 1, 1); ok {
		t.Fatal("stored although it failed")
	}
	fail, after = nil, errLost
	if _, err := c.WriteLTXFile(ctx, 0, 1, 1, bytes.NewReader(build(t, 1))); !errors.Is(err, errLost) {
		t.Fatalf("err=%v, want %v", err, errLost)
	}
	if data, ok := c.Data(0, 1, 1); !ok || !bytes.Equal(data, build(t, 1)) {
		t.Fatal("not stored although only the answer was lost")
	}
	if err := c.DeleteLTXFiles(ctx, c.Files(0)); !errors.Is(err, errLost) || len(c.Files(0)) != 0 {
		t.Fatalf("delete: %v, %d files left", err, len(c.Files(0)))
	}
}

func TestMemClient_Damage(t *testing.T) {
	c := testutil.NewMemClient()
	at := time.Unix(5, 0)
	c.Put(2, 1, 9, []byte("abcdef"), at)
	if infos := c.Files(2); len(infos) != 1 || !infos[0].CreatedAt.Equal(at) {
		t.Fatalf("files: %v", infos)
	}
	c.Corrupt(t, 2, 1, 9, 0)
	c.Corrupt(t, 2, 1, 9, -1)
	c.Truncate(t, 2, 1, 9, -1)
	c.Truncate(t, 2, 1, 9, 4)
	if data, _ := c.Data(2, 1, 9); string(data) != "\x9ebcd" {
		t.Fatalf("data=%q", data)
	}
	if !c.Delete(2, 1, 9) || c.Delete(2, 1, 9) {
		t.Fatal("delete must report whether the file was there")
	}
}

func TestBuildLTX(t *testing.T) {
	pages := testutil.RandomPages(7, 4096, 5)
	hdr, got, trailer := testutil.DecodeLTX(t, testutil.BuildLTX(t, ltx.Header{MinTXID: 1, MaxTXID: 8}, pages))
	if diff := cmp.Diff(pages, got); diff != "" {
		t.Fatalf("pages (-want +got):\n%s", diff)
	}
	if hdr.PageSize != 4096 || hdr.Commit != 5 || trailer.PostApplyChecksum != testutil.DatabaseChecksum(pages) {
		t.Fatalf("header %+v, trailer %+v", hdr, trailer)
	}
	pre := testutil.DatabaseChecksum(pages)
	pages[2] = pages[3]
	post := testutil.DatabaseChecksum(pages)
	inc := testutil.BuildLTXChecksum(t, ltx.Header{MinTXID: 9, Commit: 5, PreApplyChecksum: pre}, map[uint32][]byte{2: pages[2]}, post)
	if hdr, _, trailer := testutil.DecodeLTX(t, inc); hdr.MaxTXID != 9 || trailer.PostApplyChecksum != post {
		t.Fatalf("header %+v, trailer %+v", hdr, trailer)
	}
}
