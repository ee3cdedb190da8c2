//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A page that differs, or is missing, is found and named.
func TestEqualFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, pages ...byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		var data []byte
		for _, p := range pages {
			data = append(data, []byte(strings.Repeat(string(rune(p)), pageSize))...)
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	want := write("want", 'a', 'b', 'c')
	for name, tt := range map[string]struct {
		path string
		err  string
	}{
		"Equal":   {write("equal", 'a', 'b', 'c'), ""},
		"Page":    {write("page", 'a', 'x', 'c'), "page 2 of "},
		"Shorter": {write("shorter", 'a', 'b'), "page 3 of "},
		"Longer":  {write("longer", 'a', 'b', 'c', 'd'), "page 4 of "},
	} {
		n, err := equalFiles(tt.path, want)
		if tt.err == "" && (err != nil || n != 3*pageSize) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

func TestLastSummary(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	for text, want := range map[string]restoreSums{
		"{\"db_path\":\"x\"}\n{\"summary\":{\"restored\":3,\"verified\":2}}\nsomething else\n": {3, 2},
		"{\"db_path\":\"x\"}\n": {},
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := lastSummary(name); got != want || (err == nil) != (want != restoreSums{}) {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
}
