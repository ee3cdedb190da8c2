package registry

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
)

// reads is a connection that only reads.
type reads struct {
	*conn
	all, byPath, ledgerByID *stmt
	byID                    *stmt
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
	err = c.keep(map[string]**stmt{
		"SELECT id, path, data FROM tenant ORDER BY id":                                 &r.all,
		"SELECT id, path, data FROM tenant WHERE path = ? ORDER BY id DESC":             &r.byPath,
		"SELECT id, path, data FROM tenant WHERE id = ?":                                &r.byID,
		"SELECT sum, path, ledger.data FROM ledger JOIN tenant USING (id) WHERE id = ?": &r.ledgerByID,
	})
	if err != nil {
		return nil, err
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

// decode is decode for the row's values.
func (r *row) decode(rec *Record) bool {
	path, ok1 := r.dest[1].([]byte)
	data, ok2 := r.dest[2].([]byte)
	return ok1 && ok2 && decode(rec, r.id(), path, data)
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
		if !row.decode(&rec) {
			bad = append(bad, row.id())
			return nil
		}
		return fn(&rec)
	})
	return bad, err
}

// ledger returns the ledger of a row, nil if there is none. One that is
// damaged, or was written for another path, is none.
func (r *reads) ledger(ctx context.Context, id uint32) (b []byte, err error) {
	dest := make([]driver.Value, 3)
	err = r.ledgerByID.rows(ctx, dest, func() error {
		path, _ := dest[1].([]byte)
		data, _ := dest[2].([]byte)
		if dest[0] == int64(rowSum(id, path, data)) {
			b = data
		}
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
	dest := make([]driver.Value, 5)
	found := false
	err = r.each(ctx, "SELECT clean, boot, identity, epoch, written FROM info", dest, func() error {
		found = true
		out.Clean = dest[0] == int64(1)
		boot, _ := dest[1].([]byte)
		copy(out.boot[:], boot)
		var identity []byte
		identity, out.bound = dest[2].([]byte)
		copy(out.Identity[:], identity)
		epoch, _ := dest[3].([]byte)
		out.Epoch = string(epoch)
		written, _ := dest[4].(int64)
		out.WrittenAt = timeOf(written)
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: table info is empty", errUnusable)
	}
	return out, err
}

// each is stmt.rows for a statement that runs rarely.
func (r *reads) each(ctx context.Context, query string, dest []driver.Value, fn func() error) error {
	s, err := r.prepare(query)
	if err != nil {
		return err
	}
	return errors.Join(s.rows(ctx, dest, fn), s.s.Close())
}
