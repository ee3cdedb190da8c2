package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
)

// Reasons why files cannot be merged. The *LTXError around them names the file.
var (
	errPageMissing   = errors.New("the database grew but a new page is in no file")
	errEmptyDatabase = errors.New("a database without pages cannot be written without checksums")
	errHeaderRange   = errors.New("header and name have different transaction ranges")
	errPageOrder     = errors.New("page number out of order or out of range")

	errOtherWriter = errors.New("it is of another writer than the file before it, and was not made for what that leaves")

	// errChainBroken asks for another merge without checksums.
	errChainBroken = errors.New("checksums of neighbouring files differ")
)

// mergeInput is one file of a merge.
type mergeInput struct {
	info *ltx.FileInfo
	dec  *ltx.Decoder
	hdr  ltx.PageHeader // next page; zero if it has to be read
	data []byte
	last uint32 // page read last
	n    uint32 // pages read
	done bool

	// limit is the highest page that is not made stale by a later file: the
	// smallest database size after any of them.
	limit uint32
}

// fail returns err with the name of the file.
func (in *mergeInput) fail(op string, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &LTXError{
		Op: op, Level: in.info.Level, MinTXID: in.info.MinTXID, MaxTXID: in.info.MaxTXID, Err: err,
		Hint: "the next snapshot makes this file unnecessary",
	}
}

// next reads one page. A file that ends too early is told by the decoder's
// Close.
func (in *mergeInput) next() error {
	err := in.dec.DecodePage(&in.hdr, in.data)
	if errors.Is(err, io.EOF) && in.hdr.IsZero() {
		in.done = true
		return nil
	} else if err != nil {
		return in.fail("decode", err)
	}
	h := in.dec.Header()
	if pgno := in.hdr.Pgno; pgno <= in.last || pgno > h.Commit || pgno == h.LockPgno() {
		return in.fail("decode", fmt.Errorf("page %d: %w", pgno, errPageOrder))
	}
	in.last = in.hdr.Pgno
	in.n++
	return nil
}

// whole reports whether the file, which was read to its end, holds every page.
func (in *mergeInput) whole() bool {
	h := in.dec.Header()
	n := h.Commit
	if n >= h.LockPgno() {
		n--
	}
	return in.n == n
}

// checkWriter refuses to merge the files of two writers, unless the later one
// begins with the whole database or was made for what prev leaves. Both files
// were read to their end.
func (in *mergeInput) checkWriter(prev *mergeInput) error {
	pre, post := in.dec.Header().PreApplyChecksum, prev.dec.Trailer().PostApplyChecksum
	if !otherWriters(in.dec.Header(), prev.dec.Header()) || in.whole() || pre != 0 && pre == post {
		return nil
	}
	return in.fail("compact", errOtherWriter)
}

// merger merges LTX files in one pass with one page of each in memory. Unlike
// the library's compactor it keeps checksums where all inputs have them, and
// proves that no page of a database which shrank and grew again is an old one.
type merger struct {
	enc     *ltx.Encoder
	inputs  []*mergeInput
	minTXID ltx.TXID // first TXID of the output, if above that of the inputs

	hdr    ltx.Header
	floor  uint32       // every page above it, up to the commit, must be written
	expect uint32       // next page above the floor
	chksum ltx.Checksum // of the pages written, kept if the output is a whole database
}

// start reads the headers, drops inputs from the first change of the page size
// on (such a file holds every page and begins a new run), and writes the header
// of the output. It reports how many inputs are used.
func (m *merger) start(checksums bool) (n int, err error) {
	for i, in := range m.inputs {
		if err := in.dec.DecodeHeader(); err != nil {
			return 0, in.fail("decode", err)
		}
		h := in.dec.Header()
		if h.MinTXID != in.info.MinTXID || h.MaxTXID != in.info.MaxTXID {
			return 0, in.fail("decode", errHeaderRange)
		}
		if h.PageSize != m.inputs[0].dec.Header().PageSize {
			m.inputs = m.inputs[:i]
			break
		}
		in.data = make([]byte, h.PageSize)
	}

	first, last := m.inputs[0].dec.Header(), m.inputs[len(m.inputs)-1].dec.Header()
	m.hdr = ltx.Header{
		Version:   ltx.Version,
		Flags:     ltx.HeaderFlagNoChecksum,
		PageSize:  first.PageSize,
		Commit:    last.Commit,
		MinTXID:   max(first.MinTXID, m.minTXID),
		MaxTXID:   last.MaxTXID,
		Timestamp: last.Timestamp,
		NodeID:    last.NodeID,
	}
	if checksums && m.chained() {
		m.hdr.Flags = 0
		m.hdr.PreApplyChecksum = first.PreApplyChecksum
	}
	if m.hdr.Commit == 0 && m.hdr.NoChecksum() {
		return 0, m.inputs[len(m.inputs)-1].fail("compact", errEmptyDatabase)
	}
	m.setLimits()
	if err := m.enc.EncodeHeader(m.hdr); err != nil {
		return 0, m.inputs[0].fail("compact", err)
	}
	return len(m.inputs), nil
}

