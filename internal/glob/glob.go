// Package glob matches absolute paths against patterns in the language of
// doublestar v4, extended by named wildcards: {{name}} matches what * does.
// A match tells what each wildcard stood for, and a pattern can be followed
// directory by directory, so that a walk enters only what may match.
//
// Paths and patterns are bytes between slashes; nothing here does I/O.
package glob

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// maxSegments bounds the elements of a pattern's path, so that the state of a
// walk is one word per pattern.
const maxSegments = 63

// A Wildcard is a part of a pattern that stands for text. Unnamed wildcards
// that stand side by side, such as ??? or [0-9]*, are one.
type Wildcard struct {
	Name   string // of {{name}}; empty for the others
	Behind string // the literal path element before the wildcard's own, if it is one
	Ends   bool   // the wildcard reaches the end of the path
	Multi  bool   // ** : any number of path elements, 0 included

	// Extension: it stands behind the last dot of the file's name, with another
	// wildcard before the dot, such as {db,sqlite} in *.{db,sqlite}.
	Extension bool
}

// Pattern is a compiled pattern. It is immutable.
type Pattern struct {
	text  string
	segs  []segment
	wilds []Wildcard
	multi int // number of ** segments
}

// segment is one path element of a pattern.
type segment struct {
	multi  bool    // **
	wild   int     // number of the wildcard, of ** only
	tokens []token // empty for **
}

// token is a literal, or a wildcard if run is not empty.
type token struct {
	lit  string
	run  string // doublestar's notation
	star bool   // run matches any text
	wild int    // number of the wildcard
}

func (s *segment) literal() (string, bool) {
	if !s.multi && len(s.tokens) == 1 && s.tokens[0].run == "" {
		return s.tokens[0].lit, true
	}
	return "", false
}

// Compile reads a pattern. It must be absolute, or begin with **/, which
// stands for /**/.
func Compile(text string) (*Pattern, error) {
	rest, ok := strings.CutPrefix(text, "/")
	if !ok && text != "**" && !strings.HasPrefix(text, "**/") {
		return nil, errors.New("must be an absolute path or begin with **/")
	}
	p := &Pattern{text: text}
	for more := true; more; {
		s, n, err := p.parseSegment(rest)
		if err != nil {
			return nil, err
		}
		if !s.multi || len(p.segs) == 0 || !p.segs[len(p.segs)-1].multi { // **/** is **
			p.segs = append(p.segs, s)
		} else {
			p.wilds = p.wilds[:len(p.wilds)-1]
			p.multi--
		}
		if more = n < len(rest); more {
			rest = rest[n+1:]
		}
	}
	if len(p.segs) > maxSegments {
		return nil, fmt.Errorf("has more than %d path elements", maxSegments)
	}
	p.markLast()
	p.markExtension()
	return p, p.check()
}

// check finds what the parser lets pass.
func (p *Pattern) check() error {
	seen := make(map[string]bool)
	for _, w := range p.wilds {
		if w.Name != "" && seen[w.Name] {
			return fmt.Errorf("names two wildcards {{%s}}", w.Name)
		}
		seen[w.Name] = true
	}
	return nil
}

// markLast tells the wildcard at the very end of the pattern so.
func (p *Pattern) markLast() {
	last := &p.segs[len(p.segs)-1]
	if last.multi {
		p.wilds[last.wild].Ends = true
	} else if t := last.tokens[len(last.tokens)-1]; t.run != "" {
		p.wilds[t.wild].Ends = true
	}
}

// markExtension tells the wildcards of the file's extension so.
func (p *Pattern) markExtension() {
	tokens := p.segs[len(p.segs)-1].tokens
	dot := len(tokens) - 1
	for dot >= 0 && !strings.Contains(tokens[dot].lit, ".") {
		dot--
	}
	if !slices.ContainsFunc(tokens[:max(0, dot)], func(t token) bool { return t.run != "" }) {
		return
	}
	for _, t := range tokens[dot:] {
		if t.run != "" {
			p.wilds[t.wild].Extension = true
		}
	}
}

