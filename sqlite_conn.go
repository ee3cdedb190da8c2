package litestream

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"time"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// sqliteConn is one driver connection. database/sql is not used, because each
// *sql.DB costs a goroutine. It is not safe for concurrent use.
type sqliteConn struct {
	c *sqlite3.SQLiteConn
}

// openSQLite opens a database that exists. It never checkpoints by itself and
// keeps a small page cache: it is there for its locks, not for its reads.
func openSQLite(path string, busyTimeout time.Duration) (*sqliteConn, error) {
	return openSQLiteMode(path, "rw", busyTimeout)
}

// openSQLiteMode is openSQLite with one of the modes of SQLite's URIs.
func openSQLiteMode(path, mode string, busyTimeout time.Duration) (*sqliteConn, error) {
	dsn := sqlitefile.URI(path, fmt.Sprintf("mode=%s&_busy_timeout=%d", mode, busyTimeout.Milliseconds()))
	c, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, fmt.Errorf("open connection: %w", sqliteError(err))
	}
	conn := &sqliteConn{c: c.(*sqlite3.SQLiteConn)}
	for _, q := range []string{"PRAGMA wal_autocheckpoint=0", "PRAGMA cache_size=8", "PRAGMA mmap_size=0"} {
		if err := conn.exec(q); err != nil {
			return nil, errors.Join(err, conn.close())
		}
	}
	return conn, nil
}

// exec runs a statement that returns no row that anybody needs.
func (c *sqliteConn) exec(query string) error {
	if _, err := c.c.Exec(query, nil); err != nil {
		return fmt.Errorf("%s: %w", query, sqliteError(err))
	}
	return nil
}

// row runs a query and returns its first row, or nil if there is none.
func (c *sqliteConn) row(query string) (_ []driver.Value, err error) {
	rows, err := c.c.Query(query, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, sqliteError(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	vals := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(vals); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", query, sqliteError(err))
	}
	return vals, nil
}

// persistWAL makes SQLite keep the log when this connection is the last to
// close, so that either tool can go on at the position it holds.
func (c *sqliteConn) persistWAL() error {
	if err := c.c.SetFileControlInt("main", sqlite3.SQLITE_FCNTL_PERSIST_WAL, 1); err != nil {
		return fmt.Errorf("keep wal on close: %w", sqliteError(err))
	}
	return nil
}

func (c *sqliteConn) close() error {
	if err := c.c.Close(); err != nil {
		return fmt.Errorf("close connection: %w", sqliteError(err))
	}
	return nil
}

// sqliteError turns the driver's answers that callers branch on into the
// sentinels of this package.
func sqliteError(err error) error {
	var se sqlite3.Error
	if !errors.As(err, &se) {
		return err
	}
	switch se.Code {
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return fmt.Errorf("%w: %w", ErrDatabaseLocked, err)
	case sqlite3.ErrNotADB:
		return fmt.Errorf("%w: %w", ErrNotDatabase, err)
	case sqlite3.ErrFull:
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	default:
		return err
	}
}
