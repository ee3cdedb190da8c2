package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/benbjohnson/litestream/internal/osfile"
)

// Reason names why a log does not provably continue at a cursor. It is a
// metric label.
type Reason string

// The reasons of a discontinuity.
const (
	ReasonNoCursor    Reason = "no-cursor"    // nothing was captured yet
	ReasonBoot        Reason = "boot"         // the machine was restarted
	ReasonReplaced    Reason = "replaced"     // the main file is another one
	ReasonPageSize    Reason = "page-size"    // the page size changed
	ReasonLogGone     Reason = "log-gone"     // the log was deleted, emptied or its header is invalid
	ReasonLogAppeared Reason = "log-appeared" // there was no log
	ReasonMainChanged Reason = "main-changed" // there is no log, and the main file was touched
	ReasonRestarted   Reason = "restarted"    // other salts that are not one restart on
	ReasonRewritten   Reason = "rewritten"    // same salts, another header
	ReasonOverwritten Reason = "overwritten"  // the last captured transaction is not where it was
	ReasonCut         Reason = "cut"          // the old chain's end is no proof
	ReasonGrewOver    Reason = "grew-over"    // the new lineage reaches the last captured transaction
	ReasonPhantom     Reason = "phantom"      // the last captured transaction is not in the main file
	ReasonUncommitted Reason = "uncommitted"  // old frames, and a new lineage without a commit
	ReasonMoved       Reason = "header-moved" // the header changed while it was read
)

// Source is what a look at a database reads.
type Source struct {
	Path   string      // of the log; it is opened by path at each look
	BootID [16]byte    // of the running machine
	Main   Print       // of the main file, taken before
	Pages  io.ReaderAt // the main file's bytes
	// Pinned says that since the cursor was taken, behind a complete
	// checkpoint of our own under the write lock with everything captured, a
	// read transaction taken under that lock has been held without a break.
	// Then the log can restart once, and what it held has been captured.
	Pinned bool
}

// Result of a look: unchanged (no Frames, no Reason), frames that continue at
// the cursor, or a Reason why continuity is not proven.
type Result struct {
	Frames *Frames // nil if nothing was committed; the caller closes it
	Cursor Cursor  // behind Frames
	Reason Reason  // empty if continuity is proven
	// Uncommitted is how many bytes of the chain lie behind the last commit.
	Uncommitted int64
	More        bool // the limit ended the scan; look again
}

// Tail reads what was committed behind the cursor and proves that it is all
// there was, or names the reason why it cannot. Frames are read first, then
// the conditions are checked, then the header is read once more: any change in
// between throws the look away.
func Tail(cur Cursor, src Source, opt Options) (Result, error) {
	switch {
	case cur.IsZero():
		return Result{Reason: ReasonNoCursor}, nil
	case cur.BootID != src.BootID:
		return Result{Reason: ReasonBoot}, nil
	case cur.Main != src.Main.ID:
		return Result{Reason: ReasonReplaced}, nil
	}
	f, err := osfile.Open(src.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return tailWithoutLog(cur, src), nil
	} else if err != nil {
		return Result{}, fmt.Errorf("open wal: %w", err)
	}
	defer f.Close() // only read from
	t := tailer{cur: cur, src: src, opt: opt, file: f}
	res, err := t.run()
	if err != nil || res.Reason != "" {
		err = errors.Join(err, t.discard())
		return Result{Reason: res.Reason}, err
	}
	return res, nil
}

// tailWithoutLog decides where no log with content lies: the main file alone
// is the database.
func tailWithoutLog(cur Cursor, src Source) Result {
	if cur.HasFrames() {
		return Result{Reason: ReasonLogGone}
	}
	if !cur.MainTrusted || cur.MainPrint != src.Main {
		return Result{Reason: ReasonMainChanged}
	}
	return Result{Cursor: cur}
}

// tailer is one look at one open log.
type tailer struct {
	cur    Cursor
	src    Source
	opt    Options
	file   *os.File
	frames *Frames // closed by discard if the look fails
}

func (t *tailer) discard() error {
	err := t.frames.Close()
	t.frames = nil
	return err
}

