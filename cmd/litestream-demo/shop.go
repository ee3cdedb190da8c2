package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
)

// shop is the application of the demo, for one tenant: a table of orders, one
// per transaction.
type shop struct {
	*sql.DB
	n int // orders written
}

func openShop(ctx context.Context, path string) (*shop, error) {
	db, err := sql.Open("sqlite3", "file:"+path+"?_journal_mode=WAL&_synchronous=NORMAL&_busy_timeout=5000")
	if err != nil {
		return nil, err
	}
	_, err = db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT, price INTEGER)`)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create table: %w", err), db.Close())
	}
	s := &shop{DB: db}
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM orders`).Scan(&s.n); err != nil {
		return nil, errors.Join(fmt.Errorf("count orders: %w", err), db.Close())
	}
	return s, nil
}

func (s *shop) order(ctx context.Context) error {
	_, err := s.ExecContext(ctx, `INSERT INTO orders (item, price) VALUES (?, ?)`,
		fmt.Sprintf("item %d", s.n%97), 100+s.n*7%900)
	if err != nil {
		return fmt.Errorf("write order: %w", err)
	}
	s.n++
	return nil
}

// readOrders returns all orders after an integrity check.
func readOrders(ctx context.Context, path string) (orders []string, err error) {
	db, err := sql.Open("sqlite3", "file:"+path+"?mode=ro")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&verdict); err != nil {
		return nil, fmt.Errorf("check %s: %w", path, err)
	}
	if verdict != "ok" {
		return nil, fmt.Errorf("check %s: %s", path, verdict)
	}
	rows, err := db.QueryContext(ctx, `SELECT id || ' ' || item || ' ' || price FROM orders ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("read orders of %s: %w", path, err)
	}
	defer rows.Close()
	for rows.Next() {
		var order string
		if err := rows.Scan(&order); err != nil {
			return nil, err
		}
		orders = append(orders, order)
	}
	return orders, rows.Err()
}
