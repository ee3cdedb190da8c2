package litestream

import (
	"math/bits"
	"unsafe"
)

// What dbTable is made of. Nothing in here holds a pointer for each record, so
// that 100,000 of them cost the garbage collector nothing, and nothing that is
// large is copied when it grows: the peak stays near what is used.

// slabLen is how many elements a piece of a slab has.
const (
	slabBits = 9
	slabLen  = 1 << slabBits
)

// slab is an array that grows piece by piece. Elements never move. Pieces that
// nothing was put into do not exist.
type slab[T any] struct {
	pieces []*[slabLen]T
}

// at returns element i, which make has to have been called for.
func (s *slab[T]) at(i uint32) *T { return &s.pieces[i>>slabBits][i%slabLen] }

// make sees to it that element i exists.
func (s *slab[T]) make(i uint32) {
	n := int(i >> slabBits)
	for len(s.pieces) <= n {
		s.pieces = append(s.pieces, nil)
	}
	if s.pieces[n] == nil {
		s.pieces[n] = new([slabLen]T)
	}
}

// has reports whether element i exists.
func (s *slab[T]) has(i uint32) bool {
	n := int(i >> slabBits)
	return n < len(s.pieces) && s.pieces[n] != nil
}

// truncate gives up the pieces that hold no element below n.
func (s *slab[T]) truncate(n uint32) {
	if keep := int((n + slabLen - 1) >> slabBits); keep < len(s.pieces) {
		clear(s.pieces[keep:])
		s.pieces = s.pieces[:keep]
	}
}

// bitset is a set of small numbers. The zero value is empty.
type bitset []uint64

func (b bitset) has(i uint32) bool {
	w := int(i / 64)
	return w < len(b) && b[w]&(1<<(i%64)) != 0
}

func (b *bitset) add(i uint32) {
	w := int(i / 64)
	for len(*b) <= w {
		*b = append(*b, 0)
	}
	(*b)[w] |= 1 << (i % 64)
}

func (b bitset) remove(i uint32) {
	if w := int(i / 64); w < len(b) {
		b[w] &^= 1 << (i % 64)
	}
}

// firstMissing returns the smallest number from start on that is not a member.
func (b bitset) firstMissing(start uint32) uint32 {
	for w := int(start / 64); w < len(b); w++ {
		free := ^b[w]
		if w == int(start/64) {
			free &= ^uint64(0) << (start % 64)
		}
		if free != 0 {
			return uint32(w*64 + bits.TrailingZeros64(free))
		}
	}
	return max(start, uint32(len(b)*64))
}

const (
	arenaBits = 15
	arenaLen  = 1 << arenaBits
	maxText   = arenaLen / 4 // so that moving everything takes fewer pieces than before

	// arenaPieces keeps offsets within 32 bits.
	arenaPieces = 1 << (32 - arenaBits)
)

// arena holds short strings, each in one piece. What is in it is addressed by
// offset and length, which the owner keeps. It only grows: an owner whose
// strings are mostly dead moves the others to a new one.
type arena struct {
	pieces [][]byte
	dead   int // bytes that nobody refers to any more
}

// put copies b and returns its offset. It fails if b has more than maxText
// bytes, and when the arena is full.
func (a *arena) put(b []byte) (off uint32, ok bool) {
	if len(b) > maxText {
		return 0, false
	}
	n := len(a.pieces)
	if n == 0 || len(a.pieces[n-1])+len(b) > arenaLen {
		if n == arenaPieces {
			return 0, false
		}
		if n > 0 {
			a.dead += arenaLen - len(a.pieces[n-1])
		}
		a.pieces = append(a.pieces, make([]byte, 0, arenaLen))
		n++
	}
	piece := &a.pieces[n-1]
	off = uint32(n-1)<<arenaBits | uint32(len(*piece))
	*piece = append(*piece, b...)
	return off, true
}

func (a *arena) get(off uint32, n int) []byte {
	i := int(off % arenaLen)
	return a.pieces[off>>arenaBits][i : i+n : i+n]
}

// wasteful reports whether more than half of a larger arena is dead.
func (a *arena) wasteful() bool {
	return len(a.pieces) > 1 && a.dead > len(a.pieces)*arenaLen/2
}

