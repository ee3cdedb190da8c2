package litestream

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// A batch is what is made durable together: at most so many databases, and of so
// many bytes as are worth a request of their own. What follows is restored
// meanwhile.
const (
	fleetBatch      = 2048
	fleetBatchBytes = 64 << 20
)

// commitAll gives complete databases their names, until no more come. An error
// ends the run; databases that come later lose their temporary files.
func (r *FleetRestore) commitAll() error {
	devices := make(map[uint64]bool)
	var failed error
	for {
		batch := r.gather()
		if len(batch) == 0 {
			break
		}
		if failed == nil {
			if failed = r.commit(batch, devices); failed != nil {
				r.stop(failed)
			}
		}
		for _, p := range batch {
			r.conclude(p, failed)
		}
	}
	// The names of the last batch.
	if err := r.syncDevices(devices, nil); err != nil && failed == nil {
		failed = err
	}
	return failed
}

// gather waits for a complete database, and a moment for more. It returns none
// when there are no more.
func (r *FleetRestore) gather() (batch []*fleetPlaced) {
	p, ok := <-r.placed
	if !ok {
		return nil
	}
	batch = append(batch, p)
	size := p.row.Bytes
	t := time.NewTimer(r.opt.knobs.linger)
	defer t.Stop()
	for len(batch) < fleetBatch && size < fleetBatchBytes {
		select {
		case p, ok := <-r.placed:
			if !ok {
				return batch
			}
			batch = append(batch, p)
			size += p.row.Bytes
		case <-t.C:
			return batch
		}
	}
	return batch
}

// commit makes a batch durable: the content, then the lines of the journal, then
// the names. The names themselves are on the disk with the next batch.
func (r *FleetRestore) commit(batch []*fleetPlaced, devices map[uint64]bool) error {
	here := make(map[uint64]bool)
	lines := make([]fleetJournalLine, len(batch))
	for i, p := range batch {
		devices[p.dev], here[p.dev] = true, true
		lines[i] = fleetJournalLine{Path: p.e.Path, TXID: p.row.TXID.String(), At: p.row.Timestamp, Bytes: p.row.Bytes, SHA256: p.row.SHA256}
	}
	r.opt.knobs.step("sync")
	if err := r.syncDevices(here, batch); err != nil {
		return err
	}
	r.opt.knobs.step("journal")
	if err := r.journal.append(lines...); err != nil {
		return err
	}
	if r.opt.Existing == FleetRestoreReplace {
		if err := r.removeOld(batch); err != nil {
			return err
		}
	}
	r.opt.knobs.step("rename")
	for _, p := range batch {
		p.err = r.rename(p)
		r.opt.knobs.step("renamed")
	}
	return nil
}

// syncDevices makes durable what was written on file systems.
func (r *FleetRestore) syncDevices(devices map[uint64]bool, batch []*fleetPlaced) error {
	for dev := range devices {
		if err := syncFleet(r.tree.device(dev), batch, r.tree); err != nil {
			return err
		}
	}
	return nil
}

// removeOld deletes what SQLite left beside databases that are replaced. That is
// on the disk before the new database has the name: a crash must not leave it
// with the old log.
func (r *FleetRestore) removeOld(batch []*fleetPlaced) error {
	here := make(map[uint64]bool)
	for _, p := range batch {
		folder, err := r.tree.open(p.dir)
		if err != nil {
			p.err = err
			continue
		}
		for _, suffix := range sidecarSuffixes {
			err := folder.remove(p.base + suffix)
			if err == nil {
				here[p.dev] = true
			} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENAMETOOLONG) {
				p.err = fmt.Errorf("remove old sidecar: %w", err)
			}
		}
		folder.release()
	}
	return r.syncDevices(here, nil)
}

// rename gives a database its name. What stands there is looked at once more: an
// application may have begun anew meanwhile.
func (r *FleetRestore) rename(p *fleetPlaced) error {
	if p.err != nil {
		return p.err
	}
	folder, err := r.tree.open(p.dir)
	if err != nil {
		return err
	}
	defer folder.release()
	replace := r.opt.Existing == FleetRestoreReplace
	if !replace {
		if err := r.checkSidecars(folder, p.base); err != nil {
			return err
		}
		// An empty file is nothing, as for a single restore.
		if st, err := folder.stat(p.base); err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Size == 0 {
			replace = true
		}
	}
	err = folder.rename(p.temp, p.base, replace)
	if errors.Is(err, fs.ErrExist) {
		return fleetExistsError{fmt.Errorf("%w: %s appeared while it was restored", ErrOutputExists, folder.name(p.base))}
	} else if err != nil {
		return outputError("rename", err)
	}
	p.temp = ""
	return syncNames(folder.f)
}

// conclude reports a database of a batch.
func (r *FleetRestore) conclude(p *fleetPlaced, failed error) {
	p.release()
	if p.temp == "" && p.err == nil {
		p.row.Status = FleetRestored
		r.note(p.row)
		return
	}
	_, exists := errors.AsType[fleetExistsError](p.err)
	switch {
	case p.err == nil:
		p.row.Err, p.row.Status = failed, FleetRestoreLeft
	case exists && r.opt.Existing == FleetRestoreSkip:
		p.row.Err, p.row.Status = p.err, FleetRestoreSkipped
	case errors.Is(p.err, ErrOutputExists):
		p.row.Err, p.row.Status = p.err, FleetRestoreRefused
	default:
		p.row.Err, p.row.Status = p.err, FleetRestoreFailed
	}
	if p.temp != "" {
		r.removeTemp(p)
	}
	r.note(p.row)
}

func (r *FleetRestore) removeTemp(p *fleetPlaced) {
	folder, err := r.tree.open(p.dir)
	if err == nil {
		err = folder.remove(p.temp)
		folder.release()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.opt.Logger.Warn("remove unfinished database", "error", err)
	}
}