func (t *tailer) run() (Result, error) {
	h, err := readHeader(t.file)
	if errors.Is(err, ErrNoHeader) {
		return tailWithoutLog(t.cur, t.src), nil
	} else if err != nil {
		return Result{}, err
	}
	if h.PageSize != t.cur.PageSize {
		return Result{Reason: ReasonPageSize}, nil
	}
	t.opt.did("header")
	var res Result
	salt1, _ := t.cur.Salts()
	switch {
	case !t.cur.HasFrames():
		res, err = t.fromNothing(&h)
	case h.Raw == t.cur.Header:
		res, err = t.sameLineage(&h)
	case t.src.Pinned && h.Salt1 == salt1+1:
		res, err = t.pinnedRestart(&h)
	case h.Salt1 == salt1+1:
		res, err = t.oneRestart(&h)
	case bytes.Equal(h.Raw[16:24], t.cur.Header[16:24]):
		res = Result{Reason: ReasonRewritten}
	default:
		res = Result{Reason: ReasonRestarted}
	}
	if err != nil || res.Reason != "" {
		return res, err
	}
	t.opt.did("conditions")
	if again, err := readHeader(t.file); err != nil && !errors.Is(err, ErrNoHeader) {
		return Result{}, err
	} else if again.Raw != h.Raw {
		return Result{Reason: ReasonMoved}, nil
	}
	return res, nil
}

// fromNothing looks at a log where there was none with a commit.
func (t *tailer) fromNothing(h *Header) (Result, error) {
	rd := newFrameReader(t.file, h, HeaderSize, h.Sum)
	for {
		fh, page, _, err := rd.next()
		if err != nil {
			return Result{}, err
		}
		if page == nil {
			return tailWithoutLog(t.cur, t.src), nil
		}
		if fh.Commit != 0 {
			return Result{Reason: ReasonLogAppeared}, nil
		}
	}
}

// sameLineage continues under the very same header.
func (t *tailer) sameLineage(h *Header) (Result, error) {
	t.frames = newFrames(h.PageSize, t.opt)
	if err := t.frames.scan(t.file, h, t.cur.End(), t.cur.Last.Sum, t.opt); err != nil {
		return Result{}, err
	}
	t.opt.did("frames")
	if ok, err := t.lastTransactionLies(); err != nil {
		return Result{}, err
	} else if !ok {
		return Result{Reason: ReasonOverwritten}, nil
	}
	return t.advance(h)
}

// pinnedRestart continues behind a complete checkpoint of our own, under the
// pin that was retaken there: all that the old lineage held was captured, and
// no second restart can have happened.
func (t *tailer) pinnedRestart(h *Header) (Result, error) {
	t.frames = newFrames(h.PageSize, t.opt)
	if err := t.frames.scan(t.file, h, HeaderSize, h.Sum, t.opt); err != nil {
		return Result{}, err
	}
	return t.advance(h)
}

// oneRestart continues behind a single restart that somebody else's complete
// checkpoint made possible. The frames it captures are the old lineage's
// remainder and, over them, the new lineage's.
func (t *tailer) oneRestart(h *Header) (Result, error) {
	old := t.oldHeader(h)
	t.frames = newFrames(h.PageSize, t.opt)
	opt := t.opt
	opt.Limit = 0
	if err := t.frames.scan(t.file, &old, t.cur.End(), t.cur.Last.Sum, opt); err != nil {
		return Result{}, err
	}
	oldEnd, oldStop, oldFrames := t.frames.ChainEnd, t.frames.Stop, t.frames.CommitN > 0
	size, err := t.size()
	if err != nil {
		return Result{}, err
	}
	remainder := t.frames.Pages()
	t.opt.did("old frames")

	if err := t.frames.scan(t.file, h, HeaderSize, h.Sum, opt); err != nil {
		return Result{}, err
	}
	t.opt.did("new frames")
	if t.frames.ChainEnd > t.cur.First.Offset-h.FrameSize() {
		return Result{Reason: ReasonGrewOver}, nil
	}
	if ok, err := t.lastTransactionLies(); err != nil {
		return Result{}, err
	} else if !ok {
		return Result{Reason: ReasonOverwritten}, nil
	}
	if oldStop != StopMismatch && (oldStop != StopEOF || !t.endsAtCursor(oldEnd, size)) {
		return Result{Reason: ReasonCut}, nil
	}
	if ok, err := t.checkpointed(&old, remainder, h); err != nil {
		return Result{}, err
	} else if !ok {
		return Result{Reason: ReasonPhantom}, nil
	}
	if t.frames.End == HeaderSize { // no commit in the new lineage
		if oldFrames {
			return Result{Reason: ReasonUncommitted}, nil
		}
		res := Result{Cursor: t.cur, Uncommitted: t.frames.ChainEnd - HeaderSize}
		return res, t.discard()
	}
	return t.advance(h)
}

// endsAtCursor reports whether the file ended behind the cursor's commit when
// the cursor was taken, and the old chain and the file still end there. A file
// that was longer then, as journal_size_limit leaves it, would not do: the
// chain can have grown past its end and been cut back to that very size.
func (t *tailer) endsAtCursor(oldEnd, size int64) bool {
	return oldEnd == size && size == t.cur.FileSize && size == t.cur.End()
}

