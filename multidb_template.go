package litestream

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/benbjohnson/litestream/internal/glob"
)

// Limits of replica paths. File-backed S3 servers store a path element as a
// file name, and keys have 1024 bytes of which level and file name take 45.
const (
	maxReplicaElement = 255
	maxReplicaPath    = 960
)

// The mark of what encodeElement cannot write byte for byte. No value holds it
// after encoding, and no template may hold it.
const encodingMark = '!'

// hashedElementHex is how many hexadecimal digits of SHA-256 stand for what is
// cut off an element that is too long.
const hashedElementHex = 40

// ErrReplicaPathTooLong means that the template makes a path of a database's
// name that storage would not take.
var ErrReplicaPathTooLong = errors.New("replica path is too long")

type partKind int

const (
	partLiteral partKind = iota
	partWildcard
	partPath
	partRelPath
	partName
	partHostname
)

// templatePart is a piece of a template: text, or a variable and where its
// value comes from.
type templatePart struct {
	kind    partKind
	literal string // text, or the variable's name before bind
	wild    int
	dropExt bool
}

// templatePiece is a piece of a template that no pattern was applied to.
type templatePiece struct {
	text     string
	variable bool
}

// parseTemplate reads text with {{variables}}.
func parseTemplate(text string) ([]templatePiece, error) {
	if err := checkTemplateText(text); err != nil {
		return nil, err
	}
	var pieces []templatePiece
	varies := false
	for rest := text; rest != ""; {
		lit, _, ok := strings.Cut(rest, "{{")
		if lit != "" {
			pieces = append(pieces, templatePiece{text: lit})
		}
		if !ok {
			break
		}
		rest = rest[len(lit):]
		name, n, ok := glob.Variable(rest)
		if !ok {
			return nil, errors.New("has {{ without a variable and }}")
		}
		pieces = append(pieces, templatePiece{text: name, variable: true})
		varies = varies || name != variableHostname
		rest = rest[n:]
	}
	if !varies {
		return nil, errors.New("holds no variable that tells one database from another, such as {{tenant}}")
	}
	return pieces, nil
}

// checkTemplateText refuses what would make keys that stores do not take, or
// that could be those of another database.
func checkTemplateText(text string) error {
	if strings.IndexByte(text, encodingMark) >= 0 {
		return fmt.Errorf("must not contain %q, which marks encoded names", encodingMark)
	}
	for e := range strings.SplitSeq(strings.TrimPrefix(text, "/"), "/") {
		switch e {
		case "":
			return errors.New("has an empty path element")
		case ".", "..":
			return fmt.Errorf("has the path element %q", e)
		}
	}
	return nil
}

// bind finds the values of a template's variables in a pattern.
func (p *tenantPattern) bind(pieces []templatePiece, hostname string) ([]templatePart, error) {
	parts := make([]templatePart, 0, len(pieces))
	for _, piece := range pieces {
		part := templatePart{kind: partLiteral, literal: piece.text}
		if piece.variable {
			var err error
			if part, err = p.variable(piece.text); err != nil {
				return nil, err
			}
			if part.kind == partHostname && hostname == "" {
				return nil, fmt.Errorf("variable {{%s}} has no value without the key hostname in pattern %s", variableHostname, p.glob)
			}
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// render fills in a template. Two databases of one pattern get two paths if
// each path element of the template holds at most one variable, and the
// variables together hold all wildcards.
func (t *Tenant) render(parts []templatePart) (string, error) {
	b := make([]byte, 0, 128)
	for _, part := range parts {
		if part.kind == partLiteral {
			b = append(b, part.literal...)
			continue
		}
		rest := t.value(part)
		for more := true; more; {
			var element string
			element, rest, more = strings.Cut(rest, "/")
			b = appendElement(b, element)
			if more {
				b = append(b, '/')
			}
		}
	}
	s := string(b)
	if len(s) > maxReplicaElement {
		s = shortenElements(s)
	}
	if len(s) > maxReplicaPath {
		return "", fmt.Errorf("%w: %d bytes for %s, at most %d", ErrReplicaPathTooLong, len(s), t.Path, maxReplicaPath)
	}
	return s, nil
}

// appendElement encodes one path element (docs/formats/replica-paths.md). Two
// elements that differ are two after it, too.
func appendElement(b []byte, s string) []byte {
	if s == "" {
		return append(b, encodingMark)
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_',
			c == '.' && i > 0 && i < len(s)-1:
			b = append(b, c)
		default:
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return b
}

// shortenElements replaces the end of elements that are too long by a hash of
// the whole element.
func shortenElements(s string) string {
	elements := strings.Split(s, "/")
	for i, e := range elements {
		if len(e) <= maxReplicaElement {
			continue
		}
		sum := sha256.Sum256([]byte(e))
		keep := e[:maxReplicaElement-1-hashedElementHex]
		if n := strings.LastIndexByte(keep, '%'); n >= len(keep)-2 && n >= 0 {
			keep = keep[:n] // do not cut an escape in two
		}
		elements[i] = keep + string(encodingMark) + hex.EncodeToString(sum[:])[:hashedElementHex]
	}
	return strings.Join(elements, "/")
}

// distinct reports whether two databases never get the same replica path,
// whatever their names: there is one pattern, and the template holds all that
// its wildcards stand for, one variable in each path element.
func (m *TenantMap) distinct() bool {
	if len(m.patterns) != 1 {
		return false
	}
	p := m.patterns[0]
	held := make(map[int]bool)
	variables, whole := 0, false // in the path element at hand
	for _, part := range p.template {
		switch {
		case part.kind == partLiteral && strings.Contains(part.literal, "/"):
			variables = 0
			continue
		case part.kind == partLiteral:
			continue
		case part.kind == partPath, part.kind == partRelPath:
			whole = true
		case part.kind == partWildcard && !part.dropExt:
			held[part.wild] = true
		}
		if variables++; variables > 1 {
			return false
		}
	}
	return whole || len(held) == len(p.glob.Wildcards())
}
