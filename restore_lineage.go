package litestream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/superfly/ltx"
)

// maxLineagePicks bounds how often one restore plans around files of another
// writer.
const maxLineagePicks = 3

// fileMark is a file with what tells whose database it is of.
type fileMark struct {
	info *ltx.FileInfo
	hdr  ltx.Header
	post ltx.Checksum // 0: it does not say

	reached  bool      // a chain of files leads through it
	prev     *fileMark // the one before it in that; nil: it holds the whole database
	unproven int       // how many of the chain's files are not shown to follow by a checksum
	depth    int       // how many files the chain has
}

// pickLineage is called when the files of a plan turned out not to be of one
// database. Where two writers wrote them, it plans anew with files each of which
// was made for what the one before it leaves, up to the newest position that such
// files lead to, and says what it left out. Files of one writer that do not fit
// are damage, which is for people to decide about: then, and where nothing leads
// to the position that was asked for, it reports false.
func (rs *restorer) pickLineage(ctx context.Context, cause error) (bool, error) {
	if rs.v03 != nil || rs.picks >= maxLineagePicks {
		return false, nil
	}
	rs.picks++
	suspects := rs.files
	if se, ok := errors.AsType[*strangerError](cause); ok {
		suspects = []*ltx.FileInfo{se.prev, se.next}
	} else if !errors.Is(cause, errWrongPages) {
		return false, nil
	}
	marks, err := rs.readMarks(ctx, suspects)
	if err != nil || len(marks) < 2 || !slices.ContainsFunc(marks, func(m *fileMark) bool { return m.hdr.NodeID != marks[0].hdr.NodeID }) {
		return false, err
	}
	within := func(info *ltx.FileInfo) bool {
		return (rs.opt.TXID == 0 || info.MaxTXID <= rs.opt.TXID) &&
			(rs.opt.Timestamp.IsZero() || info.CreatedAt.Before(rs.opt.Timestamp))
	}
	var files []*ltx.FileInfo
	for _, level := range rs.levels {
		for _, info := range level {
			if within(info) {
				files = append(files, info)
			}
		}
	}
	if marks, err = rs.readMarks(ctx, files); err != nil {
		return false, err
	}
	if err := rs.chainMarks(ctx, marks); err != nil {
		return false, err
	}
	end := lineageEnd(marks, rs.opt.TXID)
	if end == nil {
		return false, nil
	}
	chain := end.chain()
	if slices.Equal(fileInfos(chain), rs.files) {
		return false, nil
	}
	rs.tellLineage(chain, marks, suspects, cause)
	rs.setPlan(fileInfos(chain))
	return true, nil
}

// readMarks reads both ends of files. Those that are gone or cannot be read as
// LTX files are left out: no lineage leads through them.
func (rs *restorer) readMarks(ctx context.Context, files []*ltx.FileInfo) ([]*fileMark, error) {
	marks, errs := make([]*fileMark, len(files)), make([]error, len(files))
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(rs.opt.Parallelism, 1))
	for i, info := range files {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if marks[i], errs[i] = readMark(ctx, rs.client, info); errors.Is(errs[i], errNoMark) {
				errs[i] = nil
			}
		})
	}
	wg.Wait()
	if err := cmp.Or(errs...); err != nil {
		return nil, fmt.Errorf("look which writer's files lie here: %w", err)
	}
	return slices.DeleteFunc(marks, func(m *fileMark) bool { return m == nil }), nil
}

// errNoMark means that a file is gone or no LTX file.
var errNoMark = errors.New("no ltx file")

func readMark(ctx context.Context, client ReplicaClient, info *ltx.FileInfo) (*fileMark, error) {
	if info.Size < minLTXBytes {
		return nil, errNoMark
	}
	read := func(b []byte, offset int64) error {
		rc, err := client.OpenLTXFile(ctx, info.Level, info.MinTXID, info.MaxTXID, offset, int64(len(b)))
		if err != nil {
			return err
		}
		_, err = io.ReadFull(rc, b)
		return errors.Join(err, rc.Close())
	}
	m := &fileMark{info: info}
	var head [ltx.HeaderSize]byte
	var tail [ltx.TrailerSize]byte
	err := errors.Join(read(head[:], 0), read(tail[:], info.Size-ltx.TrailerSize))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", errNoMark, err)
	} else if err != nil {
		return nil, err
	}
	var trailer ltx.Trailer
	if m.hdr.UnmarshalBinary(head[:]) != nil || m.hdr.Validate() != nil || trailer.UnmarshalBinary(tail[:]) != nil ||
		m.hdr.MinTXID != info.MinTXID || m.hdr.MaxTXID != info.MaxTXID {
		return nil, errNoMark
	}
	m.post = trailer.PostApplyChecksum
	return m, nil
}

// follows reports whether m may be applied to what p leaves, and whether a
// checksum shows it.
func (m *fileMark) follows(p *fileMark) (ok, proven bool) {
	switch {
	case p.info.MaxTXID+1 < m.info.MinTXID || p.info.MaxTXID >= m.info.MaxTXID:
		return false, false
	case p.info.MaxTXID+1 == m.info.MinTXID && p.post != 0 && m.hdr.PreApplyChecksum != 0:
		return p.post == m.hdr.PreApplyChecksum, true
	default:
		return !otherWriters(m.hdr, p.hdr), false
	}
}

