package litestream

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// ErrReplicaPathUnclear means that a replica's path does not tell which
// database it belongs to.
var ErrReplicaPathUnclear = errors.New("replica path does not tell the path of its database")

// Invertible returns an error unless the path of every replica, as far as no
// name in it was too long, tells the path of its database. It names the pattern
// and what the template leaves out.
func (m *TenantMap) Invertible() error {
	for _, p := range m.patterns {
		if missing := p.missing(); missing != "" {
			return fmt.Errorf("%w: for the pattern %s the template does not hold %s", ErrReplicaPathUnclear, p.glob, missing)
		}
	}
	return nil
}

// missing says what of a path cannot be told from its replica's; empty: nothing.
func (p *tenantPattern) missing() string {
	if !p.separable() {
		return "what tells one variable from the next"
	}
	held := make([]bool, len(p.names))
	dropped := -1
	for _, part := range p.template {
		switch part.kind {
		case partPath, partRelPath:
			return ""
		case partWildcard:
			if part.dropExt {
				dropped = part.wild
			} else {
				held[part.wild] = true
			}
		case partName:
			if wild, _, ok := p.nameWildcard(); ok {
				held[wild] = true
			}
		case partLiteral, partHostname:
		}
	}
	for i, ok := range held {
		switch {
		case ok:
		case i == dropped:
			return "the extension of the file's name"
		case p.names[i] != "":
			return "{{" + p.names[i] + "}}"
		default:
			return fmt.Sprintf("{{%d}}", i+1)
		}
	}
	return ""
}

// separable reports whether a replica's path can be cut in one way only: each
// of its elements holds one variable, and one of these holds slashes.
func (p *tenantPattern) separable() bool {
	inElement, manyElements := 0, 0
	for _, part := range p.template {
		switch {
		case part.kind == partLiteral && strings.Contains(part.literal, "/"):
			inElement = 0
			continue
		case part.kind == partLiteral || part.kind == partHostname:
			continue
		case p.multi(part):
			manyElements++
		}
		if inElement++; inElement > 1 || manyElements > 1 {
			return false
		}
	}
	return true
}

// multi reports whether a variable's value may hold slashes.
func (p *tenantPattern) multi(part templatePart) bool {
	return part.kind == partPath || part.kind == partRelPath ||
		part.kind == partWildcard && p.glob.Wildcards()[part.wild].Multi
}

// nameWildcard returns the wildcard that {{name}} stands for, where the pattern
// spells the extension out. A name that equals it is that of two databases: of
// .db with nothing before it, and of .db.db.
func (p *tenantPattern) nameWildcard() (wild int, suffix string, ok bool) {
	wild, suffix, ok = p.glob.LastName()
	return wild, suffix, ok && strings.LastIndexByte(suffix, '.') == 0 && len(suffix) > 1
}

// FindReplica is the inverse of Lookup: it returns the database whose replica
// lies at a path, or an error that is ErrReplicaPathUnclear, or ErrNoTenant if
// no pattern makes such a path.
func (m *TenantMap) FindReplica(replicaPath string) (Tenant, error) {
	replicaPath = strings.TrimPrefix(replicaPath, "/")
	var unclear error
	for _, p := range m.patterns {
		groups := p.inverse.FindStringSubmatch(replicaPath)
		if groups == nil {
			continue
		}
		if missing := p.missing(); missing != "" {
			unclear = fmt.Errorf("%w: %s does not hold %s", ErrReplicaPathUnclear, replicaPath, missing)
			continue
		}
		file, ok := p.file(groups[1:])
		if !ok {
			unclear = fmt.Errorf("%w: a name in %s was shortened, or is none", ErrReplicaPathUnclear, replicaPath)
			continue
		}
		t, err := m.Lookup(file)
		if err == nil && strings.TrimPrefix(t.ReplicaPath, "/") == replicaPath {
			return t, nil
		}
		unclear = fmt.Errorf("%w: %s", ErrReplicaPathUnclear, replicaPath)
	}
	if unclear == nil && strings.IndexByte(replicaPath, encodingMark) >= 0 {
		unclear = fmt.Errorf("%w: a name in %s was shortened", ErrReplicaPathUnclear, replicaPath)
	}
	if unclear != nil {
		return Tenant{}, unclear
	}
	return Tenant{}, fmt.Errorf("%w: no pattern has a replica at %s", ErrNoTenant, replicaPath)
}

// compileInverse makes the expression that cuts a replica's path into what
// stands for the variables of the template, in their order.
func (p *tenantPattern) compileInverse(hostname string) {
	var b strings.Builder
	b.WriteByte('^')
	for i, part := range p.template {
		switch {
		case part.kind == partLiteral && i == 0:
			b.WriteString(regexp.QuoteMeta(strings.TrimPrefix(part.literal, "/")))
		case part.kind == partLiteral:
			b.WriteString(regexp.QuoteMeta(part.literal))
		case part.kind == partHostname:
			b.WriteString("(" + regexp.QuoteMeta(string(appendElement(nil, hostname))) + ")")
		case p.multi(part):
			b.WriteString("(.+)")
		default:
			b.WriteString("([^/]+)")
		}
	}
	b.WriteByte('$')
	p.inverse = regexp.MustCompile(b.String()) // of quoted text and groups
}

// file puts a path together from the values of the template's variables.
func (p *tenantPattern) file(groups []string) (string, bool) {
	values := make([]string, len(p.names))
	for _, part := range p.template {
		if part.kind == partLiteral {
			continue
		}
		value, ok := decodeElements(groups[0])
		if groups = groups[1:]; !ok {
			return "", false
		}
		switch part.kind {
		case partPath:
			return "/" + value, true
		case partRelPath:
			return strings.TrimSuffix(p.prefix, "/") + "/" + value, true
		case partWildcard:
			if !part.dropExt {
				values[part.wild] = value
			}
		case partName:
			wild, suffix, ok := p.nameWildcard()
			if value == suffix {
				return "", false
			} else if ok {
				values[wild] = value
			}
		case partHostname, partLiteral:
		}
	}
	return p.glob.Expand(values), true
}

// decodeElements is the inverse of appendElement, for each element of a path.
// It reports false for what appendElement does not write, and for names that
// were shortened.
func decodeElements(s string) (string, bool) {
	elements := strings.Split(s, "/")
	for i, e := range elements {
		d, ok := decodeElement(e)
		if !ok {
			return "", false
		}
		elements[i] = d
	}
	return strings.Join(elements, "/"), true
}

func decodeElement(s string) (string, bool) {
	if s == string(encodingMark) {
		return "", true
	}
	if strings.IndexByte(s, encodingMark) >= 0 {
		return "", false
	}
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		hi, lo := strings.IndexByte(upperHex, s[i+1]), strings.IndexByte(upperHex, s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b = append(b, byte(hi<<4|lo))
		i += 2
	}
	return string(b), true
}

const upperHex = "0123456789ABCDEF"
