package litestream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/crc64iso"
)

// pageReader follows the checksums of all pages along the files of a replica.
//
// Files are read by ascending MinTXID, a snapshot where the files go on that
// follow it. So of each level one state is kept, and a file finds the state
// that it applies to in that of its own level or of another. Where two levels
// reach the same position, they have to agree in every page.
type pageReader struct {
	cursors [SnapshotLevel + 1]*pageState
	points  map[ltx.TXID]point
	waiting []*ltx.FileInfo // of which no cursor stands right yet

	// held is the state that several files apply to, which begin at the same TXID.
	held *pageState
}

// point is a position that files led to.
type point struct {
	print statePrint
	trail []*ltx.FileInfo
}

// readFiles reads the files, all or those of the newest position, and at
// VerifyRead follows the pages.
func (v *verification) readFiles(ctx context.Context) error {
	files := slices.Concat(v.levels[:]...)
	if v.opt.NewestOnly {
		files = chainFiles(v.levels, 0, time.Time{})
	}
	files = slices.DeleteFunc(slices.Clone(files), func(f *ltx.FileInfo) bool { return v.bad[f] })
	slices.SortFunc(files, func(a, b *ltx.FileInfo) int {
		return cmp.Or(cmp.Compare(readAt(a), readAt(b)), -cmp.Compare(a.Level/SnapshotLevel, b.Level/SnapshotLevel),
			-cmp.Compare(a.MaxTXID, b.MaxTXID), cmp.Compare(a.Level, b.Level))
	})
	v.whole, v.pages = make(map[*ltx.FileInfo]bool, len(files)), nil
	if v.opt.Level >= VerifyRead {
		v.pages = &pageReader{points: make(map[ltx.TXID]point)}
	}
	for i, info := range files {
		more := i+1 < len(files) && files[i+1].MinTXID == info.MinTXID
		if err := v.readInTurn(ctx, info, more); err != nil {
			return err
		}
		if v.pages == nil {
			continue
		}
		if !more {
			v.pages.held = nil
		}
		for i := 0; i < len(v.pages.waiting); {
			info := v.pages.waiting[i]
			if v.pages.start(info) == nil {
				i++
				continue
			}
			v.pages.waiting = slices.Delete(v.pages.waiting, i, i+1)
			if err := v.readInTurn(ctx, info, false); err != nil {
				return err
			}
			i = 0
		}
	}
	if v.pages == nil {
		return nil
	}
	for _, info := range v.pages.waiting { // nothing leads there: only the file itself can be looked at
		if _, err := v.readFile(ctx, info, nil); err != nil {
			return err
		}
	}
	return nil
}

// readAt returns the TXID that a file is read ahead of.
func readAt(info *ltx.FileInfo) ltx.TXID {
	if info.Level == SnapshotLevel {
		return info.MaxTXID + 1
	}
	return info.MinTXID
}

// readInTurn reads a file, or has it wait for a state that it applies to. With
// more, the next file begins at the same TXID.
func (v *verification) readInTurn(ctx context.Context, info *ltx.FileInfo, more bool) error {
	if v.pages == nil {
		whole, err := v.readFile(ctx, info, nil)
		v.whole[info] = whole
		return err
	}
	state := v.pages.start(info)
	if state == nil {
		v.pages.waiting = append(v.pages.waiting, info)
		return nil
	}
	v.pages.cursors[info.Level] = nil
	if more && state.txid+1 == info.MinTXID {
		v.pages.held = state.clone()
	}
	in := &stepInput{state: state, from: state.txid, before: state.checksum()}
	whole, err := v.readFile(ctx, info, in)
	if err != nil || !whole {
		return err
	}
	return v.step(info, in)
}

// start returns a state that a file applies to, for the caller alone; nil if
// there is none.
func (r *pageReader) start(info *ltx.FileInfo) *pageState {
	if info.MinTXID == 1 {
		return &pageState{}
	}
	fits := func(s *pageState) bool { return s != nil && s.txid+1 >= info.MinTXID && s.txid < info.MaxTXID }
	exact := func(s *pageState) bool { return fits(s) && s.txid+1 == info.MinTXID }
	if exact(r.held) {
		return r.held.clone()
	}
	if own := r.cursors[info.Level]; exact(own) {
		return own
	}
	for _, ok := range []func(*pageState) bool{exact, fits} {
		if i := slices.IndexFunc(r.cursors[:], ok); i >= 0 {
			return r.cursors[i].clone()
		}
	}
	return nil
}

