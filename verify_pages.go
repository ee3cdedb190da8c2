package litestream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
)

// pageState is the checksums of all pages of a database at one position, 8
// bytes for each.
type pageState struct {
	txid   ltx.TXID
	commit uint32 // pages
	lock   uint32 // the page that has no content
	sums   []ltx.Checksum
	xor    ltx.Checksum // of all sums
	mix    uint64       // see mixPage
	writer uint64       // of the last file; 0: it does not say

	// trail are the files that led here since a checksum confirmed the position
	// ahead of them.
	trail []*ltx.FileInfo
}

// statePrint tells states apart. XOR alone is no proof: of two pages that
// changed alike nothing is left in it.
type statePrint struct {
	commit uint32
	xor    ltx.Checksum
	mix    uint64
}

func (s *pageState) print() statePrint { return statePrint{s.commit, s.xor, s.mix} }

// checksum returns the database checksum as LTX has it.
func (s *pageState) checksum() ltx.Checksum { return ltx.ChecksumFlag | s.xor }

func (s *pageState) clone() *pageState {
	c := *s
	c.sums, c.trail = slices.Clone(s.sums), slices.Clone(s.trail)
	return &c
}

// mixPage returns a number for a page and its checksum, such that the sums of
// them over two different sets of pages are different in all likelihood
// (the finalizer of SplitMix64).
func mixPage(pgno uint32, sum ltx.Checksum) uint64 {
	x := uint64(sum) ^ uint64(pgno)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// set replaces the checksum of a page; 0: there is no such page.
func (s *pageState) set(pgno uint32, sum ltx.Checksum) {
	for uint32(len(s.sums)) < pgno {
		s.sums = append(s.sums, 0)
	}
	p := &s.sums[pgno-1]
	if *p != 0 {
		s.xor ^= *p &^ ltx.ChecksumFlag
		s.mix -= mixPage(pgno, *p)
	}
	if sum != 0 {
		s.xor ^= sum &^ ltx.ChecksumFlag
		s.mix += mixPage(pgno, sum)
	}
	*p = sum
}

// cut forgets pages behind the end of the database.
func (s *pageState) cut(commit uint32) {
	for pgno := uint32(len(s.sums)); pgno > commit; pgno-- {
		s.set(pgno, 0)
	}
	s.sums = s.sums[:min(len(s.sums), int(commit))]
	s.commit = commit
}

// end cuts off or demands pages, so that there are as many as a file says. It
// returns a page that is missing, or 0.
func (s *pageState) end(commit uint32, pageSize uint32) uint32 {
	s.cut(commit)
	s.lock = ltx.LockPgno(pageSize)
	for pgno := uint32(1); pgno <= commit; pgno++ {
		if pgno != s.lock && (int(pgno) > len(s.sums) || s.sums[pgno-1] == 0) {
			return pgno
		}
	}
	return 0
}

// stateOfFile computes the state of a database that nobody has open.
func stateOfFile(path string, pageSize uint32) (s *pageState, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read restored database: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	s = &pageState{lock: ltx.LockPgno(pageSize)}
	r, page := bufio.NewReaderSize(f, 256<<10), make([]byte, pageSize)
	for pgno := uint32(1); ; pgno++ {
		if _, err := io.ReadFull(r, page); errors.Is(err, io.EOF) {
			s.commit = pgno - 1
			return s, nil
		} else if err != nil {
			return nil, fmt.Errorf("read restored database: %w", err)
		}
		if pgno != s.lock {
			s.set(pgno, ltxfile.PageChecksum(pgno, page))
		}
	}
}

// differs returns how many pages have another checksum than sums says, and the
// first of them.
func (s *pageState) differs(sums *VerifySums) (n int, first uint32, err error) {
	if small, large := min(sums.PageN, s.commit), max(sums.PageN, s.commit); small != large {
		return int(large - small), small + 1, nil
	}
	err = sums.Each(func(pgno uint32, want ltx.Checksum) {
		if want == 0 || int(pgno) > len(s.sums) || s.sums[pgno-1] == want || s.sums[pgno-1] == 0 {
			return
		}
		if n++; n == 1 {
			first = pgno
		}
	})
	return n, first, err
}
