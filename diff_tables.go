package litestream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/benbjohnson/litestream/internal/sqlitebtree"
)

// compareTables restores both states and compares them.
func (d *differ) compareTables(ctx context.Context, res *DiffResult) (err error) {
	dir, err := os.MkdirTemp(d.opt.ScratchDir, "litestream-diff-")
	if err != nil {
		return fmt.Errorf("make scratch folder: %w; name another place with -scratch", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := d.checkRoom(dir, res); err != nil {
		return err
	}
	var maps [2]*sqlitebtree.Map
	paths := map[*sqlitebtree.Map]string{}
	for i, name := range []string{"before.db", "after.db"} {
		path := filepath.Join(dir, name)
		if err := d.restore(ctx, i, path); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("read restored database: %w", err)
		}
		defer f.Close()
		if maps[i], err = mapPages(ctx, f); err != nil {
			return err
		}
		paths[maps[i]] = path
	}
	c, err := sqlitebtree.Compare(ctx, maps[0], maps[1])
	if err != nil {
		return fmt.Errorf("compare databases: %w", err)
	}
	res.Method, res.Pages = DiffDatabases, c.Pages()
	for i, when := range []string{"before", "after"} {
		for _, text := range maps[i].Damage {
			res.Damage = append(res.Damage, when+": "+text)
		}
	}
	for i := range c.Changes {
		ch := &c.Changes[i]
		if !ch.Differs() {
			if ch.Pages.After > 0 && ch.Type != "" {
				res.Same++
			}
			continue
		}
		e := newDiffEntry(ch)
		if d.opt.Level == DiffRows && ch.Type == "table" && ch.Pages.Before+ch.Pages.After > 0 {
			e.Rows, err = c.Rows(ctx, ch, d.opt.Keys, func(m *sqlitebtree.Map, table string) ([]sqlitebtree.KeyColumn, error) {
				return primaryKey(ctx, paths[m], table)
			})
			if errors.Is(err, sqlitebtree.ErrNoRows) {
				e.Note = err.Error()
			} else if err != nil {
				return fmt.Errorf("compare rows of %s: %w", ch.Name, err)
			}
		}
		res.Entries = append(res.Entries, e)
	}
	return nil
}

func newDiffEntry(ch *sqlitebtree.Change) DiffEntry {
	e := DiffEntry{Type: ch.Type, Name: ch.Name, Table: ch.Table, Pages: ch.Pages, SchemaChanged: ch.SchemaDiffers()}
	if ch.Type != "" {
		e.Created, e.Dropped = ch.Before == nil, ch.After == nil
	}
	for _, t := range []*sqlitebtree.Tree{ch.Before, ch.After} {
		if t != nil && t.Damage != "" {
			e.Note = "damaged: " + t.Damage
		}
	}
	return e
}

// mapPages finds out to what each page of a restored database belongs.
func mapPages(ctx context.Context, f *os.File) (*sqlitebtree.Map, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read restored database: %w", err)
	}
	file, err := sqlitebtree.Open(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("read restored database: %w", err)
	}
	m, err := sqlitebtree.NewMap(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("read restored database: %w", err)
	}
	return m, nil
}

// checkRoom makes sure that both states fit on the disk, and a hundredth of it
// stays free.
func (d *differ) checkRoom(dir string, res *DiffResult) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("look at scratch folder: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	space, err := freeSpace(f)
	if err != nil {
		return fmt.Errorf("look at scratch folder: %w", err)
	}
	if need := uint64(res.Before.Bytes() + res.After.Bytes()); space.free < need+space.total/100 {
		return fmt.Errorf("%w: both states take %s, and %s are free in %s; name another place with -scratch, or compare pages only with -level pages",
			ErrDiskFull, humanize.IBytes(need), humanize.IBytes(space.free), filepath.Dir(dir))
	}
	return nil
}

// restore restores a state to a file that nobody keeps.
func (d *differ) restore(ctx context.Context, i int, path string) error {
	_, err := Restore(ctx, d.client, RestoreOptions{
		OutputPath: path, TXID: d.states[i].TXID, Parallelism: d.opt.Parallelism,
		Progress: d.opt.Progress, Logger: d.opt.Logger, volatile: true, knobs: d.opt.knobs,
	})
	if err != nil {
		return fmt.Errorf("restore txid %s: %w", d.states[i].TXID, err)
	}
	return nil
}

// primaryKey asks SQLite how the rows of a table WITHOUT ROWID are sorted. It
// tells that of such a table under its own name (SQLite documentation, PRAGMA
// index_xinfo).
func primaryKey(ctx context.Context, path, table string) ([]sqlitebtree.KeyColumn, error) {
	quoted := "'" + strings.ReplaceAll(table, "'", "''") + "'"
	rows, err := queryStrings(ctx, path, `SELECT "desc" || upper(coll) FROM pragma_index_xinfo(`+quoted+`) WHERE key ORDER BY seqno`)
	if err != nil {
		return nil, fmt.Errorf("primary key of %s: %w", table, err)
	}
	var columns []sqlitebtree.KeyColumn
	for _, row := range rows {
		columns = append(columns, sqlitebtree.KeyColumn{Desc: row[0] == '1', Collation: row[1:]})
	}
	return columns, nil
}
