package litestream

import (
	"hash/maphash"
	"strings"
)

// interner gives each distinct string a small number, as long as somebody
// refers to it. The strings are paths: each begins with the separator, and what
// they have in common is held once, because there may be a directory for each
// database.
type interner struct {
	sep     byte
	seed    maphash.Seed
	entries slab[interned]
	n       uint32 // entries made so far
	free    uint32 // head of the list of free ones, plus one
	index   hashIndex
	text    arena
}

// interned is the last element of a string. One with refs 0 is free.
type interned struct {
	parent uint32 // number of what stands before it, plus one; of a free one: the next free one, plus one
	off    uint32
	refs   uint32 // of users and of longer strings
	hash   uint32 // of the whole string
	len    uint16
}

func newInterner(sep byte) *interner { return &interner{sep: sep, seed: maphash.MakeSeed()} }

// append appends a string that somebody refers to.
func (t *interner) append(b []byte, i uint32) []byte {
	e := t.entries.at(i)
	if e.parent != 0 {
		b = t.append(b, e.parent-1)
	}
	return append(append(b, t.sep), t.text.get(e.off, int(e.len))...)
}

// is reports whether a string is s. It begins at the end, where they differ.
func (t *interner) is(i uint32, s string) bool {
	for {
		e := t.entries.at(i)
		n := len(s) - int(e.len)
		if n < 1 || s[n-1] != t.sep || s[n:] != string(t.text.get(e.off, int(e.len))) {
			return false
		}
		if s = s[:n-1]; e.parent == 0 {
			return s == ""
		}
		i = e.parent - 1
	}
}

// spread makes a hash for the index, which takes bits from both ends of it.
func spread(h uint32) uint64 { return uint64(h)<<32 | uint64(h) }

func (t *interner) hashOf(s string) uint32 { return uint32(maphash.String(t.seed, s)) }

func (t *interner) hash(i uint32) uint64 { return spread(t.entries.at(i).hash) }

// find returns the number of s, if anybody refers to it.
func (t *interner) find(s string) (uint32, bool) {
	h := spread(t.hashOf(s))
	i, pos, ok := t.index.next(h, t.index.seek(h))
	for ok && !t.is(i, s) {
		i, pos, ok = t.index.next(h, pos)
	}
	return i, ok
}

// acquire returns the number of s, which begins with the separator, and counts
// a reference. It fails if an element has more than maxText bytes, and when
// there is no room for another one.
func (t *interner) acquire(s string) (uint32, bool) {
	if i, ok := t.find(s); ok {
		t.entries.at(i).refs++
		return i, true
	}
	e := interned{refs: 1, hash: t.hashOf(s)}
	cut := strings.LastIndexByte(s, t.sep)
	if cut > 0 {
		parent, ok := t.acquire(s[:cut])
		if !ok {
			return 0, false
		}
		e.parent = parent + 1
	}
	off, ok := t.text.put([]byte(s[cut+1:]))
	if !ok {
		if e.parent != 0 {
			t.release(e.parent - 1)
		}
		return 0, false
	}
	e.off, e.len = off, uint16(len(s)-cut-1)
	i := t.n
	if t.free != 0 {
		i = t.free - 1
		t.free = t.entries.at(i).parent
	} else {
		t.entries.make(i)
		t.n++
	}
	*t.entries.at(i) = e
	t.index.put(spread(e.hash), i, t.hash)
	return i, true
}

// release gives one reference back and reports whether it was the last.
func (t *interner) release(i uint32) (last bool) {
	for {
		e := t.entries.at(i)
		if e.refs--; e.refs > 0 {
			break
		}
		last = true
		t.index.remove(t.hash(i), i, t.hash)
		t.text.dead += int(e.len)
		parent := e.parent
		*e = interned{parent: t.free}
		if t.free = i + 1; parent == 0 {
			break
		}
		i = parent - 1
	}
	if t.text.wasteful() {
		t.compact()
	}
	return last
}

func (t *interner) compact() {
	var to arena
	for i := range t.n {
		if e := t.entries.at(i); e.refs > 0 {
			e.off, _ = to.put(t.text.get(e.off, int(e.len))) // fits: half of it is gone
		}
	}
	t.text = to
}
