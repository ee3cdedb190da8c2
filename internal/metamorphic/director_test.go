package metamorphic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/superfly/ltx"
)

// direct lets things happen until ctx ends.
func (w *world) direct(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, between(w.rng, 5*time.Millisecond, 120*time.Millisecond))
		if err := w.event(ctx); err != nil {
			_ = w.fail("%v", err)
		}
	}
}

// event is one random thing that happens to the world.
func (w *world) event(ctx context.Context) error {
	switch n := w.rng.IntN(100); {
	case n < 40:
		return w.claim(ctx)
	case n < 48:
		return w.snapshot()
	case n < 58:
		return w.order(fmt.Sprintf("faults %d %d %d %d",
			oneOf(w.rng, 0, 0, 20, 100), oneOf(w.rng, 0, 0, 20), oneOf(w.rng, 0, 30), oneOf(w.rng, 0, 0, 20)))
	case n < 66:
		return w.order("faults 0 0 0 0")
	case n < 74:
		w.killReplicator()
		return w.startReplicator()
	case n < 76:
		w.closeReplicator()
		return w.startReplicator()
	case n < 84:
		if w.writer == nil {
			return w.startWriter()
		}
		w.endWriter()
		return nil
	default:
		return w.withoutApp(ctx)
	}
}

// order tells the replicator something, if it lives.
func (w *world) order(line string) error {
	if w.repl == nil {
		return nil
	}
	_, err := w.repl.order(line)
	w.logf("%s: %v", line, err)
	return err
}

// claim asks the replicator to have everything on the replica, and holds it to
// its word.
func (w *world) claim(ctx context.Context) error {
	if w.repl == nil {
		return nil
	}
	before := w.ackedNow()
	answer, err := w.repl.order("sync")
	w.logf("sync from %s: %s %v", before, answer, err)
	if _, ok := errors.AsType[refusal](err); ok {
		return nil
	} else if err != nil {
		return err
	}
	pos, err := ltx.ParseTXID(answer)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.claimed = before
	w.marks = append(w.marks, mark{time.Now().Add(w.cfg.Skew + 2*time.Millisecond), before})
	w.mu.Unlock()
	_, _, _ = w.restore(ctx, wish{name: "claim", txid: pos, atLeast: before, promised: true}) // it records a failure
	return nil
}

// snapshot looks into a staged snapshot.
func (w *world) snapshot() error {
	if w.repl == nil {
		return nil
	}
	before := w.ackedNow()
	path := filepath.Join(w.dir, "snapshot")
	answer, err := w.repl.order("snapshot " + path)
	w.logf("snapshot from %s: %s %v", before, answer, err)
	if _, ok := errors.AsType[refusal](err); ok {
		return nil
	} else if err != nil {
		return err
	}
	if err := w.checkSnapshot(path, before); err != nil {
		return err
	}
	return os.Remove(path)
}

// withoutApp does what can only be done while the application is down.
func (w *world) withoutApp(ctx context.Context) error {
	w.gate.Lock()
	defer w.gate.Unlock()
	w.endWriter()
	w.closeConns()
	w.logf("application is down")
	switch n := w.rng.IntN(12); {
	case n < 3: // the replicator may see it rest
		pause(ctx, between(w.rng, 0, 600*time.Millisecond))
		return nil
	case n < 5: // it goes away, and the log too
		w.killReplicator()
		return errors.Join(w.deleteLog(), w.startReplicator())
	case n < 6:
		w.killReplicator()
		return errors.Join(w.leaveWAL(), w.startReplicator())
	case n < 8:
		return w.replaceFile(ctx)
	case n < 9:
		return w.powerCut()
	case n < 10 && w.rng.IntN(3) == 0:
		w.killReplicator()
		return errors.Join(w.loseReplica(ctx), w.startReplicator())
	default:
		return w.restoreAndGoOn(ctx)
	}
}

