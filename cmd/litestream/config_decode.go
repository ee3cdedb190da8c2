package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Limits that keep a small hostile file from costing much: aliases can repeat
// a part of the document, and merge keys can nest without end.
const (
	maxConfigNodes    = 1 << 20
	maxMergeDepth     = 16
	maxConfigProblems = 1000 // errors, and warnings, that are kept
)

var errConfigTooLarge = errors.New("too many keys: aliases repeat parts of the file too often")

// configError is a problem with one key.
type configError struct {
	Field  string // path of the key, such as "dbs[0].replica.url"
	Line   int    // 0 if the key is not written in the file
	Reason string
	Got    string // value as written; "" leaves it out
}

// Error returns "<field> (line N): <reason> (got <value>)".
func (e *configError) Error() string {
	var b strings.Builder
	b.WriteString(e.Field)
	if e.Line > 0 {
		fmt.Fprintf(&b, " (line %d)", e.Line)
	}
	fmt.Fprintf(&b, ": %s", e.Reason)
	if e.Got != "" {
		fmt.Fprintf(&b, " (got %s)", e.Got)
	}
	return b.String()
}

// position remembers on which line a mapping and its keys stand. Types that
// embed it are told by the decoder.
type position struct {
	line int
	keys map[string]int
}

func (p *position) setLine(line int) {
	if p.line == 0 {
		p.line = line
	}
}

func (p *position) setKeyLine(name string, line int) {
	if p.keys == nil {
		p.keys = make(map[string]int)
	}
	p.keys[name] = line
}

// keyLine returns the line of a key, or of the mapping if the key is missing.
func (p *position) keyLine(name string) int {
	if line, ok := p.keys[name]; ok {
		return line
	}
	return p.line
}

// has reports whether the key is written in the mapping.
func (p *position) has(name string) bool {
	_, ok := p.keys[name]
	return ok
}

type positioned interface {
	setLine(line int)
	setKeyLine(name string, line int)
}

// decoder fills configuration structs from a YAML tree the way upstream's
// yaml.v2 does: a repeated key is read again over the first, null leaves the
// default, a merge key takes effect where it stands, and scalars follow
// YAML 1.1 (yes and on are true, 0600 is octal).
type decoder struct {
	errs     []error
	warnings []configWarning
	nodes    int
}

// decodeConfig reads the first document of data into cfg. The error joins one
// configError for each key that cannot be used.
func decodeConfig(data []byte, cfg *Config) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
		return nil
	}
	var d decoder
	d.mapping(doc.Content[0], reflect.ValueOf(cfg).Elem(), place{scope: scopeRoot})
	cfg.warnings = append(cfg.warnings, d.warnings...)
	return errors.Join(d.errs...)
}

// place is where the decoder stands.
type place struct {
	path  string // dotted, "" at the top
	scope scope
	merge int // depth of merge keys

	// strict is set below multi-db, where there is no older behaviour to keep:
	// unknown and repeated keys, and durations without a unit, are errors.
	strict bool
}

// below returns the place of a key's value.
func (p place) below(field string, child scope) place {
	return place{path: field, scope: child, merge: p.merge, strict: p.strict || child == scopeMultiDB}
}

func (p place) field(name string) string {
	if p.path == "" {
		return name
	}
	return p.path + "." + name
}

func (d *decoder) fail(field string, n *yaml.Node, reason string) {
	e := &configError{Field: field, Line: n.Line, Reason: reason}
	if n.Kind == yaml.ScalarNode {
		e.Got = n.Value
	}
	if field == "" {
		e.Field = "config"
	}
	d.add(e)
}

func (d *decoder) add(err error) {
	if len(d.errs) < maxConfigProblems {
		d.errs = append(d.errs, err)
	}
}

func (d *decoder) warn(w configWarning) {
	if len(d.warnings) < maxConfigProblems {
		d.warnings = append(d.warnings, w)
	}
}

// visit counts a node and reports whether decoding may go on.
func (d *decoder) visit() bool {
	d.nodes++
	if d.nodes == maxConfigNodes {
		d.errs = append([]error{errConfigTooLarge}, d.errs...)
	}
	return d.nodes < maxConfigNodes
}

// follow returns what an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	for range maxMergeDepth {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, at place) {
	n = follow(n)
	if !d.visit() || isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fail(at.path, n, "must be a mapping of keys to values")
		return
	}
	pos, _ := reflect.TypeAssert[positioned](v.Addr())
	if pos != nil {
		pos.setLine(n.Line)
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content) && d.visit(); i += 2 {
		key, value := follow(n.Content[i]), n.Content[i+1]
		if isMerge(key) {
			d.mergeInto(value, v, at)
			continue
		}
		if key.Kind != yaml.ScalarNode {
			d.fail(at.path, key, "a key must be a plain word")
			continue
		}
		if first, ok := seen[key.Value]; ok && at.strict {
			d.add(&configError{Field: at.field(key.Value), Line: key.Line, Reason: fmt.Sprintf("repeats line %d", first)})
		} else if ok {
			d.warn(configWarning{Key: at.field(key.Value), Line: key.Line, Text: fmt.Sprintf("repeats line %d, the later value is in force", first)})
		}
		seen[key.Value] = key.Line
		if pos != nil {
			pos.setKeyLine(key.Value, key.Line)
		}
		d.key(key, value, v, at)
	}
}

