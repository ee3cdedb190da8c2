package litestream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// checkpointMode is what decideCheckpoint asks for.
type checkpointMode string

// The modes that are issued. FULL and RESTART block writers for longer than
// they are worth.
const (
	checkpointNone     checkpointMode = ""
	checkpointPassive  checkpointMode = "PASSIVE"
	checkpointTruncate checkpointMode = "TRUNCATE"
)

// checkpointState is what is remembered of our own checkpoints.
type checkpointState struct {
	attempted time.Time // last attempt of any mode
	truncated time.Time // last TRUNCATE
	end       int64     // end of the captured log at the last attempt
	salt1     uint32    // its lineage
	complete  bool      // the last attempt moved every frame
}

// checkpointInput is everything the decision depends on.
type checkpointInput struct {
	Now           time.Time
	PageSize      uint32
	WALBytes      int64     // end of the captured log
	MainTouched   time.Time // of the main file: the last checkpoint, whoever made it
	SameLineage   bool      // the log was not restarted since the last attempt
	State         checkpointState
	MinPageN      int
	TruncatePageN int
	Interval      time.Duration
}

// walBytes is the size of a log of n pages.
func walBytes(n int, pageSize uint32) int64 {
	return WALHeaderSize + int64(n)*(WALFrameHeaderSize+int64(pageSize))
}

// decideCheckpoint applies the thresholds of Litestream v0.5. Other than that
// it does not ask again while a reader keeps an earlier attempt
// from completing, until the log grew by the threshold or the interval passed:
// each attempt takes the write lock for a moment.
func decideCheckpoint(in checkpointInput) checkpointMode {
	if in.WALBytes <= walBytes(1, in.PageSize) {
		return checkpointNone // nothing but what the last restart began with
	}
	grown := in.WALBytes
	if in.SameLineage {
		grown -= in.State.end
	}
	if in.SameLineage && in.State.complete && grown <= 0 {
		return checkpointTruncateIfHuge(in)
	}
	waited := in.Interval > 0 && in.Now.Sub(in.State.attempted) >= in.Interval
	if in.WALBytes >= walBytes(in.MinPageN, in.PageSize) {
		if grown >= walBytes(in.MinPageN, in.PageSize)-WALHeaderSize || waited || !in.SameLineage {
			return checkpointPassive
		}
		return checkpointNone
	}
	if waited && in.Now.Sub(in.MainTouched) >= in.Interval {
		return checkpointPassive
	}
	return checkpointNone
}

// truncateEvery is the least time between two TRUNCATE checkpoints, which make
// writers wait and cost a diff.
const truncateEvery = time.Minute

// checkpointTruncateIfHuge gives the disk space of a huge log back, once a
// PASSIVE checkpoint has moved all of it.
func checkpointTruncateIfHuge(in checkpointInput) checkpointMode {
	if in.TruncatePageN > 0 && in.WALBytes >= walBytes(in.TruncatePageN, in.PageSize) &&
		in.Now.Sub(in.State.truncated) >= truncateEvery {
		return checkpointTruncate
	}
	return checkpointNone
}

// checkpointIfNeeded makes the checkpoint that the thresholds ask for. Only a
// pinned database is checkpointed: the pin is what keeps the application's own
// checkpoints from completing.
func (db *DB) checkpointIfNeeded(fp sqlitefile.Fingerprint) error {
	h, cur := db.st.handle, db.st.cursor
	if h == nil || !h.pinned || !cur.HasFrames() {
		return nil
	}
	salt1, _ := cur.Salts()
	mode := decideCheckpoint(checkpointInput{
		Now: db.knobs.now(), PageSize: cur.PageSize, WALBytes: cur.End(),
		MainTouched: time.Unix(0, fp.Main.Mtime), SameLineage: salt1 == db.st.ckpt.salt1,
		State: db.st.ckpt, MinPageN: db.MinCheckpointPageN, TruncatePageN: db.TruncatePageN,
		Interval: db.CheckpointInterval,
	})
	if mode == checkpointNone {
		return nil
	}
	return db.checkpoint(mode)
}

// Checkpoint makes a PASSIVE checkpoint now, if the database is pinned.
func (db *DB) Checkpoint(ctx context.Context) error {
	if err := db.acquire(ctx); err != nil {
		return err
	}
	defer db.release()
	if db.st.handle == nil || !db.st.handle.pinned {
		return nil
	}
	return db.checkpoint(checkpointPassive)
}

