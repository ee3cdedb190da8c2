package litestream

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/benbjohnson/litestream/internal/glob"
	"github.com/benbjohnson/litestream/internal/scan"
)

// ErrNoTenant means that no pattern of MultiDBConfig stands for a path.
var ErrNoTenant = errors.New("no multi-db pattern matches the path")

// directoryVariables are the names that a wildcard gets from the directory
// that it stands behind.
var directoryVariables = map[string]string{
	"projects":  "project",
	"databases": "database",
	"branches":  "branch",
	"tenants":   "tenant",
}

// Variables that every path has.
const (
	variablePath     = "path"     // absolute, without the leading slash
	variableRelPath  = "relpath"  // relative to the pattern's literal prefix
	variableName     = "name"     // last element without extension
	variableHostname = "hostname" // of the configuration
	variableTenant   = "tenant"
	variableProject  = "project"
)

// tenantPattern is a pattern with names for its wildcards.
type tenantPattern struct {
	glob     *glob.Pattern
	names    []string // by wildcard; empty: numbered only
	prefix   string   // literal directories
	template []templatePart
	inverse  *regexp.Regexp // of the path that the template makes
}

func compileTenantPattern(text string) (*tenantPattern, error) {
	if !strings.HasPrefix(text, "/") {
		return nil, errors.New("must be an absolute path")
	}
	g, err := glob.Compile(text)
	if err != nil {
		return nil, err
	}
	p := &tenantPattern{glob: g, prefix: g.Prefix()}
	p.names, err = nameWildcards(g.Wildcards())
	return p, err
}

// nameWildcards gives names to the wildcards that have none: a directory's
// singular, then tenant to the last one that is not of the file's extension, and
// project to the first one. A name that is taken is not given again.
func nameWildcards(wilds []glob.Wildcard) ([]string, error) {
	names := make([]string, len(wilds))
	taken := make(map[string]bool)
	for i, w := range wilds {
		switch w.Name {
		case variablePath, variableRelPath, variableName, variableHostname:
			return nil, fmt.Errorf("names a wildcard {{%s}}, which every path has already", w.Name)
		}
		names[i] = w.Name
		taken[w.Name] = true
	}
	give := func(i int, name string) {
		if names[i] == "" && name != "" && !taken[name] {
			names[i] = name
			taken[name] = true
		}
	}
	for i, w := range wilds {
		give(i, directoryVariables[w.Behind])
	}
	last := len(wilds) - 1
	for last > 0 && wilds[last].Extension {
		last--
	}
	if last >= 0 {
		give(last, variableTenant)
		give(0, variableProject)
	}
	return names, nil
}

// variable returns where the value of a variable comes from.
func (p *tenantPattern) variable(name string) (templatePart, error) {
	part := templatePart{kind: partWildcard}
	switch name {
	case variablePath:
		part.kind = partPath
	case variableRelPath:
		part.kind = partRelPath
	case variableName:
		part.kind = partName
	case variableHostname:
		part.kind = partHostname
	default:
		for i, n := range p.names {
			if n == name {
				part.wild = i
				part.dropExt = name == variableTenant && p.glob.Wildcards()[i].Ends
				return part, nil
			}
		}
		n, err := strconv.Atoi(name)
		if err != nil || n < 1 || n > len(p.names) || strconv.Itoa(n) != name {
			return part, fmt.Errorf("variable {{%s}} has no value in pattern %s, which gives %s", name, p.glob, p.variables())
		}
		part.wild = n - 1
	}
	return part, nil
}

// variables lists what a template may take from the pattern.
func (p *tenantPattern) variables() string {
	var names []string
	for _, name := range p.names {
		if name != "" {
			names = append(names, name)
		}
	}
	for i := range p.names {
		names = append(names, strconv.Itoa(i+1))
	}
	names = append(names, variablePath, variableRelPath)
	return "{{" + strings.Join(names, "}}, {{") + "}} and {{" + variableName + "}}"
}

// TenantMap tells from the text of a path alone which database found by
// pattern it is, and where its replica lies. It is immutable.
type TenantMap struct {
	patterns []*tenantPattern
	exclude  []*glob.Exclude
	hostname string
}

