// Package wal reads SQLite's write-ahead log: its header, its frames and the
// checksum chain that tells committed frames from stale, torn and uncommitted
// ones. It decides from the bytes alone whether a log continues where a Cursor
// left it; it knows nothing of locks, connections or replication.
//
// Facts about the format are from the SQLite file format documentation,
// sections 4.1 to 4.3.
package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// HeaderSize is the size of the log's header in bytes.
	HeaderSize = 32
	// FrameHeaderSize is the size of the header before each page in bytes.
	FrameHeaderSize = 24

	magicLE = 0x377f0682 // checksums over little-endian words
	magicBE = 0x377f0683 // checksums over big-endian words
	version = 3007000
)

// ErrNoHeader means that the log holds no valid header: it is missing, empty,
// shorter than a header, or its header's checksum does not hold. SQLite treats
// such a log as one without content.
var ErrNoHeader = errors.New("wal has no valid header")

// Checksum is the running state of the log's cumulative checksum.
type Checksum [2]uint32

// Header is a decoded log header. Raw keeps all 32 bytes, because equality of
// the whole header, not of the salts alone, is evidence of continuity.
type Header struct {
	Raw       [HeaderSize]byte
	BigEndian bool // byte order of the words that checksums run over
	PageSize  uint32
	Seq       uint32 // counter of the connection that wrote it; no evidence
	Salt1     uint32
	Salt2     uint32
	Sum       Checksum // seed of the first frame's checksum
}

// ParseHeader decodes a header and checks magic, version, page size and
// checksum. Every failure wraps ErrNoHeader.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, fmt.Errorf("%w: %d bytes", ErrNoHeader, len(b))
	}
	copy(h.Raw[:], b)
	switch binary.BigEndian.Uint32(b[0:]) {
	case magicLE:
	case magicBE:
		h.BigEndian = true
	default:
		return h, fmt.Errorf("%w: magic %08x", ErrNoHeader, b[0:4])
	}
	if v := binary.BigEndian.Uint32(b[4:]); v != version {
		return h, fmt.Errorf("%w: version %d", ErrNoHeader, v)
	}
	h.PageSize = binary.BigEndian.Uint32(b[8:])
	if h.PageSize < 512 || h.PageSize > 65536 || h.PageSize&(h.PageSize-1) != 0 {
		return h, fmt.Errorf("%w: page size %d", ErrNoHeader, h.PageSize)
	}
	h.Seq = binary.BigEndian.Uint32(b[12:])
	h.Salt1 = binary.BigEndian.Uint32(b[16:])
	h.Salt2 = binary.BigEndian.Uint32(b[20:])
	h.Sum = Checksum{binary.BigEndian.Uint32(b[24:]), binary.BigEndian.Uint32(b[28:])}
	if got := h.checksum(Checksum{}, b[:24]); got != h.Sum {
		return h, fmt.Errorf("%w: checksum", ErrNoHeader)
	}
	return h, nil
}

// FrameSize returns the size of a frame, header and page, in bytes.
func (h *Header) FrameSize() int64 { return FrameHeaderSize + int64(h.PageSize) }

// IsZero reports whether h is the zero value, that is, no header at all.
func (h *Header) IsZero() bool { return h.PageSize == 0 }

// checksum continues a running checksum over b, whose length is a multiple of
// eight (section 4.2).
func (h *Header) checksum(s Checksum, b []byte) Checksum {
	s0, s1 := s[0], s[1]
	if h.BigEndian {
		for ; len(b) >= 8; b = b[8:] {
			s0 += binary.BigEndian.Uint32(b) + s1
			s1 += binary.BigEndian.Uint32(b[4:]) + s0
		}
		return Checksum{s0, s1}
	}
	for ; len(b) >= 8; b = b[8:] {
		v := binary.LittleEndian.Uint64(b)
		s0 += uint32(v) + s1
		s1 += uint32(v>>32) + s0
	}
	return Checksum{s0, s1}
}

// A FrameHeader precedes each page in the log.
type FrameHeader struct {
	Pgno   uint32
	Commit uint32 // database size in pages after a commit, else 0
	Salt1  uint32
	Salt2  uint32
	Sum    Checksum // cumulative, up to and including this frame
}

// ParseFrameHeader decodes the first 24 bytes of b, which must be that long.
func ParseFrameHeader(b []byte) FrameHeader {
	return FrameHeader{
		Pgno:   binary.BigEndian.Uint32(b[0:]),
		Commit: binary.BigEndian.Uint32(b[4:]),
		Salt1:  binary.BigEndian.Uint32(b[8:]),
		Salt2:  binary.BigEndian.Uint32(b[12:]),
		Sum:    Checksum{binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint32(b[20:])},
	}
}

// continues reports whether the frame in b, header and page, belongs to the
// header's lineage and continues the chain whose checksum so far is s.
func (h *Header) continues(s Checksum, fh FrameHeader, b []byte) bool {
	if fh.Salt1 != h.Salt1 || fh.Salt2 != h.Salt2 || fh.Pgno == 0 {
		return false
	}
	return h.checksum(h.checksum(s, b[:8]), b[FrameHeaderSize:]) == fh.Sum
}
