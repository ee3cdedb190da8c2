package ltxfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
)

// page fills one page: some compress well, some not at all.
func randomPage(rnd *rand.Rand, page []byte) {
	clear(page)
	for i := range rnd.IntN(len(page) + 1) {
		page[i] = byte(rnd.Uint32())
	}
}

func TestPageChecksum(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for pageSize := 512; pageSize <= ltx.MaxPageSize; pageSize *= 2 {
		pgno, page := rnd.Uint32(), make([]byte, pageSize)
		randomPage(rnd, page)
		if got, want := ltxfile.PageChecksum(pgno, page), ltx.ChecksumPage(pgno, page); got != want {
			t.Errorf("page %d of %d bytes: %s, want %s", pgno, pageSize, got, want)
		}
	}
}

// Every file equals that of package ltx, byte for byte.
func TestEncoder_LikeLTX(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for pageSize := uint32(512); pageSize <= ltx.MaxPageSize; pageSize *= 2 {
		for _, checksums := range []bool{false, true} {
			for _, minTXID := range []ltx.TXID{1, 7} {
				hdr := ltx.Header{
					Version: ltx.Version, PageSize: pageSize, Commit: 40, MinTXID: minTXID, MaxTXID: 9,
					Timestamp: 12345, WALOffset: 32, WALSize: 100, WALSalt1: 1, WALSalt2: 2,
				}
				var post ltx.Checksum
				if !checksums {
					hdr.Flags = ltx.HeaderFlagNoChecksum
				} else if post = ltx.ChecksumFlag | 55; minTXID > 1 {
					hdr.PreApplyChecksum = ltx.ChecksumFlag | 44
				}
				t.Run(fmt.Sprintf("%d/%v/%s", pageSize, checksums, minTXID), func(t *testing.T) {
					compareEncoders(t, rnd, hdr, post)
				})
			}
		}
	}
}

func compareEncoders(t *testing.T, rnd *rand.Rand, hdr ltx.Header, post ltx.Checksum) {
	t.Helper()
	var theirs, ours bytes.Buffer
	want, err := ltx.NewEncoder(&theirs)
	if err == nil {
		err = want.EncodeHeader(hdr)
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := ltxfile.NewEncoder(&ours, hdr, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, hdr.PageSize)
	for pgno := uint32(1); pgno <= hdr.Commit; pgno++ {
		if !hdr.IsSnapshot() && rnd.IntN(2) == 0 || pgno == ltx.LockPgno(hdr.PageSize) {
			continue
		}
		randomPage(rnd, page)
		if err := errors.Join(want.EncodePage(ltx.PageHeader{Pgno: pgno}, page), got.Page(pgno, page)); err != nil {
			t.Fatal(err)
		}
	}
	want.SetPostApplyChecksum(post)
	if err := errors.Join(want.Close(), got.Close(post)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(theirs.Bytes(), ours.Bytes()) {
		t.Fatal("the two files differ")
	}
	if err := got.Page(1, page); err == nil {
		t.Error("took a page after Close")
	}
	got.Release()
}

// The index of many pages waits in a file without a name.
func TestEncoder_Spill(t *testing.T) {
	hdr := ltx.Header{Version: ltx.Version, PageSize: 512, Commit: 3000, MinTXID: 1, MaxTXID: 1, Flags: ltx.HeaderFlagNoChecksum}
	var theirs, ours bytes.Buffer
	dir := t.TempDir()
	want, err := ltx.NewEncoder(&theirs)
	if err == nil {
		err = want.EncodeHeader(hdr)
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := ltxfile.NewEncoder(&ours, hdr, dir)
	if err != nil {
		t.Fatal(err)
	}
	got.SetIndexInMemory(1000)
	page := make([]byte, 512)
	for pgno := uint32(1); pgno <= hdr.Commit; pgno++ {
		page[0], page[1] = byte(pgno), byte(pgno>>8)
		if err := errors.Join(want.EncodePage(ltx.PageHeader{Pgno: pgno}, page), got.Page(pgno, page)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(want.Close(), got.Close(0)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(theirs.Bytes(), ours.Bytes()) {
		t.Error("the two files differ")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestEncoder_Refuses(t *testing.T) {
	base := ltx.Header{Version: ltx.Version, PageSize: 65536, Commit: 20000, MinTXID: 2, MaxTXID: 2, Flags: ltx.HeaderFlagNoChecksum}
	whole := base
	whole.MinTXID = 1
	page := make([]byte, 65536)
	for _, tt := range []struct {
		name string
		hdr  ltx.Header
		give func(e *ltxfile.Encoder) error
	}{
		{"descending", base, func(e *ltxfile.Encoder) error { return errors.Join(e.Page(1, page), e.Page(2, page), e.Page(2, page)) }},
		{"page 0", base, func(e *ltxfile.Encoder) error { return e.Page(0, page) }},
		{"beyond the end", base, func(e *ltxfile.Encoder) error { return e.Page(20001, page) }},
		{"lock page", base, func(e *ltxfile.Encoder) error { return e.Page(ltx.LockPgno(65536), page) }},
		{"short page", base, func(e *ltxfile.Encoder) error { return e.Page(1, page[1:]) }},
		{"gap in a whole database", whole, func(e *ltxfile.Encoder) error { return errors.Join(e.Page(1, page), e.Page(3, page)) }},
		{"whole database without page 1", whole, func(e *ltxfile.Encoder) error { return e.Page(2, page) }},
		{"checksum that the header denies", base, func(e *ltxfile.Encoder) error {
			return errors.Join(e.Page(1, page), e.Close(ltx.ChecksumFlag|1))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, err := ltxfile.NewEncoder(&bytes.Buffer{}, tt.hdr, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer e.Release()
			if err := tt.give(e); err == nil {
				t.Error("no error")
			}
		})
	}
	if _, err := ltxfile.NewEncoder(&bytes.Buffer{}, ltx.Header{}, ""); err == nil {
		t.Error("took an empty header")
	}
}

// A file of three pages costs few allocations.
func TestEncoder_Allocs(t *testing.T) {
	hdr := ltx.Header{Version: ltx.Version, PageSize: 4096, Commit: 3, MinTXID: 1, MaxTXID: 1, Flags: ltx.HeaderFlagNoChecksum}
	page := make([]byte, 4096)
	out := bytes.NewBuffer(make([]byte, 0, 64<<10))
	allocs := testing.AllocsPerRun(100, func() {
		out.Reset()
		e, err := ltxfile.NewEncoder(out, hdr, "")
		for pgno := range uint32(3) {
			err = errors.Join(err, e.Page(pgno+1, page))
		}
		if err := errors.Join(err, e.Close(0)); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 12 {
		t.Errorf("%v allocations", allocs)
	}
}
