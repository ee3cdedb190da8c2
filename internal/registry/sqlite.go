package registry

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// The format of the file. A change of layout raises the version.
const (
	applicationID = 0x4C535247 // "LSRG"
	version       = 2

	schema = `
CREATE TABLE info (
	id       INTEGER PRIMARY KEY CHECK (id = 1),
	clean    INTEGER NOT NULL, -- 1: the last owner left nothing unresolved
	boot     BLOB,             -- 16 bytes, of the boot in which the last owner began
	identity BLOB,             -- 32 bytes, of the replica; NULL: never bound
	epoch    BLOB,             -- of the replica
	written  INTEGER           -- time of the last transaction, nanoseconds
);
CREATE TABLE summary (id INTEGER PRIMARY KEY CHECK (id = 1), data BLOB NOT NULL);
CREATE TABLE tenant (id INTEGER PRIMARY KEY, path BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE ledger (id INTEGER PRIMARY KEY, sum INTEGER NOT NULL, data BLOB NOT NULL);
INSERT INTO info (id, clean) VALUES (1, 0);`
)

const (
	busyMillis      = 10_000
	cacheKiB        = 1024     // of the writer; a reader gets a quarter
	checkpointPages = 4000     // a checkpoint is what syncs, so it waits for more than SQLite's 1000
	journalMaxBytes = 16 << 20 // what a checkpointed log may keep on disk: as many pages
)

// errUnusable means that the file is no registry of this version, or a damaged
// one. The wrapping error gives the reason.
var errUnusable = errors.New("not a usable registry")

// conn is one driver connection. It is not safe for concurrent use.
type conn struct {
	c     *sqlite3.SQLiteConn
	stmts []*stmt // that live as long as the connection
}

func connect(path, query string) (*conn, error) {
	dsn := sqlitefile.URI(path, fmt.Sprintf("%s&_busy_timeout=%d", query, busyMillis))
	c, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, sqliteError(err)
	}
	return &conn{c: c.(*sqlite3.SQLiteConn)}, nil
}

// exec runs statements whose rows nobody needs.
func (c *conn) exec(query string) error {
	if _, err := c.c.Exec(query, nil); err != nil {
		return fmt.Errorf("%s: %w", query, sqliteError(err))
	}
	return nil
}

// value returns the first column of the first row of a query.
func (c *conn) value(query string) (_ driver.Value, err error) {
	rows, err := c.c.Query(query, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, sqliteError(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	vals := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(vals); err != nil {
		return nil, fmt.Errorf("%s: %w", query, sqliteError(err))
	}
	return vals[0], nil
}

// tx runs fn in a transaction, which takes effect only if fn returns nil.
func (c *conn) tx(fn func() error) (err error) {
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		// SQLite may have rolled back by itself (its documentation of
		// sqlite3_get_autocommit).
		if err != nil && !c.c.AutoCommit() {
			err = errors.Join(err, c.exec("ROLLBACK"))
		}
	}()
	if err := fn(); err != nil {
		return err
	}
	return c.exec("COMMIT")
}

// check finds out whether the file is a registry that can be used: errUnusable
// if not. It returns true for a file that holds nothing yet.
func (c *conn) check() (empty bool, err error) {
	var id, ver, objects int64
	for _, q := range []struct {
		query string
		to    *int64
	}{
		{"PRAGMA application_id", &id},
		{"PRAGMA user_version", &ver},
		{"SELECT count(*) FROM sqlite_schema", &objects},
	} {
		v, err := c.value(q.query)
		if err != nil {
			return false, err
		}
		*q.to, _ = v.(int64)
	}
	switch {
	case id == 0 && ver == 0 && objects == 0:
		return true, nil
	case id != applicationID:
		return false, fmt.Errorf("%w: application id %#x, want %#x", errUnusable, id, applicationID)
	case ver != version:
		return false, fmt.Errorf("%w: version %d, want %d", errUnusable, ver, version)
	}
	return false, nil
}

// quickCheck reads every page, so that damage is found before any row counts.
func (c *conn) quickCheck() error {
	v, err := c.value("PRAGMA quick_check(1)")
	if err != nil {
		return err
	}
	if s, _ := v.(string); s != "ok" {
		return fmt.Errorf("%w: %s", errUnusable, s)
	}
	return nil
}

// close ends the connection. With a statement left, SQLite would keep the file
// open and its log in place (its documentation of sqlite3_close_v2).
func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.s.Close())
	}
	if err := c.c.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close connection: %w", sqliteError(err)))
	}
	return errors.Join(errs...)
}

// sqliteError tells damage from other failures. The format was checked before,
// so that a table that is not there is damage too.
func sqliteError(err error) error {
	var se sqlite3.Error
	if !errors.As(err, &se) {
		return err
	}
	switch se.Code {
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB, sqlite3.ErrError:
		return fmt.Errorf("%w: %w", errUnusable, err)
	case sqlite3.ErrFull:
		return fmt.Errorf("%w; free space in the state directory", err)
	case sqlite3.ErrPerm, sqlite3.ErrReadonly, sqlite3.ErrCantOpen, sqlite3.ErrAuth:
		return fmt.Errorf("%w; user id %d needs write access to the state directory and to all registry files in it", err, os.Geteuid())
	default:
		return err
	}
}

// stmt is a prepared statement with room for its arguments, so that running it
// allocates little.
type stmt struct {
	s    *sqlite3.SQLiteStmt
	args []driver.NamedValue
}

func (c *conn) prepare(query string) (*stmt, error) {
	s, err := c.c.Prepare(query)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", query, sqliteError(err))
	}
	p := &stmt{s: s.(*sqlite3.SQLiteStmt)}
	p.args = make([]driver.NamedValue, p.s.NumInput())
	for i := range p.args {
		p.args[i].Ordinal = i + 1
	}
	return p, nil
}

// keep prepares statements that the connection closes.
func (c *conn) keep(stmts map[string]**stmt) error {
	for query, to := range stmts {
		s, err := c.prepare(query)
		if err != nil {
			return err
		}
		*to, c.stmts = s, append(c.stmts, s)
	}
	return nil
}

func (s *stmt) bind(vals []driver.Value) []driver.NamedValue {
	for i, v := range vals {
		s.args[i].Value = v
	}
	return s.args
}

// exec runs a statement. It is not cancelled half way: for a context that can
// be, the driver starts a goroutine for each statement.
func (s *stmt) exec(ctx context.Context, vals ...driver.Value) error {
	_, err := s.s.ExecContext(context.WithoutCancel(ctx), s.bind(vals))
	return sqliteError(err)
}

// rows reads each row of a query into dest and calls fn. The values in dest
// are copies.
func (s *stmt) rows(ctx context.Context, dest []driver.Value, fn func() error, vals ...driver.Value) (err error) {
	rows, err := s.s.QueryContext(context.WithoutCancel(ctx), s.bind(vals))
	if err != nil {
		return sqliteError(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for {
		if err := rows.Next(dest); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return sqliteError(err)
		}
		if err := fn(); err != nil {
			return err
		}
	}
}