// deleteLog checkpoints everything, leaves the log in place, and deletes it.
func (w *world) deleteLog() error {
	c, err := openApp(w.cfg.DB, "mode=rw&_busy_timeout=2000")
	if err != nil {
		return err
	}
	row, err := c.row("PRAGMA wal_checkpoint(FULL)")
	if err == nil {
		err = c.c.SetFileControlInt("main", sqlite3.SQLITE_FCNTL_PERSIST_WAL, 1)
	}
	if err = errors.Join(err, c.close()); err != nil {
		return err
	}
	complete := row[0].(int64) == 0 && row[1].(int64) == row[2].(int64)
	w.logf("checkpoint with the log left: %v", row)
	if !complete || w.rng.IntN(3) == 0 {
		return nil
	}
	w.logf("log deleted")
	err = errors.Join(os.Remove(w.cfg.DB+"-wal"), removeIf(w.cfg.DB+"-shm"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func removeIf(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// leaveWAL turns the database back to a rollback journal and writes to it.
func (w *world) leaveWAL() error {
	c, err := openWriter(w.cfg.DB, w.seed)
	if err != nil {
		return err
	}
	w.logf("rollback journal again")
	err = c.exec("PRAGMA journal_mode=delete")
	for range w.rng.IntN(3) {
		err = errors.Join(err, c.commit(w))
	}
	return errors.Join(err, c.close())
}

// lateUploads is how long a server may take to store what a process sent that
// was killed.
const lateUploads = 500 * time.Millisecond

// loseReplica empties the storage. What follows is a new history.
func (w *world) loseReplica(ctx context.Context) error {
	w.logf("replica lost")
	w.storage.Lock()
	defer w.storage.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.seen)
	w.marks, w.claimed, w.blind = nil, moment{}, nil
	if w.cfg.Server == nil {
		return os.RemoveAll(w.cfg.Replica)
	}
	client, err := w.cfg.storage()
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // half of a loss is none
	pause(ctx, lateUploads)
	return client.DeleteAll(ctx)
}

// replaceFile puts another database in the place of this one.
func (w *world) replaceFile(ctx context.Context) error {
	other := filepath.Join(w.dir, "other")
	epoch := w.nextEpoch()
	if err := w.makeDatabase(other, epoch); err != nil {
		return err
	}
	c, err := openWriter(other, w.seed)
	if err != nil {
		return err
	}
	m := moment{Epoch: epoch}
	w.try(m)
	for range w.rng.IntN(5) {
		err = errors.Join(err, c.commit(w))
	}
	if err = errors.Join(err, c.close()); err != nil {
		return err
	}
	from := w.position()
	if w.rng.IntN(2) == 0 {
		w.killReplicator()
	}
	if w.repl != nil {
		w.beginBlindness(from)
	}
	w.logf("file replaced, replicator up: %v", w.repl != nil)
	if w.rng.IntN(2) == 0 { // with a log of the old one beside it for a while
		err = os.Rename(other, w.cfg.DB)
		pause(ctx, between(w.rng, 0, 100*time.Millisecond))
	}
	err = errors.Join(err, removeIf(w.cfg.DB+"-wal"), removeIf(w.cfg.DB+"-shm"))
	if err == nil {
		err = ignoreMissing(os.Rename(other, w.cfg.DB))
	}
	w.ack(m)
	if err != nil {
		return err
	}
	if w.repl == nil {
		return w.startReplicator()
	}
	// What lay there between the removal of the log and the rename was no
	// database, and nobody can tell. It ends with a look at the new file.
	return w.endBlindness()
}

// position is the newest captured one, if the replicator lives.
func (w *world) position() ltx.TXID {
	if w.repl == nil {
		return 0
	}
	answer, err := w.repl.order("pos")
	if err != nil {
		return 0
	}
	var pos string
	if _, err := fmt.Sscan(answer, &pos); err != nil {
		return 0
	}
	txid, _ := ltx.ParseTXID(pos)
	return txid
}

// beginBlindness says that what is captured behind a position may be of no
// database at all; see errTolerated.
func (w *world) beginBlindness(from ltx.TXID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blind = append(w.blind, [2]ltx.TXID{from, openEnd})
}

// endBlindness waits until the replicator has taken what lies there now.
func (w *world) endBlindness() error {
	if err := w.order("faults 0 0 0 0"); err != nil {
		return err
	}
	var to ltx.TXID
	for range 5 {
		answer, err := w.repl.order("sync")
		w.logf("sync of the new file: %s %v", answer, err)
		if err == nil {
			if to, err = ltx.ParseTXID(answer); err != nil {
				return err
			}
			break
		}
	}
	if to == 0 {
		return errors.New("replicator does not take the replaced file")
	}
	w.mu.Lock()
	w.blind[len(w.blind)-1][1] = to - 1
	w.claimed = w.acked
	w.mu.Unlock()
	return nil
}

// restoreAndGoOn loses the database, restores it in its place, and goes on
// with the same replica.
func (w *world) restoreAndGoOn(ctx context.Context) error {
	if w.rng.IntN(2) == 0 {
		w.killReplicator()
	} else {
		w.closeReplicator()
	}
	want := wish{name: "disaster", output: w.cfg.DB, atLeast: w.claimedNow(), promised: true, ledger: w.rng.IntN(2) == 0}
	if txid, ok := w.pick(ctx, 1); ok && w.rng.IntN(3) == 0 {
		want.txid, want.atLeast, want.promised = txid, moment{}, false
	}
	if w.claimedNow() == (moment{}) {
		return w.startReplicator() // there may be nothing yet
	}
	if w.rng.IntN(3) == 0 {
		w.logf("metadata lost too")
		if err := os.RemoveAll(w.metaPath()); err != nil {
			return err
		}
	}
	if want.ledger {
		if err := os.MkdirAll(w.metaPath(), 0o700); err != nil {
			return err
		}
	}
	got, txid, err := w.restore(ctx, want)
	if err != nil {
		return errors.Join(w.broken(), w.startReplicator())
	}
	epoch := w.nextEpoch()
	w.logf("restored %s of %s in place, epoch %d begins", txid, got, epoch)
	w.fork(epoch, got)
	if want.txid == 0 && w.rng.IntN(4) == 0 { // it is looked at before anybody writes
		w.mu.Lock()
		w.putBack[got] = txid
		w.mu.Unlock()
		if err := w.startReplicator(); err != nil {
			return err
		}
		pause(ctx, 100*time.Millisecond)
	}
	if err := w.rebase(w.cfg.DB, moment{epoch, got.K}); err != nil {
		return err
	}
	if w.repl == nil {
		return w.startReplicator()
	}
	return nil
}

// rebase commits a database's step into another epoch.
func (w *world) rebase(path string, m moment) error {
	w.try(m)
	c, err := openApp(path, "mode=rw&_busy_timeout=2000")
	if err != nil {
		return err
	}
	if err := errors.Join(c.exec("UPDATE moment SET epoch = ?", int64(m.Epoch)), c.close()); err != nil {
		return err
	}
	w.ack(m)
	return nil
}

func (w *world) claimedNow() moment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.claimed
}

// pick returns a random position that the replica holds, of a level or one
// below, whose age is no reason for it to go away.
func (w *world) pick(ctx context.Context, level int) (ltx.TXID, bool) {
	level = int(w.seq.Add(1)) % (level + 1)
	client, err := w.cfg.storage()
	if err != nil {
		return 0, false
	}
	itr, err := client.LTXFiles(ctx, level, 0, false)
	if err != nil {
		return 0, false
	}
	defer itr.Close()
	var txids []ltx.TXID
	young := w.cfg.L0Retention
	if level > 0 {
		young = w.cfg.SnapshotRetention
	}
	for itr.Next() {
		if time.Now().Add(w.cfg.Skew).Sub(itr.Item().CreatedAt) < young {
			txids = append(txids, itr.Item().MaxTXID)
		}
	}
	if len(txids) == 0 {
		return 0, false
	}
	return txids[int(w.seq.Add(1)*7919)%len(txids)], true
}

// restoreAll restores what people restore, all the time.
func (w *world) restoreAll(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		pause(ctx, time.Duration(n*7%10)*time.Millisecond)
		w.restoreOne(ctx, n)
	}
}

func (w *world) restoreOne(ctx context.Context, n int) {
	w.storage.RLock()
	defer w.storage.RUnlock()
	want := wish{name: "latest", atLeast: w.claimedNow(), promised: w.claimedNow() != moment{}}
	switch n % 4 {
	case 1, 2:
		txid, ok := w.pick(ctx, n%4)
		if !ok {
			return
		}
		want = wish{name: "position", txid: txid, promised: true}
	case 3:
		m, ok := w.pickMark()
		if !ok {
			return
		}
		want = wish{name: "time", timestamp: m.at, atLeast: m.m, promised: true}
	}
	_, _, _ = w.restore(ctx, want) // it records a failure
}

func (w *world) pickMark() (mark, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now().Add(w.cfg.Skew)
	for len(w.marks) > 0 && now.Sub(w.marks[0].at) > w.cfg.L0Retention {
		w.marks = w.marks[1:]
	}
	if len(w.marks) == 0 {
		return mark{}, false
	}
	return w.marks[int(w.seq.Add(1))%len(w.marks)], true
}

// finish brings everything to rest and compares all there is.
func (w *world) finish(ctx context.Context) {
	w.endWriter()
	w.closeConns()
	if err := w.lastCommit(); err != nil {
		_ = w.fail("last commit: %v", err)
		return
	}
	if err := w.compareAtRest(ctx); err != nil {
		_ = w.fail("at rest: %v", err)
		return
	}
	w.closeReplicator()
	if _, _, err := w.restore(ctx, wish{name: "after close", atLeast: w.ackedNow(), promised: true}); err != nil {
		_ = w.fail("after close: %v", err)
	}
}

// lastCommit overwrites what a writer that was killed may have left behind
// the newest commit: a commit frame that never counted looks like one that did.
func (w *world) lastCommit() error {
	c, err := openWriter(w.cfg.DB, w.seed)
	if err != nil {
		return err
	}
	return errors.Join(c.commit(w), c.close())
}

// converge waits until the replicator brings the last commit to the replica by
// itself.
func (w *world) converge(ctx context.Context) error {
	want := w.ackedNow()
	var got moment
	for range 400 {
		var err error
		got, _, err = w.restore(ctx, wish{name: "converging", atLeast: w.claimedNow(), promised: w.claimedNow() != moment{}})
		if err == nil && got == want {
			w.logf("converged at %s", got)
			return nil
		}
		if err := w.broken(); err != nil {
			return err
		}
		pause(ctx, 50*time.Millisecond)
	}
	return fmt.Errorf("replica stays at %s, want %s", got, want)
}

func (w *world) compareAtRest(ctx context.Context) error {
	if w.repl == nil {
		if err := w.startReplicator(); err != nil {
			return err
		}
	}
	if err := w.order("faults 0 0 0 0"); err != nil {
		return err
	}
	if w.rng.IntN(2) == 0 {
		if err := w.converge(ctx); err != nil {
			return err
		}
	}
	for try := 0; ; try++ {
		answer, err := w.repl.order("sync")
		w.logf("last sync: %s %v", answer, err)
		if err == nil {
			break
		}
		if try == 20 {
			return err
		}
		pause(ctx, 50*time.Millisecond)
	}
	out := filepath.Join(w.dir, "last")
	if _, _, err := w.restore(ctx, wish{name: "last", atLeast: w.ackedNow(), promised: true, output: out}); err != nil {
		return err
	}
	if err := w.comparePages(out); err != nil {
		return err
	}
	for range 5 {
		snap := filepath.Join(w.dir, "snapshot")
		answer, err := w.repl.order("snapshot " + snap)
		w.logf("last snapshot: %s %v", answer, err)
		if _, ok := errors.AsType[refusal](err); ok {
			pause(ctx, 500*time.Millisecond)
			continue // it is busy settling
		} else if err != nil {
			return err
		}
		if err := w.checkSnapshot(snap, w.ackedNow()); err != nil {
			return err
		}
		return w.order("audit")
	}
	return errors.New("no snapshot of a database at rest")
}
