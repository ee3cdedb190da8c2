package sqlitebtree

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// Names of what pages belong to that are in no b-tree.
const (
	FreePages   = "freelist"
	PtrMapPages = "pointer map"
	LockPage    = "lock page"
	UnusedPages = "unreachable"
)

// SchemaTable is the name of the table that lists all others.
const SchemaTable = "sqlite_schema"

// owner is what a page belongs to: a special one or a tree of the Map, with
// what the page is in the tree.
type owner uint32

const (
	ownerUnused owner = iota
	ownerFree
	ownerPtrMap
	ownerLock
	ownerTrees // the first tree

	ownerMask owner = 1<<30 - 1
	leafBit   owner = 1 << 30 // of a tree: its leaf
	spillBit  owner = 1 << 31 // a leaf or interior page with cells that overflow
)

// An Entry is a row of the schema.
type Entry struct {
	Type  string // table, index, view, trigger
	Name  string
	Table string // that it belongs to
	Root  uint32 // first page; 0: it has none
	SQL   string // empty for what SQLite makes by itself
}

// A Tree is an entry of the schema and what its pages are.
type Tree struct {
	Entry

	// Clustered: the rows are in the b-tree of the primary key, as those of a
	// table WITHOUT ROWID are.
	Clustered bool

	// Damage is the first thing that is wrong with its pages; empty: nothing is.
	Damage string
}

// A Map knows to what each page of a file belongs. It takes 4 bytes for each.
type Map struct {
	file   *File
	owners []owner // of page 1 and so on
	Trees  []Tree  // the schema's own table first

	// Damage is what is wrong with the file, the first few; DamageN how many.
	Damage  []string
	DamageN int
}

// maxDamage is how many problems a Map tells.
const maxDamage = 5

// NewMap walks through all pages of a file. The error is one of reading or of
// ctx; what is damaged is in the map.
func NewMap(ctx context.Context, f *File) (*Map, error) {
	w := &walker{Map: &Map{file: f, owners: make([]owner, f.pageN)}, ctx: ctx}
	if f.lock <= f.pageN {
		w.owners[f.lock-1] = ownerLock
	}
	if f.autoVacuum {
		for pgno := uint32(2); pgno <= f.pageN; pgno++ {
			if f.isPtrMap(pgno) {
				w.owners[pgno-1] = ownerPtrMap
			}
		}
	}
	if err := w.readSchema(); err != nil {
		return nil, err
	}
	if err := w.note(w.walkFreelist(), nil); err != nil {
		return nil, err
	}
	for i := 1; i < len(w.Trees); i++ {
		if w.Trees[i].Root == 0 {
			continue
		}
		if err := w.walkTree(i, nil); err != nil {
			return nil, err
		}
	}
	return w.Map, nil
}

// File returns what the map is of.
func (m *Map) File() *File { return m.file }

// walker makes a Map.
type walker struct {
	*Map

	ctx    context.Context
	claims int
	bufs   [maxDepth + 1][]byte // a page for each depth
	id     owner                // of the tree that is walked
	index  bool                 // that is an index, or a table without rowids
	visit  func(c cell) error   // gets its cells; nil: nobody wants them
}

// note takes down what is damaged, and returns any other error.
func (w *walker) note(err error, t *Tree) error {
	if _, ok := errors.AsType[damage](err); !ok {
		return err
	}
	text := err.Error()
	if t != nil {
		if t.Damage == "" {
			t.Damage = text
		}
		text = fmt.Sprintf("%s %s: %s", t.Type, t.Name, text)
	}
	if w.DamageN++; w.DamageN <= maxDamage {
		w.Damage = append(w.Damage, text)
	}
	return nil
}

// claim notes that a page belongs to o. A page belongs to one only.
func (w *walker) claim(pgno uint32, o owner) error {
	if w.claims++; w.claims%1024 == 0 {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
	}
	if err := w.file.checkPgno(pgno); err != nil {
		return err
	}
	if old := w.owners[pgno-1]; old != ownerUnused {
		return damagef("page %d belongs to %s too", pgno, w.ownerName(old))
	}
	w.owners[pgno-1] = o
	return nil
}

