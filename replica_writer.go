package litestream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/superfly/ltx"
)

// ErrSecondWriter means that somebody else writes to the replica of a database,
// and has gone on from a position where this process stood. Nothing is uploaded
// to it any more until somebody decides which of the two goes on.
var ErrSecondWriter = errors.New("another writer uses this replica")

// secondWriterError is ErrSecondWriter with what was found.
type secondWriterError struct{ reason string }

// Error returns one line.
func (e *secondWriterError) Error() string {
	if e.reason == "" {
		return ErrSecondWriter.Error()
	}
	return ErrSecondWriter.Error() + ": " + e.reason
}

// Unwrap returns ErrSecondWriter.
func (e *secondWriterError) Unwrap() error { return ErrSecondWriter }

// foreignFile is a level-0 file on the storage that this process did not write.
type foreignFile struct {
	txid ltx.TXID
	hdr  ltx.Header // zero if it was not read
}

// writtenBy tells who wrote the file, as far as it says so itself.
func (f foreignFile) writtenBy() string {
	var b bytes.Buffer
	if f.hdr.Timestamp != 0 {
		fmt.Fprintf(&b, ", written at %s", time.UnixMilli(f.hdr.Timestamp).UTC().Format(time.RFC3339))
	}
	if f.hdr.NodeID != 0 {
		fmt.Fprintf(&b, " by writer %016x", f.hdr.NodeID)
	}
	return b.String()
}

// lose ends the uploads of a database, because f has shown that somebody else
// goes on with its replica. The error is the one that all later ones repeat.
func (r *Replica) lose(ctx context.Context, f foreignFile) error {
	db, who := r.db, f.writtenBy()
	if r.whoElse != nil {
		who += r.whoElse(ctx)
	}
	err := &secondWriterError{fmt.Sprintf(
		"%s (level 0) on %s is not of this daemon%s; the newest of its own is %s, and nothing is uploaded any more. "+
			"If this host is to go on, stop the other one and run: litestream takeover %s",
		ltx.FormatFilename(f.txid, f.txid), r.Location(), who, db.stage.ackedTXID(), db.path)}
	if merr := db.markLost(err); merr != nil {
		r.Logger.Warn("take note of a second writer: a restart begins without that", "db", db.path, "error", merr)
	}
	return err
}

// proofShare is how much of the time for which level-0 files are kept may pass
// between a proof and an upload that rests on it.
const proofShare = 2

// proofFor is for how long a proof holds.
func (r *Replica) proofFor() time.Duration {
	keep := r.L0Retention
	if r.l0Retention != nil {
		keep = r.l0Retention()
	}
	if keep <= 0 {
		keep = DefaultL0Retention
	}
	return keep / proofShare
}

// proves reports whether a proof at a time holds at another, by both clocks:
// the one that goes on while the machine sleeps, and the one that cannot be set.
func (r *Replica) proves(at, now time.Time) bool {
	if at.IsZero() {
		return false
	}
	limit := r.proofFor()
	wall := now.Round(0).Sub(at.Round(0))
	return now.Sub(at) <= limit && wall <= limit && wall >= 0
}

// proven returns when nobody else is known to have gone on from the newest
// acknowledged position.
func (r *Replica) proven() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.provenAt
}

func (r *Replica) setProven(at time.Time) {
	r.mu.Lock()
	r.provenAt = at
	r.mu.Unlock()
}

// prove is called when the storage has taken f, whose upload began at a time,
// and makes sure that nobody else went on from the position that f follows.
//
// That the storage did not refuse f shows it for as long as the other's file in
// its place would lie there: files of level 0 are deleted some time after they
// were merged, the oldest first and never the newest. So where the last proof
// is older than that, our own file in front of f has to be there still. If it is
// not, a listing tells. f stays then, because the other may have gone on from it;
// if not, the other's retention deletes it as one that was merged long ago.
func (r *Replica) prove(ctx context.Context, f stagedFile, began time.Time) error {
	if f.TXID > 1 && !r.proves(r.proven(), r.db.knobs.now()) { // the first file is kept for as long as a snapshot
		if err := r.lookBehind(ctx, f); err != nil {
			return fmt.Errorf("look for a second writer: %w", err)
		}
	}
	r.mu.Lock()
	r.provenAt, r.unsure, r.takingOver = began, false, false
	r.mu.Unlock()
	return nil
}

func (r *Replica) lookBehind(ctx context.Context, f stagedFile) error {
	_, err := r.header(ctx, f.TXID-1)
	if !errors.Is(err, ErrLTXFileNotFound) {
		return err
	}
	newest, err := r.newestTXID(ctx)
	if err != nil || newest <= f.TXID {
		return err
	}
	hdr, err := r.header(ctx, newest)
	if err != nil && !errors.Is(err, ErrLTXFileNotFound) {
		return err
	}
	return r.lose(ctx, foreignFile{newest, hdr})
}

