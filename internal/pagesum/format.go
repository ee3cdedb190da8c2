package pagesum

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/superfly/ltx"
)

// MaxMetaBytes is the largest Header.Meta that a ledger stores.
const MaxMetaBytes = 4 << 10

// Layout of a ledger file (docs/formats/ledger.md). The fields that are known
// only when the last page has been seen stand behind the sums, so that a file
// is written in one pass.
const (
	magic      = "LTSPSUM\x00"
	version    = 1
	headBytes  = 16 // magic, version, reserved
	sumBytes   = 8
	footBytes  = 64 // replica, txid, rolling, page size, page count, meta length, reserved
	hashBytes  = 32 // SHA-256 of everything before it
	minBytes   = headBytes + footBytes + hashBytes
	maxMetaLen = MaxMetaBytes
)

// Errors of a ledger. All of them mean that the ledger does not help: the
// owner removes it, and its next capture is a snapshot.
var (
	// ErrInvalid means that the file is torn, short, damaged, of another
	// version or not a ledger. The wrapping error gives the reason.
	ErrInvalid = errors.New("page ledger is not valid")

	// ErrRollingMismatch means that the rolling checksum given by the caller
	// is not the one that follows from the page sums.
	ErrRollingMismatch = errors.New("rolling checksum does not match the page sums")

	// ErrPageSize means that a change speaks of another page size than the
	// ledger. A database whose page size changed needs a new ledger.
	ErrPageSize = errors.New("page size differs from the ledger's")
)

// Header is the position that a ledger stands for.
type Header struct {
	Replica  [32]byte     // identity of the replica that acknowledged it; zero: none
	TXID     ltx.TXID     // newest transaction that the sums include
	PageSize uint32       // bytes
	PageN    uint32       // database size at TXID in pages
	Rolling  ltx.Checksum // XOR of all sums but the lock page's, top bit set; 0: unknown
	Meta     []byte       // the owner's cursor, opaque here; at most MaxMetaBytes
}

// clone returns a copy that shares no memory with h.
func (h Header) clone() Header {
	h.Meta = append([]byte(nil), h.Meta...)
	return h
}

// validate reports what a ledger could not store.
func (h Header) validate() error {
	if !ltx.IsValidPageSize(h.PageSize) {
		return fmt.Errorf("page size %d is not a power of two from 512 to 65536", h.PageSize)
	}
	if len(h.Meta) > maxMetaLen {
		return fmt.Errorf("meta of %d bytes exceeds %d", len(h.Meta), maxMetaLen)
	}
	if !validSum(h.Rolling) {
		return fmt.Errorf("rolling checksum %s has no flag bit", h.Rolling)
	}
	return nil
}

// fileBytes returns the size of the file that holds h.
func (h Header) fileBytes() int64 {
	return minBytes + int64(h.PageN)*sumBytes + int64(len(h.Meta))
}

// validSum reports whether c is unknown (0) or a sum that ltx made, which
// always has its top bit set.
func validSum(c ltx.Checksum) bool {
	return c == 0 || c&ltx.ChecksumFlag != 0
}

// sumOffset returns where the sum of a page stands in the file.
func sumOffset(pgno uint32) int64 {
	return headBytes + int64(pgno-1)*sumBytes
}

func appendHead(b []byte) []byte {
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, version)
	return binary.BigEndian.AppendUint32(b, 0)
}

func checkHead(b []byte) error {
	if string(b[:len(magic)]) != magic {
		return fmt.Errorf("%w: no page ledger magic", ErrInvalid)
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != version {
		return fmt.Errorf("%w: version %d, want %d", ErrInvalid, v, version)
	}
	return nil
}

// appendFoot appends the meta bytes and the fixed fields that follow them.
func appendFoot(b []byte, h Header) []byte {
	b = append(b, h.Meta...)
	b = append(b, h.Replica[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.TXID))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Rolling))
	b = binary.BigEndian.AppendUint32(b, h.PageSize)
	b = binary.BigEndian.AppendUint32(b, h.PageN)
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.Meta)))
	return binary.BigEndian.AppendUint32(b, 0)
}

// parseFoot decodes the fixed fields. It allocates nothing, whatever they
// claim; the lengths are checked against the size of the file.
func parseFoot(b []byte, fileSize int64) (h Header, metaLen int, err error) {
	copy(h.Replica[:], b[:32])
	h.TXID = ltx.TXID(binary.BigEndian.Uint64(b[32:]))
	h.Rolling = ltx.Checksum(binary.BigEndian.Uint64(b[40:]))
	h.PageSize = binary.BigEndian.Uint32(b[48:])
	h.PageN = binary.BigEndian.Uint32(b[52:])
	n := binary.BigEndian.Uint32(b[56:])
	if n > maxMetaLen {
		return Header{}, 0, fmt.Errorf("%w: meta of %d bytes", ErrInvalid, n)
	}
	if want := h.fileBytes() + int64(n); fileSize != want {
		return Header{}, 0, fmt.Errorf("%w: file has %d bytes, its fields say %d", ErrInvalid, fileSize, want)
	}
	if err := h.validate(); err != nil {
		return Header{}, 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return h, int(n), nil
}
