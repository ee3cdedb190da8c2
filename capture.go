package litestream

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/pagesum"
	"github.com/benbjohnson/litestream/internal/wal"
)

// errPublishRule means that an LTX file would not have carried all that it
// has to (docs/ARCHITECTURE.md, "Publish rule"). It was not written.
var errPublishRule = errors.New("capture is incomplete")

// errLedger means that the page ledger could not be read, so that it is of no
// more use.
var errLedger = errors.New("page ledger cannot be read")

// A capture turns what changed into the LTX file of the next TXID. There are
// two ways: tail takes frames that provably continue, view takes every page
// whose checksum differs from the ledger's. Both hold the publish rule.
type capture struct {
	dir       ltxfile.Dir
	txid      ltx.TXID        // of the file to write
	cursor    wal.Cursor      // what is captured so far; zero if nothing
	ledger    *pagesum.Ledger // checksums of what is captured so far; may be nil
	checksums bool            // increments carry the database checksum
	timestamp time.Time
	now       func() time.Time
	writer    uint64 // see DB.writerID
}

// captured is a staged file that is not yet under its final name.
type captured struct {
	file    *ltxfile.File // nil if nothing differs
	enc     *ltxfile.Encoder
	header  ltx.Header
	pageN   int // pages in the file
	post    ltx.Checksum
	changes []pagesum.Change // of a tail
	sums    *pagesum.Writer  // of a view: the whole new ledger
}

// abort removes what was staged. It may follow a commit.
func (c *captured) abort() error {
	if c == nil {
		return nil
	}
	var err error
	if c.file != nil {
		c.enc.Release()
		err = c.file.Abort()
	}
	if c.sums != nil {
		err = errors.Join(err, c.sums.Abort())
	}
	return err
}

// header returns the LTX header of the next file. The log fields hold the
// cursor behind it, so that Litestream v0.5 can go on from here:
// the range from start to the end of the cursor's last frame.
func (c *capture) header(cur wal.Cursor, start int64, pre ltx.Checksum) ltx.Header {
	hdr := ltx.Header{
		Version: ltx.Version, PageSize: cur.PageSize, Commit: cur.Commit,
		MinTXID: c.txid, MaxTXID: c.txid, Timestamp: c.timestamp.UnixMilli(),
		WALOffset: WALHeaderSize, NodeID: c.writer,
	}
	if !c.checksums || (c.txid > 1 && pre == 0) {
		hdr.Flags = ltx.HeaderFlagNoChecksum
	} else if c.txid > 1 {
		hdr.PreApplyChecksum = pre
	}
	if cur.HasFrames() {
		hdr.WALOffset, hdr.WALSize = start, cur.End()-start
		hdr.WALSalt1, hdr.WALSalt2 = cur.Salts()
	}
	return hdr
}

// tail stages the committed frames of a proven look at the log.
func (c *capture) tail(res wal.Result) (_ *captured, err error) {
	frames, start := res.Frames, c.cursor.End()
	if res.Cursor.Header != c.cursor.Header {
		start = WALHeaderSize // the log was restarted
	}
	var pre ltx.Checksum
	if c.checksums && c.ledger != nil {
		pre = c.ledger.Header().Rolling
	}
	out := &captured{header: c.header(res.Cursor, start, pre)}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.abort())
		}
	}()
	w, err := c.create(out.header, publishRule{
		minPageN: min(c.cursor.Commit, frames.MinCommit), lastPgno: res.Cursor.LastPgno,
	})
	if err != nil {
		return nil, err
	}
	out.file, out.enc = w.file, w.enc
	page := make([]byte, frames.PageSize)
	for _, pgno := range frames.Pages() {
		if _, err := frames.ReadPage(pgno, page); err != nil {
			return nil, err
		}
		if err := w.page(pgno, page); err != nil {
			return nil, err
		}
		out.changes = append(out.changes, pagesum.Change{Pgno: pgno, Sum: ltxfile.PageChecksum(pgno, page)})
	}
	out.pageN = len(out.changes)
	if !out.header.NoChecksum() {
		if out.post, err = c.ledger.RollingAfter(out.changes, c.ledgerHeader(out.header)); err != nil {
			return nil, fmt.Errorf("%w: %w", errPublishRule, err)
		} else if out.post == 0 {
			return nil, fmt.Errorf("%w: the ledger does not know every page", errPublishRule)
		}
	}
	return out, w.finish(out.post)
}