// oldHeader is the header of the cursor's lineage, whose bytes are gone from
// the file. It was valid when the cursor was taken.
func (t *tailer) oldHeader(h *Header) Header {
	old := *h
	old.Raw = t.cur.Header
	old.Salt1, old.Salt2 = t.cur.Salts()
	old.BigEndian = binary.BigEndian.Uint32(t.cur.Header[0:]) == magicBE
	return old
}

// lastTransactionLies reports whether the first and the last frame of the last
// captured transaction lie where they were.
func (t *tailer) lastTransactionLies() (bool, error) {
	salt1, salt2 := t.cur.Salts()
	for _, p := range []FramePos{t.cur.First, t.cur.Last} {
		if ok, err := liesAt(t.file, salt1, salt2, p); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// checkpointed reports whether the old lineage's end is in the main file, byte
// for byte: the pages of the last captured transaction and of the remainder
// that was read behind it, unless the captured part of the new lineage holds
// them. A phantom commit would not be there; one that shrank the database shows
// when the new lineage leaves a larger one without having written what was
// added. All those frames lie behind the new lineage's end, so none was
// overwritten.
func (t *tailer) checkpointed(old *Header, remainder []uint32, h *Header) (_ bool, err error) {
	opt := t.opt
	opt.Limit = 0
	fresh := newFrames(h.PageSize, t.opt) // the new lineage alone, as it was captured
	stale := newFrames(h.PageSize, t.opt) // the last transaction and the remainder
	defer func() { err = errors.Join(err, fresh.Close(), stale.Close()) }()
	opt.EndAt = t.frames.End
	if err := fresh.scan(t.file, h, HeaderSize, h.Sum, opt); err != nil {
		return false, err
	}
	opt.EndAt = t.opt.EndAt
	seed, err := t.sumBefore(t.cur.First.Offset)
	if err != nil {
		return false, err
	}
	if err := stale.scan(t.file, old, t.cur.First.Offset, seed, opt); err != nil {
		return false, err
	}
	if stale.CommitN == 0 {
		return false, nil
	}
	for _, pgno := range remainder {
		if !stale.Has(pgno) {
			return false, nil
		}
	}
	if !fresh.grewFrom(stale.Commit) {
		return false, nil
	}
	return t.inMain(stale, fresh)
}

// inMain reports whether the main file holds the pages of stale, except those
// that fresh holds or has dropped.
func (t *tailer) inMain(stale, fresh *Frames) (bool, error) {
	want, got := make([]byte, stale.PageSize), make([]byte, stale.PageSize)
	for _, pgno := range stale.Pages() {
		if fresh.Has(pgno) || fresh.CommitN > 0 && pgno > fresh.MinCommit {
			continue
		}
		if _, err := stale.ReadPage(pgno, want); err != nil {
			return false, err
		}
		if _, err := t.src.Pages.ReadAt(got, int64(pgno-1)*int64(stale.PageSize)); errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("read page %d: %w", pgno, err)
		}
		if !bytes.Equal(want, got) {
			return false, nil
		}
	}
	return true, nil
}

// sumBefore returns the checksum stored in the frame in front of off. The last
// captured transaction never begins the log in a restart that is accepted: the
// new lineage lies at least one frame below it.
func (t *tailer) sumBefore(off int64) (Checksum, error) {
	var b [FrameHeaderSize]byte
	prev := off - FrameHeaderSize - int64(t.cur.PageSize)
	if _, err := t.file.ReadAt(b[:], prev); err != nil {
		return Checksum{}, fmt.Errorf("read wal frame: %w", err)
	}
	return ParseFrameHeader(b[:]).Sum, nil
}

func (t *tailer) size() (int64, error) {
	st, err := t.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("stat wal: %w", err)
	}
	return st.Size(), nil
}

// advance returns the frames, if any commit is among them, and the cursor
// behind them.
func (t *tailer) advance(h *Header) (Result, error) {
	f := t.frames
	res := Result{Cursor: t.cur, Uncommitted: f.ChainEnd - f.End, More: f.Stop == StopLimit}
	if f.CommitN == 0 {
		return res, t.discard()
	}
	size, err := t.size()
	if err != nil {
		return Result{}, err
	}
	res.Frames = f
	res.Cursor = Cursor{
		BootID: t.cur.BootID, Main: t.cur.Main, PageSize: h.PageSize, Commit: f.Commit,
		Header: h.Raw, First: f.First, Last: f.Last, LastPgno: f.LastPgno, FileSize: size,
	}
	return res, nil
}
