package glob_test

import (
	"testing"

	"github.com/benbjohnson/litestream/internal/glob"
)

func TestPattern_Expand(t *testing.T) {
	for _, tt := range []struct{ pattern, path string }{
		{"/data/*.db", "/data/a.db"},
		{"/data/*/t-*-x/{{n}}.db", "/data/a/t-b-x/c.db"},
		{"/data/**/*.db", "/data/t.db"},
		{"/data/**/*.db", "/data/a/b/t.db"},
		{"/data/[a-c]?*/{x,y}.db", "/data/bcd/y.db"},
		{"/**", "/a/b"},
		{`/data/\*.db`, "/data/*.db"},
	} {
		p, err := glob.Compile(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		values, ok := p.Match(tt.path, nil)
		if !ok {
			t.Fatalf("%s does not match %s", tt.pattern, tt.path)
		}
		if got := p.Expand(values); got != tt.path {
			t.Errorf("%s: expanded %q to %s, want %s", tt.pattern, values, got, tt.path)
		}
	}
}

func TestPattern_LastName(t *testing.T) {
	for pattern, want := range map[string]string{
		"/d/*.db": ".db", "/d/**/{{a}}.tar.db": ".tar.db", "/d/*": "", "/d/x*.db": "", "/d/x.db": "", "/d/**": "",
	} {
		p, err := glob.Compile(pattern)
		if err != nil {
			t.Fatal(err)
		}
		wild, suffix, ok := p.LastName()
		if suffix != want || ok != (want != "") || ok && wild != len(p.Wildcards())-1 {
			t.Errorf("%s: got %d %q %v, want suffix %q", pattern, wild, suffix, ok, want)
		}
	}
}
