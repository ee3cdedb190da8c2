package pagesum

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/superfly/ltx"
)

// Reader returns the sums of all pages in order. It holds the base file open
// until Close. The ledger must not be changed while a Reader is open.
type Reader struct {
	l    *Ledger
	f    *os.File // nil of a ledger in memory, as are the next three
	buf  *bufio.Reader
	hash hash.Hash // of the base as it is read; nil if nobody asks
	left int64     // unread bytes of the base, without its hash
	pgno uint32    // of the sum returned last
}

// Reader begins to read at page 1. The caller closes it.
func (l *Ledger) Reader() (*Reader, error) { return l.newReader(nil) }

func (l *Ledger) newReader(h hash.Hash) (*Reader, error) {
	if l.inMemory {
		return &Reader{l: l}, nil
	}
	f, err := l.openBase()
	if err != nil {
		return nil, err
	}
	r := &Reader{l: l, f: f, hash: h, left: l.info.Size() - hashBytes}
	r.buf = bufio.NewReaderSize(f, bufferBytes)
	var head [headBytes]byte
	if err := r.readBase(head[:]); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// Next returns the sum of the next page, 0 if it is unknown or the lock
// page's, and io.EOF behind the last page.
func (r *Reader) Next() (ltx.Checksum, error) {
	if r.pgno >= r.l.hdr.PageN {
		return 0, io.EOF
	}
	r.pgno++
	if r.f == nil {
		return r.l.sums[r.pgno-1], nil
	}
	var sum ltx.Checksum
	if r.pgno <= r.l.baseN {
		var b [sumBytes]byte
		if err := r.readBase(b[:]); err != nil {
			return 0, err
		}
		sum = ltx.Checksum(binary.BigEndian.Uint64(b[:]))
	}
	if c, ok := r.l.overlay[r.pgno]; ok {
		sum = c
	}
	return sum, nil
}

// Close releases the base file.
func (r *Reader) Close() error {
	if r.f == nil {
		return nil
	}
	if err := r.f.Close(); err != nil {
		return fmt.Errorf("close page ledger %s: %w", r.l.path, err)
	}
	return nil
}

func (r *Reader) readBase(b []byte) error {
	if _, err := io.ReadFull(r.buf, b); err != nil {
		return readError(r.l.path, err)
	}
	r.left -= int64(len(b))
	if r.hash != nil {
		r.hash.Write(b)
	}
	return nil
}

// verify reads the rest of the base and compares its hash, so that a file
// that rotted since it was opened does not live on under a new hash.
func (r *Reader) verify() error {
	if r.f == nil {
		return nil
	}
	if _, err := io.CopyN(r.hash, r.buf, r.left); err != nil {
		return readError(r.l.path, err)
	}
	var want [hashBytes]byte
	if _, err := io.ReadFull(r.buf, want[:]); err != nil {
		return readError(r.l.path, err)
	}
	if [hashBytes]byte(r.hash.Sum(nil)) != want {
		return fmt.Errorf("read page ledger %s: %w: hash mismatch", r.l.path, ErrInvalid)
	}
	return nil
}

// readError turns an early end into ErrInvalid: the size was checked before.
func readError(path string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: cut short", ErrInvalid)
	}
	return fmt.Errorf("read page ledger %s: %w", path, err)
}

// blockSums is how many sums one positioned read fetches.
const blockSums = 512

// lookup answers single sums and holds the base open meanwhile, which it
// opens only when a sum is needed that the overlay does not have.
type lookup struct {
	l     *Ledger
	f     *os.File
	block *[blockSums * sumBytes]byte
	first uint32 // page of the first sum in block; 0: nothing read yet
	n     uint32 // sums in block
}

