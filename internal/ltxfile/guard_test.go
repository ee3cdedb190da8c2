package ltxfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/testutil"
)

func TestGuard_PassesFiles(t *testing.T) {
	for pageSize := uint32(512); pageSize <= ltx.MaxPageSize; pageSize *= 2 {
		pages := testutil.RandomPages(1, pageSize, 20)
		rnd := rand.NewChaCha8([32]byte{})
		for _, page := range pages {
			_, _ = rnd.Read(page) // nothing to compress
		}
		data := testutil.BuildLTX(t, ltx.Header{MinTXID: 1}, pages)
		for name, r := range map[string]io.Reader{
			"whole":    bytes.NewReader(data),
			"one byte": iotest.OneByteReader(bytes.NewReader(data)),
			"data err": iotest.DataErrReader(bytes.NewReader(data)),
		} {
			dec := ltx.NewDecoder(ltxfile.NewGuard(r))
			if err := dec.Verify(); err != nil {
				t.Fatalf("page size %d, %s: %v", pageSize, name, err)
			}
		}
		if got, err := io.ReadAll(ltxfile.NewGuard(bytes.NewReader(data))); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("page size %d: %d of %d bytes, %v", pageSize, len(got), len(data), err)
		}
	}
}

func TestGuard_RefusesLength(t *testing.T) {
	data := testutil.BuildLTX(t, ltx.Header{MinTXID: 1}, testutil.RandomPages(1, 512, 3))
	binary.BigEndian.PutUint32(data[ltx.HeaderSize+ltx.PageHeaderSize:], 0xf0000000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := ltx.NewDecoder(ltxfile.NewGuard(bytes.NewReader(data))).Verify()
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ltx.ErrInvalidFile) {
		t.Fatalf("err=%v, want ErrInvalidFile", err)
	}
	// The decoder's LZ4 reader takes some megabytes of its own.
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Fatalf("allocated %d bytes", n)
	}
}

// FuzzGuard decodes damaged files: no panic, and no more memory than a page
// needs.
func FuzzGuard(f *testing.F) {
	f.Add(testutil.BuildLTX(f, ltx.Header{MinTXID: 1}, testutil.RandomPages(1, 512, 3)))
	f.Add(testutil.BuildLTX(f, ltx.Header{MinTXID: 2, Flags: ltx.HeaderFlagNoChecksum}, testutil.RandomPages(1, 1024, 1)))
	f.Add([]byte(ltx.Magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		dec := ltx.NewDecoder(ltxfile.NewGuard(bytes.NewReader(data)))
		dec.SetRetainPageIndex(false)
		if err := dec.Verify(); err == nil && dec.N() < ltx.HeaderSize+ltx.TrailerSize {
			t.Fatalf("verified %d bytes", dec.N())
		}
	})
}