func (m *Map) ownerName(o owner) string {
	switch o &= ownerMask; o {
	case ownerUnused:
		return UnusedPages
	case ownerFree:
		return FreePages
	case ownerPtrMap:
		return PtrMapPages
	case ownerLock:
		return LockPage
	default:
		t := &m.Trees[o-ownerTrees]
		return t.Type + " " + t.Name
	}
}

// walkFreelist claims the pages that are not in use (file format, section 1.5).
func (w *walker) walkFreelist() error {
	f := w.file
	buf := make([]byte, f.pageSize)
	for trunk := f.freeTrunk; trunk != 0; {
		if err := w.claim(trunk, ownerFree); err != nil {
			return fmt.Errorf("freelist: %w", err)
		}
		if err := f.readAt(buf, trunk, 0); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(buf[4:])
		if n > uint32(f.usable/4-2) {
			return damagef("freelist page %d names %d pages", trunk, n)
		}
		for i := range int(n) {
			if err := w.claim(binary.BigEndian.Uint32(buf[8+4*i:]), ownerFree); err != nil {
				return fmt.Errorf("freelist: %w", err)
			}
		}
		trunk = binary.BigEndian.Uint32(buf)
	}
	return nil
}

// readSchema walks the schema's table and takes its rows.
func (w *walker) readSchema() error {
	w.Trees = []Tree{{Entry: Entry{Type: "table", Name: SchemaTable, Table: SchemaTable, Root: 1}}}
	type key struct{ kind, name string }
	seen := map[key]bool{{"table", SchemaTable}: true}
	var entries []Tree
	err := w.walkTree(0, func(c cell) error {
		e, err := w.file.schemaEntry(c)
		if err != nil {
			return err
		}
		if k := (key{e.Type, e.Name}); !seen[k] {
			seen[k] = true
			entries = append(entries, Tree{Entry: e})
			return nil
		}
		return damagef("%s %s is there twice", e.Type, e.Name)
	})
	w.Trees = append(w.Trees, entries...)
	return err
}

// walkTree claims the pages of a tree. visit gets every cell of a leaf.
func (w *walker) walkTree(i int, visit func(c cell) error) error {
	t := &w.Trees[i]
	w.id, w.visit, w.index = ownerTrees+owner(i), visit, false
	if err := w.note(w.walkPage(t.Root, 0), t); err != nil {
		return err
	}
	t.Clustered = t.Type == "table" && w.index
	return nil
}

// walkPage claims a page of a tree and all below it. Damage below it is taken
// down there, so that the rest is walked.
func (w *walker) walkPage(pgno uint32, depth int) error {
	if depth > maxDepth {
		return damagef("page %d is more than %d levels below the root", pgno, maxDepth)
	}
	if err := w.claim(pgno, w.id); err != nil {
		return err
	}
	if w.bufs[depth] == nil {
		w.bufs[depth] = make([]byte, w.file.pageSize)
	}
	nd, err := w.file.node(pgno, w.bufs[depth])
	if err != nil {
		return err
	}
	t := &w.Trees[w.id-ownerTrees]
	if depth == 0 {
		w.index = nd.isIndex()
	}
	if nd.isIndex() != w.index || t.Type == "index" && !w.index {
		return damagef("page %d has type %d, of another kind of tree", pgno, nd.kind)
	}
	if nd.isLeaf() {
		w.owners[pgno-1] |= leafBit
	}
	for i := range nd.n {
		if !nd.isLeaf() {
			if err := w.note(w.walkChild(&nd, i, depth), t); err != nil {
				return err
			}
		}
		if nd.kind != tableInterior {
			if err := w.note(w.walkCell(&nd, i), t); err != nil {
				return err
			}
		}
	}
	if nd.isLeaf() {
		return nil
	}
	return w.walkChild(&nd, nd.n, depth)
}

func (w *walker) walkChild(nd *node, i, depth int) error {
	child, err := nd.child(i)
	if err != nil {
		return err
	}
	return w.walkPage(child, depth+1)
}

// walkCell claims the overflow pages of a cell.
func (w *walker) walkCell(nd *node, i int) error {
	c, err := nd.cell(i)
	if err != nil {
		return err
	}
	if int64(len(c.local)) < c.size {
		w.owners[nd.pgno-1] |= spillBit
		if err := w.file.eachOverflow(c, func(pgno uint32) error { return w.claim(pgno, w.id) }); err != nil {
			return err
		}
	}
	if w.visit == nil {
		return nil
	}
	return w.visit(c)
}