func (k *lookup) sum(pgno uint32) (ltx.Checksum, error) {
	if pgno == 0 || pgno > k.l.hdr.PageN || pgno == k.l.lockPgno() {
		return 0, nil
	}
	if k.l.inMemory {
		return k.l.sums[pgno-1], nil
	}
	if c, ok := k.l.overlay[pgno]; ok {
		return c, nil
	}
	if pgno > k.l.baseN {
		return 0, nil
	}
	if k.first == 0 || pgno < k.first || pgno-k.first >= k.n {
		if err := k.read(pgno); err != nil {
			return 0, err
		}
	}
	i := (pgno - k.first) * sumBytes
	return ltx.Checksum(binary.BigEndian.Uint64(k.block[i:])), nil
}

func (k *lookup) read(pgno uint32) (err error) {
	if k.f == nil {
		if k.f, err = k.l.openBase(); err != nil {
			return err
		}
		k.block = new([blockSums * sumBytes]byte)
	}
	first := (pgno-1)/blockSums*blockSums + 1
	n := min(blockSums, k.l.baseN-first+1)
	if _, err := k.f.ReadAt(k.block[:n*sumBytes], sumOffset(first)); err != nil {
		return readError(k.l.path, err)
	}
	k.first, k.n = first, n
	return nil
}

func (k *lookup) close() error {
	if k.f == nil {
		return nil
	}
	if err := k.f.Close(); err != nil {
		return fmt.Errorf("close page ledger %s: %w", k.l.path, err)
	}
	return nil
}

// scanBase reads an encoded ledger once, in constant memory, and checks its
// hash, each sum's form and the rolling checksum. The sums are appended to
// keep, if there is one.
func scanBase(f io.ReaderAt, size int64, keep *[]ltx.Checksum) (Header, [hashBytes]byte, error) {
	var none, want [hashBytes]byte
	if size < minBytes {
		return Header{}, none, fmt.Errorf("%w: only %d bytes", ErrInvalid, size)
	}
	var head [headBytes]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return Header{}, none, err
	}
	if err := checkHead(head[:]); err != nil {
		return Header{}, none, err
	}
	var foot [footBytes]byte
	if _, err := f.ReadAt(foot[:], size-hashBytes-footBytes); err != nil {
		return Header{}, none, err
	}
	h, metaLen, err := parseFoot(foot[:], size)
	if err != nil {
		return Header{}, none, err
	}
	sum := sha256.New()
	body := bufio.NewReaderSize(io.TeeReader(io.NewSectionReader(f, 0, size-hashBytes), sum), int(min(bufferBytes, size)))
	if _, err := body.Discard(headBytes); err != nil {
		return Header{}, none, err
	}
	if err := scanSums(body, h, keep); err != nil {
		return Header{}, none, err
	}
	h.Meta = make([]byte, metaLen)
	if _, err := io.ReadFull(body, h.Meta); err != nil {
		return Header{}, none, err
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return Header{}, none, err
	}
	if n, err := f.ReadAt(want[:], size-hashBytes); n < len(want) {
		return Header{}, none, err
	}
	if [hashBytes]byte(sum.Sum(nil)) != want {
		return Header{}, none, fmt.Errorf("%w: hash mismatch", ErrInvalid)
	}
	return h, want, nil
}

func scanSums(body io.Reader, h Header, keep *[]ltx.Checksum) error {
	var (
		roll rolling
		b    [sumBytes]byte
	)
	lockPgno := ltx.LockPgno(h.PageSize)
	for i := range h.PageN {
		if _, err := io.ReadFull(body, b[:]); err != nil {
			return err
		}
		pgno, c := i+1, ltx.Checksum(binary.BigEndian.Uint64(b[:]))
		if keep != nil {
			*keep = append(*keep, c)
		}
		if pgno == lockPgno {
			if c != 0 {
				return fmt.Errorf("%w: sum for the lock page", ErrInvalid)
			}
			continue
		}
		if !validSum(c) {
			return fmt.Errorf("%w: sum %s of page %d has no flag bit", ErrInvalid, c, pgno)
		}
		roll.add(c)
	}
	if c := roll.value(); c != 0 && c != h.Rolling {
		return fmt.Errorf("%w: rolling checksum %s, sums give %s", ErrInvalid, h.Rolling, c)
	}
	return nil
}
