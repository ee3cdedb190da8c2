package litestream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/crc64iso"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// clockMargin is how old a file's times must be before equality of two stats
// proves that nothing was written in between. Some file systems tick once in
// two seconds.
const clockMargin = 2 * time.Second

// errViewMoved means that the database changed while it was looked at without
// a lock, so that what was read is worth nothing.
var errViewMoved = errors.New("database changed while it was read")

// errLockHeld is errViewMoved where somebody holds a lock.
var errLockHeld = fmt.Errorf("%w: somebody holds a lock", errViewMoved)

// viewKind is what holds the main file still while a view is read.
type viewKind uint8

// The kinds of views.
const (
	// viewQuiet: the proof, by Validate, that nobody touched the files or held
	// a lock.
	viewQuiet viewKind = iota
	// viewLocked: a read transaction, taken before the view was opened and
	// held until after its last read.
	viewLocked
	// viewStill: the proof, by Validate, that nobody touched the main file,
	// which only a checkpoint does while there is a log; commits may go on.
	viewStill
	// viewSliced: SQLite's SHARED lock, for as long as the file is read; if
	// that is too long, for several slices, between which nobody wrote.
	viewSliced
)

// A View is a database at one commit: a verified copy of the log's frames up
// to that commit, and the main file below it. Page n is the newest frame of n,
// else the main file's page. Its kind says what holds the main file still
// meanwhile. It is not safe for concurrent use.
type View struct {
	PageSize uint32
	PageN    uint32     // size of the database in pages
	Cursor   wal.Cursor // where tailing goes on behind this view

	main    *os.File // borrowed
	log     *wal.Copy
	path    string
	kind    viewKind
	margin  time.Duration          // how old fp has to be
	fp      sqlitefile.Fingerprint // before
	slices  *sliceLock             // of viewSliced
	stop    func() error           // asked now and then during Each
	release func() error           // ends the read transaction; nil if the caller does

	// Of viewLocked, which no time stamps prove: what the main file was when the
	// view was opened, and the checksum of the pages that were read from it.
	print   wal.Print
	mainSum uint64
	summed  bool

	small    *[smallView]byte     // borrowed, or nil
	large    *[viewReadAhead]byte // borrowed, or nil
	page     []byte               // of Each
	buf      []byte               // read-ahead of the main file
	bufPgno  uint32               // first page in buf
	bufPages uint32               // whole pages in buf
}

// viewSource is what a view is opened on.
type viewSource struct {
	path   string
	main   *os.File // open on path's inode; closed by the caller after the view
	bootID [16]byte
	now    time.Time
	spool  wal.Options
	// kind is viewLocked if the caller holds a read transaction.
	kind   viewKind
	margin time.Duration // how old the files' times have to be
	slices *sliceLock    // of viewSliced, held
	// stop ends Each by its error, such as that of a context.
	stop func() error
}

// openView copies the log and places the view at its last commit.
func openView(src viewSource) (*View, error) {
	v := &View{
		main: src.main, path: src.path, kind: src.kind, margin: src.margin, slices: src.slices, stop: src.stop,
	}
	var err error
	if v.fp, err = sqlitefile.Take(src.path); err != nil {
		return nil, fmt.Errorf("stat database: %w", err)
	}
	if err := v.checkStill(src.now); err != nil {
		return nil, err
	}
	hdr, err := sqlitefile.ReadHeader(src.main)
	if err != nil {
		return nil, err
	}
	if v.log, err = wal.CopyLog(sqlitefile.WALPath(src.path), hdr.PageSize, src.spool); err != nil {
		return nil, fmt.Errorf("copy wal: %w", err)
	}
	if v.kind == viewSliced && hdr.WAL {
		return nil, errors.Join(fmt.Errorf("%w: it got a write-ahead log", errViewMoved), v.Close())
	}
	print, err := sqlitefile.StatFile(src.main)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("stat database: %w", err), v.Close())
	}
	if at, err := sqlitefile.Stat(src.path); err != nil || at.ID != print.ID {
		// The log that was copied may be that of another file.
		return nil, errors.Join(fmt.Errorf("%w: file was replaced", errViewMoved), err, v.Close())
	}
	v.print = print
	v.PageSize, v.PageN = hdr.PageSize, v.log.Frames.Commit
	if v.log.Frames.CommitN == 0 {
		v.PageN = hdr.PageCount(print.Size)
	}
	trusted := sqlitefile.Settled(print, src.now, src.margin)
	if v.log.Frames.CommitN == 0 {
		if err := v.checkComplete(hdr, src.now); err != nil {
			return nil, errors.Join(err, v.Close())
		}
	}
	v.Cursor = v.log.Cursor(src.bootID, print, trusted, v.PageN)
	if v.kind == viewSliced {
		if err := v.fill(1); err != nil {
			return nil, errors.Join(err, v.Close())
		}
	}
	return v, nil
}

