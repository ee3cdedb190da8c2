package litestream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/superfly/ltx"
)

// writerFile holds, in the state directory, what the files of a fleet say about
// who wrote them.
const writerFile = "writer"

// loadWriterID returns the number by which the files of a state directory's
// owner are known, and makes one if there is none. It is never 0.
func loadWriterID(stateDir string) (uint64, error) {
	path := filepath.Join(stateDir, writerFile)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("read writer id: %w", err)
	}
	if id, perr := strconv.ParseUint(strings.TrimSpace(string(b)), 16, 64); err == nil && perr == nil && id != 0 {
		return id, nil
	}
	var r [8]byte
	_, _ = rand.Read(r[:]) // never fails
	id := binary.BigEndian.Uint64(r[:]) | 1
	if err := replaceFile(path, fmt.Appendf(nil, "%016x\n", id)); err != nil {
		return 0, fmt.Errorf("write writer id: %w", err)
	}
	return id, nil
}

// readReason is what the registry keeps of a secondWriterError.
func readReason(text string) *secondWriterError {
	return &secondWriterError{strings.TrimPrefix(strings.TrimPrefix(text, ErrSecondWriter.Error()), ": ")}
}

// loseLocked leaves a database alone whose replica belongs to another writer,
// until a takeover.
func (m *MultiDBManager) loseLocked(i uint32, reason error) {
	if e, ok := errors.AsType[*secondWriterError](reason); ok {
		reason = e
	}
	m.queue.Remove(i)
	m.upkeep.remove(i)
	m.table.At(i).set(tenantLost, true)
	m.failLocked(i, &tenantFailure{err: reason, lasting: true})
}

// lostReasonLocked returns why a database is left alone that has tenantLost.
func (m *MultiDBManager) lostReasonLocked(i uint32) error {
	if f := m.reasons[i]; f != nil && errors.Is(f.err, ErrSecondWriter) {
		return f.err
	}
	return &secondWriterError{}
}

// movedOn reports whether somebody else went on with a replica from a position
// that was the newest of this daemon's own.
func (m *MultiDBManager) movedOn(ctx context.Context, client ReplicaClient, txid ltx.TXID) (bool, error) {
	r := NewReplicaWithClient(nil, client)
	if err := r.init(ctx); err != nil {
		return false, err
	}
	newest, err := r.newestTXID(ctx)
	if err != nil || newest <= txid {
		return false, err
	}
	hdr, err := r.header(ctx, newest)
	if errors.Is(err, ErrLTXFileNotFound) {
		return true, nil
	}
	return hdr.NodeID != m.mode.writer, err
}

// rivalNote is what the head of the catalog said about another writer.
type rivalNote struct {
	text string
	at   time.Time
}

// rivalEvery is how long that counts: many databases are lost at a time.
const rivalEvery = time.Minute

// otherWriter returns what the head of the catalog says about who else writes
// here, with one request a minute at most.
func (m *MultiDBManager) otherWriter(ctx context.Context) string {
	now := m.now()
	m.mu.Lock()
	note, w := m.rival, &m.catalog.w
	m.mu.Unlock()
	if w.objects == nil || !note.at.IsZero() && now.Sub(note.at) < rivalEvery {
		return note.text
	}
	note = rivalNote{at: now}
	if head, err := readCatalogHead(ctx, w.objects, w.id); err == nil && head != nil && head.Owner != w.process {
		note.text = fmt.Sprintf("; the catalog was last written by process %s", head.Owner)
		if head.Host != "" {
			note.text += " on host " + head.Host
		}
		note.text += " at " + head.WrittenAt.UTC().Format(time.RFC3339)
	}
	m.mu.Lock()
	m.rival = note
	m.mu.Unlock()
	return note.text
}

// TakeoverResult is what a takeover did.
type TakeoverResult struct {
	Was      error    // why the database was left alone; nil if it was not
	TXID     ltx.TXID // the whole database as it is now, behind all that lay there
	Snapshot ltx.TXID // of the snapshot on the highest level; 0 if none was taken
}

// TakeOverTenant makes this daemon the writer of a database's replica, whoever
// was it: it goes on behind the newest position that lies there with a full copy
// and a snapshot. Another daemon that still writes loses the replica with its
// next upload; if that comes in between, the error is ErrSecondWriter.
func (m *MultiDBManager) TakeOverTenant(ctx context.Context, path string) (res TakeoverResult, err error) {
	unlock, err := m.store.changing.lock(ctx, path)
	if err != nil {
		return res, err
	}
	defer unlock()
	i, err := m.admit(path)
	if err != nil {
		return res, err
	}
	m.mu.Lock()
	s, d := m.table.At(i), m.hot[i]
	switch {
	case s == nil:
		m.mu.Unlock()
		return res, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	case s.has(tenantStopped):
		m.mu.Unlock()
		return res, fmt.Errorf("%w: %s: start it first", ErrDatabaseNotOpen, path)
	case s.has(tenantLost):
		res.Was = m.lostReasonLocked(i)
		s.set(tenantLost, false)
		if !s.has(tenantDeleted) {
			m.releaseLocked(i, s, d != nil)
		}
	}
	s.set(tenantRecheck, true)
	m.mu.Unlock()
	d, open, err := m.holdHot(ctx, i)
	if err != nil {
		return res, fmt.Errorf("open database %s: %w", path, err)
	}
	defer d.release()
	if d.path != path {
		return res, fmt.Errorf("%w: %s", ErrDatabaseNotFound, path)
	}
	if res.TXID, err = takeOver(ctx, open.db); err != nil {
		return res, err
	}
	info, err := m.store.snapshotTenant(ctx, open)
	if err != nil {
		return res, fmt.Errorf("the replica is taken over, but no snapshot could be taken: %w", err)
	}
	now := m.now()
	m.noteFiles(d, func(f *tenantFiles) { f.noteSnapshot(info, now) })
	res.Snapshot = info.MaxTXID
	m.logger.Info("replica taken over", "db", path, "txid", res.TXID.String())
	return res, nil
}

// takeOver goes on behind the storage's position with a full copy.
func takeOver(ctx context.Context, db *DB) (ltx.TXID, error) {
	if db.Replica == nil {
		return 0, fmt.Errorf("%w: %s has no replica", ErrDatabaseNotFound, db.path)
	}
	if err := db.clearLost(); err != nil {
		return 0, err
	}
	db.Replica.takeOverNext()
	if err := db.Replica.Sync(ctx); err != nil { // it only asks, as what was staged goes
		return 0, err
	}
	res, err := syncNow(ctx, db, true)
	return res.Acked, err
}
