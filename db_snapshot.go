package litestream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
	"github.com/benbjohnson/litestream/internal/pagesum"
	"github.com/benbjohnson/litestream/internal/wal"
)

// ErrNoPosition means that a database has nothing captured yet, so that there
// is nothing to take a snapshot of.
var ErrNoPosition = errors.New("database has no position yet")

// A StagedSnapshot is a whole database as a local LTX file, from TXID 1 to a
// captured position.
type StagedSnapshot struct {
	Path    string
	MaxTXID ltx.TXID
	Size    int64

	dir     ltxfile.Dir
	history int // of the stage, when MaxTXID was the position
}

// Open opens the local file for reading.
func (s *StagedSnapshot) Open() (io.ReadCloser, error) { return s.dir.Open(1, s.MaxTXID) }

// Close removes the local file.
func (s *StagedSnapshot) Close() error { return s.dir.Remove(1, s.MaxTXID) }

// StageSnapshot captures what is new and then writes the whole database at
// that position to a local file. Every page is compared with the page ledger
// on the way: a difference means that a change was missed, is reported, and is
// published by the next sync.
func (db *DB) StageSnapshot(ctx context.Context) (_ *StagedSnapshot, err error) {
	if err := db.acquire(ctx); err != nil {
		return nil, err
	}
	defer db.release()
	moved := db.st.moved
	if err := db.syncLocked(ctx, true); err != nil {
		return nil, err
	}
	db.st.moved = max(db.st.moved, moved) // what disturbed the last try counts although the look was good
	if db.tenant != nil {
		db.st.moved = max(db.st.moved, 1) // nobody waits until the files' times prove something by themselves
	}
	if db.st.txid == 0 || db.st.suspended {
		return nil, fmt.Errorf("snapshot of %s: %w", db.path, ErrNoPosition)
	}
	s, err := db.stageSnapshot(ctx)
	if err != nil {
		if errors.Is(err, errViewMoved) {
			db.st.moved++
		}
		return nil, fmt.Errorf("snapshot of %s: %w", db.path, err)
	}
	db.st.moved = db.movedAfterCapture()
	return s, nil
}

func (db *DB) stageSnapshot(ctx context.Context) (_ *StagedSnapshot, err error) {
	opened, err := db.openForCapture(db.st.seen)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.afterCapture(opened)) }()
	v, err := db.openView(ctx, db.spool())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	if err := db.captureUpTo(ctx, v); err != nil {
		return nil, err
	}
	return db.writeSnapshot(v)
}

// samePlace reports whether two cursors stand for the same commit.
func samePlace(a, b wal.Cursor) bool {
	if a.Main != b.Main || a.Commit != b.Commit || a.Header != b.Header {
		return false
	}
	if a.HasFrames() {
		return a.Last == b.Last && a.First == b.First
	}
	return a.MainPrint == b.MainPrint
}

// captureUpTo brings the position to exactly the view's commit.
func (db *DB) captureUpTo(ctx context.Context, v *View) error {
	for v.Cursor.HasFrames() && !samePlace(db.st.cursor, v.Cursor) {
		more, err := db.captureOnce(ctx, captureLimit{endAt: v.Cursor.End(), provenOnly: true})
		if errors.Is(err, errNotProven) {
			break
		} else if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if samePlace(db.st.cursor, v.Cursor) {
		return nil
	}
	return db.captureView(v, "snapshot")
}

func (db *DB) writeSnapshot(v *View) (_ *StagedSnapshot, err error) {
	if err := db.checkRoom(int64(v.PageN) * int64(v.PageSize)); err != nil {
		return nil, err
	}
	dir := ltxfile.New(filepath.Join(db.metaPath, "snapshot"), db.metaMode(), 0o600, -1, -1)
	if db.tenant != nil {
		dir = dir.Volatile().InMemory(ltxfile.NewMemory(db.tenant.staged))
	} else {
		dir = dir.Within(db.metaPath)
	}
	f, err := dir.Create(1, db.st.txid)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Abort())
		}
	}()
	w, err := newLTXWriter(f, db.snapshotHeader(v, db.knobs.now().UnixMilli()), publishRule{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.enc.Release()
		}
	}()
	audit := newAudit(db.st.ledger, v)
	err = v.Each(func(pgno uint32, page []byte) error {
		audit.page(pgno, page)
		return w.page(pgno, page)
	})
	if err = errors.Join(err, audit.close()); err != nil {
		return nil, err
	}
	if err := v.Validate(db.knobs.now()); err != nil {
		return nil, err
	}
	if err := w.finish(ltx.ChecksumFlag | audit.xor); err != nil {
		return nil, err
	}
	if err := f.Commit(); err != nil {
		return nil, err
	}
	if audit.err != nil {
		if err := db.rejectLedger(audit.err); err != nil {
			return nil, errors.Join(err, dir.Remove(1, db.st.txid))
		}
	} else {
		db.heal(audit.missed)
	}
	return &StagedSnapshot{Path: f.Name(), MaxTXID: db.st.txid, Size: f.Size(), dir: dir, history: db.stage.history()}, nil
}