// checkStill holds the conditions under which a file may be read without a
// lock: settled times, and for a quiet view no transaction that has to be
// rolled back, and nobody in SQLite's lock range.
func (v *View) checkStill(now time.Time) error {
	switch v.kind {
	case viewQuiet:
		if !v.fp.Settled(now, v.margin) {
			return fmt.Errorf("%w: touched less than %s ago", errViewMoved, v.margin)
		}
	case viewStill:
		if !sqlitefile.Settled(v.fp.Main, now, v.margin) {
			return fmt.Errorf("%w: main file touched less than %s ago", errViewMoved, v.margin)
		}
		return nil
	default:
		return nil
	}
	if hot, err := sqlitefile.HotJournal(v.path); err != nil {
		return err
	} else if hot {
		return fmt.Errorf("%w: a rollback journal is live", errViewMoved)
	}
	if locked, err := sqlitefile.Locked(v.main); err != nil {
		return err
	} else if locked {
		return errLockHeld
	}
	return nil
}

// errCutShort means that a file ends before its last page: SQLite does not read
// it either.
var errCutShort = errors.New("file is cut short")

// checkComplete returns errCutShort for a file without a log that has fewer
// pages than its header tells (lockBtree in SQLite's btree.c).
func (v *View) checkComplete(hdr sqlitefile.Header, now time.Time) error {
	hdr.SizeValid = false
	if v.PageN <= hdr.PageCount(v.print.Size) {
		return nil
	}
	if err := v.Validate(now); err != nil {
		return err // it was caught half way through a change
	}
	return fmt.Errorf("%w: it has %d of %d bytes, is damaged or still being copied",
		errCutShort, v.print.Size, int64(v.PageN)*int64(v.PageSize))
}

// Validate has to be asked after the last read and before anything that was
// read is published. It is nil if the view was what it claims to be.
func (v *View) Validate(now time.Time) error {
	switch v.kind {
	case viewLocked:
		return v.checkLocked()
	case viewSliced:
		return v.slices.end()
	default:
	}
	fp, err := sqlitefile.Take(v.path)
	if err != nil {
		return fmt.Errorf("stat database: %w", err)
	}
	if fp.Main != v.fp.Main || v.kind == viewQuiet && fp.WAL != v.fp.WAL {
		return errViewMoved
	}
	return v.checkStill(now)
}

// checkLocked reads the main file again if it was written to. Below a read
// transaction a checkpoint writes pages that the log holds, which were not read
// from there; whoever writes others has no regard for locks, such as cp.
func (v *View) checkLocked() error {
	print, err := sqlitefile.StatFile(v.main)
	if err != nil {
		return fmt.Errorf("stat database: %w", err)
	}
	if !v.summed || print == v.print {
		return nil
	}
	v.bufPages = 0
	return v.Each(func(uint32, []byte) error { return nil })
}

// sumMain takes note of what a whole pass has read from the main file. The next
// pass must have read the same.
func (v *View) sumMain(sum uint64) error {
	if v.summed && sum != v.mainSum {
		return fmt.Errorf("%w, and below a read transaction: it was written over", errViewMoved)
	}
	v.mainSum, v.summed = sum, true
	return nil
}

