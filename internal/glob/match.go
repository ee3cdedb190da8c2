package glob

import (
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Match reports whether an absolute path matches, and returns what each
// wildcard stands for. Where there is a choice, wildcards on the left take as
// little as they can. values is used for the result if it has room.
func (p *Pattern) Match(path string, values []string) ([]string, bool) {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return nil, false
	}
	n := len(p.wilds)
	if cap(values) < n {
		values = make([]string, n)
	}
	m := matcher{p: p, values: values[:n]}
	if !m.match(0, rest) {
		return nil, false
	}
	return m.values, true
}

// matcher is one run of Match. It remembers failures when a pattern has several
// ** and time would otherwise grow with the power of their number.
type matcher struct {
	p      *Pattern
	values []string
	failed map[failure]bool
}

type failure struct{ seg, rest int }

func (m *matcher) match(i int, rest string) bool {
	seg := &m.p.segs[i]
	last := i == len(m.p.segs)-1
	if seg.multi {
		return m.matchMulti(i, rest)
	}
	name, tail, more := strings.Cut(rest, "/")
	if last == more || name == "" || !seg.match(name, m.values) {
		return false
	}
	return last || m.match(i+1, tail)
}

func (m *matcher) matchMulti(i int, rest string) bool {
	seg := &m.p.segs[i]
	if i == len(m.p.segs)-1 { // at least the file's name
		m.values[seg.wild] = rest
		return validElements(rest)
	}
	id := failure{i, len(rest)}
	if m.failed[id] {
		return false
	}
	for end := 0; ; {
		if m.match(i+1, rest[end:]) {
			m.values[seg.wild] = strings.TrimSuffix(rest[:end], "/")
			return true
		}
		n := strings.IndexByte(rest[end:], '/')
		if n <= 0 {
			break
		}
		end += n + 1
	}
	if m.p.multi > 1 {
		if m.failed == nil {
			m.failed = make(map[failure]bool)
		}
		m.failed[id] = true
	}
	return false
}

func validElements(path string) bool {
	return path != "" && path[0] != '/' && path[len(path)-1] != '/' && !strings.Contains(path, "//")
}

// match reports whether one path element matches. values takes what the
// wildcards stand for, unless it is nil.
func (s *segment) match(name string, values []string) bool {
	return matchTokens(s.tokens, name, values)
}

func matchTokens(tokens []token, name string, values []string) bool {
	for len(tokens) > 0 {
		t := &tokens[0]
		tokens = tokens[1:]
		if t.run == "" {
			if !strings.HasPrefix(name, t.lit) {
				return false
			}
			name = name[len(t.lit):]
			continue
		}
		n, final := t.length(name, tokens)
		if final {
			if n < 0 {
				return false
			}
			t.set(values, name[:n])
			name = name[n:]
			continue
		}
		return t.try(tokens, name, values)
	}
	return name == ""
}

func (t *token) set(values []string, s string) {
	if values != nil {
		values[t.wild] = s
	}
}

// length returns how much a wildcard takes where that needs no trial: * up to
// the first place where the literal behind it stands, or up to the end.
func (t *token) length(name string, behind []token) (n int, final bool) {
	switch {
	case len(behind) == 0:
		if t.star || doublestar.MatchUnvalidated(t.run, name) {
			return len(name), true
		}
		return -1, true
	case !t.star:
		return 0, false
	case len(behind) == 1:
		if !strings.HasSuffix(name, behind[0].lit) {
			return -1, true
		}
		return len(name) - len(behind[0].lit), true
	default:
		for i := range behind { // what follows must be free of trials, too
			if behind[i].run != "" && !behind[i].star {
				return 0, false
			}
		}
		return strings.Index(name, behind[0].lit), true
	}
}

// try looks for the shortest text of a wildcard with which the rest matches.
func (t *token) try(behind []token, name string, values []string) bool {
	for n := 0; n <= len(name); n++ {
		if !strings.HasPrefix(name[n:], behind[0].lit) || !t.star && !doublestar.MatchUnvalidated(t.run, name[:n]) {
			continue
		}
		if matchTokens(behind, name[n:], values) {
			t.set(values, name[:n])
			return true
		}
	}
	return false
}
