package sqlitebtree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Rows counts the rows of a table that two states do not share. A row is the
// same while its key is: its rowid, or the primary key of a table WITHOUT ROWID.
type Rows struct {
	Inserted, Deleted, Changed int64
	Keys                       []RowKey // the first of them, by key
}

// A RowKey is the key of a row that is not the same in both states.
type RowKey struct {
	Change RowChange
	Key    string // a rowid, or the values of a primary key as SQL has them
}

// RowChange is what became of a row.
type RowChange string

// What may become of a row.
const (
	RowInserted RowChange = "inserted"
	RowDeleted  RowChange = "deleted"
	RowChanged  RowChange = "changed"
)

// KeyColumns returns the columns of the primary key of a table WITHOUT ROWID in
// a state, in the order in which its rows begin with them.
type KeyColumns func(m *Map, table string) ([]KeyColumn, error)

// ErrNoRows means that it cannot be told which rows of a table are not the same.
var ErrNoRows = errors.New("rows cannot be compared")

// Rows compares the rows of a table and returns the keys of up to limit of them.
// Only pages that the states do not share are read, beside those that lead to
// them. The comparison is of what is stored: a row that lacks a column because
// that was added later is the same. The error is ErrNoRows if the pages or the
// key do not let it be told.
func (c *Comparison) Rows(ctx context.Context, ch *Change, limit int, columns KeyColumns) (*Rows, error) {
	j := &join{ctx: ctx, c: c, limit: limit, rows: &Rows{}}
	a, err := j.side(c.before, ch.Before, columns)
	if err != nil {
		return nil, err
	}
	b, err := j.side(c.after, ch.After, columns)
	if err != nil {
		return nil, err
	}
	if a != nil && b != nil {
		switch {
		case a.tree.Clustered != b.tree.Clustered:
			return nil, fmt.Errorf("%w: the table has rowids in one state only", ErrNoRows)
		case !slices.Equal(a.columns, b.columns):
			return nil, fmt.Errorf("%w: the primary key is another one", ErrNoRows)
		}
	}
	if err := j.run(a, b); err != nil {
		if _, ok := errors.AsType[damage](err); ok {
			err = fmt.Errorf("%w: %w", ErrNoRows, err)
		}
		return nil, err
	}
	return j.rows, nil
}

// join compares two streams of rows, each sorted by key.
type join struct {
	ctx   context.Context
	c     *Comparison
	limit int
	rows  *Rows
	steps int
}

// side returns the rows of a state that the other does not share; nil: the table
// is not in that state.
func (j *join) side(m *Map, t *Tree, columns KeyColumns) (*cursor, error) {
	switch {
	case t == nil || t.Root == 0:
		return nil, nil
	case t.Damage != "":
		return nil, fmt.Errorf("%w: %s", ErrNoRows, t.Damage)
	}
	cur := &cursor{m: m, tree: t, shared: j.c.shared, differs: j.c.differs}
	if t.Clustered {
		var err error
		if cur.columns, err = columns(m, t.Name); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoRows, err)
		}
		if len(cur.columns) == 0 {
			return nil, fmt.Errorf("%w: its primary key is not known", ErrNoRows)
		}
		for _, col := range cur.columns {
			if !knownCollation(col.Collation) {
				return nil, fmt.Errorf("%w: its primary key is sorted by the collation %s, which is not SQLite's own", ErrNoRows, col.Collation)
			}
		}
	}
	return cur, nil
}

func (j *join) run(a, b *cursor) error {
	for _, cur := range []*cursor{a, b} {
		if cur != nil {
			if err := cur.open(); err != nil {
				return err
			}
		}
	}
	for a.more() || b.more() {
		if j.steps++; j.steps%1024 == 0 && j.ctx.Err() != nil {
			return context.Cause(j.ctx)
		}
		if err := j.step(a, b); err != nil {
			return err
		}
	}
	return nil
}

// step takes the smaller key, or both if they are the same.
func (j *join) step(a, b *cursor) error {
	var order int
	switch {
	case !b.more():
		order = -1
	case !a.more():
		order = 1
	default:
		order = compareRows(a, b)
	}
	switch {
	case order < 0:
		j.rows.Deleted++
		j.note(RowDeleted, a)
		return a.next()
	case order > 0:
		j.rows.Inserted++
		j.note(RowInserted, b)
		return b.next()
	}
	same, err := samePayload(a.m.file, a.cell, b.m.file, b.cell)
	if err != nil {
		return err
	}
	if !same {
		j.rows.Changed++
		j.note(RowChanged, b)
	}
	return errors.Join(a.next(), b.next())
}