// view stages every page of the view whose checksum differs from the ledger's,
// all pages if there is none, and a whole new ledger by sums. The file is only
// made when the first difference is met; a view without one stages the ledger
// only.
func (c *capture) view(v *View, sums *pagesum.Writer) (_ *captured, err error) {
	d := diff{capture: c, view: v, out: &captured{sums: sums}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.out.abort())
		}
	}()
	if err := d.openLedger(); err != nil {
		return nil, err
	}
	err = v.Each(d.page)
	if d.old != nil {
		err = errors.Join(err, d.old.Close())
	}
	if err != nil {
		return nil, err
	}
	if d.w == nil && d.oldPageN != v.PageN {
		if err := d.begin(); err != nil { // only the size differs
			return nil, err
		}
	}
	if err := v.Validate(d.now()); err != nil {
		return nil, err
	}
	if d.w == nil {
		return d.out, nil
	}
	d.out.post = d.out.sums.Rolling()
	if d.out.header.NoChecksum() {
		return d.out, d.w.finish(0)
	}
	return d.out, d.w.finish(d.out.post)
}

// diff is the pass of capture.view over the pages.
type diff struct {
	*capture
	view     *View
	out      *captured
	old      *pagesum.Reader
	oldPageN uint32
	pre      ltx.Checksum
	w        *ltxWriter
	held     []byte // page 1, or the cursor's last page, until a file is begun
	heldPgno uint32
}

func (d *diff) openLedger() error {
	if d.ledger == nil || d.ledger.Header().PageSize != d.view.PageSize {
		return nil
	}
	hdr := d.ledger.Header()
	d.oldPageN, d.pre = hdr.PageN, hdr.Rolling
	var err error
	if d.old, err = d.ledger.Reader(); err != nil {
		return fmt.Errorf("%w: %w", errLedger, err)
	}
	return nil
}

// page compares one page with the ledger.
func (d *diff) page(pgno uint32, page []byte) error {
	for d.out.sums.PageN() < pgno-1 {
		if err := d.skip(); err != nil { // the lock page
			return err
		}
	}
	sum := ltxfile.PageChecksum(pgno, page)
	if err := d.out.sums.Append(sum); err != nil {
		return err
	}
	old, err := d.oldSum()
	if err != nil {
		return err
	}
	if old == sum {
		return d.unchanged(pgno, page)
	}
	if err := d.begin(); err != nil {
		return err
	}
	d.out.pageN++
	return d.w.page(pgno, page)
}

func (d *diff) skip() error {
	if _, err := d.oldSum(); err != nil {
		return err
	}
	return d.out.sums.Append(0)
}

func (d *diff) oldSum() (ltx.Checksum, error) {
	if d.old == nil {
		return 0, nil
	}
	sum, err := d.old.Next()
	if errors.Is(err, io.EOF) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("%w: %w", errLedger, err)
	}
	return sum, nil
}

// unchanged leaves a page out, but for the one that the header's log range
// ends with: it has to be in the file. It waits until a file is begun, because
// a database that did not change gets none.
func (d *diff) unchanged(pgno uint32, page []byte) error {
	last := d.view.Cursor.LastPgno
	if pgno != last && (pgno != 1 || last != 0) {
		return nil
	}
	if d.w != nil {
		d.out.pageN++
		return d.w.page(pgno, page)
	}
	d.held, d.heldPgno = append(d.held[:0], page...), pgno
	return nil
}

