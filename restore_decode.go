package litestream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/crc64iso"
)

// lz4FooterBytes is the end mark and the content checksum behind a legacy
// frame (LZ4 frame format), which the page's data does not reach into.
const lz4FooterBytes = 8

// input is one LTX file while it is applied.
type input struct {
	info    *ltx.FileInfo
	newer   *input // the file that applies after this one; nil for the newest
	hdr     ltx.Header
	trailer ltx.Trailer

	// Known so far, in file order.
	crc uint64       // of the file's logical content
	xor ltx.Checksum // of the page checksums

	pageN    int
	prevPgno uint32
	pgnos    uint64 // running hash of the page numbers
}

// fail names the file in an error about its content. What is not about the
// content, such as a canceled context, is passed on.
func (in *input) fail(op string, err error) error {
	if le, ok := errors.AsType[*LTXError](err); ok {
		return le // a read that failed, whatever it was for
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &LTXError{Op: op, Level: in.info.Level, MinTXID: in.info.MinTXID, MaxTXID: in.info.MaxTXID, Err: err}
}

// addPgno continues a hash of page numbers in order.
func addPgno(h uint64, pgno uint32) uint64 {
	return (h ^ uint64(pgno)) * 0x9e3779b97f4a7c15
}

// frameReader splits one input into page frames without decoding them.
type frameReader struct {
	*inputReader
	in     *input
	legacy *lz4.Reader      // of frames without a length; made at the first
	limit  io.LimitedReader // what legacy reads from
}

// readHeader reads and checks the file header.
func (r *frameReader) readHeader() error {
	var b [ltx.HeaderSize]byte
	if err := r.readFull(b[:]); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	hdr := &r.in.hdr
	if err := hdr.UnmarshalBinary(b[:]); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if err := hdr.Validate(); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if hdr.MinTXID != r.in.info.MinTXID || hdr.MaxTXID != r.in.info.MaxTXID {
		return fmt.Errorf("header holds txids %s-%s, not those of its name", hdr.MinTXID, hdr.MaxTXID)
	}
	if !hdr.NoChecksum() {
		r.in.xor = ltx.ChecksumFlag
	}
	r.in.crc = crc64iso.Update(0, b[:])
	return nil
}

// pageRef is one frame of a batch.
type pageRef struct {
	pgno  uint32
	flags uint16
	n     int  // bytes of the frame's payload, or of the page if it is decoded
	keep  bool // no newer file has this page
}

// appendHeader appends what the file's checksum covers in front of the page.
func (p pageRef) appendHeader(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, p.pgno)
	b = binary.BigEndian.AppendUint16(b, p.flags)
	if p.flags&ltx.PageHeaderFlagSize != 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(p.n))
	}
	return b
}

// next reads one frame, appending its payload to data. At the end of the page
// block it returns io.EOF.
func (r *frameReader) next(data []byte) (pageRef, []byte, error) {
	var b [ltx.PageHeaderSize + 4]byte
	if err := r.readFull(b[:ltx.PageHeaderSize]); err != nil {
		return pageRef{}, data, fmt.Errorf("page after %d: %w", r.in.prevPgno, err)
	}
	p := pageRef{pgno: binary.BigEndian.Uint32(b[:]), flags: binary.BigEndian.Uint16(b[4:])}
	if p.pgno == 0 && p.flags == 0 {
		return p, data, io.EOF
	}
	if err := r.checkPage(p); err != nil {
		return p, data, err
	}
	pageSize := int(r.in.hdr.PageSize)
	if p.flags&ltx.PageHeaderFlagSize == 0 {
		p.n = pageSize
		data = append(data, make([]byte, pageSize)...)
		if err := r.readLegacy(data[len(data)-pageSize:]); err != nil {
			return p, data, fmt.Errorf("page %d: %w", p.pgno, err)
		}
		return p, data, nil
	}

	if err := r.readFull(b[ltx.PageHeaderSize:]); err != nil {
		return p, data, fmt.Errorf("page %d: %w", p.pgno, err)
	}
	n := binary.BigEndian.Uint32(b[ltx.PageHeaderSize:])
	if n > uint32(lz4.CompressBlockBound(pageSize)) {
		return p, data, fmt.Errorf("page %d: %d bytes compressed, which no page needs", p.pgno, n)
	}
	p.n = int(n)
	if cap(data)-len(data) < p.n {
		data = append(make([]byte, 0, 2*cap(data)+p.n), data...)
	}
	data = data[:len(data)+p.n]
	if err := r.readFull(data[len(data)-p.n:]); err != nil {
		return p, data, fmt.Errorf("page %d: %w", p.pgno, err)
	}
	return p, data, nil
}

// checkPage checks a page number against the rules of LTX.
func (r *frameReader) checkPage(p pageRef) error {
	in := r.in
	ph := ltx.PageHeader{Pgno: p.pgno, Flags: p.flags}
	if err := ph.Validate(); err != nil {
		return fmt.Errorf("page after %d: %w", in.prevPgno, err)
	}
	lock := in.hdr.LockPgno()
	switch {
	case p.pgno > in.hdr.Commit:
		return fmt.Errorf("page %d is behind the database's end at %d", p.pgno, in.hdr.Commit)
	case p.pgno <= in.prevPgno:
		return fmt.Errorf("page %d after page %d", p.pgno, in.prevPgno)
	case p.pgno == lock:
		return fmt.Errorf("page %d is the lock page", p.pgno)
	case in.hdr.IsSnapshot() && p.pgno != in.prevPgno+1 && (p.pgno != lock+1 || in.prevPgno != lock-1):
		return fmt.Errorf("page %d after page %d in a file from txid 1", p.pgno, in.prevPgno)
	}
	in.prevPgno = p.pgno
	in.pageN++
	in.pgnos = addPgno(in.pgnos, p.pgno)
	return nil
}

