// Package pagesum keeps one checksum per page of a database on disk, with the
// position it stands for.
//
// The ledger tells which pages differ from what a replica has acknowledged,
// and gives the rolling checksum that LTX files carry. It is a cache: one that
// is missing, damaged or of another position is thrown away, which costs a
// snapshot. A ledger is an immutable base file and a small overlay of pages
// changed since; Flush merges both into a new base. One that need not survive
// the process is kept in memory while it is small, and goes to a file that
// nobody syncs when it is not.
package pagesum

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/superfly/ltx"
)

// ErrFlush wraps the error of a flush that Apply or MarkUnknown began by
// itself. The change is part of the ledger nevertheless; only memory was not
// given back. An owner that sees it again and again discards the ledger.
var ErrFlush = errors.New("page ledger was changed but not flushed")

// Change is the new sum of one page; 0 means that it is unknown.
type Change struct {
	Pgno uint32
	Sum  ltx.Checksum
}

// Ledger is the page sums of one database at one position. It holds no
// descriptor between calls and is not safe for concurrent use.
type Ledger struct {
	path     string
	hdr      Header         // position with all changes
	volatile bool           // it need not survive the process: files are not synced
	inMemory bool           // there is no file
	sums     []ltx.Checksum // of all pages, if inMemory; what follows is then unused

	base        Header // position of the file under path
	hash        [hashBytes]byte
	info        os.FileInfo // identity of that file
	baseN       uint32      // pages whose base entry still counts; a shrink lowers it for good
	durableTXID ltx.TXID    // TXID of the newest base that survives a loss of power
	unsynced    bool        // base was renamed into place, syncing the folder did not succeed

	overlay map[uint32]ltx.Checksum // never holds the lock page or pages above hdr.PageN
	budget  *Budget
	charged int64 // bytes of budget taken
}

// Open reads and verifies a ledger. The error is, by errors.Is, fs.ErrNotExist
// if there is none and ErrInvalid if it cannot be used.
func Open(path string) (_ *Ledger, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open page ledger: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()

	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat page ledger: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open page ledger %s: %w: not a regular file", path, ErrInvalid)
	}
	l := &Ledger{path: path, info: info}
	if l.base, l.hash, err = scanBase(f, info.Size(), nil); err != nil {
		return nil, readError(path, err)
	}
	l.hdr, l.baseN, l.durableTXID = l.base.clone(), l.base.PageN, l.base.TXID
	return l, nil
}

// Path returns where the base file lies.
func (l *Ledger) Path() string { return l.path }

// Header returns the position of the ledger with all applied changes.
func (l *Ledger) Header() Header { return l.hdr.clone() }

// Dirty reports whether Flush has something to write. One in memory never has.
func (l *Ledger) Dirty() bool {
	if l.inMemory {
		return false
	}
	return l.unsynced || len(l.overlay) > 0 || !sameHeader(l.hdr, l.base)
}

// OverlayBytes returns the memory held by sums that are not on disk.
func (l *Ledger) OverlayBytes() int64 {
	return int64(len(l.overlay))*overlayEntryBytes + int64(cap(l.sums))*sumBytes
}

// SetBudget attaches the ledger to a budget, or detaches it with nil. From
// then on Apply and MarkUnknown flush when the overlay is large or the budget
// is exceeded; a ledger in memory is then moved to a file.
func (l *Ledger) SetBudget(b *Budget) {
	l.charge(0)
	l.budget = b
	l.charge(l.OverlayBytes())
}

// Sum returns the sum of a page: 0 if it is unknown, the lock page's, or
// beyond the end of the database.
func (l *Ledger) Sum(pgno uint32) (sum ltx.Checksum, err error) {
	k := lookup{l: l}
	defer func() { err = errors.Join(err, k.close()) }()
	return k.sum(pgno)
}

