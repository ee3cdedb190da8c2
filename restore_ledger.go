package litestream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/pagesum"
)

// saveLedger leaves the page ledger of a restored database. Without one the
// next capture is a snapshot, which is slower and never wrong: a failure is
// logged, and no older ledger stays that could be taken for this one.
func (rs *restorer) saveLedger(db restored) {
	if err := rs.writeLedger(db); err != nil {
		rs.opt.Logger.Warn("page ledger of restored database not written, the next capture is a full one",
			"path", rs.opt.LedgerPath, "error", err)
		if err := os.Remove(rs.opt.LedgerPath); err != nil && !errors.Is(err, os.ErrNotExist) {
			rs.opt.Logger.Warn("remove old page ledger", "path", rs.opt.LedgerPath, "error", err)
		}
	}
}

func (rs *restorer) writeLedger(db restored) (err error) {
	w, err := pagesum.NewWriter(rs.opt.LedgerPath, db.pageSize)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	r := bufio.NewReaderSize(io.NewSectionReader(rs.sums, 0, int64(db.pageN)*8), 64<<10)
	lock := ltx.LockPgno(db.pageSize)
	var b [8]byte
	for pgno := uint32(1); pgno <= db.pageN; pgno++ {
		// The lock page has no sum: a hole, or the end of the file.
		if _, err := io.ReadFull(r, b[:]); err != nil && (pgno != lock || pgno != db.pageN) {
			return fmt.Errorf("read page checksum %d: %w", pgno, err)
		}
		sum := ltx.Checksum(binary.BigEndian.Uint64(b[:]))
		if pgno == lock {
			sum = 0
		}
		if err := w.Append(sum); err != nil {
			return err
		}
	}
	_, err = w.Commit(pagesum.Header{
		Replica:  rs.opt.LedgerReplica,
		TXID:     rs.target,
		PageSize: db.pageSize,
		PageN:    db.pageN,
	})
	return err
}
