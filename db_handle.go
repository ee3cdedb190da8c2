package litestream

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/litestream/internal/osfile"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// dbHandle owns everything that this process holds open of one database file:
// the raw descriptor, opened first and closed last, and the connection that
// pins it. The order matters: closing any descriptor of the file drops all
// POSIX locks of this process on it, the connection's included. It is not safe
// for concurrent use.
type dbHandle struct {
	path string
	id   wal.FileID
	main *os.File
	conn *sqliteConn // nil unless connected
	// pinned says that conn holds a read transaction.
	pinned bool
	// hold releases SQLite's SHARED lock, held by the raw descriptor as well as by
	// conn: see holdShared. Nil unless the log's index is open.
	hold func() error
	// sealed says that the pin was retaken under the write lock, behind a
	// complete checkpoint with everything captured: see wal.Source.Pinned.
	sealed bool
	// log and index are the -wal and -shm that the connection has open.
	log, index wal.FileID
	// pool may keep a connection over a tenant's file between two looks.
	pool *ConnectionPool
	// lease is a connection of the pool with a read transaction; nil unless a
	// tenant is pinned.
	lease *PooledConn
}

// openHandle opens the raw descriptor only, which creates nothing and takes no
// lock.
func openHandle(path string) (*dbHandle, error) {
	if !parked.any() {
		// Nothing to look for.
	} else if st, err := sqlitefile.Stat(path); err == nil {
		if f := parked.take(st.ID); f != nil {
			return &dbHandle{path: path, id: st.ID, main: f}, nil
		}
	}
	f, err := osfile.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	p, err := sqlitefile.StatFile(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("stat database: %w", err), f.Close())
	}
	return &dbHandle{path: path, id: p.ID, main: f}, nil
}

// connect opens the connection and converts a rollback-journal database to a
// write-ahead log, as Litestream v0.5 does.
func (h *dbHandle) connect(busyTimeout time.Duration) (err error) {
	if h.conn != nil {
		return nil
	}
	hdr, err := sqlitefile.ReadHeader(h.main)
	if err != nil {
		return err
	}
	conn, err := openSQLite(h.path, busyTimeout)
	if err != nil {
		return err
	}
	if !hdr.WAL {
		if err := convertToWAL(conn); err != nil {
			return errors.Join(err, conn.close())
		}
	}
	h.conn = conn
	return nil
}

func convertToWAL(conn *sqliteConn) error {
	row, err := conn.row("PRAGMA journal_mode=wal")
	if err != nil {
		return err
	}
	if len(row) == 0 || !strings.EqualFold(fmt.Sprint(row[0]), "wal") {
		return fmt.Errorf("convert to write-ahead log: sqlite answers journal mode %v", row)
	}
	return nil
}

// pin takes a read transaction, which nobody's checkpoint passes and which
// keeps the log from being restarted.
func (h *dbHandle) pin() error {
	if h.pinned {
		return nil
	}
	if err := h.conn.exec("BEGIN"); err != nil {
		return err
	}
	// The transaction begins with the first read.
	if _, err := h.conn.row("SELECT 1 FROM sqlite_schema LIMIT 1"); err != nil {
		return errors.Join(err, h.conn.exec("ROLLBACK"))
	}
	h.pinned = true
	if h.log == (wal.FileID{}) {
		h.log, h.index = sidecars(h.path)
	}
	return h.holdShared()
}

// holdShared lets the raw descriptor hold the SHARED lock too, for as long as
// the connection has the log's index open. The connection's own lock goes with
// the first descriptor of the file that this process closes, which is what the
// kernel does first when the process is killed; its locks on the index go
// later. Who got the main file to himself in between, left it, and was followed
// by a third, would leave that one with an index of another log: see
// docs/decisions/0006. A lock of a descriptor goes after all of those.
func (h *dbHandle) holdShared() (err error) {
	if h.hold == nil {
		h.hold, err = sqlitefile.HoldShared(h.main)
	}
	return err
}

// dropShared ends holdShared.
func (h *dbHandle) dropShared() error {
	if h.hold == nil {
		return nil
	}
	release := h.hold
	h.hold = nil
	return release()
}

// sidecars returns what lies beside a database; zero is nothing.
func sidecars(path string) (log, index wal.FileID) {
	if p, err := sqlitefile.Stat(sqlitefile.WALPath(path)); err == nil {
		log = p.ID
	}
	if p, err := sqlitefile.Stat(sqlitefile.SHMPath(path)); err == nil {
		index = p.ID
	}
	return log, index
}

// orphaned reports whether somebody removed the log or its index under our
// connection, as who puts another file in place of the database does. Whatever
// that connection writes would destroy what lies there now.
func (h *dbHandle) orphaned() bool {
	if h == nil || h.conn == nil || !h.pinned && h.log == (wal.FileID{}) {
		return false
	}
	log, index := sidecars(h.path)
	return log == (wal.FileID{}) || log != h.log || index != h.index
}

// closeConn closes the connection. SQLite moves the log into the database when
// the last one closes; an orphaned one is kept from that.
func (h *dbHandle) closeConn() error {
	if h.orphaned() {
		if err := h.holdShared(); err != nil {
			return err
		}
		return errors.Join(h.conn.close(), h.dropShared())
	}
	return errors.Join(h.dropShared(), h.conn.close())
}

// unpin ends the read transaction.
func (h *dbHandle) unpin() error {
	if !h.pinned {
		return nil
	}
	h.pinned, h.sealed = false, false
	return h.conn.exec("ROLLBACK")
}

// close releases everything. With keepWAL the log stays even if this was the
// last connection; without, SQLite cleans up as it would have done for the
// application. It may be called on nil.
func (h *dbHandle) close(keepWAL bool) error {
	if h == nil {
		return nil
	}
	err := h.dropLease()
	h.pool.Discard(h.id)
	if h.conn != nil {
		err = errors.Join(err, h.unpin())
		if keepWAL {
			err = errors.Join(err, h.conn.persistWAL())
		}
		err = errors.Join(err, h.closeConn())
		h.conn = nil
	}
	if inUse, ierr := sqlitefile.InUse(h.main); inUse || ierr != nil {
		parked.put(h.id, h.main)
		return errors.Join(err, ierr)
	}
	return errors.Join(err, h.main.Close())
}

// parkedFiles are raw descriptors that could not be closed, because somebody
// else in this process, such as the program that embeds this package, has the
// database open and may hold locks on it. Locks belong to the process, so they
// are kept for the whole of it, and used again when that database is opened.
// It is safe for concurrent use.
type parkedFiles struct {
	mu    sync.Mutex // guards files; never held across I/O
	files map[wal.FileID][]*os.File
}

var parked = parkedFiles{files: make(map[wal.FileID][]*os.File)}

func (p *parkedFiles) put(id wal.FileID, f *os.File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.files[id] = append(p.files[id], f)
}

// any reports whether there is a descriptor of any file.
func (p *parkedFiles) any() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.files) > 0
}

// take returns a descriptor of an inode, or nil. While it is parked the inode
// is not freed, so that its number cannot belong to another file.
func (p *parkedFiles) take(id wal.FileID) *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.files[id]
	if len(a) == 0 {
		return nil
	}
	f := a[len(a)-1]
	if p.files[id] = a[:len(a)-1]; len(a) == 1 {
		delete(p.files, id)
	}
	return f
}
