package litestream

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// MaxPooledConnections is the ceiling of a ConnectionPool.
const MaxPooledConnections = 1000

// What one connection to a database with a write-ahead log costs: its main
// file, log and index, and our own descriptor of the main file, which is open
// for as long as the connection is.
const (
	pooledDescriptors = 4
	pooledBytes       = 184 << 10
)

// ErrConnectionWait means that no SQLite connection became free in time.
var ErrConnectionWait = errors.New("no SQLite connection became free in time")

// ConnectionPoolOptions are the limits of a ConnectionPool. The smallest one
// counts.
type ConnectionPoolOptions struct {
	MaxConnections int           // 0, or more than MaxPooledConnections: that
	MaxDescriptors int           // 0 is no limit; four of each connection
	MaxBytes       int64         // of memory; 0 is no limit
	IdleTimeout    time.Duration // of connections that are kept; 0: DefaultConnectionIdleTimeout
}

// A ConnectionPool bounds the SQLite connections over the databases of a
// fleet. There is one per database file at a time, found by its inode. They
// never write: they are there for the read transaction that holds a database
// still. It starts no goroutine; its owner calls Sweep now and then. It is
// safe for concurrent use.
type ConnectionPool struct {
	capacity    int
	idleTimeout time.Duration

	mu      sync.Mutex // guards the rest; never held across I/O
	closed  bool
	used    int // places that are taken, by connections or while one is opened or closed
	entries map[wal.FileID]*PooledConn
	idle    *list.List // of *PooledConn; the one that was used last is in front
	waiters *list.List // of chan struct{}, closed when its place is handed over
	stats   ConnectionPoolStats
	// closeErrs are of connections that were closed for somebody else.
	closeErrs []error
}

// ConnectionPoolStats says how a ConnectionPool is used. Open, InUse and
// Waiting are as of now, the rest counts from the start.
type ConnectionPoolStats struct {
	Capacity    int
	Open        int // in use or kept
	InUse       int
	Waiting     int
	Opened      uint64
	Waits       uint64 // that found no place free
	WaitTime    time.Duration
	Timeouts    uint64 // waits that ended without a connection
	Evictions   uint64 // of kept connections, for somebody who waited
	Expired     uint64 // kept connections that nobody used for the idle timeout
	Held        uint64 // databases that a connection was kept open over, because diffs of them are dear
	Pinned      uint64 // read transactions that were held longer than one look, for the same reason
	Checkpoints uint64 // PASSIVE ones that were issued
	Leftovers   uint64 // files that lay beside a database after a connection was closed, with nobody else there
}

// NewConnectionPool returns an empty pool.
func NewConnectionPool(opt ConnectionPoolOptions) *ConnectionPool {
	n := opt.MaxConnections
	if n <= 0 || n > MaxPooledConnections {
		n = MaxPooledConnections
	}
	if opt.MaxDescriptors > 0 {
		n = min(n, opt.MaxDescriptors/pooledDescriptors)
	}
	if opt.MaxBytes > 0 {
		n = int(min(int64(n), opt.MaxBytes/pooledBytes))
	}
	if opt.IdleTimeout <= 0 {
		opt.IdleTimeout = DefaultConnectionIdleTimeout
	}
	return &ConnectionPool{
		capacity:    max(1, n),
		idleTimeout: opt.IdleTimeout,
		entries:     make(map[wal.FileID]*PooledConn),
		idle:        list.New(),
		waiters:     list.New(),
	}
}

// A PooledConn is one SQLite connection of a ConnectionPool, in the hands of
// whoever acquired it. It is not safe for concurrent use.
type PooledConn struct {
	pool     *ConnectionPool
	id       wal.FileID
	path     string
	main     *os.File // of the request
	readOnly bool
	conn     *sqliteConn
	// hold releases the SHARED lock that main holds as well as conn: see
	// dbHandle.holdShared.
	hold func() error
	// log and index are the -wal and -shm that conn has open.
	log, index wal.FileID

	// Guarded by the pool.
	elem  *list.Element // in idle; nil while in use, opened or closed
	kept  time.Time     // when it was put there
	ready chan struct{} // closed when the entry is free or gone
}

// ConnectionRequest says what to connect to.
type ConnectionRequest struct {
	Path string
	// Main is the file, of that inode. The caller holds it open from before
	// the connection is opened until after it is closed: closing a descriptor
	// of the file drops SQLite's locks.
	Main        *os.File
	Inode       wal.FileID
	BusyTimeout time.Duration
	// ReadOnly is for a file that must not be written. Such a connection is
	// closed on release, because SQLite cannot clean up behind it.
	ReadOnly bool

	// guard takes the SHARED lock for Main, which keeps the files beside the
	// database from being removed until the connection is closed; nil is
	// sqlitefile.HoldShared.
	guard func() (release func() error, err error)
}

