package glob_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/glob"
)

func compile(tb testing.TB, text string) *glob.Pattern {
	tb.Helper()
	p, err := glob.Compile(text)
	if err != nil {
		tb.Fatalf("compile %q: %v", text, err)
	}
	return p
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          []string // nil: no match
	}{
		{"/d/*.db", "/d/a.db", []string{"a"}},
		{"/d/*.db", "/d/.db", []string{""}},
		{"/d/*.db", "/d/a.db.db", []string{"a.db"}},
		{"/d/*.db", "/d/x/a.db", nil},
		{"/d/*.db", "d/a.db", nil},
		{"/d/*/x", "/d//x", nil},
		{"/d/a.db", "/d/a.db", []string{}},
		{"/d/a.db", "/d/a.dbx", nil},
		{"/*/databases/*/branches/*/tenants/*.db", "/p/databases/d/branches/b/tenants/t.db", []string{"p", "d", "b", "t"}},
		{"/d/{{a}}-{{b}}.db", "/d/1-2-3.db", []string{"1", "2-3"}},
		{"/d/*-*-*", "/d/1-2-3-4", []string{"1", "2", "3-4"}},
		{"/d/*a*b*", "/d/xaybz", []string{"x", "y", "z"}},
		{"/d/*a*b", "/d/abab", []string{"", "ba"}},
		{"/d/t[0-9][0-9].db", "/d/t42.db", []string{"42"}},
		{"/d/t[0-9]*-?.db", "/d/t4x-y-z.db", []string{"4x-y", "z"}},
		{"/d/[!a]*", "/d/a", nil},
		{"/0[!0][0]", "/0/0", nil}, // no class matches a slash
		{"/d/{a,b{c,d}}.db", "/d/bd.db", []string{"bd"}},
		{"/d/{a,ab}*c", "/d/abc", []string{"ab"}},
		{"/d/{ab,a}-{c,}x", "/d/ab-x", []string{"ab", ""}},
		{"/d/?.db", "/d/ü.db", []string{"ü"}},
		{"/d/?.db", "/d/\xff.db", []string{"\xff"}},
		{"/d/**/*.db", "/d/a.db", []string{"", "a"}},
		{"/d/**/*.db", "/d/x/y/a.db", []string{"x/y", "a"}},
		{"/d/**/**/*.db", "/d/x/y/a.db", []string{"x/y", "a"}},
		{"/d/**/x/**/*.db", "/d/x/x/a.db", []string{"", "x", "a"}},
		{"/d/**", "/d/x/a.db", []string{"x/a.db"}},
		{"/d/**", "/d", nil},
		{"/d/**.db", "/d/x/a.db", nil},
		{"/d/**.db", "/d/a.db", []string{"a"}},
		{"**/*.db", "/a/b.db", []string{"a", "b"}},
		{`/d/\*.db`, "/d/*.db", []string{}},
		{`/d/\*.db`, "/d/a.db", nil},
		{"/d/{{t}}.db", "/d/{{t}}.db", []string{"{{t}}"}},
		{"/d/*\n*", "/d/a\nb", []string{"a", "b"}},
	} {
		got, ok := compile(t, tt.pattern).Match(tt.path, nil)
		if ok != (tt.want != nil) {
			t.Errorf("%s, %q: match=%t %q, want %q", tt.pattern, tt.path, ok, got, tt.want)
		} else if diff := cmp.Diff(tt.want, append([]string{}, got...)); ok && diff != "" {
			t.Errorf("%s, %q (-want +got):\n%s", tt.pattern, tt.path, diff)
		}
	}
}