// Apply advances the ledger to h with the pages that changed, in any order;
// if a page is named twice the later one counts. Pages above h.PageN and the
// lock page are dropped; pages new in h that are not named are unknown.
//
// The rolling checksum follows from the old and new sums and is 0 if one of
// them is unknown. A non-zero h.Rolling is taken instead, unless the computed
// one is known and differs, which is ErrRollingMismatch. After an error other
// than ErrFlush the ledger is as it was.
func (l *Ledger) Apply(changes []Change, h Header) error {
	if err := l.checkHeader(h); err != nil {
		return fmt.Errorf("apply to page ledger %s: %w", l.path, err)
	}
	changes, err := l.normalize(changes, h)
	if err != nil {
		return fmt.Errorf("apply to page ledger %s: %w", l.path, err)
	}
	roll, err := l.rollingAfter(changes, h.PageN)
	if err != nil {
		return fmt.Errorf("apply to page ledger: %w", err)
	}
	if h.Rolling != 0 && roll != 0 && h.Rolling != roll {
		return fmt.Errorf("apply to page ledger %s: %w: given %s, computed %s",
			l.path, ErrRollingMismatch, h.Rolling, roll)
	}
	if h.Rolling == 0 {
		h.Rolling = roll
	}
	return l.replace(changes, h)
}

// RollingAfter returns the rolling checksum that Apply with the same arguments
// would arrive at, or 0 if a sum that it needs is unknown.
func (l *Ledger) RollingAfter(changes []Change, h Header) (ltx.Checksum, error) {
	changes, err := l.normalize(changes, h)
	if err != nil {
		return 0, fmt.Errorf("page ledger %s: %w", l.path, err)
	}
	return l.rollingAfter(changes, h.PageN)
}

// MarkUnknown forgets the sums of some pages and takes h as it is given, its
// Rolling included. Pages above h.PageN are dropped.
func (l *Ledger) MarkUnknown(pgnos []uint32, h Header) error {
	if err := l.checkHeader(h); err != nil {
		return fmt.Errorf("mark pages unknown in %s: %w", l.path, err)
	}
	changes := make([]Change, len(pgnos))
	for i, pgno := range pgnos {
		changes[i].Pgno = pgno
	}
	changes, err := l.normalize(changes, h)
	if err != nil {
		return fmt.Errorf("mark pages unknown in %s: %w", l.path, err)
	}
	return l.replace(changes, h)
}

// Flush writes the ledger to a new base file and gives the overlay's memory
// back. It works in constant memory. After an error the ledger is as it was
// and the file is the old one or the new one, never a part.
func (l *Ledger) Flush() error {
	if !l.Dirty() {
		return nil
	}
	return l.rewrite()
}

// rewrite writes all sums to a new base file.
func (l *Ledger) rewrite() (err error) {
	r, err := l.newReader(sha256.New())
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := newWriter(l.path, l.hdr.PageSize, l.volatile)
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	defer func() { err = errors.Join(err, w.Abort()) }()

	for {
		sum, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("flush: %w", err)
		}
		if err := w.Append(sum); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	if err := r.verify(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	renamed, err := w.commit(l.hdr, l)
	l.unsynced = renamed && err != nil
	if err != nil {
		// If the file was renamed, the overlay repeats what the new base
		// holds, so that it may stay until the next try.
		return fmt.Errorf("flush page ledger %s: %w", l.path, err)
	}
	l.dropOverlay()
	return nil
}

// Discard gives the overlay's memory back without writing it. The ledger must
// not be used afterwards; its file stays and stands for BaseTXID.
func (l *Ledger) Discard() {
	l.dropOverlay()
	l.hdr = l.base.clone()
}

// Remove deletes the ledger's files. One that is missing is no error. The
// ledger must not be used afterwards.
func (l *Ledger) Remove() error {
	inMemory := l.inMemory
	l.dropOverlay()
	switch {
	case inMemory:
		return nil
	case l.volatile:
		return removeFiles(l.path)
	default:
		return Remove(l.path)
	}
}

// Remove deletes the files of the ledger at path, for one that Open refused.
// Files that are missing are no error.
func Remove(path string) error {
	err := removeFiles(path)
	if serr := syncDir(filepath.Dir(path)); serr != nil && !errors.Is(serr, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("remove page ledger: %w", serr))
	}
	return err
}

