package metamorphic

import (
	"bufio"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"
)

// An appConn is one connection of the application.
type appConn struct {
	c        *sqlite3.SQLiteConn
	seed     uint64
	pageSize int
}

// openApp opens a connection. Params are those of a SQLite URI.
func openApp(path, params string) (*appConn, error) {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: params}
	c, err := (&sqlite3.SQLiteDriver{}).Open(u.String())
	if err != nil {
		return nil, fmt.Errorf("open application's connection: %w", err)
	}
	return &appConn{c: c.(*sqlite3.SQLiteConn)}, nil
}

// openWriter opens a connection that commits and spills early.
func openWriter(path string, seed uint64) (*appConn, error) {
	c, err := openApp(path, "_busy_timeout=2000&mode=rw")
	if err != nil {
		return nil, err
	}
	c.seed = seed
	page, err := c.row("PRAGMA page_size")
	if err == nil {
		c.pageSize = int(page[0].(int64))
		err = c.exec("PRAGMA cache_size=5; PRAGMA synchronous=off; PRAGMA wal_autocheckpoint=40")
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *appConn) close() error { return c.c.Close() }

func (c *appConn) exec(query string, args ...driver.Value) error {
	if _, err := c.c.Exec(query, args); err != nil {
		return fmt.Errorf("%.60s: %w", query, err)
	}
	return nil
}

func (c *appConn) row(query string) ([]driver.Value, error) {
	var first []driver.Value
	err := c.each(query, func(row []driver.Value) error {
		if first == nil {
			first = append(first, row...)
		}
		return nil
	})
	if err == nil && first == nil {
		err = fmt.Errorf("%.60s: no row", query)
	}
	return first, err
}

func (c *appConn) each(query string, fn func([]driver.Value) error) (err error) {
	rows, err := c.c.Query(query, nil)
	if err != nil {
		return fmt.Errorf("%.60s: %w", query, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	vals := make([]driver.Value, len(rows.Columns()))
	for {
		if err := rows.Next(vals); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%.60s: %w", query, err)
		}
		if err := fn(vals); err != nil {
			return err
		}
	}
}

// create makes the tables of an empty database, at a moment without rows.
func (c *appConn) create(m moment) error {
	return c.exec(fmt.Sprintf(`BEGIN;
		CREATE TABLE moment (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, k INTEGER NOT NULL);
		INSERT INTO moment VALUES (1, %d, %d);
		CREATE TABLE data (id INTEGER PRIMARY KEY, k INTEGER NOT NULL, body BLOB NOT NULL);
		CREATE INDEX data_k ON data (k);
		COMMIT`, m.Epoch, m.K))
}

func (c *appConn) moment() (moment, error) {
	row, err := c.row("SELECT epoch, k FROM moment")
	if err != nil {
		return moment{}, err
	}
	return moment{uint64(row[0].(int64)), uint64(row[1].(int64))}, nil
}

// digest adds up the table as it is.
func (c *appConn) digest() (digest, error) {
	var d digest
	err := c.each("SELECT id, k, body FROM data", func(row []driver.Value) error {
		body, _ := row[2].([]byte)
		d.Rows++
		d.Sum += rowSum(uint64(row[0].(int64)), uint64(row[1].(int64)), body)
		return nil
	})
	return d, err
}

// apply makes an op's changes within a transaction.
func (c *appConn) apply(k uint64, o op) error {
	switch o.kind {
	case opInsert:
		for i, id := range o.ids {
			if err := c.exec("INSERT INTO data VALUES (?, ?, ?)", int64(id), int64(k), o.bodies[i]); err != nil {
				return err
			}
		}
		return nil
	case opUpdate:
		return c.exec("UPDATE data SET k = ?, body = ? WHERE id % ? = ?", int64(k), o.bodies[0], int64(o.mod), int64(o.rem))
	case opDelete:
		return c.exec("DELETE FROM data WHERE id % ? = ?", int64(o.mod), int64(o.rem))
	default:
		return c.exec("DELETE FROM data")
	}
}

// A ledger is told of each commit before it is tried and after it succeeded.
type ledger interface {
	try(moment)
	ack(moment)
}

// commit makes the next commit and tells the ledger.
func (c *appConn) commit(l ledger) error {
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	m, err := c.moment()
	if err == nil {
		m.K++
		if err = c.apply(m.K, opOf(c.seed, c.pageSize, m)); err == nil {
			err = c.exec("UPDATE moment SET k = ?", int64(m.K))
		}
	}
	if err != nil {
		return errors.Join(err, c.exec("ROLLBACK"))
	}
	l.try(m)
	if err := c.exec("COMMIT"); err != nil {
		return errors.Join(err, c.exec("ROLLBACK"))
	}
	l.ack(m)
	return nil
}

// rollback makes a large transaction, which spills into the log, and takes it
// back.
func (c *appConn) rollback(rng *rand.Rand) error {
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := c.exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < ?)
		INSERT INTO data SELECT -i, 0, randomblob(?) FROM n`, int64(10+rng.IntN(40)), int64(min(c.pageSize, 8192)))
	if err == nil && rng.IntN(2) == 0 {
		err = c.exec("UPDATE data SET body = randomblob(100)")
	}
	return errors.Join(err, c.exec("ROLLBACK"))
}

// readLong keeps checkpoints from completing for a while.
func (c *appConn) readLong(ctx context.Context, rng *rand.Rand) error {
	if err := c.exec("BEGIN"); err != nil {
		return err
	}
	_, err := c.moment()
	pause(ctx, between(rng, 0, 100*time.Millisecond))
	return errors.Join(err, c.exec("COMMIT"))
}

// step does one random thing that an application does.
func (c *appConn) step(ctx context.Context, rng *rand.Rand, l ledger) error {
	switch n := rng.IntN(100); {
	case n < 78:
		return c.commit(l)
	case n < 83:
		return c.rollback(rng)
	case n < 93:
		mode := []string{"PASSIVE", "FULL", "RESTART", "TRUNCATE"}[rng.IntN(4)]
		return c.exec("PRAGMA busy_timeout=50; PRAGMA wal_checkpoint(" + mode + "); PRAGMA busy_timeout=2000")
	case n < 94:
		return c.exec("VACUUM")
	case n < 95:
		return c.readLong(ctx, rng)
	case n < 98:
		return c.exec("PRAGMA incremental_vacuum")
	case n < 99:
		return c.exec(fmt.Sprintf("PRAGMA wal_autocheckpoint=%d", []int{0, 1, 10, 100}[rng.IntN(4)]))
	default:
		return c.exec(fmt.Sprintf("PRAGMA journal_size_limit=%d", []int{-1, 0, 20000}[rng.IntN(3)]))
	}
}

// isBusy reports whether another connection was in the way.
func isBusy(err error) bool {
	var se sqlite3.Error
	return errors.As(err, &se) && (se.Code == sqlite3.ErrBusy || se.Code == sqlite3.ErrLocked)
}

// printLedger tells the parent process.
type printLedger struct{ w *bufio.Writer }

func (p printLedger) try(m moment) { p.say("try", m) }
func (p printLedger) ack(m moment) { p.say("ack", m) }

func (p printLedger) say(what string, m moment) {
	fmt.Fprintln(p.w, what, m.Epoch, m.K)
	p.w.Flush()
}

// runWriter is the child process that writes until it is killed, or until its
// input ends.
func runWriter(path string, seed, stream uint64) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin) // the parent is gone or wants us to end
	}()
	c, err := openWriter(path, seed)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, stream))
	out := printLedger{bufio.NewWriter(os.Stdout)}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return c.close()
		case <-tick.C:
		}
		if err := c.step(context.Background(), rng, out); err != nil && !isBusy(err) {
			return err
		}
		if rng.IntN(8) == 0 {
			tick.Reset(time.Duration(1+rng.IntN(15)) * time.Millisecond)
		}
	}
}

// parseLedger reads what printLedger wrote.
func parseLedger(line string, l ledger) error {
	var what string
	var m moment
	if _, err := fmt.Sscan(line, &what, &m.Epoch, &m.K); err != nil {
		return fmt.Errorf("writer said %q: %w", strings.TrimSpace(line), err)
	}
	if what == "ack" {
		l.ack(m)
	} else {
		l.try(m)
	}
	return nil
}
