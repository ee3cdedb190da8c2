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
	"path/filepath"

	"github.com/superfly/ltx"
)

const (
	bufferBytes = 32 << 10
	tempSuffix  = ".tmp"
)

// errWriterDone is the answer of a Writer after Commit or Abort.
var errWriterDone = errors.New("page ledger writer is finished")

// rolling is the XOR of page sums while they pass by.
type rolling struct {
	xor     ltx.Checksum
	unknown bool // at least one sum was 0
}

func (r *rolling) add(sum ltx.Checksum) {
	r.xor ^= sum
	r.unknown = r.unknown || sum == 0
}

// value returns the checksum as LTX carries it, or 0 if it cannot be known.
func (r *rolling) value() ltx.Checksum {
	if r.unknown {
		return 0
	}
	return r.xor | ltx.ChecksumFlag
}

// Writer writes a new base file in one pass and constant memory, or a small
// ledger in memory. Nothing is visible under the final name before Commit. It
// is not safe for concurrent use.
type Writer struct {
	path     string
	f        *os.File       // nil of a ledger in memory, as are buf and hash
	sums     []ltx.Checksum // of a ledger in memory
	buf      *bufio.Writer
	hash     hash.Hash
	pageSize uint32
	lockPgno uint32
	pageN    uint32
	volatile bool
	done     bool // after Commit and Abort
	rolling  rolling
}

// NewWriter begins a ledger at path, whose folder must exist. It is written
// to path+".tmp". The caller ends it with Commit or Abort.
func NewWriter(path string, pageSize uint32) (*Writer, error) {
	return newWriter(path, pageSize, false)
}

// NewVolatileWriter begins a ledger that need not survive the process, of a
// database of pageN pages. One of at most MaxMemoryPages pages is kept in
// memory; a larger one, or one that grows, goes to a file at path, whose folder
// is made when it is missing. The file is not synced: Marshal returns what
// proves it whole.
func NewVolatileWriter(path string, pageSize, pageN uint32) (*Writer, error) {
	if pageN > MaxMemoryPages {
		return newWriter(path, pageSize, true)
	}
	if !ltx.IsValidPageSize(pageSize) {
		return nil, fmt.Errorf("create page ledger %s: invalid page size %d", path, pageSize)
	}
	return &Writer{
		path: path, sums: make([]ltx.Checksum, 0, pageN), pageSize: pageSize,
		lockPgno: ltx.LockPgno(pageSize), volatile: true,
	}, nil
}

func newWriter(path string, pageSize uint32, volatile bool) (*Writer, error) {
	if !ltx.IsValidPageSize(pageSize) {
		return nil, fmt.Errorf("create page ledger %s: invalid page size %d", path, pageSize)
	}
	f, err := createTemp(path+tempSuffix, volatile)
	if err != nil {
		return nil, fmt.Errorf("create page ledger: %w", err)
	}
	w := &Writer{
		path: path, f: f, hash: sha256.New(), pageSize: pageSize, lockPgno: ltx.LockPgno(pageSize), volatile: volatile,
	}
	w.buf = bufio.NewWriterSize(io.MultiWriter(f, w.hash), bufferBytes)
	if _, err := w.buf.Write(appendHead(nil)); err != nil {
		return nil, errors.Join(fmt.Errorf("write page ledger %s: %w", path, err), w.Abort())
	}
	return w, nil
}

func createTemp(name string, mkdir bool) (*os.File, error) {
	const flags = os.O_CREATE | os.O_TRUNC | os.O_RDWR
	f, err := os.OpenFile(name, flags, 0o600)
	if mkdir && errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return nil, err
		}
		return os.OpenFile(name, flags, 0o600)
	}
	return f, err
}