func TestCompile_Errors(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "absolute path",
		"d/*.db":                        "absolute path",
		"*.db":                          "absolute path",
		"**.db":                         "absolute path",
		"/":                             "empty path element",
		"/d//*.db":                      "empty path element",
		"/d/":                           "empty path element",
		"/d/../*.db":                    `path element ".."`,
		"/./*.db":                       `path element "."`,
		"/d/[":                          "[ that is not closed",
		"/d/[a/b]":                      "[ that is not closed",
		"/d/[]":                         "syntax error",
		`/d/\{{a}}`:                     "} without a {",
		"/d/{a":                         "{ that is not closed",
		"/d/{**}":                       "** and braces",
		"/d/{a,b}**":                    "** and braces",
		"/d/{a/b}":                      "{ that is not closed",
		`/d/a\`:                         "nothing to escape",
		`/d\/a`:                         "nothing to escape",
		"/d/{{a}}{{b}}":                 "side by side",
		"/d/{{a}}*":                     "side by side",
		"/d/?{{a}}":                     "side by side",
		"/d/{{a}}/{{a}}":                "two wildcards {{a}}",
		"/d/{{a b}}":                    "{{a b}}: a name has",
		"/d/{{}}":                       "{{}}: a name has",
		"/d/{{1}}":                      "{{1}}: a name has",
		"/x" + strings.Repeat("/*", 63): "more than 63",
	} {
		if p, err := glob.Compile(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want an error with %q", text, p, err, want)
		}
	}
}

func TestWildcards(t *testing.T) {
	p := compile(t, "/a/tenants/{{x}}-?[0-9]/**/b/*.db")
	want := []glob.Wildcard{{Name: "x", Behind: "tenants"}, {Behind: "tenants"}, {Multi: true}, {Behind: "b"}}
	if diff := cmp.Diff(want, p.Wildcards()); diff != "" {
		t.Errorf("wildcards (-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{"/a/b/*.db": "/a/b", "/*/x": "/", "/a/b.db": "/a", "/a": "/", `/a\*/?/b`: "/a*", "**/x": "/"} {
		if got := compile(t, text).Prefix(); got != want {
			t.Errorf("prefix of %s: got %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]bool{"/d/*": true, "/d/**": true, "/d/*.db": false, "/d/{{a}}": true} {
		wilds := compile(t, text).Wildcards()
		if got := wilds[len(wilds)-1].Ends; got != want {
			t.Errorf("%s: ends=%t, want %t", text, got, want)
		}
	}
}

func TestWildcards_Extension(t *testing.T) {
	for text, want := range map[string]string{
		"/d/*.{db,sqlite}":       "01",
		"/d/{{a}}.{db,sqlite}":   "01",
		"/d/*/*.sqlite?":         "001",
		"/d/*.*.[a-z]*":          "001",
		"/d/*.v?.db":             "00",
		"/d/x.{db,sqlite}":       "0",
		"/d/.{db,sqlite}":        "0",
		"/d.x/*{.db,.sqlite}":    "0",
		"/d/*.d/*":               "00",
		"/d/*.x/**":              "00",
		"/d/*.{{ext}}":           "01",
		"/d/t-*-*.{db,db-3}.bak": "000",
	} {
		got := ""
		for _, w := range compile(t, text).Wildcards() {
			got += map[bool]string{true: "1", false: "0"}[w.Extension]
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestMayMatchBelow(t *testing.T) {
	for _, tt := range []struct {
		pattern, dir string
		want         bool
	}{
		{"/var/lib/*/*.db", "/var/lib/litestream", true},
		{"/var/lib/*", "/var/lib/litestream", true},
		{"/var/**/*.db", "/var/lib/litestream", true},
		{"/var/lib/*.db", "/var/lib/litestream", false},
		{"/data/**", "/var/lib/litestream", false},
		{"/var/lib/litestream/x/*.db", "/var/lib/litestream", true},
		{"/var/lib/litestream2/*.db", "/var/lib/litestream", false},
		{"/var/lib/[a-k]*/*.db", "/var/lib/litestream", false},
	} {
		if got := compile(t, tt.pattern).MayMatchBelow(tt.dir); got != tt.want {
			t.Errorf("%s below %s: got %t, want %t", tt.pattern, tt.dir, got, tt.want)
		}
	}
}

func TestExclude(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		match, dir    bool
	}{
		{"**/tmp/**", "/d/tmp/a.db", true, true},
		{"**/tmp/**", "/d/tmp", true, true},
		{"**/tmp/**", "/tmp/x/y.db", true, true},
		{"**/tmp/**", "/d/tmpx/a.db", false, false},
		{"/d/*", "/d/a", true, false},
		{"/d/*", "/d/a/b", false, false},
		{"**/*.tmp", "/d/a.tmp", true, false},
		{"/d/**/**", "/d/a", true, true},
	} {
		e, err := glob.CompileExclude(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if e.Match(tt.path) != tt.match || e.MatchDir(tt.path) != tt.dir {
			t.Errorf("%s, %s: match=%t dir=%t, want %t %t", tt.pattern, tt.path, e.Match(tt.path), e.MatchDir(tt.path), tt.match, tt.dir)
		}
		want, err := doublestar.Match(tt.pattern, tt.path)
		if err != nil || want != tt.match {
			t.Errorf("%s, %s: doublestar says %t, %v", tt.pattern, tt.path, want, err)
		}
	}
	for _, text := range []string{"**", "/**", "**/**", "/d/{{a}}", "a/b", "/*/**"} {
		if e, err := glob.CompileExclude(text); err == nil {
			t.Errorf("%s: got %v, want an error", text, e)
		}
	}
}

// FuzzMatch compares with doublestar, and the text of a match with the steps of
// a walk. A match's literals and values together are the path.
func FuzzMatch(f *testing.F) {
	for _, p := range []string{"/d/*.db", "/**/a*/?[a-c]{x,yz}", "/*/**/b/**/*", "/a**b/**", `/\*a/[!b]*c*`, "**/x"} {
		f.Add(p, "/d/a.db")
		f.Add(p, "/a/b/c/b/axb/bx")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		p, err := glob.Compile(text)
		if err != nil || len(text) > 40 || len(path) > 60 || strings.Contains(text, "{{") || strings.Contains(text, "***") || strings.Count(text, "{") > 3 {
			return
		}
		if !strings.HasPrefix(path, "/") || strings.Contains(path, "//") || len(path) < 2 || strings.HasSuffix(path, "/") {
			return
		}
		if !isASCII(text) || !isASCII(path) { // doublestar takes all invalid bytes for one another
			return
		}
		for _, c := range class.FindAllString(text, -1) {
			if slash, err := doublestar.Match(c, "/"); err == nil && slash {
				return // a class of doublestar's may match a slash, which none of ours does
			}
		}
		values, ok := p.Match(path, nil)
		if text[0] != '/' { // else doublestar takes the name before the first slash, which is empty, for a directory's
			text = "/" + text
		}
		// Match would also validate what is left of a pattern when it stops
		// matching, which may begin inside a class.
		want := doublestar.MatchUnvalidated(text, path)
		if base, final := strings.CutSuffix(text, "/**"); final && want && !ok {
			want = doublestar.MatchUnvalidated(base, path) // the directory itself, which no file is
			want = !want
		}
		// Stars at the border of braces are ** to doublestar, which crosses path
		// elements; the table of TestMatch is for braces.
		if ok != want && !strings.Contains(text, "{") {
			t.Fatalf("%q, %q: match=%t %q, doublestar says %t", text, path, ok, values, want)
		}
		elements := strings.Split(path[1:], "/")
		s := p.Start()
		for _, dir := range elements[:len(elements)-1] {
			s = p.Enter(s, dir)
		}
		if got := p.MatchFile(s, elements[len(elements)-1]); got != ok {
			t.Fatalf("%q, %q: match=%t, a walk says %t", text, path, ok, got)
		}
		if ok && !p.MayMatchBelow(path[:max(strings.LastIndexByte(path, '/'), 1)]) {
			t.Fatalf("%q, %q: matches, but not below its directory", text, path)
		}
	})
}

var class = regexp.MustCompile(`\[(\\.|[^\]\\])*\]`)

func isASCII(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(c byte) bool { return c >= 0x80 })
}
