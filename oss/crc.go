package oss

import "hash/crc64"

// combineCRC returns the checksum of a followed by b, of which the second has
// size bytes, from their own checksums: what is added to a's by size zero bytes
// is a linear function of its bits, which is squared size times over (as
// crc32_combine of zlib does it).
func combineCRC(a, b uint64, size int64) uint64 {
	if size <= 0 {
		return a
	}
	// One zero bit shifts the checksum right, and folds what falls out.
	var m crcMatrix
	m[0] = crc64.ECMA
	for i := 1; i < len(m); i++ {
		m[i] = 1 << (i - 1)
	}
	for range 3 { // one byte
		m = m.square()
	}
	for ; size > 0; size >>= 1 {
		if size&1 != 0 {
			a = m.times(a)
		}
		m = m.square()
	}
	return a ^ b
}

// crcMatrix is a linear function of 64 bits: the images of the single bits.
type crcMatrix [64]uint64

func (m *crcMatrix) times(v uint64) (sum uint64) {
	for i := 0; v != 0; i, v = i+1, v>>1 {
		if v&1 != 0 {
			sum ^= m[i]
		}
	}
	return sum
}

func (m *crcMatrix) square() (out crcMatrix) {
	for i := range m {
		out[i] = m.times(m[i])
	}
	return out
}