// chained reports whether the headers let the output carry checksums: all
// inputs do, and each begins where the one before ends.
func (m *merger) chained() bool {
	if m.inputs[0].dec.Header().MinTXID != m.hdr.MinTXID {
		return false
	}
	for i, in := range m.inputs {
		h := in.dec.Header()
		if h.NoChecksum() || i > 0 && h.MinTXID != m.inputs[i-1].info.MaxTXID+1 {
			return false
		}
	}
	return true
}

// setLimits finds, for each input, the pages that later ones cut off, and the
// size from which on the output must have every page.
func (m *merger) setLimits() {
	limit := m.hdr.Commit
	for _, in := range slices.Backward(m.inputs) {
		in.limit = limit
		limit = min(limit, in.dec.Header().Commit)
	}
	m.floor = limit
	if m.hdr.IsSnapshot() {
		m.floor = 0
	}
	m.expect = m.after(m.floor)
}

// after returns the page behind pgno, the lock page skipped.
func (m *merger) after(pgno uint32) uint32 {
	if pgno+1 == m.hdr.LockPgno() {
		return pgno + 2
	}
	return pgno + 1
}

// run writes the pages and closes the output. errChainBroken means that the
// output is unusable and that one without checksums can be written instead.
func (m *merger) run(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		pgno, err := m.fill()
		if err != nil {
			return err
		}
		if pgno == 0 {
			break
		}
		if err := m.write(pgno); err != nil {
			return err
		}
	}
	if m.expect <= m.hdr.Commit {
		return m.missing(m.expect)
	}
	return m.finish()
}

// fill reads the next page of each input whose last one was written, and
// returns the lowest page number, 0 at the end.
func (m *merger) fill() (pgno uint32, err error) {
	for _, in := range m.inputs {
		if in.hdr.IsZero() && !in.done {
			if err := in.next(); err != nil {
				return 0, err
			}
		}
		if !in.done && (pgno == 0 || in.hdr.Pgno < pgno) {
			pgno = in.hdr.Pgno
		}
	}
	return pgno, nil
}

// write writes one page from the newest input that has it, unless a later
// file made the database smaller than that.
func (m *merger) write(pgno uint32) error {
	var newest *mergeInput
	for _, in := range slices.Backward(m.inputs) {
		if in.done || in.hdr.Pgno != pgno {
			continue
		}
		in.hdr = ltx.PageHeader{}
		if newest == nil {
			newest = in
		}
	}
	if pgno > newest.limit {
		return nil
	}
	if pgno > m.floor {
		if pgno != m.expect {
			return m.missing(m.expect)
		}
		m.expect = m.after(pgno)
	}
	if m.hdr.IsSnapshot() && !m.hdr.NoChecksum() {
		m.chksum ^= ltxfile.PageChecksum(pgno, newest.data)
	}
	if err := m.enc.EncodePage(ltx.PageHeader{Pgno: pgno}, newest.data); err != nil {
		return fmt.Errorf("write page %d: %w", pgno, err)
	}
	return nil
}

// missing names the file that should have held a page: the first one after
// which the database was that large for good.
func (m *merger) missing(pgno uint32) error {
	culprit := m.inputs[0]
	for i := len(m.inputs) - 1; i >= 0 && m.inputs[i].dec.Header().Commit >= pgno; i-- {
		culprit = m.inputs[i]
	}
	return culprit.fail("compact", fmt.Errorf("page %d: %w", pgno, errPageMissing))
}

// finish checks every input to its end, then closes the output.
func (m *merger) finish() error {
	var post ltx.Checksum
	for i, in := range m.inputs {
		if err := in.dec.Close(); err != nil {
			return in.fail("decode", err)
		}
		if i > 0 {
			if err := in.checkWriter(m.inputs[i-1]); err != nil {
				return err
			}
		}
		if !m.hdr.NoChecksum() && i > 0 && in.dec.Header().PreApplyChecksum != post {
			return errChainBroken
		}
		post = in.dec.Trailer().PostApplyChecksum
	}
	if !m.hdr.NoChecksum() {
		if m.hdr.IsSnapshot() && m.chksum|ltx.ChecksumFlag != post {
			return m.inputs[0].fail("compact", ltx.ErrChecksumMismatch)
		}
		m.enc.SetPostApplyChecksum(post)
	}
	if err := m.enc.Close(); err != nil {
		return fmt.Errorf("close output: %w", err)
	}
	return nil
}
