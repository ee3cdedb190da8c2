package metamorphic

import (
	"bytes"
	"errors"
	"os"
)

// powerCut loses what was written to the log last: any part of it since the
// last checkpoint, which is what an application may lose that does not sync
// each commit. The replicator may have captured what is lost.
func (w *world) powerCut() error {
	from := w.position()
	c, err := openWriter(w.cfg.DB, w.seed)
	if err != nil {
		return err
	}
	err = c.exec("PRAGMA wal_autocheckpoint=0; PRAGMA busy_timeout=200; PRAGMA journal_mode=wal")
	var row []any
	if err == nil {
		vals, cerr := c.row("PRAGMA wal_checkpoint(RESTART)")
		err = cerr
		for _, v := range vals {
			row = append(row, v)
		}
	}
	if isBusy(err) {
		return c.close()
	} else if err != nil {
		return errors.Join(err, c.close())
	}
	before, err := os.ReadFile(w.cfg.DB) // drops c's locks, which nobody needs here
	if err != nil {
		return errors.Join(err, c.close())
	}
	for range 1 + w.rng.IntN(8) {
		if err := c.commit(w); err != nil && !isBusy(err) {
			return errors.Join(err, c.close())
		}
		if w.repl != nil && w.rng.IntN(4) == 0 {
			answer, err := w.repl.order("sync")
			w.logf("sync before the power cut: %s %v", answer, err)
			if _, ok := errors.AsType[refusal](err); err != nil && !ok {
				return errors.Join(err, c.close())
			}
		}
	}
	if w.rng.IntN(2) == 0 {
		w.closeReplicator() // it writes down where it stands
	}
	w.killReplicator()
	main, err := os.ReadFile(w.cfg.DB)
	log, lerr := os.ReadFile(w.cfg.DB + "-wal")
	if err := errors.Join(err, lerr, c.close()); err != nil {
		return err
	}
	if row[0] == int64(0) && bytes.Equal(before, main) {
		log = w.damage(log)
	}
	// In place: a power cut changes no inode.
	err = errors.Join(os.WriteFile(w.cfg.DB, main, 0o600), os.WriteFile(w.cfg.DB+"-wal", log, 0o600), removeIf(w.cfg.DB+"-shm"))
	w.cfg.Boot++
	w.logf("power cut: checkpoint %v, log of %d bytes, boot %d", row, len(log), w.cfg.Boot)
	if err != nil {
		return err
	}
	early := w.rng.IntN(2) == 0 // it sees an older moment of this epoch
	if early {
		w.beginBlindness(from)
		if err := w.startReplicator(); err != nil {
			return err
		}
	}
	if err := w.forkAfterLoss(); err != nil {
		return err
	}
	if early {
		return w.endBlindness()
	}
	return w.startReplicator()
}

// damage brings back a log of which some blocks never reached the disk.
func (w *world) damage(log []byte) []byte {
	if len(log) < 1024 {
		return log
	}
	switch w.rng.IntN(4) {
	case 0:
		return log[:w.rng.IntN(len(log))]
	case 1:
		block := w.rng.IntN(len(log) / 512)
		clear(log[block*512 : block*512+512])
		return log
	case 2:
		for block := range len(log) / 512 {
			if w.rng.IntN(8) == 0 {
				clear(log[block*512 : block*512+512])
			}
		}
		return log
	default:
		return nil
	}
}

// forkAfterLoss begins the epoch of what is left.
func (w *world) forkAfterLoss() error {
	c, err := openWriter(w.cfg.DB, w.seed)
	if err != nil {
		return err
	}
	got, err := w.inspectConn(c)
	if err != nil {
		return errors.Join(err, c.close())
	}
	epoch := w.nextEpoch()
	w.fork(epoch, got)
	m := moment{epoch, got.K}
	w.try(m)
	if err := errors.Join(c.exec("UPDATE moment SET epoch = ?", int64(epoch)), c.close()); err != nil {
		return err
	}
	w.ack(m)
	w.logf("%s is left, epoch %d begins", got, epoch)
	return nil
}
