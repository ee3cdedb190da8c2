package glob

import (
	"errors"
	"strings"
)

// Exclude is a pattern of paths that are left out. As in doublestar, a pattern
// that ends in /** matches the directory before it, too.
type Exclude struct {
	p      *Pattern
	parent *Pattern // what stands before a final /**; nil if there is none
}

// CompileExclude reads a pattern with the rules of Compile.
func CompileExclude(text string) (*Exclude, error) {
	p, err := Compile(text)
	if err != nil {
		return nil, err
	}
	for _, w := range p.wilds {
		if w.Name != "" {
			return nil, errors.New("an exclude pattern has no named wildcards")
		}
	}
	e := &Exclude{p: p}
	before, ok := strings.CutSuffix(text, "/**")
	switch {
	case strings.Trim(before, "/*") == "" && (ok || text == "**"):
		return nil, errors.New("excludes everything")
	case ok:
		e.parent, err = Compile(before)
	}
	return e, err
}

// String returns the pattern as it was written.
func (e *Exclude) String() string { return e.p.text }

// Match reports whether a file or directory is left out.
func (e *Exclude) Match(path string) bool {
	if _, ok := e.p.Match(path, nil); ok {
		return true
	}
	return e.matchParent(path)
}

func (e *Exclude) matchParent(path string) bool {
	if e.parent == nil {
		return false
	}
	_, ok := e.parent.Match(path, nil)
	return ok
}

// MatchDir reports whether everything below a directory is left out.
func (e *Exclude) MatchDir(path string) bool { return e.parent != nil && e.Match(path) }

// MayMatchName reports whether a file called name may be left out in a
// directory for which MatchDir is false: a cheap question before Match.
func (e *Exclude) MayMatchName(name string) bool {
	p := e.p
	if e.parent != nil {
		p = e.parent
	}
	last := &p.segs[len(p.segs)-1]
	return last.multi || last.match(name, nil)
}