// otherWriters reports whether two files say that different writers wrote them.
func otherWriters(a, b ltx.Header) bool {
	return a.NodeID != 0 && b.NodeID != 0 && a.NodeID != b.NodeID
}

// chainMarks finds for each file the best chain that leads through it. It sorts
// the files by where they end.
func (rs *restorer) chainMarks(ctx context.Context, marks []*fileMark) error {
	slices.SortFunc(marks, func(a, b *fileMark) int {
		return cmp.Or(cmp.Compare(a.info.MaxTXID, b.info.MaxTXID), cmp.Compare(a.info.MinTXID, b.info.MinTXID))
	})
	for i, m := range marks {
		if m.info.MinTXID == 1 {
			m.reached, m.depth = true, 1
			continue
		}
		first := sort.Search(i, func(j int) bool { return marks[j].info.MaxTXID+1 >= m.info.MinTXID })
		for _, p := range marks[first:i] {
			ok, proven := m.follows(p)
			if !ok || !p.reached {
				continue
			}
			unproven := p.unproven
			if !proven {
				unproven++
			}
			if !m.reached || unproven < m.unproven || unproven == m.unproven && p.depth+1 < m.depth {
				m.reached, m.prev, m.unproven, m.depth = true, p, unproven, p.depth+1
			}
		}
		if m.reached || m.hdr.PreApplyChecksum != 0 {
			continue
		}
		// The one that takes a replica over begins with the whole database.
		whole, err := rs.isWhole(ctx, m.info)
		if err != nil {
			return err
		}
		m.reached, m.depth = whole, 1
	}
	return nil
}

// isWhole reports whether a file holds all pages of the database. One that
// cannot be read does not.
func (rs *restorer) isWhole(ctx context.Context, info *ltx.FileInfo) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	f := startFetcher(ctx, &wg, []*fetchFile{fetchLTX(rs.client, info)}, rs.opt.knobs.fetch)
	in := &input{info: info}
	r := &frameReader{in: in, inputReader: &inputReader{ctx: ctx, f: f, size: info.Size, p: new(progress)}}
	defer r.close()
	err := r.readHeader()
	for data := []byte(nil); err == nil; {
		_, data, err = r.next(data[:0])
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return errors.Is(err, io.EOF) && in.holdsAll(), nil
}

// holdsAll reports whether a file that was read holds every page up to its end
// of the database.
func (in *input) holdsAll() bool {
	n := in.hdr.Commit
	if n >= in.hdr.LockPgno() {
		n--
	}
	return in.pageN == int(n)
}

// lineageEnd returns the file that ends at a position, or with 0 at the newest
// one, among those that a chain leads through; nil if there is none.
func lineageEnd(marks []*fileMark, txid ltx.TXID) (end *fileMark) {
	for _, m := range marks {
		if !m.reached || txid != 0 && m.info.MaxTXID != txid {
			continue
		}
		if end == nil || cmp.Or(cmp.Compare(m.info.MaxTXID, end.info.MaxTXID), cmp.Compare(end.unproven, m.unproven),
			cmp.Compare(m.hdr.Timestamp, end.hdr.Timestamp)) > 0 {
			end = m
		}
	}
	return end
}

// chain returns the files that lead to m, in the order in which they apply.
func (m *fileMark) chain() (a []*fileMark) {
	for ; m != nil; m = m.prev {
		a = append(a, m)
	}
	slices.Reverse(a)
	return a
}

func fileInfos(marks []*fileMark) []*ltx.FileInfo {
	a := make([]*ltx.FileInfo, 0, len(marks))
	for _, m := range marks {
		a = append(a, m.info)
	}
	return a
}

// tellLineage says whose files are restored and whose are not. The suspects are
// those that did not fit.
func (rs *restorer) tellLineage(chain, marks []*fileMark, suspects []*ltx.FileInfo, cause error) {
	end, files := chain[len(chain)-1], fileInfos(chain)
	var from ltx.TXID
	for _, info := range suspects {
		if !slices.Contains(files, info) && (from == 0 || info.MinTXID < from) {
			from = info.MinTXID
		}
	}
	var first, last *fileMark // of what others wrote from there on
	for _, m := range marks {
		if m.hdr.NodeID == end.hdr.NodeID || m.info.MaxTXID < from || slices.Contains(chain, m) {
			continue
		}
		if first == nil || m.info.MinTXID < first.info.MinTXID {
			first = m
		}
		if last == nil || m.info.MaxTXID >= last.info.MaxTXID {
			last = m
		}
	}
	at := time.UnixMilli(end.hdr.Timestamp).UTC().Format(time.RFC3339)
	const message = "files of two writers lie on the replica"
	restored := fmt.Sprintf("what %s wrote, up to txid %s of %s", writerName(end.hdr.NodeID), end.info.MaxTXID, at)
	leftOut := "nothing"
	if first != nil {
		leftOut = fmt.Sprintf("what %s wrote, txid %s to %s", writerName(last.hdr.NodeID), max(first.info.MinTXID, from), last.info.MaxTXID)
	}
	rs.lineage = fmt.Sprintf("%s: restored is %s; left out is %s", message, restored, leftOut)
	rs.opt.Logger.Warn(message, "restored", restored, "left_out", leftOut, "output", rs.opt.OutputPath, "reason", cause)
}

// writerName names a writer for people.
func writerName(id uint64) string {
	if id == 0 {
		return "a writer without a number"
	}
	return fmt.Sprintf("writer %016x", id)
}