// readPage fills buf, exactly one page, with page pgno, and reports whether the
// log holds it. A page that SQLite allocated and never wrote reads as zeros, as
// it does for SQLite.
func (v *View) readPage(pgno uint32, buf []byte) (logged bool, err error) {
	if logged, err = v.log.Frames.ReadPage(pgno, buf); err != nil || logged {
		return logged, err
	}
	if pgno < v.bufPgno || pgno >= v.bufPgno+v.bufPages {
		if err := v.fill(pgno); err != nil {
			return false, err
		}
	}
	if pgno >= v.bufPgno+v.bufPages {
		clear(buf)
		return false, nil
	}
	off := int(pgno-v.bufPgno) * int(v.PageSize)
	copy(buf, v.buf[off:])
	return false, nil
}

const (
	// viewReadAhead is the most that is read at once. A hundred databases are read
	// at the same time.
	viewReadAhead = 64 << 10
	// smallView holds the pages of most databases of a fleet, and one more.
	smallView = 16 << 10
)

// What views of most page sizes read into: a first backup reads thousands of
// databases a second.
var (
	smallViews = sync.Pool{New: func() any { return new([smallView]byte) }}
	largeViews = sync.Pool{New: func() any { return new([viewReadAhead]byte) }}
)

// borrow gives the view its buffers, until Close.
func (v *View) borrow() {
	if v.page != nil {
		return
	}
	page := int(v.PageSize)
	ahead := max(page, int(min(int64(viewReadAhead/page-1), int64(v.PageN)))*page)
	var b []byte
	switch n := ahead + page; {
	case n <= smallView:
		v.small, _ = smallViews.Get().(*[smallView]byte)
		b = v.small[:]
	case n <= viewReadAhead:
		v.large, _ = largeViews.Get().(*[viewReadAhead]byte)
		b = v.large[:]
	default:
		b = make([]byte, n)
	}
	v.buf, v.page = b[:ahead:ahead], b[ahead:ahead+page]
}

// giveBack ends borrow.
func (v *View) giveBack() {
	if v.small != nil {
		smallViews.Put(v.small)
	}
	if v.large != nil {
		largeViews.Put(v.large)
	}
	v.small, v.large, v.buf, v.page, v.bufPages = nil, nil, nil, nil, 0
}

// fill reads on in the main file from pgno.
func (v *View) fill(pgno uint32) error {
	v.borrow()
	if v.slices != nil {
		if err := v.slices.hold(); err != nil {
			return err
		}
	}
	n, err := v.main.ReadAt(v.buf, int64(pgno-1)*int64(v.PageSize))
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read database page %d: %w", pgno, err)
	}
	v.bufPgno, v.bufPages = pgno, uint32(n)/v.PageSize
	if v.slices != nil && pgno+v.bufPages > v.PageN {
		return v.slices.end() // everything is read; what is done with it needs no lock
	}
	return nil
}

// stopEvery is after how many pages a pass asks whether it is still wanted.
const stopEvery = 256

// Each calls fn for every page in ascending order, the lock page left out. The
// page is valid during the call.
func (v *View) Each(fn func(pgno uint32, page []byte) error) error {
	v.borrow()
	buf := v.page
	lock := ltx.LockPgno(v.PageSize)
	var sum uint64
	for pgno := uint32(1); pgno <= v.PageN; pgno++ {
		if pgno == lock {
			continue
		}
		if pgno%stopEvery == 0 {
			if err := v.stop(); err != nil {
				return fmt.Errorf("read database: %w", err)
			}
		}
		logged, err := v.readPage(pgno, buf)
		if err != nil {
			return err
		}
		if v.kind == viewLocked && !logged {
			sum = crc64iso.Update(sum, buf)
		}
		if err := fn(pgno, buf); err != nil {
			return err
		}
		if v.slices.due() {
			if err := v.slices.end(); err != nil {
				return err
			}
		}
	}
	if v.kind == viewLocked {
		return v.sumMain(sum)
	}
	return nil
}

// Close ends what holds the database still, and frees the copy of the log and
// the buffers. Nothing is read behind it.
func (v *View) Close() error {
	var err error
	v.giveBack()
	if v.release != nil {
		err = v.release()
		v.release = nil
	}
	if v.slices != nil {
		err = errors.Join(err, v.slices.drop())
	}
	if v.log != nil {
		err = errors.Join(err, v.log.Frames.Close())
	}
	return err
}