// stepInput is a file on its way over a state.
type stepInput struct {
	state   *pageState
	from    ltx.TXID     // the state's position ahead of the file
	before  ltx.Checksum // and its checksum
	hdr     ltx.Header
	trailer ltx.Trailer
}

// step compares a state, to which a whole file was applied, with what the file
// and others say of it.
func (v *verification) step(info *ltx.FileInfo, in *stepInput) error {
	s, hdr := in.state, in.hdr
	problem := func(text string) {
		v.find(VerifyFinding{VerifyCorrupt, VerifyRead, objectName(info), text}, s.trail...)
	}
	if hdr.PreApplyChecksum != 0 && in.from+1 == info.MinTXID && info.MinTXID > 1 {
		if hdr.PreApplyChecksum != in.before {
			before := trailText(s.trail)
			s.trail = append(s.trail, info)
			if otherWriters(hdr, ltx.Header{NodeID: s.writer}) {
				v.find(VerifyFinding{
					VerifyDiverged, VerifyRead, objectName(info),
					fmt.Sprintf("it is of %s and not made for what %s left ahead of it (%s)", writerName(hdr.NodeID), writerName(s.writer), before),
				}, s.trail...)
				return nil
			}
			problem(fmt.Sprintf("it applies to a database of checksum %s, the files ahead of it (%s) lead to %s",
				hdr.PreApplyChecksum, before, in.before))
			return nil
		}
		s.trail = nil
	}
	if info.MinTXID == 1 {
		s.trail = nil
	}
	s.trail = append(s.trail, info)
	if pgno := s.end(hdr.Commit, hdr.PageSize); pgno != 0 {
		problem(fmt.Sprintf("page %d of %d is in no file", pgno, hdr.Commit))
		return nil
	}
	s.txid, s.writer = info.MaxTXID, hdr.NodeID
	if want := in.trailer.PostApplyChecksum; want != 0 && want != s.checksum() {
		problem(fmt.Sprintf("its pages lead to a database of checksum %s, it says %s: a page of it is missing or another database's", s.checksum(), want))
		return nil
	}
	if other, ok := v.pages.points[s.txid]; ok {
		if other.print != s.print() {
			v.find(VerifyFinding{
				VerifyCorrupt, VerifyRead, objectName(info),
				fmt.Sprintf("at txid %s it leads to another database than %s", s.txid, trailText(other.trail)),
			}, append(other.trail, s.trail...)...)
			return nil
		}
		s.trail = slices.DeleteFunc(s.trail, func(f *ltx.FileInfo) bool { return !slices.Contains(other.trail, f) }) // two ways agree
	}
	v.pages.points[s.txid] = point{s.print(), slices.Clone(s.trail)}
	v.pages.cursors[info.Level] = s
	v.whole[info] = true
	v.compareExpected(s, VerifyRead)
	return nil
}

// trailText names files.
func trailText(files []*ltx.FileInfo) string {
	switch n := len(files); n {
	case 0:
		return "which others confirm"
	case 1:
		return objectName(files[0])
	default:
		return fmt.Sprintf("%s to %s", objectName(files[0]), objectName(files[n-1]))
	}
}

// compareExpected compares a state with what others know of that position.
func (v *verification) compareExpected(s *pageState, level VerifyLevel) {
	for _, e := range v.expect {
		if e.Sums == nil || e.Sums.TXID != s.txid {
			continue
		}
		n, first, err := s.differs(e.Sums)
		if err != nil { // it is a cache, which changes while databases do
			v.opt.Logger.Debug("page checksums are not compared", "source", e.Source, "error", err)
			continue
		}
		if n > 0 {
			v.find(VerifyFinding{
				VerifyDiverged, level, e.Source,
				fmt.Sprintf("at txid %s it knows other checksums of %d pages, page %d the first, than %s leads to", s.txid, n, first, trailText(s.trail)),
			},
				s.trail...)
		}
	}
}

