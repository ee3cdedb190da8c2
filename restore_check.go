package litestream

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// IntegrityCheckMode says how a restored database is checked by SQLite.
type IntegrityCheckMode int

// Modes of checking a restored database.
const (
	IntegrityCheckNone  IntegrityCheckMode = iota // not at all; every LTX checksum is verified anyway
	IntegrityCheckQuick                           // PRAGMA quick_check
	IntegrityCheckFull                            // PRAGMA integrity_check: indexes too
)

// String returns the mode as flags name it.
func (m IntegrityCheckMode) String() string {
	switch m {
	case IntegrityCheckNone:
		return "none"
	case IntegrityCheckQuick:
		return "quick"
	case IntegrityCheckFull:
		return "full"
	default:
		return fmt.Sprintf("IntegrityCheckMode(%d)", int(m))
	}
}

// ParseIntegrityCheckMode is the inverse of String.
func ParseIntegrityCheckMode(s string) (IntegrityCheckMode, error) {
	for _, m := range []IntegrityCheckMode{IntegrityCheckNone, IntegrityCheckQuick, IntegrityCheckFull} {
		if s == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("invalid integrity check mode %q, want none, quick or full", s)
}

// maxIntegrityMessages bounds how many findings an error repeats.
const maxIntegrityMessages = 5

// checkIntegrity lets SQLite check the database at path, which nobody else
// has open. The connection is immutable, so SQLite creates no -wal or -shm
// although the header says write-ahead log (SQLite URI documentation).
func checkIntegrity(ctx context.Context, path string, mode IntegrityCheckMode) (err error) {
	var pragma string
	switch mode {
	case IntegrityCheckNone:
		return nil
	case IntegrityCheckQuick:
		pragma = "PRAGMA quick_check"
	case IntegrityCheckFull:
		pragma = "PRAGMA integrity_check"
	default:
		return fmt.Errorf("check restored database: unknown mode %s", mode)
	}
	messages, err := queryStrings(ctx, path, pragma)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		var se sqlite3.Error
		if errors.As(err, &se) && (se.Code == sqlite3.ErrCorrupt || se.Code == sqlite3.ErrNotADB) {
			return fmt.Errorf("%w (%s): %w", ErrIntegrity, mode, err)
		}
		return fmt.Errorf("check restored database (%s): %w", mode, err)
	}
	if len(messages) == 1 && messages[0] == "ok" {
		return nil
	}
	n := len(messages)
	return fmt.Errorf("%w (%s, %d findings): %s", ErrIntegrity, mode, n,
		strings.Join(messages[:min(n, maxIntegrityMessages)], "; "))
}

// queryStrings returns the first column of a query on an immutable database.
func queryStrings(ctx context.Context, path, query string) (values []string, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// In a URI path, "?", "#" and "%" mean something else than themselves.
	dsn := "file:" + (&url.URL{Path: filepath.ToSlash(abs)}).EscapedPath() + "?mode=ro&immutable=1"
	conn, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()

	q, ok := conn.(driver.QueryerContext)
	if !ok {
		return nil, errors.New("sqlite driver cannot query with a context")
	}
	rows, err := q.QueryContext(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	dest := make([]driver.Value, len(rows.Columns()))
	for {
		if err := rows.Next(dest); errors.Is(err, io.EOF) {
			return values, nil
		} else if err != nil {
			return values, err
		}
		values = append(values, fmt.Sprint(dest[0]))
	}
}