func (db *DB) checkpoint(mode checkpointMode) error {
	start := db.knobs.now()
	var err error
	if mode == checkpointTruncate {
		err = db.truncateLog()
	} else {
		err = db.passive()
	}
	db.metrics.checkpointed(string(mode), db.knobs.now().Sub(start), err)
	salt1, _ := db.st.cursor.Salts()
	db.st.ckpt.attempted, db.st.ckpt.end, db.st.ckpt.salt1 = start, db.st.cursor.End(), salt1
	if errors.Is(err, ErrDatabaseLocked) {
		db.Logger.Debug("checkpoint skipped: database is busy", "db", db.path, "mode", string(mode), "error", err)
		return nil
	} else if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	db.Logger.Debug("checkpoint", "db", db.path, "mode", string(mode), "complete", db.st.ckpt.complete)
	return nil
}

// passive makes a checkpoint that loses nothing: under the write lock the log
// is read to its end, then the pin is let go, the checkpoint runs, and the pin
// is retaken. No commit fits in between, so if the checkpoint moved every
// frame, the log may restart once, and all that it held has been read. What
// was read is staged only after the lock is released: writers wait for the
// checkpoint, not for the staging disk.
func (db *DB) passive() error {
	h := db.st.handle
	db.st.ckpt.complete = false
	if err := db.ensureMeta(); err != nil {
		return err
	}
	res, moved, err := db.checkpointUnderLock()
	if err != nil || res.Reason != "" {
		return err // a diff comes first; the write lock is not held for that
	}
	h.sealed = false
	if err := db.publishTail(res); errors.Is(err, errPublishRule) {
		return nil // the next look takes a diff
	} else if err != nil {
		return err
	}
	db.st.ckpt.complete = moved.complete()
	// A captured phantom, a commit whose writer died before it counted, is not
	// among the frames that SQLite knows: then a restart is no proof.
	cur := db.st.cursor
	h.sealed = moved.complete() && h.pinned && cur.HasFrames() && cur.End() == walBytes(int(moved.log), cur.PageSize)
	return nil
}

// checkpointUnderLock returns what the log held behind the cursor, and what
// the checkpoint did.
func (db *DB) checkpointUnderLock() (res wal.Result, moved moved, err error) {
	h := db.st.handle
	lock, err := openSQLite(db.path, db.BusyTimeout)
	if err != nil {
		return res, moved, err
	}
	defer func() { err = errors.Join(err, lock.close()) }()
	if err := lock.exec("BEGIN IMMEDIATE"); err != nil {
		return res, moved, err
	}
	defer func() {
		err = errors.Join(err, lock.exec("ROLLBACK"))
		if err != nil {
			err = errors.Join(err, res.Frames.Close())
		}
	}()
	if res, err = db.tail(db.spool()); err != nil || res.Reason != "" {
		return res, moved, err
	}
	if err := h.unpin(); err != nil {
		return res, moved, err
	}
	moved, err = walCheckpoint(h.conn, checkpointPassive)
	if perr := h.pin(); perr != nil {
		err = errors.Join(err, perr, db.closeHandle(true))
	}
	return res, moved, err
}

// truncateLog cuts the log to nothing. It runs without the write lock, which
// the checkpoint takes itself, so what comes behind is proven or diffed.
func (db *DB) truncateLog() error {
	h := db.st.handle
	db.st.ckpt.truncated = db.knobs.now()
	if err := h.unpin(); err != nil {
		return err
	}
	_, err := walCheckpoint(h.conn, checkpointTruncate)
	if perr := h.pin(); perr != nil {
		return errors.Join(err, perr, db.closeHandle(true))
	}
	return err
}

// moved is SQLite's answer to a checkpoint (SQLite documentation, "PRAGMA
// wal_checkpoint").
type moved struct {
	busy, log, done int64 // log and done are numbers of frames
}

// complete reports whether every frame is in the main file.
func (m moved) complete() bool { return m.busy == 0 && m.log >= 0 && m.log == m.done }

// walCheckpoint runs a checkpoint.
func walCheckpoint(conn *sqliteConn, mode checkpointMode) (m moved, err error) {
	row, err := conn.row(fmt.Sprintf("PRAGMA wal_checkpoint(%s)", mode))
	if err != nil {
		return m, err
	}
	if len(row) < 3 {
		return m, errors.New("wal_checkpoint returned no row")
	}
	for i, to := range []*int64{&m.busy, &m.log, &m.done} {
		n, ok := row[i].(int64)
		if !ok {
			return m, fmt.Errorf("wal_checkpoint returned %v", row)
		}
		*to = n
	}
	return m, nil
}