// hashIndex finds numbers by hash: open addressing with linear probing, and
// one byte of each hash, so that what a number stands for is looked at only if
// it is most likely the right one. Its owner compares, and knows the hash of
// what is in it.
type hashIndex struct {
	tags  []uint8 // 0: free
	slots []uint32
	n     int
	shift uint8 // 64 - log2(len(slots))
}

const minHashIndex = 64

// tagOf takes other bits of the hash than the position does.
func tagOf(h uint64) uint8 { return uint8(h) | 0x80 }

// seek starts a search. The result goes into next.
func (x *hashIndex) seek(h uint64) uint32 {
	if x.n == 0 {
		return 0
	}
	return uint32(h >> x.shift)
}

// next returns the next number that may have hash h, and where to go on.
func (x *hashIndex) next(h uint64, pos uint32) (i, after uint32, ok bool) {
	if x.n == 0 {
		return 0, 0, false
	}
	mask, tag := uint32(len(x.tags)-1), tagOf(h)
	for ; x.tags[pos] != 0; pos = (pos + 1) & mask {
		if x.tags[pos] == tag {
			return x.slots[pos], (pos + 1) & mask, true
		}
	}
	return 0, 0, false
}

// put adds a number that is not in the index. hash tells the hash of any
// number that is.
func (x *hashIndex) put(h uint64, i uint32, hash func(uint32) uint64) {
	if (x.n+1)*8 > len(x.tags)*7 {
		x.grow(hash)
	}
	x.place(h, i)
	x.n++
}

func (x *hashIndex) place(h uint64, i uint32) {
	pos, mask := uint32(h>>x.shift), uint32(len(x.tags)-1)
	for x.tags[pos] != 0 {
		pos = (pos + 1) & mask
	}
	x.tags[pos], x.slots[pos] = tagOf(h), i
}

func (x *hashIndex) grow(hash func(uint32) uint64) {
	old := *x
	size := max(2*len(old.tags), minHashIndex)
	x.tags, x.slots = make([]uint8, size), make([]uint32, size)
	x.shift = uint8(64 - bits.TrailingZeros(uint(size)))
	for pos, tag := range old.tags {
		if tag != 0 {
			x.place(hash(old.slots[pos]), old.slots[pos])
		}
	}
}

// remove takes number i with hash h out and closes the gap that it leaves, so
// that searches never step over dead places.
func (x *hashIndex) remove(h uint64, i uint32, hash func(uint32) uint64) {
	if x.n == 0 {
		return
	}
	pos, mask := uint32(h>>x.shift), uint32(len(x.tags)-1)
	for ; x.tags[pos] == 0 || x.slots[pos] != i; pos = (pos + 1) & mask {
		if x.tags[pos] == 0 {
			return
		}
	}
	x.n--
	gap := pos
	for pos = (pos + 1) & mask; x.tags[pos] != 0; pos = (pos + 1) & mask {
		home := uint32(hash(x.slots[pos]) >> x.shift)
		if (pos-home)&mask >= (pos-gap)&mask { // the gap is not ahead of where its search starts
			x.tags[gap], x.slots[gap] = x.tags[pos], x.slots[pos]
			gap = pos
		}
	}
	x.tags[gap] = 0
}

// bytes is the memory of a slab's pieces.
func (s *slab[T]) bytes() (n int64) {
	for _, p := range s.pieces {
		if p != nil {
			n += int64(unsafe.Sizeof(*p))
		}
	}
	return n + 8*int64(cap(s.pieces))
}

func (a *arena) bytes() int64 { return int64(len(a.pieces)) * arenaLen }

func (x *hashIndex) bytes() int64 { return int64(len(x.tags)) + 4*int64(len(x.slots)) }

func (t *interner) bytes() int64 { return t.entries.bytes() + t.index.bytes() + t.text.bytes() }

// MemoryBytes returns what the table holds in memory.
func (t *dbTable) MemoryBytes() int64 {
	return t.records.bytes() + t.logs.bytes() + t.index.bytes() + t.inodes.bytes() + t.names.bytes() +
		t.dirs.bytes() + t.groups.bytes() + 8*int64(cap(t.used)+cap(t.seen))
}
