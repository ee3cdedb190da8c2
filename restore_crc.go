package litestream

import (
	"encoding/binary"
	"hash/crc64"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/crc64iso"
)

// crcPoly is the polynomial of every LTX checksum, reflected as hash/crc64 keeps
// it.
const crcPoly = crc64.ISO

// A CRC is linear: the checksum of A‖B is that of A multiplied by x^(8·len(B))
// modulo the polynomial, plus that of B. So the checksum of a file can be put
// together from those of its pages, which are computed in parallel, and one
// pass over a page serves both the file's checksum and the page's own.

// crcMul multiplies two polynomials modulo crcPoly. As in hash/crc64, the
// highest bit is the coefficient of x^0.
func crcMul(a, b uint64) (p uint64) {
	for m := uint64(1) << 63; a != 0 && m != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
			a &^= m
		}
		if b&1 != 0 {
			b = b>>1 ^ crcPoly
		} else {
			b >>= 1
		}
	}
	return p
}

// crcPower returns x^(8n) modulo crcPoly, what a checksum is multiplied by when
// n bytes follow.
func crcPower(n int64) uint64 {
	p := uint64(1) << 63  // x^0
	sq := uint64(1) << 55 // x^8
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			p = crcMul(p, sq)
		}
		sq = crcMul(sq, sq)
	}
	return p
}

// crcJoin returns the checksum of A‖B from those of A and B and B's length.
func crcJoin(a, b uint64, lenB int64) uint64 {
	return crcMul(crcPower(lenB), a) ^ b
}

// crcShift multiplies by x^(8n) for one fixed n, by table.
type crcShift [8][256]uint64

func newCRCShift(n int64) *crcShift {
	t := new(crcShift)
	power := crcPower(n)
	for i := range t {
		for b := 1; b < len(t[i]); b++ {
			if rest := b & (b - 1); rest != 0 { // more than one bit: their sum
				t[i][b] = t[i][rest] ^ t[i][b^rest]
			} else {
				t[i][b] = crcMul(power, uint64(b)<<(8*i))
			}
		}
	}
	return t
}

func (t *crcShift) apply(c uint64) uint64 {
	return t[0][byte(c)] ^ t[1][byte(c>>8)] ^ t[2][byte(c>>16)] ^ t[3][byte(c>>24)] ^
		t[4][byte(c>>32)] ^ t[5][byte(c>>40)] ^ t[6][byte(c>>48)] ^ t[7][byte(c>>56)]
}

// pageChecksum returns LTX's checksum of a page (ltx.ChecksumPage) from the
// plain checksum of its bytes; t shifts by the page size.
func (t *crcShift) pageChecksum(pgno uint32, crc uint64) ltx.Checksum {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], pgno)
	return ltx.ChecksumFlag | ltx.Checksum(t.apply(crc64iso.Update(0, b[:]))^crc)
}