func (j *join) note(what RowChange, cur *cursor) {
	if len(j.rows.Keys) < j.limit {
		j.rows.Keys = append(j.rows.Keys, RowKey{Change: what, Key: cur.keyText()})
	}
}

func compareRows(a, b *cursor) int {
	if !a.tree.Clustered {
		return cmp.Compare(a.cell.rowid, b.cell.rowid)
	}
	return compareKeys(a.m.file, a.key, b.m.file, b.key, a.columns)
}

// cursor goes through the rows of a tree in the order of their keys, and leaves
// out those that the other state has too. The tree has no damage, so that no
// page comes twice.
type cursor struct {
	m       *Map
	tree    *Tree
	columns []KeyColumn // of the primary key; nil: rows have rowids
	shared  func(pgno uint32) bool
	differs func(pgno uint32) bool

	stack []*level // the root first
	depth int      // levels in use
	valid bool     // cell is a row
	cell  cell
	key   []value // of the primary key
}

// level is a page on the way to a row.
type level struct {
	node
	buf []byte

	// at is the next of the page's cells. In an interior page each of them has a
	// child in front of it, which comes at the even numbers.
	at     int
	shared bool // its own cells are in the other state, too
}

func (cur *cursor) open() error {
	if err := cur.push(cur.tree.Root); err != nil {
		return err
	}
	return cur.next()
}

// more reports whether there is a row.
func (cur *cursor) more() bool { return cur != nil && cur.valid }

func (cur *cursor) push(pgno uint32) error {
	if cur.depth == len(cur.stack) {
		cur.stack = append(cur.stack, &level{buf: make([]byte, cur.m.file.pageSize)})
	}
	l := cur.stack[cur.depth]
	nd, err := cur.m.file.node(pgno, l.buf)
	if err != nil {
		return err
	}
	l.node, l.at, l.shared = nd, 0, cur.shared(pgno)
	cur.depth++
	return nil
}

// skip reports whether a page is a leaf without a row to be looked at.
func (cur *cursor) skip(pgno uint32) bool {
	return cur.m.owners[pgno-1]&(leafBit|spillBit) == leafBit && cur.shared(pgno)
}

// next goes to the next row.
func (cur *cursor) next() error {
	for cur.valid = false; cur.depth > 0 && !cur.valid; {
		l := cur.stack[cur.depth-1]
		at := l.at
		l.at++
		switch {
		case l.isLeaf() && at == l.n, !l.isLeaf() && at == 2*l.n+1:
			cur.depth--
		case l.isLeaf():
			if err := cur.take(l, at); err != nil {
				return err
			}
		case at%2 == 0:
			pgno, err := l.child(at / 2)
			if err != nil {
				return err
			}
			if cur.skip(pgno) {
				continue
			}
			if err := cur.push(pgno); err != nil {
				return err
			}
		case l.isIndex(): // in the interior of a table are no rows
			if err := cur.take(l, at/2); err != nil {
				return err
			}
		}
	}
	return nil
}

// take makes a cell the row, unless the other state has it too. Rows have to
// come in order.
func (cur *cursor) take(l *level, i int) error {
	c, err := l.cell(i)
	if err != nil {
		return err
	}
	if l.shared {
		// SQLite may write a row of the same size over the old one, and then the
		// page with its beginning stays as it is.
		spilled := false
		if err := cur.m.file.eachOverflow(c, func(pgno uint32) error {
			spilled = spilled || cur.differs(pgno)
			return nil
		}); err != nil {
			return err
		}
		if !spilled {
			return nil
		}
	}
	return cur.accept(c)
}

func (cur *cursor) accept(c cell) error {
	last, hadKey := cur.cell.rowid, cur.cell.local != nil
	if !cur.tree.Clustered {
		if hadKey && last >= c.rowid {
			return damagef("row %d is behind row %d", c.rowid, last)
		}
		cur.cell, cur.valid = c, true
		return nil
	}
	key, err := cur.m.file.columns(c, len(cur.columns), maxKeyBytes)
	if err != nil {
		return err
	}
	if cur.key != nil && compareKeys(cur.m.file, cur.key, cur.m.file, key, cur.columns) >= 0 {
		return damagef("rows are not in the order of their keys")
	}
	cur.cell, cur.key, cur.valid = c, key, true
	return nil
}

// keyText returns the key of the row as people read it.
func (cur *cursor) keyText() string {
	if !cur.tree.Clustered {
		return strconv.FormatInt(cur.cell.rowid, 10)
	}
	return cur.m.file.keyText(cur.key)
}
