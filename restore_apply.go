package litestream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/crc64iso"
)

// batchBytes is how much database one batch covers, and so how much one write
// carries while no page is superseded.
const batchBytes = 512 << 10

// sqliteMagic begins every SQLite database (SQLite file format, section 1.3).
const sqliteMagic = "SQLite format 3\x00"

// batch is a run of frames of one input on its way through a worker.
type batch struct {
	in    *input
	pages []pageRef
	data  []byte // payloads of pages, one after the other
	out   []byte // decoded pages, one after the other
	sums  []byte // page checksums, big-endian, as the sums file holds them

	crc     uint64       // of the pages as the file's checksum covers them
	n       int64        // bytes that crc covers
	xor     ltx.Checksum // of the checksums of all pages
	xorKept ltx.Checksum // of those that go into the database

	dataErr  error // the file is bad
	writeErr error // the output is
	last     bool  // nothing of the file follows
	done     chan struct{}
}

// applier writes the pages of a plan into a file, each page once.
//
// Files are read from the newest to the oldest. The first that has a page is
// the one that counts, so one bit per page is all the memory a merge needs.
// One goroutine splits the files into frames and claims pages; workers
// decompress, checksum and write them. Results are folded in file order.
type applier struct {
	out  *os.File
	sums *os.File // page checksums by page number; nil if nobody wants them

	// allow, if set, may refuse the size of the database, in bytes, before any
	// of it is written.
	allow func(bytes int64) error

	// base is how many pages the database has that the files continue. Pages
	// that no file holds stay as they are there. 0: the files hold all pages.
	base uint32

	pageSize uint32
	commit   uint32 // pages of the database
	smallest uint32 // the smallest commit of all files that were read
	at       int64  // creation time of the restored state, milliseconds
	shift    *crcShift
	claimed  []uint64 // bit per page, page 1 first
	claimedN uint32
	xor      ltx.Checksum // of the checksums of all claimed pages

	newest  *input // first in reading order
	newer   *input // the one before in reading order
	work    chan *batch
	running []*batch // in file order, oldest first
	idle    []*batch
	foldErr error // of the first batch that failed; later ones mean nothing
}

// apply reads all files of a plan into a.out. A run that fails has written an
// unknown part of it.
func (a *applier) apply(ctx context.Context, client ReplicaClient, plan []*ltx.FileInfo, knobs fetchKnobs, p *progress) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	files := slices.Clone(plan)
	slices.Reverse(files)
	var total int64
	fetch := make([]*fetchFile, 0, len(files))
	for _, info := range files {
		if info.Size < ltx.HeaderSize {
			in := &input{info: info}
			return in.fail("read", fmt.Errorf("%d bytes are too short for an ltx file", info.Size))
		}
		total += info.Size
		fetch = append(fetch, fetchLTX(client, info))
	}

	f := startFetcher(ctx, &wg, fetch, knobs)
	workers := runtime.GOMAXPROCS(0)
	a.work = make(chan *batch, 2*workers)
	defer close(a.work)
	for range 2*workers + 1 {
		a.idle = append(a.idle, &batch{done: make(chan struct{}, 1)})
	}
	for range workers {
		wg.Go(a.runWorker)
	}
	err = a.applyFiles(files, total, func(info *ltx.FileInfo) *inputReader {
		return &inputReader{ctx: ctx, f: f, size: info.Size, p: p}
	})
	// What a newer file got wrong comes first: it may be why an older one
	// seems not to fit.
	for len(a.running) > 0 && a.foldErr == nil {
		if err := a.fold(); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if err := a.checkUnread(ctx, client, files); err != nil {
		return err
	}
	return a.finish()
}

