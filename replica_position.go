package litestream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/superfly/ltx"
)

// takeover is what to do with the local state once the storage's position is
// known.
type takeover int

const (
	// takeoverSend keeps the local files and sends those behind the storage's
	// position, which they follow without a gap up to what was captured.
	takeoverSend takeover = iota
	// takeoverAdopt drops the local files and goes on behind the storage's
	// position. TXIDs are never reused and never go back on a replica.
	takeoverAdopt
	// takeoverRestart drops the local files and begins at TXID 1, because the
	// storage is empty and the local files do not reach back to a full copy.
	takeoverRestart
)

// positions is what decideTakeover looks at. Zero TXIDs mean "none".
type positions struct {
	captured           ltx.TXID // what the next capture follows
	localMin, localMax ltx.TXID // contiguous local files
	remote             ltx.TXID // newest TXID on the storage, on any level
	// acked is the newest TXID that the storage is known to have acknowledged,
	// before this process or in it; 0 where that is not known.
	acked ltx.TXID
	// same says that the local and the storage's file at remote are equal.
	same bool
}

// decideTakeover settles who goes on from where.
func decideTakeover(p positions) takeover {
	switch {
	case p.acked > 0 && p.remote == p.acked && (p.captured == p.acked || p.localMin <= p.acked+1 && p.localMax == p.captured):
		return takeoverSend
	case p.remote == 0 && p.captured > 0 && (p.localMin != 1 || p.localMax != p.captured):
		return takeoverRestart
	case p.remote == 0:
		return takeoverSend
	case p.captured < p.remote, p.localMax != p.captured, p.localMin > p.remote+1, !p.same:
		return takeoverAdopt
	default:
		return takeoverSend
	}
}

// firstContactTimeout bounds how long a storage that does not answer keeps a
// database without local state from being captured.
const firstContactTimeout = 15 * time.Second

// position asks the storage for its newest TXID and brings the local state in
// line, once.
func (r *Replica) position(ctx context.Context) error {
	r.mu.Lock()
	done, first := r.positioned, !r.tried
	r.mu.Unlock()
	if done {
		return nil
	}
	if first {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, firstContactTimeout)
		defer cancel()
	}
	err := r.reposition(ctx)
	r.mu.Lock()
	r.tried, r.positioned = true, err == nil
	r.mu.Unlock()
	return err
}

func (r *Replica) reposition(ctx context.Context) error {
	if err := r.init(ctx); err != nil {
		return err
	}
	began := r.db.knobs.now()
	remote, err := r.newestTXID(ctx)
	if err != nil {
		return err
	}
	if f, foreign, err := r.foreign(ctx, remote); err != nil {
		return err
	} else if foreign {
		return r.lose(ctx, f)
	}
	r.setProven(began)
	same, err := r.sameAt(ctx, remote)
	if err != nil {
		return err
	}
	if err := r.db.acquire(ctx); err != nil {
		return err
	}
	defer r.db.release()
	files, err := r.localFiles()
	if err != nil {
		return err
	}
	if files, err = r.soundFiles(files, remote); err != nil {
		return err
	}
	p := positions{captured: r.db.st.txid, remote: remote, same: same}
	if r.db.tenant != nil {
		p.acked = r.db.stage.ackedTXID()
	}
	if len(files) > 0 {
		p.localMin, p.localMax = files[0].TXID, files[len(files)-1].TXID
	}
	t := decideTakeover(p)
	if r.takesOver() && remote > 0 {
		t = takeoverAdopt
	}
	return r.takeOver(t, p, files)
}

// sameAt compares the storage's newest file with the local one of that TXID.
// The database is not held meanwhile: a file that was staged does not change.
func (r *Replica) sameAt(ctx context.Context, remote ltx.TXID) (bool, error) {
	if remote == 0 {
		return false, nil
	}
	if err := r.db.acquire(ctx); err != nil {
		return false, err
	}
	err := r.db.load()
	r.db.release()
	if err != nil {
		return false, err
	}
	same, err := r.sameFile(ctx, remote)
	if errors.Is(err, ErrLTXFileNotFound) {
		return false, nil // it is on a higher level only
	}
	return same, err
}

// localFiles loads the local state and lists the local files behind the last
// gap. The caller holds the database.
func (r *Replica) localFiles() ([]stagedFile, error) {
	if err := r.db.load(); err != nil {
		return nil, err
	}
	infos, err := r.db.ltxDir().List()
	if err != nil {
		return nil, err
	}
	files := make([]stagedFile, 0, len(infos))
	for _, in := range infos {
		files = append(files, stagedFile{TXID: in.Max, Size: in.Size})
	}
	return contiguousTail(files), nil
}