// unsureStorage reports whether the storage may replace a file although it was asked
// not to.
func (r *Replica) unsureStorage() bool {
	if _, ok := r.Client.(ExclusiveWriter); !ok {
		return true
	}
	u, ok := r.Client.(UnsureWriter)
	return ok && u.Unsure()
}

// keepLast remembers which file of its own the storage took.
func (r *Replica) keepLast(txid ltx.TXID) {
	var hdr ltx.Header
	if r.unsureStorage() {
		if h, err := r.localHeader(txid); err == nil {
			hdr = h
		}
	}
	r.mu.Lock()
	r.last = hdr
	r.mu.Unlock()
}

func (r *Replica) localHeader(txid ltx.TXID) (hdr ltx.Header, err error) {
	file, err := r.db.ltxDir().Open(txid, txid)
	if err != nil {
		return hdr, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	b := make([]byte, ltx.HeaderSize)
	if _, err := io.ReadFull(file, b); err != nil {
		return hdr, fmt.Errorf("read header: %w", err)
	}
	return hdr, hdr.UnmarshalBinary(b)
}

// checkLast is called ahead of an upload to a storage that does not refuse by
// itself: of two writers at the same moment the first one's file was replaced,
// and that is the one who has to stop.
func (r *Replica) checkLast(ctx context.Context, f stagedFile) error {
	r.mu.Lock()
	last := r.last
	r.mu.Unlock()
	if last.MaxTXID == 0 || last.MaxTXID+1 != f.TXID {
		return nil
	}
	hdr, err := r.header(ctx, last.MaxTXID)
	switch {
	case errors.Is(err, ErrLTXFileNotFound):
		return nil // prove looks behind it
	case err != nil:
		return fmt.Errorf("look for a second writer: %w", err)
	case hdr == last:
		return nil
	}
	return r.lose(ctx, foreignFile{last.MaxTXID, hdr})
}

// header reads the header of a level-0 file on the storage.
func (r *Replica) header(ctx context.Context, txid ltx.TXID) (hdr ltx.Header, err error) {
	f, err := r.Client.OpenLTXFile(ctx, 0, txid, txid, 0, ltx.HeaderSize)
	if err != nil {
		return hdr, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, ltx.HeaderSize)
	if _, err := io.ReadFull(f, b); err != nil {
		return hdr, fmt.Errorf("read header of %s: %w", ltx.FormatFilename(txid, txid), err)
	}
	if err := hdr.UnmarshalBinary(b); err != nil {
		return hdr, fmt.Errorf("decode header of %s: %w", ltx.FormatFilename(txid, txid), err)
	}
	return hdr, nil
}

// refused is called when the storage holds another file in the place of f.
func (r *Replica) refused(ctx context.Context, f stagedFile) error {
	hdr, err := r.header(ctx, f.TXID)
	if err != nil && !errors.Is(err, ErrLTXFileNotFound) {
		return fmt.Errorf("look at %s after a refused upload: %w", f.TXID, err)
	}
	r.mu.Lock()
	straggler := r.unsure && hdr.NodeID != 0 && hdr.NodeID == r.db.writerID()
	r.mu.Unlock()
	if !straggler {
		return r.lose(ctx, foreignFile{f.TXID, hdr})
	}
	r.Logger.Info("an upload that was given up has arrived: going on behind it with a full copy",
		"db", r.db.path, "txid", f.TXID.String(), "replica", r.Location())
	r.unposition()
	return r.position(ctx)
}

// foreign reports whether the storage's newest file is of another writer, for a
// database of a fleet of which this one's own position is known. One that tells
// no writer is of Litestream v0.5 and counts as none.
func (r *Replica) foreign(ctx context.Context, newest ltx.TXID) (foreignFile, bool, error) {
	db := r.db
	if db.tenant == nil || r.takesOver() {
		return foreignFile{}, false, nil
	}
	if acked := db.stage.ackedTXID(); acked == 0 || newest <= acked {
		return foreignFile{}, false, nil
	}
	hdr, err := r.header(ctx, newest)
	if errors.Is(err, ErrLTXFileNotFound) {
		return foreignFile{}, false, nil // it is on a higher level only
	} else if err != nil {
		return foreignFile{}, false, err
	}
	return foreignFile{newest, hdr}, hdr.NodeID != 0 && hdr.NodeID != db.writerID(), nil
}

// takesOver reports whether the storage's position is adopted whoever wrote it.
func (r *Replica) takesOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.takingOver
}

// takeOverNext makes the next sync adopt the storage's position and go on behind
// it with a full copy, whoever wrote what lies there.
func (r *Replica) takeOverNext() {
	r.mu.Lock()
	r.takingOver, r.positioned, r.provenAt = true, false, time.Time{}
	r.mu.Unlock()
}