// checkUnread checks that the files that were read belong to the next older
// one. Where they hold all pages that one is not read, and nothing else would
// show that they are another database's.
func (a *applier) checkUnread(ctx context.Context, client ReplicaClient, files []*ltx.FileInfo) error {
	if a.newer == nil {
		return nil
	}
	i := slices.Index(files, a.newer.info) + 1
	if i == len(files) || a.newer.hdr.PreApplyChecksum == 0 || files[i].MaxTXID+1 != a.newer.hdr.MinTXID {
		return nil
	}
	prev := &input{info: files[i]}
	rc, err := client.OpenLTXFile(ctx, prev.info.Level, prev.info.MinTXID, prev.info.MaxTXID, prev.info.Size-ltx.TrailerSize, ltx.TrailerSize)
	if err != nil {
		return prev.fail("read", err)
	}
	var b [ltx.TrailerSize]byte
	_, err = io.ReadFull(rc, b[:])
	if err := errors.Join(err, rc.Close()); err != nil {
		return prev.fail("read", err)
	}
	if err := prev.trailer.UnmarshalBinary(b[:]); err != nil {
		return prev.fail("decode", fmt.Errorf("trailer: %w", err))
	}
	return a.newer.follows(prev)
}

// applyFiles reads files in the given order until every page is known.
func (a *applier) applyFiles(files []*ltx.FileInfo, total int64, open func(*ltx.FileInfo) *inputReader) error {
	for _, info := range files {
		r := &frameReader{in: &input{info: info, newer: a.newer}, inputReader: open(info)}
		if err := a.applyFile(r, total); err != nil {
			return err
		}
		r.close()
		if a.complete() {
			return nil // older files hold nothing but superseded pages
		}
	}
	return nil
}

// applyFile splits one file into batches and sends them to the workers.
func (a *applier) applyFile(r *frameReader, total int64) error {
	in := r.in
	if err := r.readHeader(); err != nil {
		return in.fail("decode", err)
	}
	if err := a.admit(in, total); err != nil {
		return err
	}
	pagesPerBatch := max(1, batchBytes/int(a.pageSize))
	for end := false; !end; {
		b, err := a.idleBatch(in)
		if err != nil {
			return err
		}
		for len(b.pages) < pagesPerBatch {
			var p pageRef
			if p, b.data, err = r.next(b.data); errors.Is(err, io.EOF) {
				end = true
				break
			} else if err != nil {
				return in.fail("decode", err)
			}
			p.keep = a.claim(p.pgno)
			b.pages = append(b.pages, p)
		}
		a.running = append(a.running, b)
		a.work <- b
	}

	b, err := a.idleBatch(in)
	if err != nil {
		return err
	}
	if b.crc, b.n, err = r.readEnd(); err != nil {
		return in.fail("decode", err)
	}
	b.last = true
	b.done <- struct{}{}
	a.running = append(a.running, b)
	a.newer = in
	return nil
}

// admit checks a header against those of the newer files. The first one gives
// the size of the database.
func (a *applier) admit(in *input, total int64) error {
	hdr := in.hdr
	a.smallest = min(a.smallest, hdr.Commit)
	if a.newest != nil {
		if hdr.PageSize != a.pageSize {
			return in.fail("decode", fmt.Errorf("page size %d, the newest file has %d", hdr.PageSize, a.pageSize))
		}
		return nil
	}
	if hdr.Commit == 0 {
		return in.fail("apply", ErrEmptyDatabase)
	}
	// Every new page has a frame in some file. So the size can be checked
	// before the file's checksum is, and a wrong one allocates nothing.
	if int64(hdr.Commit) > int64(a.base)+total/(ltx.PageHeaderSize+1)+1 {
		return in.fail("decode", fmt.Errorf("database of %d pages in files of %d bytes", hdr.Commit, total))
	}
	if a.allow != nil {
		if err := a.allow(int64(hdr.Commit) * int64(hdr.PageSize)); err != nil {
			return err
		}
	}
	a.newest, a.smallest = in, hdr.Commit
	a.pageSize, a.commit, a.at = hdr.PageSize, hdr.Commit, hdr.Timestamp
	a.shift = newCRCShift(int64(hdr.PageSize))
	a.claimed = make([]uint64, (uint64(hdr.Commit)+63)/64)
	return nil
}

