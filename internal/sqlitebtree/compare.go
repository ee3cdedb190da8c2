package sqlitebtree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// PageCounts tell pages of two states apart. What has pages of another size
// shares none with the other state.
type PageCounts struct {
	Before, After int // pages that there were and are
	Changed       int // that are in both, with another content
	Added         int // that are only in the later
	Removed       int // that were only in the earlier
}

// any reports whether there is a difference.
func (p PageCounts) any() bool { return p.Changed > 0 || p.Added > 0 || p.Removed > 0 }

// A Change is a table, index or other entry of the schema in both states, or a
// list of pages that SQLite keeps beside them.
type Change struct {
	Type  string // as in the schema; empty for a list of pages
	Name  string
	Table string // that it belongs to

	// Before and After are the entry in both states; nil where it is in one
	// only, and both for a list of pages.
	Before, After *Tree

	Pages PageCounts
}

// Differs reports whether anything is different, in the schema or in a page.
func (c *Change) Differs() bool {
	return c.Pages.any() || (c.Before == nil) != (c.After == nil) || c.SchemaDiffers()
}

// SchemaDiffers reports whether an entry that is in both states is declared in
// another way.
func (c *Change) SchemaDiffers() bool {
	return c.Before != nil && c.After != nil && c.Before.SQL != c.After.SQL
}

// A Comparison is two states of a database. It takes a bit for each page beside
// the maps.
type Comparison struct {
	before, after *Map
	differ        []uint64 // bit per page, page 1 first; of pages that are in both
	changed       int      // bits that are set
	samePages     bool     // the size of pages is the same

	Changes []Change // tables with their indexes by name, then lists of pages

	// Which change the owners of both maps are part of.
	ofBefore, ofAfter []int
}

// Compare reads all pages of two states.
func Compare(ctx context.Context, before, after *Map) (*Comparison, error) {
	c := &Comparison{before: before, after: after, samePages: before.file.pageSize == after.file.pageSize}
	if c.samePages {
		if err := c.comparePages(ctx); err != nil {
			return nil, err
		}
	}
	c.match()
	c.count()
	return c, nil
}

// Pages counts the pages of the files.
func (c *Comparison) Pages() PageCounts {
	n, m := int(c.before.file.pageN), int(c.after.file.pageN)
	if !c.samePages {
		return PageCounts{Before: n, After: m, Added: m, Removed: n}
	}
	return PageCounts{Before: n, After: m, Changed: c.changed, Added: max(0, m-n), Removed: max(0, n-m)}
}

// comparePages finds the pages that are in both files and differ.
func (c *Comparison) comparePages(ctx context.Context) error {
	const chunkBytes = 1 << 20
	a, b := c.before.file, c.after.file
	n, perChunk := min(a.pageN, b.pageN), uint32(max(1, chunkBytes/a.pageSize))
	c.differ = make([]uint64, (int(n)+63)/64)
	x, y := make([]byte, int(min(perChunk, n))*a.pageSize), make([]byte, int(min(perChunk, n))*a.pageSize)
	for first := uint32(1); first <= n; first += perChunk {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		k := int(min(perChunk, n-first+1))
		x, y = x[:k*a.pageSize], y[:k*a.pageSize]
		if err := errors.Join(a.readAt(x, first, 0), b.readAt(y, first, 0)); err != nil {
			return err
		}
		for i := range k {
			pgno := first + uint32(i)
			if pgno != a.lock && !bytes.Equal(x[i*a.pageSize:][:a.pageSize], y[i*a.pageSize:][:a.pageSize]) {
				c.differ[(pgno-1)/64] |= 1 << ((pgno - 1) % 64)
				c.changed++
			}
		}
		if n-first < perChunk {
			break // so that the sum cannot wrap around
		}
	}
	return nil
}

// differs reports whether a page is not the same in both files.
func (c *Comparison) differs(pgno uint32) bool {
	i := int(pgno - 1)
	if !c.samePages || pgno > min(c.before.file.pageN, c.after.file.pageN) {
		return true
	}
	return c.differ[i/64]&(1<<(i%64)) != 0
}