// soundFiles reads the local files that the storage does not hold, at the first
// contact, and returns those behind the last damaged one, which is removed. The
// caller holds the database.
func (r *Replica) soundFiles(files []stagedFile, remote ltx.TXID) ([]stagedFile, error) {
	if r.asked() || r.db.tenant != nil {
		return files, nil // they were captured by this process
	}
	dir, sound := r.db.ltxDir(), files
	for i, f := range files {
		if f.TXID <= remote {
			continue
		}
		_, _, err := dir.Verify(f.TXID, f.TXID)
		if err == nil {
			continue
		} else if !isDamage(err) {
			return nil, fmt.Errorf("read local ltx file: %w", err)
		}
		r.Logger.Warn("removed a damaged local ltx file: going on behind the replica's position", "db", r.db.path,
			"path", dir.Path(f.TXID, f.TXID), "error", err)
		if err := dir.Remove(f.TXID, f.TXID); err != nil {
			return nil, err
		}
		sound = files[i+1:]
	}
	return sound, nil
}

// takeOver carries the decision out. The caller holds the database.
func (r *Replica) takeOver(t takeover, p positions, files []stagedFile) error {
	db := r.db
	switch t {
	case takeoverSend:
		for len(files) > 0 && files[0].TXID <= p.remote {
			files = files[1:]
		}
		db.stage.reset(p.remote, files)
		if p.captured == 0 {
			// What a ledger without files stands for is not on this storage.
			return db.forget(0)
		}
		return nil
	case takeoverRestart:
		r.Logger.Warn("replica is empty and the local files do not begin with a full copy: starting over",
			"db", db.path, "txid", p.localMax.String(), "replica", r.Location())
		p.remote = 0
	case takeoverAdopt:
		if p.localMax > 0 {
			r.Logger.Info("adopting the replica's position", "db", db.path,
				"txid", p.remote.String(), "local_txid", p.localMax.String())
		}
	}
	if r.onAdopted != nil {
		r.onAdopted()
	}
	// The ledger goes first: without the files nothing on disk would tell any
	// more that it is not the storage's.
	if err := db.adopt(p, r.Identity()); err != nil {
		return err
	}
	if err := db.ltxDir().RemoveAll(); err != nil {
		return fmt.Errorf("remove local ltx files: %w", err)
	}
	db.stage.reset(p.remote, nil)
	return nil
}

// adopt sets the position that the next capture follows. A ledger that a
// restore left for exactly this position and replica stays good; one of files
// that were captured here does not, because the storage holds others.
func (db *DB) adopt(p positions, identity [32]byte) error {
	l := db.st.ledger
	if l != nil && p.captured == 0 && p.remote > 0 && l.Header().TXID == p.remote && l.Header().Replica == identity {
		db.st.txid = p.remote
		db.touch()
		db.publish()
		return nil
	}
	return db.forget(p.remote)
}

// newestTXID returns the newest TXID on the storage: of level 0, or of the
// other levels if level 0 is empty. Zero means that there is nothing.
func (r *Replica) newestTXID(ctx context.Context) (ltx.TXID, error) {
	if t, ok := r.Client.(TreeLister); ok {
		infos, err := t.LTXTree(ctx)
		if err != nil {
			return 0, fmt.Errorf("list all levels: %w", err)
		}
		return newestInTree(infos), nil
	}
	newest, err := r.newestOfLevel(ctx, 0)
	if err != nil || newest > 0 {
		return newest, err
	}
	for level := 1; level <= SnapshotLevel; level++ {
		n, err := r.newestOfLevel(ctx, level)
		if err != nil {
			return 0, err
		}
		newest = max(newest, n)
	}
	return newest, nil
}

// newestInTree is newestTXID of a listing in which the levels ascend.
func newestInTree(infos []*ltx.FileInfo) (newest ltx.TXID) {
	for _, info := range infos {
		if info.Level > 0 && infos[0].Level == 0 {
			break
		}
		newest = max(newest, info.MaxTXID)
	}
	return newest
}

func (r *Replica) newestOfLevel(ctx context.Context, level int) (_ ltx.TXID, err error) {
	itr, err := r.Client.LTXFiles(ctx, level, 0, false)
	if err != nil {
		return 0, fmt.Errorf("list level %d: %w", level, err)
	}
	defer func() { err = errors.Join(err, itr.Close()) }()
	var newest ltx.TXID
	for itr.Next() {
		newest = max(newest, itr.Item().MaxTXID)
	}
	return newest, itr.Err()
}
