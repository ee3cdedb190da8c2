// Package crc64iso computes the checksum of LTX files and of their pages: CRC-64
// with the polynomial of ISO 3309, the same as hash/crc64 with its ISO table, at
// more than three times the speed. It is most of what a capture computes.
//
// The polynomial P is x^64 + x^4 + x^3 + x + 1. With so few terms, and next to
// each other, x^64 modulo P is x^4 + x^3 + x + 1: eight bytes are taken in by a
// few shifts, where tables need eight lookups. The square of a sum is, modulo 2,
// the sum of the squares, so that x^256 modulo P has four terms too, and four
// chains that do not wait for each other can take every fourth word.
package crc64iso

import (
	"encoding/binary"
	"hash/crc64"
)

var table = crc64.MakeTable(crc64.ISO)

// Update returns the checksum crc with p added. That of nothing is 0.
func Update(crc uint64, p []byte) uint64 {
	c := ^crc
	if len(p) >= 64 {
		c0 := c ^ binary.LittleEndian.Uint64(p)
		c1 := binary.LittleEndian.Uint64(p[8:])
		c2 := binary.LittleEndian.Uint64(p[16:])
		c3 := binary.LittleEndian.Uint64(p[24:])
		for p = p[32:]; len(p) >= 32; p = p[32:] {
			c0 = timesX256(c0) ^ binary.LittleEndian.Uint64(p)
			c1 = timesX256(c1) ^ binary.LittleEndian.Uint64(p[8:])
			c2 = timesX256(c2) ^ binary.LittleEndian.Uint64(p[16:])
			c3 = timesX256(c3) ^ binary.LittleEndian.Uint64(p[24:])
		}
		c = timesX64(timesX64(timesX64(timesX64(c0)^c1)^c2) ^ c3)
	}
	for ; len(p) >= 8; p = p[8:] {
		c = timesX64(c ^ binary.LittleEndian.Uint64(p))
	}
	return crc64.Update(^c, table, p)
}

// timesX64 multiplies by x^64 modulo P. As in hash/crc64 the highest bit is the
// coefficient of x^0, and the factor x is a shift to the right.
func timesX64(c uint64) uint64 {
	c ^= c<<60 ^ c<<61 ^ c<<63 // what the shifts below push out is a multiple of x^64 again
	return c ^ c>>1 ^ c>>3 ^ c>>4
}

// timesX256 multiplies by x^256 modulo P, which is x^16 + x^12 + x^4 + 1.
func timesX256(c uint64) uint64 {
	out := c<<60 ^ c<<52 ^ c<<48 // what is pushed out, of 16 bits at the most: times x^64
	return c ^ c>>4 ^ c>>12 ^ c>>16 ^ out ^ out>>1 ^ out>>3 ^ out>>4
}