// parseSegment reads one path element and returns the bytes that it takes.
func (p *Pattern) parseSegment(s string) (seg segment, n int, err error) {
	var run, name string // of the wildcard that is being read
	var lit []byte
	endLit := func() {
		if len(lit) > 0 {
			seg.tokens = append(seg.tokens, token{lit: string(lit)})
			lit = nil
		}
	}
	endRun := func() error {
		if run == "" {
			return nil
		}
		if !doublestar.ValidatePattern(run) {
			return fmt.Errorf("syntax error in %q", run)
		}
		if strings.Contains(run, "{") && strings.Contains(run, "**") {
			// doublestar lets some of these cross path elements.
			return fmt.Errorf("has ** and braces together in %q: write * for a part of a path element", run)
		}
		seg.tokens = append(seg.tokens, token{run: run, star: strings.Trim(run, "*") == "", wild: p.addWildcard(name)})
		run, name = "", ""
		return nil
	}
	for n < len(s) && s[n] != '/' {
		piece, wild, err := nextPiece(s[n:])
		if err != nil {
			return seg, 0, err
		}
		n += piece.size
		switch {
		case !wild:
			if err := endRun(); err != nil {
				return seg, 0, err
			}
			lit = append(lit, piece.text...)
		case run != "" && (name != "" || piece.name != ""):
			return seg, 0, errors.New("a named wildcard stands side by side with another, so that nothing tells where one ends")
		default:
			endLit()
			run, name = run+piece.text, piece.name
		}
	}
	if s[:n] == "**" {
		p.multi++
		return segment{multi: true, wild: p.addMulti()}, n, nil
	}
	if err := endRun(); err != nil {
		return seg, 0, err
	}
	endLit()
	switch {
	case len(seg.tokens) == 0:
		return seg, 0, errors.New("has an empty path element")
	case s[:n] == "." || s[:n] == "..":
		return seg, 0, fmt.Errorf("has the path element %q", s[:n])
	}
	return seg, n, nil
}

func (p *Pattern) addWildcard(name string) int {
	w := Wildcard{Name: name}
	if len(p.segs) > 0 {
		w.Behind, _ = p.segs[len(p.segs)-1].literal()
	}
	p.wilds = append(p.wilds, w)
	return len(p.wilds) - 1
}

func (p *Pattern) addMulti() int {
	n := p.addWildcard("")
	p.wilds[n].Multi = true
	return n
}

// piece is the smallest unit of a pattern.
type piece struct {
	text string // literal, or doublestar's notation of a wildcard
	name string // of {{name}}
	size int    // bytes in the pattern
}

func nextPiece(s string) (p piece, wild bool, err error) {
	switch s[0] {
	case '*', '?':
		return piece{text: s[:1], size: 1}, true, nil
	case '\\':
		if len(s) < 2 || s[1] == '/' {
			return piece{}, false, errors.New(`has a \ with nothing to escape`)
		}
		return piece{text: s[1:2], size: 2}, false, nil
	case '[':
		n := classEnd(s)
		if n < 0 {
			return piece{}, false, errors.New("has a [ that is not closed before the next /")
		}
		return piece{text: s[:n], size: n}, true, nil
	case '{':
		if name, n, ok := Variable(s); ok {
			if !ValidName(name) {
				return piece{}, false, fmt.Errorf("names a wildcard {{%s}}: a name has letters, digits, - and _ and begins with a letter", name)
			}
			return piece{text: "*", name: name, size: n}, true, nil
		}
		n := alternativesEnd(s)
		if n < 0 {
			return piece{}, false, errors.New("has a { that is not closed before the next /")
		}
		return piece{text: s[:n], size: n}, true, nil
	case '}':
		return piece{}, false, errors.New(`has a } without a {; write \} for the character`)
	default:
		return piece{text: s[:1], size: 1}, false, nil
	}
}

// Variable reports whether s begins with a name in double braces, and returns
// the name, which may be invalid, and the bytes that it takes with its braces.
func Variable(s string) (name string, n int, ok bool) {
	rest, ok := strings.CutPrefix(s, "{{")
	if !ok {
		return "", 0, false
	}
	i := strings.IndexAny(rest, "{},/")
	if i < 0 || !strings.HasPrefix(rest[i:], "}}") {
		return "", 0, false
	}
	return rest[:i], i + 4, true
}

// ValidName reports whether a wildcard may be named so.
func ValidName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case i > 0 && ('0' <= c && c <= '9' || c == '-' || c == '_'):
		default:
			return false
		}
	}
	return name != ""
}

// classEnd returns the length of the character class that s begins with, or -1.
func classEnd(s string) int {
	for i := 1; i < len(s) && s[i] != '/'; i++ {
		switch s[i] {
		case '\\':
			i++
		case ']':
			return i + 1
		}
	}
	return -1
}

// alternativesEnd returns the length of the group that s begins with, or -1.
func alternativesEnd(s string) int {
	depth := 0
	for i := 0; i < len(s) && s[i] != '/'; i++ {
		switch s[i] {
		case '\\':
			i++
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// String returns the pattern as it was written.
func (p *Pattern) String() string { return p.text }

// Wildcards returns the wildcards from left to right. The slice is shared.
func (p *Pattern) Wildcards() []Wildcard { return p.wilds }

// Prefix returns the directory that every match lies in: the path elements
// before the first one with a wildcard, the last one excepted.
func (p *Pattern) Prefix() string {
	var b strings.Builder
	for i := range p.segs[:len(p.segs)-1] {
		lit, ok := p.segs[i].literal()
		if !ok {
			break
		}
		b.WriteString("/" + lit)
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}
