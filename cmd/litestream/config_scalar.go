package main

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"gopkg.in/yaml.v3"
)

// ByteSize is a number of bytes, written plain or with a unit: MB is 10^6 and
// MiB is 2^20 bytes.
type ByteSize int64

// parseByteSize reads a humanised size.
func parseByteSize(s string) (ByteSize, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil {
		return 0, err
	}
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("size %s is too large", s)
	}
	return ByteSize(n), nil
}

// rawScalar is a value whose meaning depends on how it is written.
type rawScalar struct{ node *yaml.Node }

type scalarKind int

const (
	scalarString scalarKind = iota
	scalarNull
	scalarBool
	scalarInt
	scalarUint
	scalarFloat
)

// scalar is a value by the rules of YAML 1.1 as yaml.v2 applies them. The text
// is kept because every scalar may stand where text is wanted.
type scalar struct {
	kind scalarKind
	text string
	b    bool
	i    int64
	u    uint64
	f    float64
}

// yamlFloat is the form that yaml.v2 takes for a decimal fraction.
var yamlFloat = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)

// resolveScalar tells what a scalar node is. yaml.v3's own answer is not used:
// it reads YAML 1.2, where yes is text and 0600 is decimal.
func resolveScalar(n *yaml.Node) scalar {
	s := scalar{text: n.Value}
	quoted := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	if quoted || (n.Style&yaml.TaggedStyle != 0 && n.ShortTag() == "!!str") {
		return s
	}
	switch n.Value {
	case "", "~", "null", "Null", "NULL":
		s.kind = scalarNull
		return s
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		s.kind, s.b = scalarBool, true
		return s
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		s.kind = scalarBool
		return s
	}
	if !strings.ContainsRune("+-.0123456789", rune(n.Value[0])) {
		return s
	}
	plain := strings.ReplaceAll(n.Value, "_", "")
	if i, err := strconv.ParseInt(plain, 0, 64); err == nil {
		s.kind, s.i = scalarInt, i
	} else if u, err := strconv.ParseUint(plain, 0, 64); err == nil {
		s.kind, s.u = scalarUint, u
	} else if yamlFloat.MatchString(plain) {
		if f, err := strconv.ParseFloat(plain, 64); err == nil {
			s.kind, s.f = scalarFloat, f
		}
	}
	return s
}

// setTo stores the value in a field of a basic kind and reports whether it
// fits. A fraction is cut off where an integer is wanted, as yaml.v2 does.
func (s scalar) setTo(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		v.SetString(s.text)
		return true
	case reflect.Bool:
		if s.kind != scalarBool {
			return false
		}
		v.SetBool(s.b)
		return true
	case reflect.Int, reflect.Int64:
		i, ok := s.asInt()
		if !ok || v.OverflowInt(i) {
			return false
		}
		v.SetInt(i)
		return true
	case reflect.Uint32:
		i, ok := s.asInt()
		if !ok || i < 0 || v.OverflowUint(uint64(i)) {
			return false
		}
		v.SetUint(uint64(i))
		return true
	default:
		return false
	}
}

func (s scalar) asInt() (int64, bool) {
	if s.kind == scalarFloat && math.Abs(s.f) < math.MaxInt64 {
		return int64(s.f), true
	}
	return s.i, s.kind == scalarInt
}

// isNull reports whether a node stands for no value.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && resolveScalar(n).kind == scalarNull
}

// isMerge reports whether a key is YAML's merge key.
func isMerge(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Value == "<<" && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0
}
