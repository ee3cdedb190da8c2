package litestream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// Bounds of one wait for the readers of a followed database. While it lasts,
// no reader can begin.
const (
	followBusyMin = 100 * time.Millisecond
	followBusyMax = 2 * time.Second
)

// followDB is a followed database. Each change of it is one transaction in the
// eyes of SQLite: under its exclusive lock, with its rollback journal. The
// lock belongs to a connection, so that connections of this process are kept
// out like any other.
type followDB struct {
	output string // as the user gave it
	f      *os.File
	conn   *sqliteConn // closed before f, whose close drops its locks
	mark   followMark
	seen   os.FileInfo // of f when mark was last found true
	busy   time.Duration
	step   func(name string) error // tests only; nil otherwise
}

// modifiedError says that a followed database is not what we left.
func modifiedError(output string, at ltx.TXID, what string) error {
	return fmt.Errorf("%w: %s is not as it was left at txid %s: %s (nothing was changed; keep a copy if you need what was written, then delete %s and %s to follow anew)",
		ErrFollowModified, output, at, what, output, output+followTXIDSuffix)
}

// openFollowDB opens a database for following. Before it is used, locate has
// to say where it stands.
func openFollowDB(opt *RestoreOptions) (_ *followDB, err error) {
	d := &followDB{output: opt.OutputPath, busy: followBusyMin, step: opt.knobs.followStep}
	if d.step == nil {
		d.step = func(string) error { return nil }
	}
	// SQLite puts its journal beside the file, not beside a link to it.
	path, err := filepath.EvalSymlinks(d.output)
	if err != nil {
		return nil, fmt.Errorf("find followed database: %w", err)
	}
	if d.mark.txid, err = readFollowTXID(d.output); err != nil {
		return nil, err
	}
	if err := d.checkLog(path); err != nil {
		return nil, err
	}
	if d.f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
		return nil, fmt.Errorf("open followed database: %w", err)
	}
	if d.conn, err = openSQLite(path, d.busy); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// locate finds the position of the database, after SQLite has rolled back what
// a crash or a failed step left.
func (d *followDB) locate() error {
	saved, err := readFollowTXID(d.output)
	if err != nil {
		return err
	}
	st, err := readFollowState(d.output)
	if err != nil {
		return err
	}
	if err := d.checkPlace(); err != nil {
		return err
	}
	if err := d.lock(); err != nil {
		return err
	}
	header, hdr, err := readDatabaseHeader(d.f)
	if err == nil {
		d.mark, err = locateFollow(d.output, saved, st, header)
	}
	if err := errors.Join(err, d.unlock()); err != nil {
		return err
	}
	if hdr.WAL {
		if err := d.leaveWAL(); err != nil {
			return err
		}
	}
	if d.mark.txid == saved {
		return nil
	}
	return writeFollowTXID(d.output, d.mark.txid)
}

// leaveWAL makes readers use rollback mode. Litestream v0.5 leaves a database
// in WAL mode until the first update of page 1.
func (d *followDB) leaveWAL() error {
	row, err := d.conn.row("PRAGMA journal_mode=delete")
	if err != nil {
		return err
	}
	header, hdr, err := readDatabaseHeader(d.f)
	if err != nil {
		return err
	}
	if hdr.WAL {
		return fmt.Errorf("%w: it has to leave write-ahead mode first (%v)", ErrDatabaseLocked, row)
	}
	d.mark.counter = header.counter()
	return nil
}

// lock takes SQLite's exclusive lock. Each time that readers are in the way,
// the next call waits longer for them.
func (d *followDB) lock() error {
	if err := d.conn.exec(fmt.Sprintf("PRAGMA busy_timeout=%d", d.busy.Milliseconds())); err != nil {
		return err
	}
	if err := d.conn.exec("BEGIN EXCLUSIVE"); err != nil {
		if errors.Is(err, ErrDatabaseLocked) {
			d.busy = min(2*d.busy, followBusyMax)
		}
		return err
	}
	d.busy = followBusyMin
	return nil
}

func (d *followDB) unlock() error { return d.conn.exec("ROLLBACK") }

// close ends the following. It drops the exclusive lock if it is held.
func (d *followDB) close() error {
	var err error
	if d.conn != nil {
		err = d.conn.close()
	}
	return errors.Join(err, d.f.Close())
}

// glance looks from outside for a program that wrote to the database. It costs
// a few stats while nothing happens.
func (d *followDB) glance() error {
	if err := d.checkPlace(); err != nil {
		return err
	}
	info, err := d.f.Stat()
	if err != nil {
		return fmt.Errorf("stat followed database: %w", err)
	}
	if d.seen != nil && info.Size() == d.seen.Size() && info.ModTime().Equal(d.seen.ModTime()) {
		return nil
	}
	if err := d.lock(); err != nil {
		return err
	}
	err = d.checkContent()
	return errors.Join(err, d.unlock())
}

// checkLog refuses a write-ahead log: only a writer leaves one that is not
// empty.
func (d *followDB) checkLog(path string) error {
	log := sqlitefile.WALPath(path)
	info, err := os.Stat(log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("stat log of followed database: %w", err)
	}
	if info.Size() > 0 {
		return modifiedError(d.output, d.mark.txid, fmt.Sprintf("a program wrote to its log %s", log))
	}
	return nil
}

// checkPlace refuses a database that is not the file under its name any more.
func (d *followDB) checkPlace() error {
	if err := d.checkLog(d.f.Name()); err != nil {
		return err
	}
	same, err := sameFile(d.f, d.f.Name())
	if err != nil {
		return fmt.Errorf("find followed database: %w", err)
	}
	if !same {
		return modifiedError(d.output, d.mark.txid, "the file was deleted, renamed or replaced")
	}
	return nil
}

// checkContent refuses a database that somebody wrote to. The caller holds the
// exclusive lock.
func (d *followDB) checkContent() error {
	header, hdr, err := readDatabaseHeader(d.f)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFollowModified, err)
	}
	switch {
	case header.counter() != d.mark.counter:
		return modifiedError(d.output, d.mark.txid, fmt.Sprintf("another program wrote to it, its change counter is %d, not %d", header.counter(), d.mark.counter))
	case hdr.WAL:
		return modifiedError(d.output, d.mark.txid, "its header says write-ahead log")
	}
	if d.seen, err = d.f.Stat(); err != nil {
		return fmt.Errorf("stat followed database: %w", err)
	}
	return nil
}