// begin makes the file unless it is begun.
func (d *diff) begin() (err error) {
	if d.w != nil {
		return nil
	}
	cur := d.view.Cursor
	d.out.header = d.header(cur, WALHeaderSize, d.pre)
	d.w, err = d.create(d.out.header, publishRule{minPageN: min(d.oldPageN, cur.Commit), lastPgno: cur.LastPgno})
	if err != nil {
		return err
	}
	d.out.file, d.out.enc = d.w.file, d.w.enc
	if d.held != nil {
		d.out.pageN++
		return d.w.page(d.heldPgno, d.held)
	}
	return nil
}

// ledgerHeader is the ledger's position behind a staged file.
func (c *capture) ledgerHeader(hdr ltx.Header) pagesum.Header {
	h := pagesum.Header{TXID: hdr.MaxTXID, PageSize: hdr.PageSize, PageN: hdr.Commit}
	if c.ledger != nil {
		h.Replica = c.ledger.Header().Replica
	}
	return h
}

// publishRule is what an LTX file has to hold beyond ascending pages, which
// the encoder checks.
type publishRule struct {
	minPageN uint32 // smallest size of the database within the captured window
	lastPgno uint32 // page of the last frame that the header claims; 0 is none
}

// ltxWriter encodes one LTX file and holds the publish rule.
type ltxWriter struct {
	file     *ltxfile.File
	enc      *ltxfile.Encoder
	rule     publishRule
	pageN    uint32 // of the database
	lockPgno uint32
	grown    uint32 // pages above rule.minPageN that were written
	lastSeen bool
}

// create begins the file of the capture's TXID.
func (c *capture) create(hdr ltx.Header, rule publishRule) (*ltxWriter, error) {
	f, err := c.dir.Create(hdr.MinTXID, hdr.MaxTXID)
	if err != nil {
		return nil, err
	}
	w, err := newLTXWriter(f, hdr, rule)
	if err != nil {
		return nil, errors.Join(err, f.Abort())
	}
	return w, nil
}

func newLTXWriter(f *ltxfile.File, hdr ltx.Header, rule publishRule) (*ltxWriter, error) {
	// The page index of a large database goes to a temporary file beside it.
	enc, err := ltxfile.NewEncoder(f, hdr, filepath.Dir(f.Name()))
	if err != nil {
		return nil, fmt.Errorf("encode ltx header: %w", err)
	}
	return &ltxWriter{
		file: f, enc: enc, rule: rule, pageN: hdr.Commit, lockPgno: ltx.LockPgno(hdr.PageSize),
		lastSeen: rule.lastPgno == 0 || rule.lastPgno > hdr.Commit,
	}, nil
}

func (w *ltxWriter) page(pgno uint32, page []byte) error {
	if err := w.enc.Page(pgno, page); err != nil {
		return fmt.Errorf("encode ltx page %d: %w", pgno, err)
	}
	if pgno > w.rule.minPageN {
		w.grown++
	}
	if pgno == w.rule.lastPgno {
		w.lastSeen = true
	}
	return nil
}

// finish ends the file, or refuses it with errPublishRule. It is not under its
// final name yet.
func (w *ltxWriter) finish(post ltx.Checksum) error {
	want := w.pageN - w.rule.minPageN
	if w.rule.minPageN < w.lockPgno && w.lockPgno <= w.pageN {
		want-- // it is never stored
	}
	if w.grown != want {
		return fmt.Errorf("%w: %d of the %d pages above page %d are known",
			errPublishRule, w.grown, want, w.rule.minPageN)
	}
	if !w.lastSeen {
		return fmt.Errorf("%w: page %d of the last frame is not in it", errPublishRule, w.rule.lastPgno)
	}
	if err := w.enc.Close(post); err != nil {
		return fmt.Errorf("encode ltx: %w", err)
	}
	return nil
}