// claim reports whether a page belongs into the database and no newer file has
// it.
func (a *applier) claim(pgno uint32) bool {
	if pgno > a.commit {
		return false
	}
	word, bit := &a.claimed[(pgno-1)/64], uint64(1)<<((pgno-1)%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	a.claimedN++
	return true
}

// complete reports whether every page has been claimed. The lock page has no
// content.
func (a *applier) complete() bool {
	n := a.commit
	if n >= ltx.LockPgno(a.pageSize) {
		n--
	}
	return a.claimedN == n
}

// idleBatch returns an empty batch, waiting for the oldest one if all are in
// use.
func (a *applier) idleBatch(in *input) (*batch, error) {
	if len(a.idle) == 0 {
		if err := a.fold(); err != nil {
			return nil, err
		}
	}
	b := a.idle[len(a.idle)-1]
	a.idle = a.idle[:len(a.idle)-1]
	*b = batch{in: in, done: b.done, pages: b.pages[:0], data: b.data[:0], out: b.out, sums: b.sums[:0]}
	return b, nil
}

// fold waits for the oldest batch and adds its result to its file's. After an
// error it must not be called again.
func (a *applier) fold() error {
	a.foldErr = a.foldOldest()
	return a.foldErr
}

func (a *applier) foldOldest() error {
	b := a.running[0]
	a.running = a.running[1:]
	<-b.done
	a.idle = append(a.idle, b)
	if b.dataErr != nil {
		return b.in.fail("decode", b.dataErr)
	}
	if b.writeErr != nil {
		return b.writeErr
	}
	b.in.crc = crcJoin(b.in.crc, b.crc, b.n)
	b.in.xor ^= b.xor
	a.xor ^= b.xorKept
	if b.last {
		return a.verify(b.in)
	}
	return nil
}

// verify checks a file whose last byte has been folded.
func (a *applier) verify(in *input) error {
	if sum := ltx.ChecksumFlag | ltx.Checksum(in.crc); sum != in.trailer.FileChecksum {
		return in.fail("verify", fmt.Errorf("%w: computed %s, stored %s", ltx.ErrChecksumMismatch, sum, in.trailer.FileChecksum))
	}
	if in.hdr.IsSnapshot() && !in.hdr.NoChecksum() {
		if sum := ltx.ChecksumFlag | in.xor; sum != in.trailer.PostApplyChecksum {
			return in.fail("verify", fmt.Errorf("database checksum of its pages is %s, stored %s", sum, in.trailer.PostApplyChecksum))
		}
	}
	next := in.newer
	switch {
	case next == nil:
		return nil
	case next.hdr.MinTXID == in.hdr.MaxTXID+1:
		return next.follows(in)
	case a.newest.trailer.PostApplyChecksum == 0 && otherWriters(next.hdr, in.hdr): // no checksum of all pages tells
		return next.stranger(in)
	}
	return nil
}

// follows returns an error if a file was not made for what the one before it
// leaves. Where no checksum tells, it was if both are of one writer: who goes on
// behind another begins with the whole database.
func (in *input) follows(prev *input) error {
	post, pre := prev.trailer.PostApplyChecksum, in.hdr.PreApplyChecksum
	fits := post == pre
	if post == 0 || pre == 0 {
		fits = !otherWriters(in.hdr, prev.hdr)
	}
	if fits {
		return nil
	}
	return in.stranger(prev)
}

func (in *input) stranger(prev *input) error {
	return in.fail("apply", &strangerError{
		pre: in.hdr.PreApplyChecksum, post: prev.trailer.PostApplyChecksum, next: in.info, prev: prev.info,
		writer: in.hdr.NodeID, before: prev.hdr.NodeID,
	})
}

// strangerError means that of two neighbouring files one is another database's.
type strangerError struct {
	pre, post      ltx.Checksum
	next, prev     *ltx.FileInfo
	writer, before uint64
}

// Error returns both checksums, or who wrote the files.
func (e *strangerError) Error() string {
	if e.pre == 0 || e.post == 0 {
		return fmt.Sprintf("is of %s, the file before it of %s", writerName(e.writer), writerName(e.before))
	}
	return fmt.Sprintf("expects a database of checksum %s, the file before it leaves %s", e.pre, e.post)
}

// errWrongPages means that some file of a plan lacks a page.
var errWrongPages = errors.New("a page is missing from some file")

// finish checks what only the whole plan shows.
func (a *applier) finish() error {
	if pgno := a.firstMissing(); pgno != 0 {
		return a.newest.fail("apply", fmt.Errorf("page %d of %d is in no file of the plan", pgno, a.commit))
	}
	if want := a.newest.trailer.PostApplyChecksum; want != 0 && a.complete() {
		if sum := ltx.ChecksumFlag | a.xor; sum != want {
			return a.newest.fail("verify", fmt.Errorf("restored database has checksum %s, expected %s: %w", sum, want, errWrongPages))
		}
	}
	// The lock page is a hole, and it may be the last page.
	if err := a.out.Truncate(int64(a.commit) * int64(a.pageSize)); err != nil {
		return outputError("resize", err)
	}
	return nil
}

// firstMissing returns the first page that is neither in a file nor in the
// database that the files continue, or 0. What a file cut off is not in the
// database any more.
func (a *applier) firstMissing() uint32 {
	lock, kept := ltx.LockPgno(a.pageSize), min(a.base, a.smallest)
	for i, word := range a.claimed {
		for word = ^word; word != 0; word &= word - 1 {
			pgno := uint32(i*64+bits.TrailingZeros64(word)) + 1
			if pgno > a.commit {
				return 0
			}
			if pgno > kept && pgno != lock {
				return pgno
			}
		}
	}
	return 0
}

// runWorker decodes and writes batches until there are no more.
func (a *applier) runWorker() {
	for b := range a.work {
		if b.dataErr = a.decode(b); b.dataErr == nil {
			b.writeErr = a.write(b)
		}
		b.done <- struct{}{}
	}
}

// decode decompresses the pages of a batch and computes its checksums.
func (a *applier) decode(b *batch) error {
	pageSize := int(a.pageSize)
	if need := len(b.pages) * pageSize; cap(b.out) < need {
		b.out = make([]byte, need)
	} else {
		b.out = b.out[:need]
	}
	var hdr [ltx.PageHeaderSize + 4]byte
	data := b.data
	for i, p := range b.pages {
		page := b.out[i*pageSize:][:pageSize]
		if p.flags&ltx.PageHeaderFlagSize == 0 {
			copy(page, data)
		} else if n, err := lz4.UncompressBlock(data[:p.n], page); err != nil {
			return fmt.Errorf("page %d: %w", p.pgno, err)
		} else if n != pageSize {
			return fmt.Errorf("page %d: %d bytes, want %d", p.pgno, n, pageSize)
		}
		data = data[p.n:]

		crc := crc64iso.Update(0, page)
		sum := a.shift.pageChecksum(p.pgno, crc)
		h := p.appendHeader(hdr[:0])
		b.crc = a.shift.apply(crc64iso.Update(b.crc, h)) ^ crc
		b.n += int64(len(h) + pageSize)
		b.xor ^= sum
		if p.keep {
			b.xorKept ^= sum
			if p.pgno == 1 && string(page[:len(sqliteMagic)]) != sqliteMagic {
				return fmt.Errorf("page 1: %w", ErrNotDatabase)
			}
		}
		b.sums = binary.BigEndian.AppendUint64(b.sums, uint64(sum))
	}
	return nil
}

// write writes the pages of a batch that count, neighbours in one piece.
func (a *applier) write(b *batch) error {
	pageSize := int64(a.pageSize)
	for i := 0; i < len(b.pages); {
		if !b.pages[i].keep {
			i++
			continue
		}
		j := i + 1
		for j < len(b.pages) && b.pages[j].keep && b.pages[j].pgno == b.pages[j-1].pgno+1 {
			j++
		}
		first := int64(b.pages[i].pgno - 1)
		if _, err := a.out.WriteAt(b.out[int64(i)*pageSize:int64(j)*pageSize], first*pageSize); err != nil {
			return outputError("write", err)
		}
		if a.sums != nil {
			if _, err := a.sums.WriteAt(b.sums[i*8:j*8], first*8); err != nil {
				return outputError("write page checksums of", err)
			}
		}
		i = j
	}
	return nil
}
