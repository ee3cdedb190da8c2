package v03

import (
	"errors"
	"fmt"
	"io"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// A FileError names the file whose content cannot be used.
type FileError struct {
	File File
	Err  error
}

// Error returns the name of the file and the cause.
func (e *FileError) Error() string { return fmt.Sprintf("read %s: %v", e.File.Name, e.Err) }

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// An OutputError is a failure of writing the database.
type OutputError struct{ Err error }

// Error returns the cause.
func (e *OutputError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.Err }

// Output is the file that a database is written to. It is empty at first.
type Output interface {
	io.WriterAt
	Truncate(size int64) error
}

// Result is a database that was written.
type Result struct {
	PageSize  uint32 // bytes
	PageN     uint32
	Dropped   int64 // bytes of the log behind its last commit, which were left out
	CommitN   int   // transactions that were applied to the snapshot
	IndexN    int   // logs that they came from
	Truncated File  // the file that Dropped is of
}

// Apply writes the database that a plan makes. open returns what a file holds;
// it is called for each file once, in the order in which they apply, and its
// end must be io.EOF, not wrapped. spoolDir takes an unlinked temporary file if
// a transaction is large.
//
// The log is applied as SQLite applies it at a complete checkpoint of each
// index: every page of a frame that is part of a committed transaction, then
// the size of the last one. Beyond SQLite, a frame that does not continue its
// log is an error, because what follows in other files would be applied to a
// database that lacks it. Only the last index of a plan may end inside a
// transaction, which is left out.
//
// A file that cannot be used is a *FileError, a missing one a *GapError,
// a failure of writing an *OutputError.
func Apply(p Plan, out Output, open func(File) io.Reader, spoolDir string) (Result, error) {
	a := applier{out: out, open: open, opt: wal.Options{SpoolDir: spoolDir}}
	if err := a.snapshot(p.Snapshot); err != nil {
		return a.res, err
	}
	for rest := p.WAL; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Index == rest[0].Index {
			n++
		}
		var next *File
		if n < len(rest) {
			next = &rest[n]
		}
		if err := a.index(rest[:n], next); err != nil {
			return a.res, err
		}
		rest = rest[n:]
	}
	return a.res, nil
}

// applier is one call of Apply.
type applier struct {
	out  Output
	open func(File) io.Reader
	opt  wal.Options
	dec  decoder
	res  Result
}

// snapshot writes the copy of the database.
func (a *applier) snapshot(f File) error {
	a.dec.reset(a.open(f))
	buf := make([]byte, 256<<10)
	var size int64
	for {
		n, err := readUp(&a.dec, buf)
		if size == 0 && (n > 0 || errors.Is(err, io.EOF)) {
			hdr, herr := sqlitefile.ReadHeader(bytesAt(buf[:n]))
			if herr != nil && (err == nil || errors.Is(err, io.EOF)) {
				return &FileError{f, herr}
			}
			a.res.PageSize = hdr.PageSize
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return &FileError{f, err}
		}
		if _, werr := a.out.WriteAt(buf[:n], size); werr != nil {
			return &OutputError{werr}
		}
		if size += int64(n); err != nil {
			break
		}
	}
	if size%int64(a.res.PageSize) != 0 {
		return &FileError{f, fmt.Errorf("%d bytes are no whole pages of %d", size, a.res.PageSize)}
	}
	a.res.PageN = uint32(size / int64(a.res.PageSize))
	return nil
}

// bytesAt reads from memory.
type bytesAt []byte

