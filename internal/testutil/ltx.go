// Package testutil holds fixtures that every test may use: it does not import
// the root package.
package testutil

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/superfly/ltx"
)

// BuildLTX encodes an LTX file. What hdr leaves out is filled in: MaxTXID is
// MinTXID, PageSize the size of the pages, Commit the highest page. Without
// ltx.HeaderFlagNoChecksum a file from TXID 1 gets the checksum of its pages;
// for any other use BuildLTXChecksum.
func BuildLTX(tb testing.TB, hdr ltx.Header, pages map[uint32][]byte) []byte {
	tb.Helper()
	var post ltx.Checksum
	switch {
	case hdr.NoChecksum():
	case hdr.MinTXID == 1:
		post = DatabaseChecksum(pages)
	default:
		tb.Fatal("build ltx: an increment with checksums needs BuildLTXChecksum")
	}
	return BuildLTXChecksum(tb, hdr, pages, post)
}

// BuildLTXChecksum is BuildLTX with the database checksum after the file.
func BuildLTXChecksum(tb testing.TB, hdr ltx.Header, pages map[uint32][]byte, post ltx.Checksum) []byte {
	tb.Helper()
	pgnos := slices.Sorted(maps.Keys(pages))
	hdr.Version = ltx.Version
	if hdr.MaxTXID == 0 {
		hdr.MaxTXID = hdr.MinTXID
	}
	if len(pgnos) > 0 {
		last := pgnos[len(pgnos)-1]
		if hdr.PageSize == 0 {
			hdr.PageSize = uint32(len(pages[last]))
		}
		if hdr.Commit == 0 {
			hdr.Commit = last
		}
	}
	var buf bytes.Buffer
	enc, err := ltx.NewEncoder(&buf)
	if err != nil {
		tb.Fatal(err)
	}
	if err := enc.EncodeHeader(hdr); err != nil {
		tb.Fatalf("encode header: %v", err)
	}
	for _, pgno := range pgnos {
		if err := enc.EncodePage(ltx.PageHeader{Pgno: pgno}, pages[pgno]); err != nil {
			tb.Fatalf("encode page %d: %v", pgno, err)
		}
	}
	enc.SetPostApplyChecksum(post)
	if err := enc.Close(); err != nil {
		tb.Fatalf("close encoder: %v", err)
	}
	return buf.Bytes()
}

// DatabaseChecksum returns the rolling checksum of a database of these pages,
// the lock page left out.
func DatabaseChecksum(pages map[uint32][]byte) ltx.Checksum {
	sum := ltx.ChecksumFlag
	for pgno, data := range pages {
		if pgno != ltx.LockPgno(uint32(len(data))) {
			sum = ltx.ChecksumFlag | (sum ^ ltx.ChecksumPage(pgno, data))
		}
	}
	return sum
}

// DecodeLTX decodes and verifies a whole LTX file.
func DecodeLTX(tb testing.TB, data []byte) (ltx.Header, map[uint32][]byte, ltx.Trailer) {
	tb.Helper()
	dec := ltx.NewDecoder(bytes.NewReader(data))
	if err := dec.DecodeHeader(); err != nil {
		tb.Fatalf("decode header: %v", err)
	}
	pages := make(map[uint32][]byte)
	for {
		var hdr ltx.PageHeader
		page := make([]byte, dec.Header().PageSize)
		if err := dec.DecodePage(&hdr, page); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			tb.Fatalf("decode page: %v", err)
		}
		pages[hdr.Pgno] = page
	}
	if err := dec.Close(); err != nil {
		tb.Fatalf("close decoder: %v", err)
	}
	return dec.Header(), pages, dec.Trailer()
}

// RandomPages returns pages 1 to n, half of each random and half of it zero so
// that it compresses a little. The same seed gives the same pages.
func RandomPages(seed uint64, pageSize, n uint32) map[uint32][]byte {
	rnd := rand.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8), 2: byte(seed >> 16), 3: byte(seed >> 24), 4: byte(seed >> 32)})
	pages := make(map[uint32][]byte, n)
	for i := range n {
		page := make([]byte, pageSize)
		// ChaCha8.Read never fails.
		_, _ = rnd.Read(page[:pageSize/2])
		pages[i+1] = page
	}
	return pages
}
