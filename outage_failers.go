package litestream

import (
	"maps"
	"math"
)

// failers knows of everything that fails which outage it is part of. All 100,000
// databases of a fleet may be, with several kinds of tasks, so that one of theirs
// costs two bytes. It is not safe for concurrent use. The zero value is empty.
type failers struct {
	outages []*outage                  // by number, less one
	unused  []uint16                   // numbers of outages that are forgotten
	fleet   map[taskKind]*slab[uint16] // by database: the outage's number; 0: none
	others  map[failer]*outage
}

// number gives a new outage its number. Beyond what two bytes can tell there is
// none.
func (t *failers) number(o *outage) {
	switch n := len(t.unused); {
	case n > 0:
		o.number, t.unused = t.unused[n-1], t.unused[:n-1]
		t.outages[o.number-1] = o
	case len(t.outages) < math.MaxUint16:
		t.outages = append(t.outages, o)
		o.number = uint16(len(t.outages))
	}
}

// free takes the number back of an outage that nothing is part of.
func (t *failers) free(o *outage) {
	if o.number > 0 {
		t.outages[o.number-1] = nil
		t.unused = append(t.unused, o.number)
	}
}

// place returns where the number of a fleet's failer stands, or nil.
func (t *failers) place(who failer) *uint16 {
	s := t.fleet[who.kind]
	if !who.tenant() || s == nil || !s.has(who.id) {
		return nil
	}
	return s.at(who.id)
}

// of returns the outage that somebody is part of, or nil.
func (t *failers) of(who failer) *outage {
	if p := t.place(who); p != nil && *p > 0 {
		return t.outages[*p-1]
	}
	return t.others[who]
}

// add makes somebody part of an outage who is part of none.
func (t *failers) add(who failer, o *outage) {
	if !who.tenant() || o.number == 0 {
		if t.others == nil {
			t.others = make(map[failer]*outage)
		}
		t.others[who] = o
		return
	}
	if t.fleet == nil {
		t.fleet = make(map[taskKind]*slab[uint16])
	}
	s := t.fleet[who.kind]
	if s == nil {
		s = new(slab[uint16])
		t.fleet[who.kind] = s
	}
	s.make(who.id)
	*s.at(who.id) = o.number
}

// remove ends that somebody is part of an outage.
func (t *failers) remove(who failer) {
	if p := t.place(who); p != nil && *p > 0 {
		*p = 0
		return
	}
	delete(t.others, who)
}

// removeLate removes all of an outage that are tried again much later.
func (t *failers) removeLate(o *outage) {
	maps.DeleteFunc(t.others, func(who failer, other *outage) bool { return other == o && who.late() })
	if o.number == 0 {
		return
	}
	for kind, s := range t.fleet {
		if !(failer{kind: kind}).late() {
			continue
		}
		for _, piece := range s.pieces {
			if piece == nil {
				continue
			}
			for i, n := range piece {
				if n == o.number {
					piece[i] = 0
				}
			}
		}
	}
}