// mergeInto applies the value of a `<<` key.
func (d *decoder) mergeInto(n *yaml.Node, v reflect.Value, at place) {
	at.merge++
	n = follow(n)
	switch {
	case !d.visit() || at.merge > maxMergeDepth:
		return
	case n.Kind == yaml.MappingNode:
		d.mapping(n, v, at)
	case n.Kind == yaml.SequenceNode:
		for _, child := range slices.Backward(n.Content) { // the first one wins
			d.mergeInto(child, v, at)
		}
	default:
		d.fail(at.field("<<"), n, "must be a mapping or a list of mappings")
	}
}

// key handles one key by what the table says about it.
func (d *decoder) key(key, value *yaml.Node, v reflect.Value, at place) {
	name := key.Value
	field := at.field(name)
	k, known := lookupKey(at.scope, name)
	switch {
	case !known && at.strict:
		d.add(&configError{Field: field, Line: key.Line, Reason: "unknown key" + didYouMean(at.scope, name)})
	case !known:
		w := configWarning{Key: field, Line: key.Line, Text: "unknown key, ignored"}
		if len(d.warnings) < maxConfigProblems {
			w.Text += didYouMean(at.scope, name)
		}
		d.warn(w)
	case k.ignored():
		d.warn(configWarning{Key: field, Line: key.Line, Text: "ignored", Instead: k.instead})
	default:
		if f, ok := fieldByKey(v, name); ok {
			d.value(value, f, at.below(field, k.child))
		}
	}
}

// fieldByKey finds the struct field with the yaml tag, embedded ones included.
func fieldByKey(v reflect.Value, name string) (reflect.Value, bool) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("yaml")
		switch tag {
		case ",inline":
			if found, ok := fieldByKey(v.Field(i), name); ok {
				return found, true
			}
		case name:
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, at place) {
	n = follow(n)
	if !d.visit() {
		return
	}
	if isNull(n) {
		if v.Kind() == reflect.Pointer {
			v.SetZero()
		}
		return
	}
	switch {
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem(), at)
	case v.Type() == reflect.TypeFor[rawScalar]() && at.strict && n.Kind != yaml.ScalarNode:
		d.fail(at.path, n, "must be text")
	case v.Type() == reflect.TypeFor[rawScalar]():
		v.Set(reflect.ValueOf(rawScalar{node: n}))
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, at)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, at)
	default:
		d.scalar(n, v, at)
	}
}

func (d *decoder) sequence(n *yaml.Node, v reflect.Value, at place) {
	if n.Kind != yaml.SequenceNode {
		d.fail(at.path, n, "must be a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, child := range n.Content {
		elem := at
		elem.path = fmt.Sprintf("%s[%d]", at.path, i)
		if isNull(follow(child)) {
			d.add(&configError{Field: elem.path, Line: child.Line, Reason: "the list entry is empty"})
			continue
		}
		d.value(child, out.Index(i), elem)
	}
	v.Set(out)
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, at place) {
	want := kindName(v)
	if n.Kind != yaml.ScalarNode {
		d.fail(at.path, n, "must be "+want)
		return
	}
	s := resolveScalar(n)
	if v.Type() == reflect.TypeFor[time.Duration]() && (s.kind == scalarString || at.strict) {
		dur, err := time.ParseDuration(s.text)
		if err != nil {
			d.fail(at.path, n, "must be "+want)
			return
		}
		v.SetInt(int64(dur))
		return
	}
	if v.Type() == reflect.TypeFor[ByteSize]() {
		size, err := parseByteSize(n.Value)
		if err != nil {
			d.fail(at.path, n, "must be "+want)
			return
		}
		v.SetInt(int64(size))
		return
	}
	if !s.setTo(v) {
		d.fail(at.path, n, "must be "+want)
	}
}

// kindName describes what a field takes, for messages.
func kindName(v reflect.Value) string {
	switch v.Type() {
	case reflect.TypeFor[time.Duration]():
		return "a duration such as 500ms, 30s or 24h"
	case reflect.TypeFor[ByteSize]():
		return "a size such as 5MiB or 1GB"
	}
	switch v.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "an integer"
	case reflect.Uint32:
		return "an integer from 0 to 4294967295"
	default:
		return "text"
	}
}
