package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/pagesum"
	"github.com/benbjohnson/litestream/internal/wal"
)

// load reads the local state: the newest level-0 file is the position, the
// page ledger says what it covers. Whatever is missing, torn or of another
// position is thrown away; the next capture then costs more.
func (db *DB) load() error {
	if db.st.loaded {
		return nil
	}
	if db.tenant != nil {
		return db.seedUnconfirmed(0, nil)
	}
	if err := ltxfile.CleanTemp(db.metaPath); err != nil {
		return fmt.Errorf("clean metadata directory: %w", err)
	}
	if err := db.sweepSnapshots(); err != nil {
		return err
	}
	files, err := db.loadFiles()
	if err != nil {
		return err
	}
	if n := len(files); n > 0 {
		db.st.txid = files[n-1].TXID
	}
	db.stage.reset(0, files)
	if err := db.loadLedger(); err != nil {
		return err
	}
	db.st.loaded = true
	db.publish()
	return nil
}

// loadFiles lists the local files and removes a newest one that is damaged:
// what it held is still in the live database, or on the replica already.
func (db *DB) loadFiles() ([]stagedFile, error) {
	dir := db.ltxDir()
	infos, err := dir.List()
	if err != nil {
		return nil, err
	}
	for len(infos) > 0 {
		last := infos[len(infos)-1]
		_, _, err := dir.Verify(last.Min, last.Max)
		if err == nil && last.Min == last.Max {
			break
		}
		if err == nil {
			err = errors.New("covers more than one transaction")
		} else if !isDamage(err) {
			return nil, fmt.Errorf("read newest local ltx file: %w", err)
		}
		db.Logger.Warn("removed a damaged local ltx file", "db", db.path,
			"path", dir.Path(last.Min, last.Max), "error", err)
		if err := dir.Remove(last.Min, last.Max); err != nil {
			return nil, err
		}
		infos = infos[:len(infos)-1]
	}
	files := make([]stagedFile, 0, len(infos))
	for _, in := range infos {
		files = append(files, stagedFile{TXID: in.Max, Size: in.Size, attempted: true})
	}
	return contiguousTail(files), nil
}

// isDamage tells a file whose bytes are wrong from one that could not be read.
func isDamage(err error) bool {
	var pe *fs.PathError
	return !errors.As(err, &pe)
}

// contiguousTail returns the files behind the last gap.
func contiguousTail(files []stagedFile) []stagedFile {
	for i := len(files) - 1; i > 0; i-- {
		if files[i-1].TXID+1 != files[i].TXID {
			return files[i:]
		}
	}
	return files
}

// loadLedger takes over the ledger if it stands for the newest local file, or
// can be brought there with the files behind it. Its cursor is good only if
// nothing had to be added. One that is of no use is removed, because the
// position that it names may be reached again with another content.
func (db *DB) loadLedger() error {
	l, err := pagesum.Open(db.LedgerPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return db.rejectLedger(err)
	}
	hdr := l.Header()
	var identity [32]byte
	if db.Replica != nil {
		identity = db.Replica.Identity()
	}
	switch {
	case hdr.Replica != identity && hdr.Replica != [32]byte{}:
		return db.rejectLedger(errors.New("it is of another replica"))
	case db.st.txid == 0:
		// A restore may have left it for the position of the replica, which
		// is asked before it is used.
	case hdr.TXID > db.st.txid:
		return db.rejectLedger(fmt.Errorf("it is of %s, the newest local file of %s", hdr.TXID, db.st.txid))
	case hdr.TXID == db.st.txid:
		var cur wal.Cursor
		if cur.UnmarshalBinary(hdr.Meta) == nil && cur.BootID != [16]byte{} {
			db.st.cursor = cur
		}
	default:
		if err := db.rollForward(l); err != nil {
			return db.rejectLedger(err)
		}
	}
	l.SetBudget(db.shared.ledgerBudget())
	db.st.ledger = l
	return nil
}

// rejectLedger gives up the page ledger for a reason.
func (db *DB) rejectLedger(reason error) error {
	db.Logger.Warn("page ledger is dropped, the next discontinuity is a full copy", "db", db.path, "error", reason)
	return db.dropLedger()
}

// rollForward applies the local files behind the ledger's position to it.
func (db *DB) rollForward(l *pagesum.Ledger) error {
	dir := db.ltxDir()
	for txid := l.Header().TXID + 1; txid <= db.st.txid; txid++ {
		if err := applyFile(l, dir, txid); err != nil {
			return fmt.Errorf("bring page ledger to %s: %w", txid, err)
		}
	}
	return nil
}