// ReadAt implements io.ReaderAt for offset 0, all that a header needs.
func (b bytesAt) ReadAt(p []byte, _ int64) (int, error) {
	n := copy(p, b)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readUp fills p unless the end or an error comes first.
func readUp(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// index applies one log. next is the first file of the log behind it, nil if
// there is none.
func (a *applier) index(files []File, next *File) (err error) {
	r := &logReader{a: a, files: files}
	s, err := wal.NewStream(r, a.opt)
	if err != nil {
		return r.fail(err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if h := s.Header(); h.PageSize != a.res.PageSize {
		return r.fail(fmt.Errorf("log has pages of %d bytes, the snapshot of %d", h.PageSize, a.res.PageSize))
	}
	g := growth{
		first: a.res.IndexN == 0, size: a.res.PageN, largest: a.res.PageN,
		lockPage: lockByte/a.res.PageSize + 1, seen: make(map[uint32]struct{}),
	}
	a.res.IndexN++
	for {
		commit, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return r.fail(err)
		}
		if err := a.transaction(s, commit, &g); err != nil {
			return err
		}
		if pgno := g.missing(); pgno != 0 {
			return g.gap(r.file(), pgno)
		}
	}
	if pgno := g.missingAtEnd(); pgno != 0 {
		return &FileError{r.file(), fmt.Errorf("page %d is in no file of the plan", pgno)}
	}
	if err := a.end(s, r, next); err != nil {
		return err
	}
	a.res.PageN = g.size
	if err := a.out.Truncate(int64(a.res.PageN) * int64(a.res.PageSize)); err != nil {
		return &OutputError{err}
	}
	return nil
}

// transaction writes the pages of a transaction. What it cut off is written
// neither by a checkpoint.
func (a *applier) transaction(s *wal.Stream, commit uint32, g *growth) error {
	g.begin(commit)
	err := s.Pages(func(pgno uint32, page []byte) error {
		if pgno > commit {
			return nil
		}
		g.wrote(pgno)
		if _, err := a.out.WriteAt(page, int64(pgno-1)*int64(len(page))); err != nil {
			return &OutputError{err}
		}
		return nil
	})
	a.res.CommitN++
	return err
}

// end judges what a log holds behind its last commit.
func (a *applier) end(s *wal.Stream, r *logReader, next *File) error {
	f := r.file()
	if s.Stop() == wal.StopMismatch {
		return &FileError{f, fmt.Errorf("frame at offset %08x of index %08x does not continue the log (salts or checksum)", s.ChainEnd(), f.Index)}
	}
	dropped := r.off - s.End()
	if dropped == 0 {
		return nil
	}
	if next != nil {
		return &GapError{
			Generation: f.Generation, Index: f.Index, Offset: r.off, Behind: *next,
			Reason: fmt.Sprintf("index %08x ends inside a transaction", f.Index),
		}
	}
	a.res.Dropped, a.res.Truncated = dropped, f
	return nil
}

// lockByte is where SQLite's locks lie; the page that holds it is never
// written (SQLite file format, section 1.3).
const lockByte = 1 << 30

// growth follows the size of the database through one log. SQLite writes every
// page that it adds to a database. A transaction that leaves a larger one
// without having written what was added shows that the log before it is not
// whole: that the last stretch of an index is missing shows in no name.
type growth struct {
	first    bool   // the log is the snapshot's own
	size     uint32 // pages behind the last transaction
	before   uint32 // pages in front of it
	largest  uint32 // pages of the snapshot
	lockPage uint32
	seen     map[uint32]struct{} // pages written behind before, or behind largest
}

// begin begins a transaction that leaves size pages. The snapshot can be newer
// than the beginning of its own log, and smaller; so there only the end counts.
func (g *growth) begin(size uint32) {
	g.before, g.size = g.size, size
	if !g.first {
		clear(g.seen)
	}
}

func (g *growth) wrote(pgno uint32) {
	if g.first && pgno > g.largest || !g.first && pgno > g.before {
		g.seen[pgno] = struct{}{}
	}
}

// missing returns a page that the transaction added without writing it, or 0.
func (g *growth) missing() uint32 {
	if g.first {
		return 0
	}
	return g.unseen(g.before)
}

// missingAtEnd is missing for a whole log, the snapshot's own.
func (g *growth) missingAtEnd() uint32 {
	if !g.first {
		return 0
	}
	return g.unseen(g.largest)
}

func (g *growth) unseen(from uint32) uint32 {
	for pgno := uint64(from) + 1; pgno <= uint64(g.size); pgno++ {
		if _, ok := g.seen[uint32(pgno)]; !ok && uint32(pgno) != g.lockPage {
			return uint32(pgno)
		}
	}
	return 0
}

// gap reports that the log in front of f's index is not whole.
func (g *growth) gap(f File, pgno uint32) error {
	return &GapError{
		Generation: f.Generation, Index: f.Index - 1, Offset: -1, Behind: f,
		Reason: fmt.Sprintf("the database grows from %d to %d pages without page %d", g.before, g.size, pgno),
	}
}

// logReader reads the stretches of one index as one log. Its errors are
// *FileError and *GapError, its end is io.EOF.
type logReader struct {
	a     *applier
	files []File
	next  int // of files, to be opened
	off   int64
}

// file returns the file that is being read.
func (r *logReader) file() File { return r.files[max(0, r.next-1)] }

// fail names the file in an error that has no name in it.
func (r *logReader) fail(err error) error {
	var fe *FileError
	var ge *GapError
	if errors.As(err, &fe) || errors.As(err, &ge) {
		return err
	}
	return &FileError{r.file(), err}
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	for {
		if r.next > 0 {
			n, err := r.a.dec.Read(p)
			r.off += int64(n)
			if err != nil && !errors.Is(err, io.EOF) {
				return n, r.fail(err)
			}
			if n > 0 || err == nil {
				return n, nil
			}
		}
		if r.next == len(r.files) {
			return 0, io.EOF
		}
		f := r.files[r.next]
		switch {
		case f.Offset > r.off:
			return 0, &GapError{Generation: f.Generation, Index: f.Index, Offset: r.off, Behind: f}
		case f.Offset < r.off:
			r.next++
			return 0, r.fail(fmt.Errorf("begins at offset %08x, before %08x where the one in front of it ends", f.Offset, r.off))
		}
		r.next++
		r.a.dec.reset(r.a.open(f))
	}
}
