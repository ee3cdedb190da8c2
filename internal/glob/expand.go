package glob

import "strings"

// Expand returns the path in which each wildcard stands for the value of its
// number, as Match returns them. Whether the pattern matches it is for the
// caller to check: a value may be one that its wildcard cannot stand for.
func (p *Pattern) Expand(values []string) string {
	var b strings.Builder
	for i := range p.segs {
		s := &p.segs[i]
		if s.multi {
			if v := values[s.wild]; v != "" {
				b.WriteString("/" + v)
			}
			continue
		}
		b.WriteByte('/')
		for j := range s.tokens {
			if t := &s.tokens[j]; t.run != "" {
				b.WriteString(values[t.wild])
			} else {
				b.WriteString(t.lit)
			}
		}
	}
	return b.String()
}

// LastName returns the wildcard that a path's last element consists of but for
// the text behind it, if it does: 3 and ".db" for `{{name}}.db`.
func (p *Pattern) LastName() (wild int, suffix string, ok bool) {
	s := &p.segs[len(p.segs)-1]
	if s.multi || len(s.tokens) != 2 || s.tokens[0].run == "" || s.tokens[1].run != "" {
		return 0, "", false
	}
	return s.tokens[0].wild, s.tokens[1].lit, true
}
