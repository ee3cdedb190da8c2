package glob

import "strings"

// States is how far a pattern has come in a directory: bit i is set if the
// pattern's path element i may match a name in it. 0 means that nothing below
// can match.
type States uint64

// Start returns the states in the root directory.
func (p *Pattern) Start() States { return p.closed(1) }

// closed adds to the states what ** reaches by standing for no directory.
func (p *Pattern) closed(s States) States {
	for i := range p.segs[:len(p.segs)-1] {
		if s&(1<<i) != 0 && p.segs[i].multi {
			s |= 1 << (i + 1)
		}
	}
	return s
}

// Enter returns the states in the subdirectory called name.
func (p *Pattern) Enter(s States, name string) States {
	var next States
	for i := range p.segs {
		switch {
		case s&(1<<i) == 0:
		case p.segs[i].multi:
			next |= 1 << i
		case i < len(p.segs)-1 && p.segs[i].match(name, nil):
			next |= 1 << (i + 1)
		}
	}
	return p.closed(next)
}

// MatchFile reports whether a file called name matches in such a directory.
func (p *Pattern) MatchFile(s States, name string) bool {
	last := len(p.segs) - 1
	return s&(1<<last) != 0 && (p.segs[last].multi || p.segs[last].match(name, nil))
}

// Literals appends the names that directories must have for Enter to lead
// anywhere, and reports whether it knows them all and no file can match, so
// that the directory need not be read.
func (p *Pattern) Literals(s States, names []string) ([]string, bool) {
	for i := range p.segs {
		if s&(1<<i) == 0 {
			continue
		}
		lit, ok := p.segs[i].literal()
		if !ok || i == len(p.segs)-1 {
			return names, false
		}
		names = append(names, lit)
	}
	return names, true
}

// MayMatchBelow reports whether the pattern matches the path itself, or may
// match something below it.
func (p *Pattern) MayMatchBelow(dir string) bool {
	s := p.Start()
	for rest := strings.Trim(dir, "/"); rest != ""; {
		name, tail, _ := strings.Cut(rest, "/")
		if tail == "" && p.MatchFile(s, name) {
			return true
		}
		s, rest = p.Enter(s, name), tail
	}
	return s != 0
}