func applyFile(l *pagesum.Ledger, dir ltxfile.Dir, txid ltx.TXID) error {
	var changes []pagesum.Change
	hdr, err := eachPage(dir, txid, func(pgno uint32, page []byte) {
		changes = append(changes, pagesum.Change{Pgno: pgno, Sum: ltxfile.PageChecksum(pgno, page)})
	})
	if err != nil {
		return err
	}
	if hdr.PageSize != l.Header().PageSize {
		return pagesum.ErrPageSize
	}
	h := l.Header()
	h.TXID, h.PageN, h.Rolling, h.Meta = txid, hdr.Commit, 0, nil
	return l.Apply(changes, h)
}

// eachPage calls fn for every page of a local file and verifies the file. The
// page is valid during the call.
func eachPage(dir ltxfile.Dir, txid ltx.TXID, fn func(pgno uint32, page []byte)) (hdr ltx.Header, err error) {
	f, err := dir.Open(txid, txid)
	if err != nil {
		return hdr, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	dec := ltx.NewDecoder(ltxfile.NewGuard(f))
	dec.SetRetainPageIndex(false)
	if err := dec.DecodeHeader(); err != nil {
		return hdr, fmt.Errorf("decode header: %w", err)
	}
	hdr = dec.Header()
	page := make([]byte, hdr.PageSize)
	for {
		var ph ltx.PageHeader
		if err := dec.DecodePage(&ph, page); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return hdr, fmt.Errorf("decode page: %w", err)
		}
		fn(ph.Pgno, page)
	}
	if err := dec.Close(); err != nil {
		return hdr, fmt.Errorf("verify: %w", err)
	}
	return hdr, nil
}

// saveLedger writes the ledger with the cursor. A ledger whose file is lost or
// damaged is given up.
func (db *DB) saveLedger() error {
	l := db.st.ledger
	err := db.stampLedger()
	if err == nil || errors.Is(err, pagesum.ErrFlush) {
		err = l.Flush()
	}
	if errors.Is(err, pagesum.ErrInvalid) || errors.Is(err, fs.ErrNotExist) {
		return db.rejectLedger(err)
	}
	return err
}

// stampLedger puts the cursor into the ledger, if both stand at the position.
func (db *DB) stampLedger() error {
	l := db.st.ledger
	h := l.Header()
	if db.st.cursor.IsZero() || h.TXID != db.st.txid {
		h.Meta = nil
	} else {
		meta, err := db.st.cursor.MarshalBinary()
		if err != nil {
			return err
		}
		h.Meta = meta
	}
	return l.Apply(nil, h)
}

// flushLedger writes the ledger if the last time is long ago, so that local
// files that are about to be deleted are not needed to bring it up to date.
func (db *DB) flushLedger(ctx context.Context, after time.Duration) error {
	if err := db.acquire(ctx); err != nil {
		return err
	}
	defer db.release()
	now := db.knobs.now()
	if l := db.st.ledger; l == nil || !l.Dirty() || now.Sub(db.st.flushed) < after {
		return nil
	}
	db.st.flushed = now
	return db.saveLedger()
}

// deleteLocal deletes the local copy of a level-0 file that is no longer on
// the replica. The newest one is the position and stays.
func (db *DB) deleteLocal(txid ltx.TXID) error {
	if txid >= db.stage.ackedTXID() {
		return nil
	}
	return db.ltxDir().Remove(txid, txid)
}

// ensureMeta creates the metadata directory. Where it lies beside the database
// the folder of both is not made: it was deleted, with the database.
// That of a fleet's database is made with the first file in it.
func (db *DB) ensureMeta() error {
	if db.tenant != nil {
		return nil
	}
	if filepath.Dir(db.metaPath) == filepath.Dir(db.path) {
		if err := os.Mkdir(db.metaPath, db.metaMode()); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("create metadata directory: %w", err)
		}
		return nil
	}
	if err := os.MkdirAll(db.metaPath, db.metaMode()); err != nil {
		return fmt.Errorf("create metadata directory: %w", err)
	}
	return nil
}

// forget drops what is known of the pages, on disk too, so that the next
// capture is a full copy, and sets the position it will follow. A ledger that
// cannot be removed might later pass for one of the position it names, so that
// nothing may be given up before it is gone.
func (db *DB) forget(txid ltx.TXID) error {
	db.st.txid, db.st.cursor = txid, wal.Cursor{}
	db.touch()
	db.publish()
	return db.dropLedger()
}

// dropLedger gives up the page ledger and removes its file.
func (db *DB) dropLedger() error {
	l := db.st.ledger
	db.st.ledger = nil
	if db.tenant != nil {
		// A file that stays is no harm: the registry tells which is meant.
		if l != nil {
			return l.Remove()
		}
		return nil
	}
	if l != nil {
		l.Discard()
	}
	return pagesum.Remove(db.LedgerPath())
}

// touch makes the next look at the database a thorough one.
func (db *DB) touch() {
	db.st.settled = false
	db.st.seen.Main.Ctime = 0
}