// Tenant is a database found by pattern.
type Tenant struct {
	Path        string
	ReplicaPath string
	Pattern     int // number of the pattern, from 0

	pattern  *tenantPattern
	values   []string // of the wildcards
	hostname string
}

// NewTenantMap compiles patterns and template. The error joins one
// *SettingError per problem.
func NewTenantMap(c MultiDBConfig) (*TenantMap, error) {
	m, errs := c.compile()
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return m, nil
}

// ScanConfig returns what finds the files of the patterns.
func (m *TenantMap) ScanConfig() scan.Config {
	cfg := scan.Config{Exclude: m.exclude}
	for _, p := range m.patterns {
		cfg.Patterns = append(cfg.Patterns, p.glob)
	}
	return cfg
}

// scanner returns a scanner for the files of the patterns that remembers folders.
func (m *TenantMap) scanner() (*scan.Scanner, error) {
	cfg := m.ScanConfig()
	cfg.Cache = true
	return scan.New(cfg)
}

// Lookup returns the database of an absolute, clean path, whether it exists or
// not. The error is ErrNoTenant, or ErrReplicaPathTooLong.
func (m *TenantMap) Lookup(file string) (Tenant, error) {
	t := Tenant{Path: file, hostname: m.hostname}
	if path.Clean(file) != file || !databasePath(file) {
		return t, fmt.Errorf("%w: %s", ErrNoTenant, file)
	}
	for i, p := range m.patterns {
		values, ok := p.glob.Match(file, nil)
		if !ok {
			continue
		}
		if m.excludes(file) {
			break
		}
		t.Pattern, t.pattern, t.values = i, p, values
		var err error
		t.ReplicaPath, err = t.render(p.template)
		return t, err
	}
	return t, fmt.Errorf("%w: %s", ErrNoTenant, file)
}

// databasePath applies the rules about names that a scan has, too.
func databasePath(file string) bool {
	dir, name := path.Split(file)
	if !scan.IsDatabaseName(name) {
		return false
	}
	for element := range strings.SplitSeq(dir, "/") {
		if scan.IsMetaDir(element) {
			return false
		}
	}
	return true
}

func (m *TenantMap) excludes(file string) bool {
	for _, e := range m.exclude {
		if e.Match(file) {
			return true
		}
	}
	return m.excludesDir(path.Dir(file))
}

// excludesDir reports whether all below a directory is left out.
func (m *TenantMap) excludesDir(dir string) bool {
	for _, e := range m.exclude {
		if e.MatchDir(dir) {
			return true
		}
	}
	return false
}

// Variables returns the values of all variables, as a template inserts them
// before they are encoded.
func (t *Tenant) Variables() map[string]string {
	vars := make(map[string]string)
	names := []string{variablePath, variableRelPath, variableName}
	if t.hostname != "" {
		names = append(names, variableHostname)
	}
	for i, name := range t.pattern.names {
		names = append(names, strconv.Itoa(i+1))
		if name != "" {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if part, err := t.pattern.variable(name); err == nil {
			vars[name] = t.value(part)
		}
	}
	return vars
}

// variableOr returns the value of a variable, or an empty string if the pattern
// has none of that name.
func (t *Tenant) variableOr(name string) string {
	part, err := t.pattern.variable(name)
	if err != nil {
		return ""
	}
	return t.value(part)
}

// value returns what stands for a variable.
func (t *Tenant) value(part templatePart) string {
	var s string
	switch part.kind {
	case partWildcard:
		s = t.values[part.wild]
	case partPath:
		s = t.Path[1:]
	case partRelPath:
		s = strings.TrimPrefix(t.Path[len(t.pattern.prefix):], "/")
	case partName:
		s = dropExtension(path.Base(t.Path))
	case partHostname:
		s = t.hostname
	case partLiteral:
		s = part.literal
	}
	if part.dropExt {
		s = dropExtension(s)
	}
	return s
}

// dropExtension removes what stands behind the last dot of the last path
// element. A name that only begins with a dot has no extension.
func dropExtension(s string) string {
	slash := strings.LastIndexByte(s, '/')
	if dot := strings.LastIndexByte(s, '.'); dot > slash+1 {
		return s[:dot]
	}
	return s
}
