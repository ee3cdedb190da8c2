package crc64iso_test

import (
	"hash/crc64"
	"math/rand/v2"
	"testing"

	"github.com/benbjohnson/litestream/internal/crc64iso"
)

var table = crc64.MakeTable(crc64.ISO)

// TestUpdate compares every length up to where each loop has run some times,
// from any state, with hash/crc64.
func TestUpdate(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for n := range 1100 {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		for _, crc := range []uint64{0, ^uint64(0), rng.Uint64()} {
			if got, want := crc64iso.Update(crc, p), crc64.Update(crc, table, p); got != want {
				t.Fatalf("%d bytes from %#x: %#x, want %#x", n, crc, got, want)
			}
		}
	}
}

// TestUpdate_Bits: a checksum is linear, so that it is right for all inputs of
// a length if it is right for nothing and for each single bit.
func TestUpdate_Bits(t *testing.T) {
	p := make([]byte, 200)
	for i := range 8 * len(p) {
		p[i/8] = 1 << (i % 8)
		if got, want := crc64iso.Update(0, p), crc64.Update(0, table, p); got != want {
			t.Fatalf("bit %d: %#x, want %#x", i, got, want)
		}
		p[i/8] = 0
	}
	for i := range 64 {
		if got, want := crc64iso.Update(1<<i, p), crc64.Update(1<<i, table, p); got != want {
			t.Fatalf("bit %d of the state: %#x, want %#x", i, got, want)
		}
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(uint64(0), []byte("123456789"))
	f.Fuzz(func(t *testing.T, crc uint64, p []byte) {
		if got, want := crc64iso.Update(crc, p), crc64.Update(crc, table, p); got != want {
			t.Errorf("%#x, want %#x", got, want)
		}
	})
}

// BenchmarkUpdate takes one page, beside hash/crc64.
func BenchmarkUpdate(b *testing.B) {
	for name, update := range map[string]func(uint64, []byte) uint64{
		"ours": crc64iso.Update,
		"std":  func(crc uint64, p []byte) uint64 { return crc64.Update(crc, table, p) },
	} {
		b.Run(name, func(b *testing.B) {
			p := make([]byte, 4096)
			b.SetBytes(int64(len(p)))
			var crc uint64
			for b.Loop() {
				crc = update(crc, p)
			}
			if crc == 1 {
				b.Error("no checksum")
			}
		})
	}
}
