//go:build linux

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"

	"github.com/benbjohnson/litestream/internal/backoff"
)

const pageSize = 4096

// application is what uses a database while a tool replicates it: SQLite's
// defaults in WAL mode, among them a checkpoint after every 1000 pages.
type application struct {
	*sql.DB
	rand *rand.Rand
	rows int
}

// openApplication opens a database, which it makes if need be. What it writes
// is the same for the same seed.
func openApplication(ctx context.Context, path string, seed uint64) (*application, error) {
	u := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "_journal_mode=WAL&_busy_timeout=10000&_synchronous=NORMAL"}
	db, err := sql.Open("sqlite3", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	a := &application{DB: db, rand: rand.New(rand.NewPCG(seed, 1))}
	_, err = db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, k INTEGER, v TEXT); CREATE INDEX IF NOT EXISTS t_k ON t (k)`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create table: %w", err), db.Close())
	}
	return a, nil
}

// commit adds n rows and changes as many in one transaction.
func (a *application) commit(ctx context.Context, n int) error {
	tx, err := a.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for range n {
		_, err = tx.ExecContext(ctx, `INSERT INTO t (k, v) VALUES (?, ?)`, a.rand.IntN(1<<30), a.text(300))
		if err == nil && a.rows > 0 {
			_, err = tx.ExecContext(ctx, `UPDATE t SET v = ? WHERE id = ?`, a.text(300), 1+a.rand.IntN(a.rows))
		}
		if err != nil {
			return errors.Join(fmt.Errorf("write: %w", err), tx.Rollback())
		}
		a.rows++
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

var words = strings.Fields(`the of and to order customer invoice street paid open shipped returned total note
	north south small large red green blue first second third available pending address email phone value`)

// text returns about n bytes of words and figures, which compress as such.
func (a *application) text(n int) string {
	var b strings.Builder
	for b.Len() < n {
		if a.rand.IntN(4) == 0 {
			fmt.Fprintf(&b, "%d ", a.rand.IntN(1<<30))
			continue
		}
		b.WriteString(words[a.rand.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.String()
}

// walPerCommit runs the load of so many commits on a scratch database without
// checkpoints and returns how many bytes of write-ahead log one commit makes.
func (b *bench) walPerCommit(ctx context.Context, commits, rows int) (_ float64, err error) {
	dir, err := os.MkdirTemp(b.dir, "wal-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "db")
	app, err := openApplication(ctx, path, 1)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, app.Close()) }()
	if _, err := app.ExecContext(ctx, `PRAGMA wal_autocheckpoint = 0`); err != nil {
		return 0, err
	}
	for range commits {
		if err := app.commit(ctx, rows); err != nil {
			return 0, err
		}
	}
	st, err := os.Stat(path + "-wal")
	if err != nil {
		return 0, err
	}
	return float64(st.Size()) / float64(commits), nil
}

// settle is how long databases are left alone before a tool meets them. Files
// that were written a moment ago are another case than databases at rest.
const settle = 3 * time.Second

// makeDatabases makes n small databases at rest.
func makeDatabases(ctx context.Context, dir string, n int) (paths []string, err error) {
	if paths, err = copyDatabases(ctx, dir, n); err != nil {
		return nil, err
	}
	return paths, backoff.Wait(ctx, settle)
}

// copyDatabases makes n small databases that nobody has open, by copying one.
func copyDatabases(ctx context.Context, dir string, n int) (paths []string, err error) {
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
		return nil, err
	}
	first := filepath.Join(dir, "data", "first")
	app, err := openApplication(ctx, first, 1)
	if err != nil {
		return nil, err
	}
	err = errors.Join(app.commit(ctx, 20), app.Close())
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(first)
	if err != nil {
		return nil, err
	}
	for i := range n {
		path := filepath.Join(dir, "data", fmt.Sprintf("%05d.db", i))
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}
