package litestream_test

import (
	"hash/crc64"
	"math/rand/v2"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

func TestCRC(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	table := crc64.MakeTable(crc64.ISO)
	data := make([]byte, 70000)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	for range 200 {
		a, b := data[:rnd.IntN(500)], data[:rnd.IntN(len(data))]
		want := crc64.Update(crc64.Checksum(a, table), table, b)
		if got := litestream.JoinCRC(crc64.Checksum(a, table), crc64.Checksum(b, table), int64(len(b))); got != want {
			t.Fatalf("join of %d and %d bytes=%x, want %x", len(a), len(b), got, want)
		}
	}
	for pageSize := 512; pageSize <= 65536; pageSize *= 2 {
		pgno, page := rnd.Uint32(), data[:pageSize]
		want := ltx.ChecksumPage(pgno, page)
		if got := litestream.ShiftPageChecksum(pgno, crc64.Checksum(page, table), pageSize); got != want {
			t.Errorf("page checksum for page size %d=%s, want %s", pageSize, got, want)
		}
	}
}
