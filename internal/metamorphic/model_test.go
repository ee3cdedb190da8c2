package metamorphic

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
)

// A moment names one commit of a world. The database holds the moment of its
// newest commit in a table that every commit changes, so a restored database
// tells by itself which commits it must hold: all those of its epoch up to it.
// An epoch begins with a new database file, or with a restore to the past.
type moment struct{ Epoch, K uint64 }

func (m moment) less(o moment) bool {
	return m.Epoch < o.Epoch || m.Epoch == o.Epoch && m.K < o.K
}

func (m moment) String() string { return fmt.Sprintf("%d/%d", m.Epoch, m.K) }

// opKind is what one commit does to the data table.
type opKind int

const (
	opInsert opKind = iota
	opUpdate
	opDelete
	opClear
)

// An op is a commit's change. It follows from the moment alone, so that it
// does not matter which writer made it, or whether a writer that was killed
// learned that it succeeded.
type op struct {
	kind   opKind
	ids    []uint64 // of inserted rows
	bodies [][]byte // of inserted rows; of updates, the one new body
	mod    uint64   // updates and deletes: rows whose id % mod == rem
	rem    uint64
}

// opOf returns the change of a moment.
func opOf(seed uint64, pageSize int, m moment) op {
	rng := rand.New(rand.NewPCG(seed^m.Epoch*0x9e3779b97f4a7c15, m.K))
	body := func(n int) []byte {
		b := make([]byte, n)
		for i := 0; i < len(b); i += 8 {
			var w [8]byte
			binary.LittleEndian.PutUint64(w[:], rng.Uint64())
			copy(b[i:], w[:])
		}
		return b
	}
	if m.K%101 == 100 {
		return op{kind: opClear}
	}
	if m.K%23 == 22 {
		mod := uint64(2 + rng.IntN(2))
		return op{kind: opDelete, mod: mod, rem: rng.Uint64N(mod)}
	}
	switch n := rng.IntN(20); {
	case n < 11:
		return inserts(m, 1+rng.IntN(4), func() []byte { return body(rng.IntN(300)) })
	case n < 12:
		return inserts(m, bigRows(pageSize), func() []byte { return body(min(pageSize, 8192) * 7 / 8) })
	case n < 13:
		return inserts(m, 2, func() []byte { return body(3 * pageSize / 2) })
	case n < 18:
		mod := uint64(1 + rng.IntN(12))
		return op{kind: opUpdate, mod: mod, rem: rng.Uint64N(mod), bodies: [][]byte{body(rng.IntN(200))}}
	default:
		mod := uint64(3 + rng.IntN(12))
		return op{kind: opDelete, mod: mod, rem: rng.Uint64N(mod)}
	}
}

// bigRows is how many rows make a transaction spill from a cache of ten pages.
func bigRows(pageSize int) int {
	if pageSize >= 32768 {
		return 48
	}
	return 24
}

func inserts(m moment, n int, body func() []byte) op {
	o := op{kind: opInsert}
	for i := range n {
		o.ids = append(o.ids, m.K*64+uint64(i))
		o.bodies = append(o.bodies, body())
	}
	return o
}

// rowSum is the hash of one row; a table's digest is their sum.
func rowSum(id, k uint64, body []byte) uint64 {
	b := make([]byte, 16, 16+len(body))
	binary.BigEndian.PutUint64(b, id)
	binary.BigEndian.PutUint64(b[8:], k)
	sum := sha256.Sum256(append(b, body...))
	return binary.BigEndian.Uint64(sum[:])
}

// digest is what a whole table adds up to.
type digest struct {
	Rows int
	Sum  uint64
}

// model knows what the table holds at every moment. It is safe for concurrent
// use.
type model struct {
	seed     uint64
	pageSize map[uint64]int // by epoch

	mu     sync.Mutex
	epochs map[uint64]*epochModel
}

// epochModel is one epoch, computed as far as somebody asked.
type epochModel struct {
	base    uint64            // K at which it began
	origin  map[uint64]uint64 // id → rowSum, at base
	rows    map[uint64]uint64 // the same at the newest digest
	digests []digest          // [0] is at base
}

func newModel(seed uint64) *model {
	return &model{seed: seed, pageSize: make(map[uint64]int), epochs: make(map[uint64]*epochModel)}
}

// beginEpoch starts an epoch with an empty table.
func (m *model) beginEpoch(epoch uint64, pageSize int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pageSize[epoch] = pageSize
	m.epochs[epoch] = &epochModel{origin: make(map[uint64]uint64), rows: make(map[uint64]uint64), digests: []digest{{}}}
}

// nextEpoch is above all that began.
func (m *model) nextEpoch() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	newest := uint64(0)
	for epoch := range m.epochs {
		newest = max(newest, epoch)
	}
	return newest + 1
}

// fork starts an epoch with the table of an earlier moment.
func (m *model) fork(epoch uint64, from moment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pageSize[epoch] = m.pageSize[from.Epoch]
	rows, d := m.replay(from)
	m.epochs[epoch] = &epochModel{base: from.K, origin: maps.Clone(rows), rows: rows, digests: []digest{d}}
}

// replay returns the table of a moment, computed anew.
func (m *model) replay(at moment) (map[uint64]uint64, digest) {
	e := m.epochs[at.Epoch]
	again := &epochModel{base: e.base, rows: maps.Clone(e.origin), digests: e.digests[:1:1]}
	for k := e.base + 1; k <= at.K; k++ {
		again.apply(k, opOf(m.seed, m.pageSize[at.Epoch], moment{at.Epoch, k}))
	}
	return again.rows, again.digests[len(again.digests)-1]
}

// at returns the digest of a moment.
func (m *model) at(at moment) (digest, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.epochs[at.Epoch]
	if e == nil || at.K < e.base {
		return digest{}, fmt.Errorf("moment %s never was", at)
	}
	m.extend(at)
	return e.digests[at.K-e.base], nil
}

func (m *model) extend(at moment) {
	e := m.epochs[at.Epoch]
	for k := e.base + uint64(len(e.digests)); k <= at.K; k++ {
		e.apply(k, opOf(m.seed, m.pageSize[at.Epoch], moment{at.Epoch, k}))
	}
}

func (e *epochModel) apply(k uint64, o op) {
	switch o.kind {
	case opInsert:
		for i, id := range o.ids {
			e.rows[id] = rowSum(id, k, o.bodies[i])
		}
	case opUpdate:
		for id := range e.rows {
			if id%o.mod == o.rem {
				e.rows[id] = rowSum(id, k, o.bodies[0])
			}
		}
	case opDelete:
		for id := range e.rows {
			if id%o.mod == o.rem {
				delete(e.rows, id)
			}
		}
	case opClear:
		clear(e.rows)
	}
	d := digest{Rows: len(e.rows)}
	for _, sum := range e.rows {
		d.Sum += sum
	}
	e.digests = append(e.digests, d)
}
