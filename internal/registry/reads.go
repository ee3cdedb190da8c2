package registry

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"
)

// reads is a connection that only reads.
type reads struct {
	*conn
	all, byPath, ledgerByID *stmt
}

// openReads opens a registry that was checked, or made, by a writer.
func openReads(path, query string) (_ *reads, err error) {
	c, err := connect(path, query+"&_query_only=1")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	for _, q := range []string{"PRAGMA mmap_size=0", fmt.Sprintf("PRAGMA cache_size=-%d", cacheKiB/4)} {
		if err := c.exec(q); err != nil {
			return nil, err
		}
	}
	if empty, err := c.check(); err != nil {
		return nil, err
	} else if empty {
		return nil, fmt.Errorf("%w: it holds nothing yet", errUnusable)
	}
	r := &reads{conn: c}
	for _, p := range []struct {
		to    **stmt
		query string
	}{
		{&r.all, "SELECT id, path, data FROM tenant ORDER BY id"},
		{&r.byPath, "SELECT id, path, data FROM tenant WHERE path = ? ORDER BY id DESC"},
		{&r.ledgerByID, "SELECT data FROM ledger WHERE id = ?"},
	} {
		if *p.to, err = c.prepare(p.query); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// row is a row of the table tenant as the driver gives it.
type row struct {
	dest []driver.Value
}

func newRow() *row { return &row{dest: make([]driver.Value, 3)} }

func (r *row) id() int64 {
	id, _ := r.dest[0].(int64)
	return id
}

func (r *row) decode(rec *Record) error {
	path, ok1 := r.dest[1].([]byte)
	data, ok2 := r.dest[2].([]byte)
	if !ok1 || !ok2 {
		return errDamaged
	}
	return decode(rec, r.id(), path, data)
}

// load calls fn with each row that is not damaged and returns the others' IDs.
func (r *reads) load(ctx context.Context, fn func(*Record) error) (bad []int64, err error) {
	row := newRow()
	var rec Record
	n := 0
	err = r.all.rows(ctx, row.dest, func() error {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if row.decode(&rec) != nil {
			bad = append(bad, row.id())
			return nil
		}
		return fn(&rec)
	})
	return bad, err
}

// ledger returns the ledger of a row, nil if there is none.
func (r *reads) ledger(ctx context.Context, id uint32) (b []byte, err error) {
	dest := make([]driver.Value, 1)
	err = r.ledgerByID.rows(ctx, dest, func() error {
		b, _ = dest[0].([]byte)
		return nil
	}, int64(id))
	return b, err
}

// infoRow is the row of the table info.
type infoRow struct {
	Info
	boot  [16]byte
	bound bool
}

func (r *reads) info(ctx context.Context) (out infoRow, err error) {
	s, err := r.prepare("SELECT clean, boot, identity, epoch, written FROM info")
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.s.Close()) }()
	dest := make([]driver.Value, 5)
	found := false
	err = s.rows(ctx, dest, func() error {
		found = true
		out.Clean = dest[0] == int64(1)
		boot, _ := dest[1].([]byte)
		copy(out.boot[:], boot)
		var identity []byte
		identity, out.bound = dest[2].([]byte)
		copy(out.Identity[:], identity)
		epoch, _ := dest[3].([]byte)
		out.Epoch = string(epoch)
		if written, _ := dest[4].(int64); written != 0 {
			out.WrittenAt = time.Unix(0, written).UTC()
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: table info is empty", errUnusable)
	}
	return out, err
}