func removeFiles(path string) error {
	var errs []error
	for _, name := range []string{path, path + tempSuffix} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove page ledger: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (l *Ledger) lockPgno() uint32 { return ltx.LockPgno(l.hdr.PageSize) }

func (l *Ledger) checkHeader(h Header) error {
	if h.PageSize != l.hdr.PageSize {
		return fmt.Errorf("%w: %d, want %d", ErrPageSize, h.PageSize, l.hdr.PageSize)
	}
	return h.validate()
}

// normalize returns the changes in ascending order, each page once, without
// those that the ledger at h does not hold.
func (l *Ledger) normalize(changes []Change, h Header) ([]Change, error) {
	a := make([]Change, 0, len(changes))
	lockPgno := l.lockPgno()
	for _, c := range changes {
		if c.Pgno == 0 || !validSum(c.Sum) {
			return nil, fmt.Errorf("invalid sum %s of page %d", c.Sum, c.Pgno)
		}
		if c.Pgno <= h.PageN && c.Pgno != lockPgno {
			a = append(a, c)
		}
	}
	byPgno := func(x, y Change) int { return cmp.Compare(x.Pgno, y.Pgno) }
	if !slices.IsSortedFunc(a, byPgno) {
		slices.SortStableFunc(a, byPgno)
	}
	out := a[:0]
	for i, c := range a {
		if i+1 == len(a) || a[i+1].Pgno != c.Pgno {
			out = append(out, c)
		}
	}
	return out, nil
}

// rollingAfter returns the rolling checksum after normalized changes, or 0 if
// a sum that it needs is unknown.
func (l *Ledger) rollingAfter(changes []Change, pageN uint32) (_ ltx.Checksum, err error) {
	if l.hdr.Rolling == 0 {
		return 0, nil
	}
	k := lookup{l: l}
	defer func() { err = errors.Join(err, k.close()) }()

	roll := rolling{xor: l.hdr.Rolling}
	for _, c := range changes {
		if c.Pgno <= l.hdr.PageN {
			old, err := k.sum(c.Pgno)
			if err != nil {
				return 0, err
			}
			roll.add(old)
		}
		roll.add(c.Sum)
	}
	lockPgno := l.lockPgno()
	for pgno := int64(pageN) + 1; pgno <= int64(l.hdr.PageN) && !roll.unknown; pgno++ {
		if pgno == int64(lockPgno) {
			continue
		}
		old, err := k.sum(uint32(pgno))
		if err != nil {
			return 0, err
		}
		roll.add(old)
	}
	if !l.coversGrowth(changes, pageN) {
		return 0, nil
	}
	return roll.value(), nil
}

// coversGrowth reports whether each page that is new at pageN is among the
// normalized changes, the lock page excepted.
func (l *Ledger) coversGrowth(changes []Change, pageN uint32) bool {
	if pageN <= l.hdr.PageN {
		return true
	}
	need := int64(pageN) - int64(l.hdr.PageN)
	if p := l.lockPgno(); p > l.hdr.PageN && p <= pageN {
		need--
	}
	for i := len(changes) - 1; i >= 0 && changes[i].Pgno > l.hdr.PageN; i-- {
		need--
	}
	return need == 0
}

// replace makes normalized changes and h the state of the ledger.
func (l *Ledger) replace(changes []Change, h Header) error {
	if l.inMemory {
		return l.replaceInMemory(changes, h)
	}
	if h.PageN < l.hdr.PageN {
		l.baseN = min(l.baseN, h.PageN)
		for pgno := range l.overlay {
			if pgno > h.PageN {
				delete(l.overlay, pgno)
			}
		}
	}
	if l.overlay == nil && len(changes) > 0 {
		l.overlay = make(map[uint32]ltx.Checksum, len(changes))
	}
	for _, c := range changes {
		l.overlay[c.Pgno] = c.Sum
	}
	l.hdr = h.clone()
	l.charge(l.OverlayBytes())
	if l.budget == nil || (len(l.overlay) <= maxOverlayPages && !l.budget.mustFlush(l.charged)) {
		return nil
	}
	if err := l.Flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrFlush, err)
	}
	return nil
}

func (l *Ledger) dropOverlay() {
	l.overlay, l.sums = nil, nil
	l.charge(0)
}

func (l *Ledger) charge(now int64) {
	if l.budget != nil {
		l.budget.charge(l.charged, now)
		l.charged = now
	}
}

// openBase opens the base and makes sure that it is the file this ledger was
// read from or wrote.
func (l *Ledger) openBase() (*os.File, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, fmt.Errorf("open page ledger: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("stat page ledger: %w", err), f.Close())
	}
	if !os.SameFile(info, l.info) || info.Size() != l.info.Size() || !info.ModTime().Equal(l.info.ModTime()) {
		err := fmt.Errorf("open page ledger %s: %w: file was replaced", l.path, ErrInvalid)
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func sameHeader(a, b Header) bool {
	return a.Replica == b.Replica && a.TXID == b.TXID && a.PageSize == b.PageSize &&
		a.PageN == b.PageN && a.Rolling == b.Rolling && bytes.Equal(a.Meta, b.Meta)
}