// Acquire returns a connection for the caller alone: the one that is kept for
// that inode, or a new one. If the pool is full it closes the kept one that
// was used least recently, or waits until ctx is done; the error wraps
// ErrConnectionWait then. The caller has to Release it.
func (p *ConnectionPool) Acquire(ctx context.Context, req ConnectionRequest) (*PooledConn, error) {
	c, err := p.reserve(ctx, req.Inode)
	if err != nil {
		return nil, err
	}
	if c.conn != nil {
		if !c.orphaned() {
			return c, nil
		}
		err = c.close()
	}
	if err == nil {
		err = c.open(req)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.removeLocked(c)
		p.giveBackLocked()
		return nil, err
	}
	p.stats.Opened++
	return c, nil
}

// open opens a connection that changes no data. Unless it is read-only it
// cleans up, as the application's would, if it is the last to close.
func (c *PooledConn) open(req ConnectionRequest) error {
	c.path, c.main, c.readOnly = req.Path, req.Main, req.ReadOnly
	guard := req.guard
	if guard == nil {
		guard = func() (func() error, error) { return sqlitefile.HoldShared(req.Main) }
	}
	hold, err := guard()
	if err != nil {
		return errors.Join(err, c.cleanUp())
	}
	conn, err := c.dial(req.BusyTimeout)
	if conn == nil {
		return errors.Join(err, hold(), c.cleanUp())
	}
	c.conn, c.hold = conn, hold
	c.log, c.index = sidecars(req.Path)
	if err = conn.exec("PRAGMA query_only=1"); err != nil {
		return errors.Join(err, c.close())
	}
	return nil
}

// dial opens a connection, with the log and its index.
func (c *PooledConn) dial(busyTimeout time.Duration) (*sqliteConn, error) {
	mode := "rw"
	if c.readOnly {
		mode = "ro"
	}
	conn, err := openSQLiteMode(c.path, mode, busyTimeout)
	if err != nil {
		return nil, err
	}
	if _, err := conn.row("PRAGMA schema_version"); err != nil { // a first read
		return nil, errors.Join(err, conn.close())
	}
	return conn, nil
}

// begin takes a read transaction.
func (c *PooledConn) begin() error {
	if err := c.conn.exec("BEGIN"); err != nil {
		return err
	}
	// The transaction begins with the first read.
	if _, err := c.conn.row("SELECT 1 FROM sqlite_schema LIMIT 1"); err != nil {
		return errors.Join(err, c.conn.exec("ROLLBACK"))
	}
	return nil
}

// close closes the connection. If the files that it has open do not lie beside
// the database any more, it must not take itself for the last one: it would
// delete what lies there now.
func (c *PooledConn) close() error {
	conn, hold := c.conn, c.hold
	c.conn, c.hold = nil, nil
	if c.orphaned() {
		return errors.Join(conn.close(), hold())
	}
	return errors.Join(hold(), conn.close(), c.cleanUp())
}

// cleanUp removes the log and its index, in SQLite's own way, where they lie
// beside the database with nobody using it. That happens if the application's
// last connection closes in the same moment as ours: each takes the other for
// one that stays.
func (c *PooledConn) cleanUp() error {
	const tries = 3
	for range tries {
		if !c.left() {
			return nil
		}
		if c.readOnly {
			break
		}
		if err := c.reopen(); err != nil {
			return fmt.Errorf("clean up: %w", err)
		}
	}
	if c.left() {
		c.pool.count(func(s *ConnectionPoolStats) { s.Leftovers++ })
	}
	return nil
}

// reopen opens a connection and closes it, as the last one.
func (c *PooledConn) reopen() error {
	release, ok, err := sqlitefile.TryShared(c.main)
	if err != nil || !ok {
		return err
	}
	if at, err := sqlitefile.Stat(c.path); err != nil || at.ID != c.id || !exists(sqlitefile.SHMPath(c.path)) {
		return release()
	}
	conn, err := c.dial(0)
	if rerr := release(); err != nil {
		return rerr // somebody came, who will clean up
	} else if rerr != nil {
		return errors.Join(rerr, conn.close())
	}
	return conn.close()
}

// orphaned reports whether somebody replaced the database, its log or the
// log's index under the connection.
func (c *PooledConn) orphaned() bool {
	if at, err := sqlitefile.Stat(c.path); err != nil || at.ID != c.id {
		return true
	}
	log, index := sidecars(c.path)
	return log != c.log || index != c.index
}

// left reports whether the log's index lies there with nobody using it.
func (c *PooledConn) left() bool {
	if !exists(sqlitefile.SHMPath(c.path)) {
		return false
	}
	locked, err := sqlitefile.Locked(c.main)
	return err == nil && !locked
}

// reserve returns the kept connection of an inode, or a place for a new one.
func (p *ConnectionPool) reserve(ctx context.Context, id wal.FileID) (*PooledConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed {
			return nil, fmt.Errorf("connection pool: %w", os.ErrClosed)
		}
		c := p.entries[id]
		if c == nil {
			break
		}
		if c.elem != nil {
			p.takeLocked(c)
			return c, nil
		}
		if err := p.waitLocked(ctx, c.ready); err != nil {
			return nil, err
		}
	}
	c := &PooledConn{pool: p, id: id, ready: make(chan struct{})}
	p.entries[id] = c
	if err := p.placeLocked(ctx); err != nil {
		p.removeLocked(c)
		return nil, err
	}
	return c, nil
}