// match finds for each entry of one state that of the other.
func (c *Comparison) match() {
	type key struct{ kind, name string }
	index := make(map[key]int)
	for _, side := range []*Map{c.before, c.after} {
		for i := range side.Trees {
			t := &side.Trees[i]
			k := key{t.Type, t.Name}
			at, ok := index[k]
			if !ok {
				at = len(c.Changes)
				index[k] = at
				c.Changes = append(c.Changes, Change{Type: t.Type, Name: t.Name, Table: t.Table})
			}
			if side == c.before {
				c.Changes[at].Before = t
			}
			if side == c.after {
				c.Changes[at].After, c.Changes[at].Table = t, t.Table
			}
		}
	}
	slices.SortFunc(c.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(rank(a.Type), rank(b.Type)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type))
	})
	clear(index)
	for i, ch := range c.Changes {
		index[key{ch.Type, ch.Name}] = i
	}
	lists := len(c.Changes)
	for _, name := range []string{FreePages, PtrMapPages, LockPage, UnusedPages} {
		c.Changes = append(c.Changes, Change{Name: name})
	}
	parts := func(m *Map) []int {
		a := []int{ownerUnused: lists + 3, ownerFree: lists, ownerPtrMap: lists + 1, ownerLock: lists + 2}
		for i := range m.Trees {
			a = append(a, index[key{m.Trees[i].Type, m.Trees[i].Name}])
		}
		return a
	}
	c.ofBefore, c.ofAfter = parts(c.before), parts(c.after)
}

// rank orders what belongs to one table.
func rank(kind string) int {
	switch kind {
	case "table", "view":
		return 0
	case "index":
		return 1
	default:
		return 2
	}
}

// count counts the pages of each change.
func (c *Comparison) count() {
	for pgno := uint32(1); pgno <= max(c.before.file.pageN, c.after.file.pageN); pgno++ {
		was, is := partOf(c.before, c.ofBefore, pgno), partOf(c.after, c.ofAfter, pgno)
		if was >= 0 {
			c.Changes[was].Pages.Before++
		}
		if is >= 0 {
			c.Changes[is].Pages.After++
		}
		if was == is && c.samePages {
			if c.differs(pgno) {
				c.Changes[is].Pages.Changed++
			}
			continue
		}
		if was >= 0 {
			c.Changes[was].Pages.Removed++
		}
		if is >= 0 {
			c.Changes[is].Pages.Added++
		}
	}
}

// partOf returns which change a page is part of; -1: there is no such page.
func partOf(m *Map, parts []int, pgno uint32) int {
	if pgno > m.file.pageN {
		return -1
	}
	return parts[m.owners[pgno-1]&ownerMask]
}

// shared reports whether a page is part of one change in both states and the
// same in both.
func (c *Comparison) shared(pgno uint32) bool {
	return !c.differs(pgno) && partOf(c.before, c.ofBefore, pgno) == partOf(c.after, c.ofAfter, pgno)
}

// samePayload reports whether two cells hold the same.
func samePayload(fa *File, a cell, fb *File, b cell) (bool, error) {
	if a.size != b.size {
		return false, nil
	}
	if int64(len(a.local)) == a.size && int64(len(b.local)) == b.size {
		return bytes.Equal(a.local, b.local), nil
	}
	const partBytes = 32 << 10
	x, y := make([]byte, min(a.size, partBytes)), make([]byte, min(a.size, partBytes))
	ra, rb := fa.payload(a), fb.payload(b)
	for left := a.size; left > 0; left -= int64(len(x)) {
		x, y = x[:min(left, int64(len(x)))], y[:min(left, int64(len(x)))]
		_, errA := io.ReadFull(ra, x)
		_, errB := io.ReadFull(rb, y)
		if err := errors.Join(errA, errB); err != nil {
			return false, fmt.Errorf("read a row: %w", err)
		}
		if !bytes.Equal(x, y) {
			return false, nil
		}
	}
	return true, nil
}