// Append adds the sum of the next page, beginning with page 1; 0 means
// unknown. The lock page's place must be filled too: its sum is stored as 0
// and counts neither in the rolling checksum nor as unknown.
func (w *Writer) Append(sum ltx.Checksum) error {
	if w.done {
		return errWriterDone
	}
	if w.pageN == ^uint32(0) {
		return fmt.Errorf("append to page ledger %s: too many pages", w.path)
	}
	if !validSum(sum) {
		return fmt.Errorf("append to page ledger %s: sum %s of page %d has no flag bit", w.path, sum, w.pageN+1)
	}
	w.pageN++
	if w.pageN == w.lockPgno {
		sum = 0
	} else {
		w.rolling.add(sum)
	}
	if w.f == nil {
		w.sums = append(w.sums, sum)
		return nil
	}
	var b [sumBytes]byte
	binary.BigEndian.PutUint64(b[:], uint64(sum))
	if _, err := w.buf.Write(b[:]); err != nil {
		return fmt.Errorf("write page ledger %s: %w", w.path, err)
	}
	return nil
}

// Rolling returns the rolling checksum of what has been appended, or 0 if a
// sum was unknown.
func (w *Writer) Rolling() ltx.Checksum { return w.rolling.value() }

// PageN returns how many pages have been appended.
func (w *Writer) PageN() uint32 { return w.pageN }

// Commit makes the file durable under its final name and returns it opened.
// h.PageN must be the number of appended pages. h.Rolling may be 0; then the
// computed one is stored. If both are known and differ, nothing is written
// and the error is ErrRollingMismatch.
func (w *Writer) Commit(h Header) (*Ledger, error) {
	l := &Ledger{path: w.path}
	if _, err := w.commit(h, l); err != nil {
		return nil, errors.Join(fmt.Errorf("commit page ledger %s: %w", w.path, err), w.Abort())
	}
	return l, nil
}

// commit does the work of Commit and sets the base of l once it is in place.
// With renamed true and an error, the new file is in place but might not
// survive a loss of power.
func (w *Writer) commit(h Header, l *Ledger) (renamed bool, err error) {
	if w.done {
		return false, errWriterDone
	}
	h = h.clone()
	if err := w.check(&h); err != nil {
		return false, err
	}
	l.volatile = w.volatile
	if w.f == nil {
		w.done = true
		l.hdr, l.sums, l.inMemory = h, w.sums, true
		return true, nil
	}
	if err := w.seal(h); err != nil {
		return false, err
	}
	info, err := w.f.Stat()
	if err != nil {
		return false, fmt.Errorf("stat: %w", err)
	}
	if err := w.f.Close(); err != nil {
		return false, fmt.Errorf("close: %w", err)
	}
	if err := os.Rename(w.path+tempSuffix, w.path); err != nil {
		return false, fmt.Errorf("rename: %w", err)
	}
	w.done = true
	l.hdr, l.base, l.baseN, l.info = h, h, h.PageN, info
	l.hash, l.sums, l.inMemory = [hashBytes]byte(w.hash.Sum(nil)), nil, false
	if w.volatile {
		return true, nil
	}
	if err := syncDir(filepath.Dir(w.path)); err != nil {
		return true, err
	}
	l.durableTXID = h.TXID
	return true, nil
}

// check completes h, or says why it does not fit what was appended.
func (w *Writer) check(h *Header) error {
	if h.PageSize != w.pageSize {
		return fmt.Errorf("%w: %d, want %d", ErrPageSize, h.PageSize, w.pageSize)
	}
	if h.PageN != w.pageN {
		return fmt.Errorf("header says %d pages, %d were appended", h.PageN, w.pageN)
	}
	if err := h.validate(); err != nil {
		return err
	}
	if computed := w.rolling.value(); computed != 0 {
		if h.Rolling != 0 && h.Rolling != computed {
			return fmt.Errorf("%w: given %s, computed %s", ErrRollingMismatch, h.Rolling, computed)
		}
		h.Rolling = computed
	}
	return nil
}

// seal writes what follows the sums and syncs the temporary file.
func (w *Writer) seal(h Header) error {
	if _, err := w.buf.Write(appendFoot(nil, h)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := w.buf.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if _, err := w.f.Write(w.hash.Sum(nil)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if w.volatile {
		return nil
	}
	if err := w.f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// Abort removes the temporary file. After Commit, and when called again, it
// does nothing, so that it may be deferred.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	if w.f == nil {
		w.sums = nil
		return nil
	}
	// The file is thrown away, and Commit may have closed it already.
	_ = w.f.Close()
	if err := os.Remove(w.path + tempSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove unfinished page ledger: %w", err)
	}
	return nil
}

// syncDir makes a rename or removal in a folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}