// placeLocked takes a place: a free one, that of a kept connection, or the
// next one that is given back.
func (p *ConnectionPool) placeLocked(ctx context.Context) error {
	if p.used < p.capacity {
		p.used++
		return nil
	}
	if last := p.idle.Back(); last != nil {
		c := last.Value.(*PooledConn)
		p.takeLocked(c)
		p.stats.Evictions++
		p.closeConnLocked(c) // its place is ours now
		return nil
	}
	place := make(chan struct{})
	elem := p.waiters.PushBack(place)
	err := p.waitLocked(ctx, place)
	if err == nil {
		return nil
	}
	select {
	case <-place: // handed over in the same moment
		p.giveBackLocked()
	default:
		p.waiters.Remove(elem)
	}
	return err
}

// waitLocked waits for a channel to be closed.
func (p *ConnectionPool) waitLocked(ctx context.Context, ch <-chan struct{}) error {
	start := time.Now()
	p.stats.Waits++
	p.stats.Waiting++
	p.mu.Unlock()
	var err error
	select {
	case <-ch:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", ErrConnectionWait, context.Cause(ctx))
	}
	p.mu.Lock()
	p.stats.Waiting--
	p.stats.WaitTime += time.Since(start)
	if err != nil {
		p.stats.Timeouts++
	}
	return err
}

// takeLocked takes a kept connection for use, or to be closed.
func (p *ConnectionPool) takeLocked(c *PooledConn) {
	p.idle.Remove(c.elem)
	c.elem, c.ready = nil, make(chan struct{})
}

// removeLocked forgets an entry without a connection.
func (p *ConnectionPool) removeLocked(c *PooledConn) {
	delete(p.entries, c.id)
	close(c.ready)
}

// giveBackLocked hands a place to who waits longest.
func (p *ConnectionPool) giveBackLocked() {
	if first := p.waiters.Front(); first != nil {
		close(p.waiters.Remove(first).(chan struct{}))
		return
	}
	p.used--
}

// closeConnLocked closes a connection that was taken, without the lock
// meanwhile. Its place stays taken. What goes wrong is told by Sweep, because
// the one who needs the place is not concerned.
func (p *ConnectionPool) closeConnLocked(c *PooledConn) {
	p.mu.Unlock()
	err := c.close()
	p.mu.Lock()
	if err != nil {
		p.closeErrs = append(p.closeErrs, err)
	}
	p.removeLocked(c)
}

// Release ends the use of a connection. With keep it stays open for the idle
// timeout, unless its place is wanted by somebody else; whoever asks for that
// calls Discard before closing its own descriptor of the file. c is not to be
// used afterwards.
func (c *PooledConn) Release(keep bool) error {
	p := c.pool
	p.mu.Lock()
	if keep && !c.readOnly && !p.closed && p.waiters.Len() == 0 {
		c.kept, c.elem = time.Now(), p.idle.PushFront(c)
		close(c.ready)
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	err := c.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.removeLocked(c)
	p.giveBackLocked()
	return err
}

// Discard closes the kept connection of an inode, if there is one, and waits
// for one that is being closed. The caller must not hold it. Nil keeps nothing.
func (p *ConnectionPool) Discard(id wal.FileID) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		c := p.entries[id]
		if c == nil {
			return
		}
		if c.elem != nil {
			p.takeLocked(c)
			p.closeConnLocked(c)
			p.giveBackLocked()
			return
		}
		ready := c.ready
		p.mu.Unlock()
		<-ready
		p.mu.Lock()
	}
}

// Sweep closes the kept connections that nobody used for the idle timeout. It
// returns what went wrong with any that was closed since the last time; the
// rest are not affected.
func (p *ConnectionPool) Sweep(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for last := p.idle.Back(); last != nil; last = p.idle.Back() {
		c := last.Value.(*PooledConn)
		if !p.closed && now.Sub(c.kept) < p.idleTimeout {
			break
		}
		p.takeLocked(c)
		p.stats.Expired++
		p.closeConnLocked(c)
		p.giveBackLocked()
	}
	err := errors.Join(p.closeErrs...)
	p.closeErrs = nil
	return err
}

// Close closes the kept connections, and from then on every one that is
// released. It may be called twice.
func (p *ConnectionPool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	return p.Sweep(time.Now())
}

// Stats returns how the pool is used.
func (p *ConnectionPool) Stats() ConnectionPoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Capacity, s.Open, s.InUse = p.capacity, p.used, p.used-p.idle.Len()
	return s
}

// count changes the statistics of what the users of the pool do.
func (p *ConnectionPool) count(fn func(*ConnectionPoolStats)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(&p.stats)
}
