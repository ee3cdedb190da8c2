package registry

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// What is beside the registry's file, and what a damaged one is renamed to.
const (
	walSuffix     = "-wal"
	shmSuffix     = "-shm"
	journalSuffix = "-journal"
	corruptSuffix = ".corrupt"
)

// Statements that run rarely and are prepared each time.
const (
	setBegun    = "UPDATE info SET clean = 0, boot = ?, written = ?"
	setIdentity = "UPDATE info SET identity = ?, epoch = ?, written = ?"
	setClean    = "UPDATE info SET clean = 1, written = ?"
	putSummary  = "INSERT OR REPLACE INTO summary (id, data) VALUES (1, ?)"
	dropLedgers = "DELETE FROM ledger"
)

// writer is the one connection that writes.
type writer struct {
	*conn
	fresh bool // the file was made by this writer

	putTenant, dropTenant, putLedger, dropLedger, setWritten *stmt
}

// openWriter opens the file, or makes it. A file that cannot be used is
// errUnusable.
func openWriter(ctx context.Context, path string) (_ *writer, err error) {
	if err := create(path); err != nil {
		return nil, err
	}
	c, err := connect(path, "mode=rw")
	if err != nil {
		return nil, err
	}
	w := &writer{conn: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if w.fresh, err = c.check(); err != nil {
		return nil, err
	}
	if !w.fresh {
		if err := c.quickCheck(); err != nil {
			return nil, err
		}
	}
	if err := w.setUp(); err != nil {
		return nil, err
	}
	if w.fresh {
		if err := w.makeSchema(ctx); err != nil {
			return nil, err
		}
	}
	err = w.keep(map[string]**stmt{
		"INSERT OR REPLACE INTO tenant (id, path, data) VALUES (?, ?, ?)": &w.putTenant,
		"DELETE FROM tenant WHERE id = ?":                                 &w.dropTenant,
		"INSERT OR REPLACE INTO ledger (id, sum, data) VALUES (?, ?, ?)":  &w.putLedger,
		"DELETE FROM ledger WHERE id = ?":                                 &w.dropLedger,
		"UPDATE info SET written = ?":                                     &w.setWritten,
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// create makes an empty file that only its owner may read: paths of tenants
// say who they are. SQLite gives its other files the same mode. Of a registry
// that was deleted, the log must not be mistaken for the new one's.
func create(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, suffix := range []string{walSuffix, shmSuffix, journalSuffix} {
		if err := removeIfThere(path + suffix); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return dirError(filepath.Dir(path), err)
	}
	return f.Close()
}

// setUp sets what is the connection's, and the journal mode: commits that sync
// nothing, and readers that block nobody.
func (w *writer) setUp() error {
	mode, err := w.value("PRAGMA journal_mode=WAL")
	if err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("journal mode is %v, want wal: does its file system support shared memory? Set state-dir to a local one", mode)
	}
	for _, q := range []string{
		"PRAGMA synchronous=NORMAL",
		"PRAGMA mmap_size=0",
		fmt.Sprintf("PRAGMA wal_autocheckpoint=%d", checkpointPages),
		fmt.Sprintf("PRAGMA cache_size=-%d", cacheKiB),
		fmt.Sprintf("PRAGMA journal_size_limit=%d", journalMaxBytes),
	} {
		if err := w.exec(q); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) makeSchema(ctx context.Context) error {
	return w.tx(func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return w.exec(fmt.Sprintf("PRAGMA application_id=%d; PRAGMA user_version=%d; %s", applicationID, version, schema))
	})
}

// run executes one of the statements above.
func (w *writer) run(ctx context.Context, query string, vals ...driver.Value) error {
	s, err := w.prepare(query)
	if err != nil {
		return err
	}
	return errors.Join(s.exec(ctx, vals...), s.s.Close())
}

// durably runs fn in a transaction that survives a power cut, and so does all
// that was written before it.
func (w *writer) durably(fn func() error) error {
	if err := w.exec("PRAGMA synchronous=FULL"); err != nil {
		return err
	}
	return errors.Join(w.tx(fn), w.exec("PRAGMA synchronous=NORMAL"))
}

// apply makes one queued change.
func (w *writer) apply(ctx context.Context, id uint32, c change) error {
	row := int64(id)
	var err error
	if c.row == nil {
		err = w.dropTenant.exec(ctx, row)
	} else {
		err = w.putTenant.exec(ctx, row, c.path(), c.row[c.pathN:])
	}
	if err != nil {
		return err
	}
	switch c.op {
	case ledgerSet:
		return w.putLedger.exec(ctx, row, int64(rowSum(id, c.path(), c.ledger)), c.ledger)
	case ledgerDrop:
		return w.dropLedger.exec(ctx, row)
	default:
		return nil
	}
}

// forget empties what the rows know of a replica, and returns their number.
func (w *writer) forget(ctx context.Context) (n int, err error) {
	page, err := w.prepare("SELECT id, path, data FROM tenant WHERE id > ? ORDER BY id LIMIT 1024")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, page.s.Close()) }()
	var last int64
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		var batch []Record
		before := last
		row := newRow()
		err := page.rows(ctx, row.dest, func() error {
			var rec Record
			last = row.id()
			if row.decode(&rec) { // a damaged row is left to Load
				rec.forgetReplica()
				batch = append(batch, rec)
			}
			return nil
		}, last)
		if err != nil {
			return n, err
		}
		if last == before {
			return n, w.run(ctx, dropLedgers)
		}
		for i := range batch {
			if err := w.apply(ctx, batch[i].ID, change{row: encode(&batch[i]), pathN: len(batch[i].Path)}); err != nil {
				return n, err
			}
		}
		n += len(batch)
	}
}

// discard removes those of the rows that are damaged, with their ledgers.
func (w *writer) discard(ctx context.Context, ids []int64) (err error) {
	find, err := w.prepare("SELECT id, path, data FROM tenant WHERE id = ?")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, find.s.Close()) }()
	row := newRow()
	for _, id := range ids {
		damaged := false
		err := find.rows(ctx, row.dest, func() error {
			damaged = !row.decode(new(Record))
			return nil
		}, id)
		if err != nil {
			return err
		}
		if !damaged {
			continue
		}
		if err := errors.Join(w.dropTenant.exec(ctx, id), w.dropLedger.exec(ctx, id)); err != nil {
			return err
		}
	}
	return nil
}

// moveAside gives the name of the registry free. The main file goes first: a
// log without it is nothing, but it without its log may look like an older
// registry that was closed well.
func moveAside(path string) error {
	if err := os.Rename(path, path+corruptSuffix); err != nil {
		return fmt.Errorf("move unusable registry aside: %w", err)
	}
	err := os.Rename(path+walSuffix, path+corruptSuffix+walSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		err = removeIfThere(path + corruptSuffix + walSuffix) // of an older one
	}
	return errors.Join(err, removeIfThere(path+shmSuffix), removeIfThere(path+journalSuffix))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