// snapshotHeader claims the last frame only, as Litestream v0.5's does.
func (db *DB) snapshotHeader(v *View, timestamp int64) ltx.Header {
	hdr := ltx.Header{
		Version: ltx.Version, PageSize: v.PageSize, Commit: v.PageN,
		MinTXID: 1, MaxTXID: db.st.txid, Timestamp: timestamp, WALOffset: WALHeaderSize, NodeID: db.writerID(),
	}
	if v.Cursor.HasFrames() {
		hdr.WALSize = WALFrameHeaderSize + int64(v.PageSize)
		hdr.WALOffset = v.Cursor.End() - hdr.WALSize
		hdr.WALSalt1, hdr.WALSalt2 = v.Cursor.Salts()
	}
	return hdr
}

// audit compares each page of a view with its ledger entry at the same commit.
type audit struct {
	ledger *pagesum.Reader // nil if there is nothing to compare with
	next   uint32          // page that ledger returns next
	xor    ltx.Checksum
	missed []uint32
	err    error // the ledger could not be read
}

func newAudit(l *pagesum.Ledger, v *View) *audit {
	a := &audit{next: 1}
	if l == nil || l.Header().PageSize != v.PageSize || l.Header().PageN != v.PageN {
		return a
	}
	a.ledger, a.err = l.Reader()
	return a
}

// page compares one page for as long as the ledger can be read.
func (a *audit) page(pgno uint32, page []byte) {
	sum := ltxfile.PageChecksum(pgno, page)
	a.xor ^= sum
	for ; a.ledger != nil && a.err == nil && a.next <= pgno; a.next++ {
		var want ltx.Checksum
		if want, a.err = a.ledger.Next(); a.err == nil && a.next == pgno && want != 0 && want != sum {
			a.missed = append(a.missed, pgno)
		}
	}
}

func (a *audit) close() error {
	if a.ledger == nil {
		return nil
	}
	err := a.ledger.Close()
	a.ledger = nil
	return err
}

// heal reports pages whose change was missed, and makes the next sync publish
// them by a diff.
func (db *DB) heal(missed []uint32) {
	if len(missed) == 0 {
		return
	}
	db.events().auditFailed()
	db.Logger.Error("audit: pages differ from what was replicated; the snapshot holds them, and they are replicated again",
		"db", db.path, "txid", db.st.txid.String(), "pages", missed[:min(len(missed), 20)], "page_count", len(missed))
	h := db.st.ledger.Header()
	h.Meta = nil
	if err := db.st.ledger.MarkUnknown(missed, h); err != nil && !errors.Is(err, pagesum.ErrFlush) {
		db.Logger.Warn("page ledger is dropped, the next capture is a full copy", "db", db.path, "error", err)
		db.st.ledger.Discard()
		db.st.ledger = nil
	}
	db.st.cursor = wal.Cursor{}
	db.touch()
}

// sweepSnapshots removes what a crash left of staged snapshots.
func (db *DB) sweepSnapshots() error {
	err := os.RemoveAll(filepath.Join(db.metaPath, "snapshot"))
	if err != nil {
		return fmt.Errorf("remove staged snapshots: %w", err)
	}
	return nil
}
