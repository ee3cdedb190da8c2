package litestream

import (
	"errors"
	"fmt"
	"slices"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// errSuspended means that staging is full, so that not everything is captured.
var errSuspended = errors.New("staging is full, changes are not captured")

// suspend stops capturing while staging is full: files that were never sent
// are dropped, their pages forgotten, so that a diff covers them later, and the
// pin is released, so that the application's own checkpoints work. It returns
// errSuspended unless that did not work.
func (db *DB) suspend() error {
	dropped, newest := db.stage.dropUnsent()
	if len(dropped) == 0 && db.st.suspended {
		return errSuspended
	}
	db.st.suspended = true
	db.touch() // what was not captured yet is not known to be there either
	err := errors.Join(db.forgetDropped(dropped, newest), db.closeHandle(true))
	db.publish()
	db.Logger.Warn("staging is full: capture is suspended until the replica takes files; a diff will cover what changes meanwhile",
		"db", db.path, "dropped_files", len(dropped), "txid", newest.String())
	if err != nil {
		return err
	}
	return errSuspended
}

// forgetDropped takes the position back to the newest file that is left.
func (db *DB) forgetDropped(dropped []stagedFile, newest ltx.TXID) error {
	if len(dropped) == 0 {
		return nil
	}
	dir := db.ltxDir()
	l := db.st.ledger
	unknown := make(map[uint32]bool)
	var errs []error
	for _, f := range dropped {
		if l != nil && len(errs) == 0 {
			if _, err := eachPage(dir, f.TXID, func(pgno uint32, _ []byte) { unknown[pgno] = true }); err != nil {
				errs = append(errs, err)
			}
		}
	}
	known := l != nil && len(errs) == 0 && newest > 0
	for _, f := range slices.Backward(dropped) { // a crash leaves no gap
		errs = append(errs, dir.Remove(f.TXID, f.TXID))
	}
	if !known {
		return errors.Join(append(errs, db.forget(newest))...)
	}
	db.st.txid, db.st.cursor = newest, wal.Cursor{}
	if err := db.unlearn(dir, unknown, newest); err != nil {
		errs = append(errs, err, db.forget(newest))
	}
	db.touch()
	db.publish()
	return errors.Join(errs...)
}

// resume ends a suspension when the replica took what was left.
func (db *DB) resume() bool {
	if n, _ := db.stage.pending(); n > 0 {
		return false
	}
	db.st.suspended = false
	db.Logger.Info("capture resumed", "db", db.path)
	return true
}

// unlearn takes the ledger back to an older position: the pages that the
// dropped files held are unknown there.
func (db *DB) unlearn(dir ltxfile.Dir, pages map[uint32]bool, txid ltx.TXID) error {
	hdr, trailer, err := dir.Verify(txid, txid)
	if err != nil {
		return fmt.Errorf("read position %s: %w", txid, err)
	}
	pgnos := make([]uint32, 0, len(pages))
	for pgno := range pages {
		pgnos = append(pgnos, pgno)
	}
	h := db.st.ledger.Header()
	h.TXID, h.PageN, h.Rolling, h.Meta = txid, hdr.Commit, trailer.PostApplyChecksum, nil
	if err := db.st.ledger.MarkUnknown(pgnos, h); err != nil {
		return err
	}
	return db.st.ledger.Flush()
}