// readLegacy decodes a frame without a length, as library versions before 0.5
// wrote it. The LZ4 reader would look behind the frame for another one, so it
// gets to see only the footer once the page is complete.
func (r *frameReader) readLegacy(page []byte) error {
	r.limit = io.LimitedReader{R: r.inputReader, N: math.MaxInt64}
	if r.legacy == nil {
		r.legacy = lz4.NewReader(&r.limit)
	} else {
		r.legacy.Reset(&r.limit)
	}
	if _, err := io.ReadFull(r.legacy, page); err != nil {
		return err
	}
	r.limit.N = lz4FooterBytes
	var b [1]byte
	if _, err := io.ReadFull(r.legacy, b[:]); !errors.Is(err, io.EOF) {
		return errors.New("lz4 frame does not end with the page")
	}
	return nil
}

// readEnd reads what follows the pages: index and trailer. It returns the
// checksum and the length of the part that the file's checksum covers.
func (r *frameReader) readEnd() (crc uint64, n int64, err error) {
	crc = crc64iso.Update(0, make([]byte, ltx.PageHeaderSize))
	start := r.offset - ltx.PageHeaderSize
	ix := indexReader{r: r.inputReader, crc: crc}
	if err := ix.check(r.in); err != nil {
		return 0, 0, fmt.Errorf("page index: %w", err)
	}
	var b [ltx.TrailerSize]byte
	if err := r.readFull(b[:]); err != nil {
		return 0, 0, fmt.Errorf("trailer: %w", err)
	}
	if err := r.in.trailer.UnmarshalBinary(b[:]); err != nil {
		return 0, 0, fmt.Errorf("trailer: %w", err)
	}
	if err := r.in.trailer.Validate(r.in.hdr); err != nil {
		return 0, 0, fmt.Errorf("trailer: %w", err)
	}
	if rest := r.size - r.offset; rest != 0 {
		return 0, 0, fmt.Errorf("%d bytes after the trailer", rest)
	}
	crc = crc64iso.Update(ix.crc, b[:ltx.TrailerChecksumOffset])
	return crc, r.offset - ltx.ChecksumSize - start, nil
}

// indexReader checks the page index while it passes by.
type indexReader struct {
	r   *inputReader
	crc uint64
	buf []byte // read, not yet in crc
}

func (ix *indexReader) byte() (byte, error) {
	b, err := ix.r.ReadByte()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, err
	}
	ix.buf = append(ix.buf, b)
	return b, nil
}

// flush brings crc up to date.
func (ix *indexReader) flush() {
	ix.crc = crc64iso.Update(ix.crc, ix.buf)
	ix.buf = ix.buf[:0]
}

func (ix *indexReader) uvarint() (x uint64, err error) {
	for shift := 0; shift < 64; shift += 7 {
		b, err := ix.byte()
		if err != nil {
			return 0, err
		}
		if shift == 63 && b > 1 {
			break
		}
		x |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return x, nil
		}
	}
	return 0, errors.New("number of more than 64 bits")
}

// check reads the index: exactly the pages of the file, in order, in frames
// that do not overlap, and the right length at the end.
func (ix *indexReader) check(in *input) error {
	const flushBytes = 4 << 10
	start := ix.r.offset
	ix.buf = make([]byte, 0, flushBytes+3*binary.MaxVarintLen64)
	var pgnos uint64
	n, end := 0, uint64(ltx.HeaderSize)
	for {
		pgno, err := ix.uvarint()
		if err != nil {
			return err
		}
		if pgno == 0 {
			break
		}
		offset, err := ix.uvarint()
		if err != nil {
			return err
		}
		size, err := ix.uvarint()
		if err != nil {
			return err
		}
		if pgno > uint64(in.hdr.Commit) || offset < end || offset > uint64(in.info.Size) ||
			size <= ltx.PageHeaderSize || size > uint64(in.info.Size) {
			return fmt.Errorf("entry %d: page %d at %d with %d bytes", n, pgno, offset, size)
		}
		end = offset + size
		pgnos = addPgno(pgnos, uint32(pgno))
		n++
		if len(ix.buf) >= flushBytes {
			ix.flush()
		}
	}
	if n != in.pageN || pgnos != in.pgnos {
		return fmt.Errorf("%d entries that are not those of the %d pages", n, in.pageN)
	}
	length := uint64(ix.r.offset - start)
	ix.flush()
	var b [8]byte
	if err := ix.r.readFull(b[:]); err != nil {
		return err
	}
	if size := binary.BigEndian.Uint64(b[:]); size != length {
		return fmt.Errorf("%d bytes long, its length field says %d", length, size)
	}
	ix.crc = crc64iso.Update(ix.crc, b[:])
	return nil
}
