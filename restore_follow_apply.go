package litestream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"path/filepath"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
)

// followStep is one change of a followed database: staged pages on their way
// into it.
type followStep struct {
	d        *followDB
	a        *applier // what is staged; pages that would not change are taken out
	full     bool     // all pages are staged
	to       followMark
	pageSize uint32 // of the database before
	pageN    uint32 // of the database before
	journal  *rollbackJournal
	first    []byte // page 1 as it will be
	page     []byte // a staged page
	old      []byte // a page of the database
	oldXOR   ltx.Checksum
}

// next returns the first staged page from pgno on, or 0.
func (a *applier) next(pgno uint32) uint32 {
	for i := int(pgno-1) / 64; i < len(a.claimed); i++ {
		word := a.claimed[i]
		if i == int(pgno-1)/64 {
			word &= ^uint64(0) << ((pgno - 1) % 64)
		}
		if word != 0 {
			return uint32(i*64+bits.TrailingZeros64(word)) + 1
		}
	}
	return 0
}

// drop takes a page out of what is staged.
func (a *applier) drop(pgno uint32) {
	a.claimed[(pgno-1)/64] &^= 1 << ((pgno - 1) % 64)
}

// apply brings the database to txid in one transaction: readers see the
// database before it or after it, and so does whoever opens it after a crash.
// After an error the position has to be located again.
func (d *followDB) apply(ctx context.Context, a *applier, txid ltx.TXID) error {
	if err := d.checkPlace(); err != nil {
		return err
	}
	if err := d.lock(); err != nil {
		return err
	}
	if err := errors.Join(d.applyLocked(ctx, a, txid), d.unlock()); err != nil {
		return err
	}
	if err := writeFollowTXID(d.output, txid); err != nil {
		return err
	}
	return d.step("position")
}

func (d *followDB) applyLocked(ctx context.Context, a *applier, txid ltx.TXID) (err error) {
	if err := d.checkContent(); err != nil {
		return err
	}
	_, hdr, err := readDatabaseHeader(d.f)
	if err != nil {
		return err
	}
	s := &followStep{
		d: d, a: a, full: a.complete(),
		to:       followMark{txid: txid, counter: d.mark.counter, source: d.mark.source},
		pageSize: hdr.PageSize, pageN: uint32(d.seen.Size() / int64(hdr.PageSize)),
		first: make([]byte, a.pageSize), page: make([]byte, a.pageSize), old: make([]byte, hdr.PageSize),
	}
	if !s.full && (s.pageSize != a.pageSize || s.pageN != a.base) {
		return modifiedError(d.output, d.mark.txid, fmt.Sprintf("it has %d pages of %d bytes, the replica continues %d of %d",
			s.pageN, s.pageSize, a.base, a.pageSize))
	}
	defer func() {
		if s.journal != nil {
			err = errors.Join(err, s.journal.close())
		}
	}()
	if err := s.collect(ctx); err != nil {
		if s.journal != nil {
			err = errors.Join(err, s.journal.discard())
		}
		return err
	}
	if err := s.announce(); err != nil {
		return err
	}
	if s.journal != nil {
		if err := s.write(); err != nil {
			return err
		}
	}
	d.mark = s.to
	if d.seen, err = d.f.Stat(); err != nil {
		return fmt.Errorf("stat followed database: %w", err)
	}
	return d.step("commit")
}

// collect finds out which pages change, puts the old ones into the journal and
// checks the outcome against the replica's checksum of the database.
func (s *followStep) collect(ctx context.Context) error {
	cut := s.a.commit + 1 // first page that goes away
	if s.pageSize != s.a.pageSize {
		cut = 2
	}
	for pgno := s.a.next(2); pgno != 0 && pgno <= s.pageN && pgno < cut; pgno = s.a.next(pgno + 1) {
		if err := s.collectPage(ctx, pgno); err != nil {
			return err
		}
		if err := s.readStaged(s.page, pgno); err != nil {
			return err
		}
		if bytes.Equal(s.page, s.old) {
			s.a.drop(pgno)
		} else if err := s.save(pgno); err != nil {
			return err
		}
	}
	lock := ltx.LockPgno(s.pageSize)
	for pgno := max(cut, 2); pgno <= s.pageN; pgno++ {
		if pgno == lock {
			continue // SQLite stores nothing in it and ends a rollback at it
		}
		if err := s.collectPage(ctx, pgno); err != nil {
			return err
		}
		if err := s.save(pgno); err != nil {
			return err
		}
	}
	if err := s.collectFirst(); err != nil {
		return err
	}
	return s.checkSum()
}

