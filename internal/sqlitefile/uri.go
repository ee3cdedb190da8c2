package sqlitefile

import "strings"

// URI returns the SQLite URI that opens exactly path, with the query appended.
// Everything that means something in a URI is percent-encoded, because a "?",
// "#" or "%" in a path would change what is opened (SQLite documentation,
// "Uniform Resource Identifiers", section 3).
func URI(path, query string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	b.WriteString("file:")
	for i := range len(path) {
		switch c := path[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("/-_.~", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	if query != "" {
		b.WriteByte('?')
		b.WriteString(query)
	}
	return b.String()
}