// readFile reads one file and applies it to a state, unless that is nil. It
// reports whether the file is what was written; if not, that is noted.
func (v *verification) readFile(ctx context.Context, info *ltx.FileInfo, step *stepInput) (whole bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	f := startFetcher(ctx, &wg, []*fetchFile{fetchLTX(v.client, info)}, v.opt.knobs.fetch)
	in := &input{info: info}
	r := &frameReader{in: in, inputReader: &inputReader{ctx: ctx, f: f, size: info.Size, p: new(progress)}}
	err = readPages(r, step)
	r.close()
	le, damaged := errors.AsType[*LTXError](err)
	switch {
	case errors.Is(err, fs.ErrNotExist), damaged && le.Op == "read" && errors.Is(err, io.ErrUnexpectedEOF):
		return false, fmt.Errorf("%w: %w", errVanished, err)
	case damaged && le.Op != "read":
		v.find(VerifyFinding{VerifyCorrupt, VerifyChecksum, objectName(info), le.Err.Error()}, info)
		return false, nil
	case err != nil:
		return false, err
	}
	v.res.FilesRead++
	v.res.BytesRead += info.Size
	if in.trailer.PostApplyChecksum != 0 {
		v.res.Checksummed++
	}
	if step != nil {
		step.hdr, step.trailer = in.hdr, in.trailer
	}
	return true, nil
}

// readPages reads a file to its end and checks all that it says of itself.
func readPages(r *frameReader, step *stepInput) error {
	in := r.in
	if err := r.readHeader(); err != nil {
		return in.fail("decode", err)
	}
	var base uint32
	if step != nil {
		base = step.state.commit
	}
	// As in a restore: every new page has a frame, so that a size that cannot be
	// right costs no memory.
	if step != nil && int64(in.hdr.Commit) > int64(base)+in.info.Size/(ltx.PageHeaderSize+1)+1 {
		return in.fail("decode", fmt.Errorf("database of %d pages in a file of %d bytes behind one of %d pages", in.hdr.Commit, in.info.Size, base))
	}
	shift, page := newCRCShift(int64(in.hdr.PageSize)), make([]byte, in.hdr.PageSize)
	var data []byte
	for {
		p, b, err := r.next(data[:0])
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return in.fail("decode", err)
		}
		data = b
		if p.flags&ltx.PageHeaderFlagSize == 0 {
			copy(page, data)
		} else if n, err := lz4.UncompressBlock(data[:p.n], page); err != nil {
			return in.fail("decode", fmt.Errorf("page %d: %w", p.pgno, err))
		} else if n != len(page) {
			return in.fail("decode", fmt.Errorf("page %d: %d bytes, want %d", p.pgno, n, len(page)))
		}
		crc := crc64iso.Update(0, page)
		sum := shift.pageChecksum(p.pgno, crc)
		var hdr [ltx.PageHeaderSize + 4]byte
		in.crc = shift.apply(crc64iso.Update(in.crc, p.appendHeader(hdr[:0]))) ^ crc
		in.xor ^= sum &^ ltx.ChecksumFlag
		if step != nil {
			step.state.set(p.pgno, sum)
		}
	}
	crc, n, err := r.readEnd()
	if err != nil {
		return in.fail("decode", err)
	}
	in.crc = crcJoin(in.crc, crc, n)
	if sum := ltx.ChecksumFlag | ltx.Checksum(in.crc); sum != in.trailer.FileChecksum {
		return in.fail("verify", fmt.Errorf("%w: computed %s, stored %s", ltx.ErrChecksumMismatch, sum, in.trailer.FileChecksum))
	}
	if want := in.trailer.PostApplyChecksum; in.hdr.IsSnapshot() && !in.hdr.NoChecksum() && ltx.ChecksumFlag|in.xor != want {
		return in.fail("verify", fmt.Errorf("database checksum of its pages is %s, stored %s", ltx.ChecksumFlag|in.xor, want))
	}
	return nil
}
