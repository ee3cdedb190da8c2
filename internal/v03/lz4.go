package v03

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
)

// Errors of a compressed file's structure.
var (
	errTruncated = errors.New("compressed file ends early")
	errTrailing  = errors.New("bytes behind the end of the compressed file")
	errNotLZ4    = errors.New("not an LZ4 frame")
)

// Bits of an LZ4 frame's descriptor (LZ4 frame format, section 1.2).
const (
	lz4Magic       = 0x184d2204
	lz4BlockSum    = 1 << 4 // a checksum behind each block
	lz4ContentSize = 1 << 3
	lz4ContentSum  = 1 << 2 // a checksum behind the last block
	lz4DictID      = 1 << 0
)

// lz4Steps are the parts of a frame.
type lz4Step int

const (
	lz4Start lz4Step = iota // magic number, flags, block size
	lz4Descriptor
	lz4BlockSize
	lz4Block
	lz4End
	lz4Done
)

// An lz4Frame passes exactly one frame on. The decoder takes a file that ends
// behind any block for a whole one, and reads on behind the end: here both are
// errors.
type lz4Frame struct {
	r     io.Reader
	step  lz4Step
	left  int64 // bytes of this step
	field []byte
	flags byte
}

func newLZ4Frame(r io.Reader) *lz4Frame { return &lz4Frame{r: r, left: 6} }

// Read implements io.Reader.
func (f *lz4Frame) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err := f.scan(p[:n]); err != nil {
		return 0, err
	}
	if errors.Is(err, io.EOF) && f.step != lz4Done {
		return n, errTruncated
	}
	return n, err
}

// scan follows the structure of the frame over its next bytes.
func (f *lz4Frame) scan(b []byte) error {
	for len(b) > 0 {
		if f.step == lz4Done {
			return errTrailing
		}
		n := min(f.left, int64(len(b)))
		if f.step == lz4Start || f.step == lz4BlockSize {
			f.field = append(f.field, b[:n]...)
		}
		b, f.left = b[n:], f.left-n
		if f.left > 0 {
			continue
		}
		if err := f.advance(); err != nil {
			return err
		}
		f.field = f.field[:0]
	}
	return nil
}

// advance goes to the next step, all of whose bytes are there.
func (f *lz4Frame) advance() error {
	switch f.step {
	case lz4Start:
		if binary.LittleEndian.Uint32(f.field) != lz4Magic {
			return errNotLZ4
		}
		f.flags = f.field[4]
		f.step, f.left = lz4Descriptor, 1+8*f.bit(lz4ContentSize)+4*f.bit(lz4DictID)
	case lz4Descriptor, lz4Block:
		f.step, f.left = lz4BlockSize, 4
	case lz4BlockSize:
		size := binary.LittleEndian.Uint32(f.field)
		switch {
		case size != 0: // the top bit says that the block is not compressed
			f.step, f.left = lz4Block, int64(size&^(1<<31))+4*f.bit(lz4BlockSum)
		case f.flags&lz4ContentSum != 0:
			f.step, f.left = lz4End, 4
		default:
			f.step = lz4Done
		}
	case lz4End:
		f.step = lz4Done
	case lz4Done:
	}
	return nil
}

func (f *lz4Frame) bit(flag byte) int64 {
	if f.flags&flag != 0 {
		return 1
	}
	return 0
}

// decoder decompresses files one after the other.
type decoder struct{ lz4 *lz4.Reader }

// reset begins another file.
func (d *decoder) reset(r io.Reader) {
	if d.lz4 == nil {
		d.lz4 = lz4.NewReader(nil)
	}
	d.lz4.Reset(newLZ4Frame(r))
}

// Read implements io.Reader. Its end is io.EOF, not wrapped, and comes only
// when every checksum of the file was right.
func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.lz4.Read(p)
	if err == nil || errors.Is(err, errTruncated) || errors.Is(err, errTrailing) || errors.Is(err, errNotLZ4) {
		return n, err
	}
	if errors.Is(err, io.EOF) {
		return n, io.EOF
	}
	return n, fmt.Errorf("decompress: %w", err)
}