// collectPage reads a page that changes or goes away.
func (s *followStep) collectPage(ctx context.Context, pgno uint32) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, err := s.d.f.ReadAt(s.old, int64(pgno-1)*int64(s.pageSize)); err != nil {
		return fmt.Errorf("read page %d of followed database: %w", pgno, err)
	}
	s.oldXOR ^= ltxfile.PageChecksum(pgno, s.old)
	return nil
}

// collectFirst is collect for page 1, which gets a new change counter when
// anything changes.
func (s *followStep) collectFirst() error {
	if _, err := s.d.f.ReadAt(s.old, 0); err != nil {
		return fmt.Errorf("read page 1 of followed database: %w", err)
	}
	source := bytes.Clone(s.old)
	if s.to.source != (followHeader{}) {
		s.to.source.put(source)
	}
	changed := s.journal != nil || s.a.commit != s.pageN
	if s.a.next(1) == 1 {
		s.oldXOR ^= ltxfile.PageChecksum(1, source)
		if err := s.readStaged(s.first, 1); err != nil {
			return err
		}
		s.to.source = takeFollowHeader(s.first)
		changed = changed || !bytes.Equal(s.first, source)
		s.a.drop(1)
	} else {
		copy(s.first, source)
	}
	if !changed {
		return nil
	}
	s.to.counter = newCounter(s.d.mark.counter)
	takeFollowHeader(s.first).withCounter(s.to.counter).put(s.first)
	return s.save(1)
}

// checkSum computes the checksum of the database after the step. Where the
// replica has one too they must be equal, or either of the two is not the
// continuation of the other.
func (s *followStep) checkSum() error {
	switch {
	case s.full:
		s.to.checksum = ltx.ChecksumFlag | s.a.xor // checked already
		return nil
	case s.d.mark.checksum == 0:
		return nil
	}
	s.to.checksum = ltx.ChecksumFlag | (s.d.mark.checksum ^ s.oldXOR ^ s.a.xor)
	if want := s.a.newest.trailer.PostApplyChecksum; want != 0 && want != s.to.checksum {
		return modifiedError(s.d.output, s.d.mark.txid, fmt.Sprintf("with the replica's next files it would have checksum %s instead of %s, "+
			"so its pages were changed, or the replica is now that of another database", s.to.checksum, want))
	}
	return nil
}

// readStaged reads a page that is to be written.
func (s *followStep) readStaged(page []byte, pgno uint32) error {
	if _, err := s.a.out.ReadAt(page, int64(pgno-1)*int64(s.a.pageSize)); err != nil {
		return fmt.Errorf("read staged page %d: %w", pgno, err)
	}
	return nil
}

// save puts s.old into the journal.
func (s *followStep) save(pgno uint32) (err error) {
	if s.journal == nil {
		if s.journal, err = createJournal(s.d.f, s.pageSize, s.pageN); err != nil {
			return err
		}
	}
	return s.journal.add(pgno, s.old)
}

// announce makes durable what is about to happen: the state, and the journal
// if a page changes.
func (s *followStep) announce() error {
	if err := writeFollowState(s.d.output, followState{from: s.d.mark, to: s.to}); err != nil {
		return err
	}
	dir := filepath.Dir(s.d.output)
	if s.journal == nil || dir != filepath.Dir(s.journal.path) {
		if err := syncFolder(dir); err != nil {
			return err
		}
	}
	if err := s.d.step("state"); err != nil || s.journal == nil {
		return err
	}
	if err := s.journal.arm(); err != nil {
		return err
	}
	return s.d.step("journal")
}

// write changes the database and commits by deleting the journal.
func (s *followStep) write() error {
	f, size := s.d.f, int64(s.a.pageSize)
	if _, err := f.WriteAt(s.first, 0); err != nil {
		return outputError("write", err)
	}
	for pgno := s.a.next(2); pgno != 0; pgno = s.a.next(pgno + 1) {
		if err := s.readStaged(s.page, pgno); err != nil {
			return err
		}
		if _, err := f.WriteAt(s.page, int64(pgno-1)*size); err != nil {
			return outputError("write", err)
		}
		if err := s.d.step("page"); err != nil {
			return err
		}
	}
	if err := f.Truncate(int64(s.a.commit) * size); err != nil {
		return outputError("resize", err)
	}
	if err := f.Sync(); err != nil {
		return outputError("sync", err)
	}
	if err := s.d.step("pages"); err != nil {
		return err
	}
	return s.journal.commit()
}
