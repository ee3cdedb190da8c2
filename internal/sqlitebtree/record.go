package sqlitebtree

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxKeyBytes bounds how much of a row is read for its key.
const maxKeyBytes = 1 << 20

// Classes of values, in the order in which SQLite sorts them.
const (
	classNull = iota
	classNumber
	classText
	classBlob
)

// value is a column of a record.
type value struct {
	class int
	real  bool
	i     int64
	f     float64
	b     []byte // of text and blobs
}

// columns decodes the first n columns of a payload, at most limit bytes of it.
func (f *File) columns(c cell, n int, limit int64) ([]value, error) {
	r := f.payload(c)
	b := make([]byte, min(c.size, limit))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	short := func() error {
		if c.size > limit {
			return damagef("a key has more than %d bytes", limit)
		}
		return damagef("a record of %d bytes is cut off", c.size)
	}
	headerBytes, at := varint(b)
	if at == 0 || headerBytes > uint64(len(b)) {
		return nil, short()
	}
	header, body := b[at:max(at, int(headerBytes))], b[headerBytes:]
	values := make([]value, 0, n)
	for len(values) < n && len(header) > 0 {
		serial, k := varint(header)
		if k == 0 {
			return nil, damagef("a record has a bad header")
		}
		header = header[k:]
		v, size, err := decodeValue(serial, body)
		if err != nil {
			return nil, short()
		}
		values, body = append(values, v), body[size:]
	}
	return values, nil
}

// decodeValue decodes a value by its serial type (file format, section 2.1).
func decodeValue(serial uint64, body []byte) (v value, size int, err error) {
	switch {
	case serial == 0, serial == 10, serial == 11:
		return value{class: classNull}, 0, nil
	case serial == 8, serial == 9:
		return value{class: classNumber, i: int64(serial - 8)}, 0, nil
	case serial <= 7:
		size = [...]int{1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8}[serial]
		if size > len(body) {
			return v, 0, io.ErrUnexpectedEOF
		}
		u := uint64(int64(int8(body[0]))) // the sign
		for _, b := range body[1:size] {
			u = u<<8 | uint64(b)
		}
		if serial == 7 {
			return value{class: classNumber, real: true, f: math.Float64frombits(u)}, size, nil
		}
		return value{class: classNumber, i: int64(u)}, size, nil
	case (serial-12)/2 > uint64(len(body)):
		return v, 0, io.ErrUnexpectedEOF
	default:
		size = int((serial - 12) / 2)
		return value{class: classBlob - int(serial&1), b: body[:size]}, size, nil
	}
}

// text returns what a text value says in UTF-8.
func (f *File) text(v value) string {
	if f.utf16 == nil {
		return string(v.b)
	}
	units := make([]uint16, 0, len(v.b)/2)
	for i := 0; i+2 <= len(v.b); i += 2 {
		units = append(units, f.utf16.Uint16(v.b[i:]))
	}
	return string(utf16.Decode(units))
}

// schemaEntry decodes a row of the schema.
func (f *File) schemaEntry(c cell) (e Entry, err error) {
	const columns = 5
	values, err := f.columns(c, columns, c.size)
	if err != nil {
		return e, fmt.Errorf("schema: %w", err)
	}
	if len(values) < columns || values[0].class != classText || values[1].class != classText {
		return e, damagef("a row of the schema is none")
	}
	e = Entry{Type: f.text(values[0]), Name: f.text(values[1]), Table: f.text(values[2])}
	if root := values[3]; root.class == classNumber && !root.real {
		if root.i < 0 || root.i > math.MaxUint32 {
			return e, damagef("%s %s begins at page %d", e.Type, e.Name, root.i)
		}
		e.Root = uint32(root.i)
	}
	if values[4].class == classText {
		e.SQL = f.text(values[4])
	}
	return e, nil
}

// A KeyColumn is how rows are sorted by a column of the primary key.
type KeyColumn struct {
	Collation string // BINARY, NOCASE or RTRIM, in capital letters
	Desc      bool
}

// knownCollation reports whether compareText knows an order.
func knownCollation(name string) bool {
	return name == "BINARY" || name == "NOCASE" || name == "RTRIM"
}

// compareKeys compares keys of rows as SQLite does.
func compareKeys(fa *File, a []value, fb *File, b []value, columns []KeyColumn) int {
	for i, col := range columns {
		if i >= len(a) || i >= len(b) {
			return cmp.Compare(len(a), len(b))
		}
		if c := compareValues(fa, a[i], fb, b[i], col.Collation); c != 0 {
			if col.Desc {
				return -c
			}
			return c
		}
	}
	return 0
}

func compareValues(fa *File, a value, fb *File, b value, collation string) int {
	if a.class != b.class {
		return cmp.Compare(a.class, b.class)
	}
	switch a.class {
	case classNumber:
		return compareNumbers(a, b)
	case classText:
		return compareText(fa, a, fb, b, collation)
	case classBlob:
		return bytes.Compare(a.b, b.b)
	default:
		return 0
	}
}

func compareNumbers(a, b value) int {
	switch {
	case a.real && b.real:
		return cmp.Compare(a.f, b.f)
	case !a.real && !b.real:
		return cmp.Compare(a.i, b.i)
	case a.real:
		return -compareIntReal(b.i, a.f)
	default:
		return compareIntReal(a.i, b.f)
	}
}

// compareIntReal compares without rounding either.
func compareIntReal(i int64, f float64) int {
	switch {
	case math.IsNaN(f): // SQLite stores NULL instead
		return 1
	case math.IsInf(f, 0):
		return -int(math.Copysign(1, f))
	}
	return new(big.Float).SetInt64(i).Cmp(big.NewFloat(f))
}

func compareText(fa *File, a value, fb *File, b value, collation string) int {
	x, y := a.b, b.b
	if fa.utf16 != fb.utf16 || fa.utf16 != nil && collation != "BINARY" {
		x, y = []byte(fa.text(a)), []byte(fb.text(b))
	}
	switch collation {
	case "NOCASE":
		return compareNoCase(x, y)
	case "RTRIM":
		return bytes.Compare(bytes.TrimRight(x, " "), bytes.TrimRight(y, " "))
	default:
		return bytes.Compare(x, y)
	}
}

// compareNoCase folds the letters of ASCII, as SQLite does.
func compareNoCase(x, y []byte) int {
	lower := func(c byte) byte {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	for i := range min(len(x), len(y)) {
		if c := cmp.Compare(lower(x[i]), lower(y[i])); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(x), len(y))
}

// maxKeyText is how many bytes of a value in a key are told, as they are written.
const maxKeyText = 64

// keyText writes a key as SQL has it, values that are long only to some length.
func (f *File) keyText(values []value) string {
	var b bytes.Buffer
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		switch {
		case v.class == classNull:
			b.WriteString("NULL")
		case v.class == classText:
			s, more := cutKey(f.text(v))
			b.WriteString("'" + strings.ReplaceAll(s, "'", "''") + "'" + more)
		case v.class == classBlob:
			s, more := cutKey(hex.EncodeToString(v.b))
			b.WriteString("x'" + s + "'" + more)
		case v.real:
			b.WriteString(strconv.FormatFloat(v.f, 'g', -1, 64))
		default:
			b.WriteString(strconv.FormatInt(v.i, 10))
		}
	}
	return b.String()
}

func cutKey(s string) (_, more string) {
	if len(s) <= maxKeyText {
		return s, ""
	}
	n := maxKeyText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n], "…"
}
