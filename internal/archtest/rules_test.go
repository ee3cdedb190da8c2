package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// TestCheckFile gives each rule a file that breaks it and one that does not.
func TestCheckFile(t *testing.T) {
	imports := func(path string) string { return "package p\nimport _ \"" + module + path + "\"\n" }
	const goStmt = "package p\nfunc f() { go f() }\n"
	long := func(n int) string { return "package p\n" + strings.Repeat("\n", n-2) + "var x int" }
	longFunc := func(n int) string { return "package p\nfunc f() {" + strings.Repeat("\n", n-1) + "}\n" }

	for _, tt := range []struct {
		name string
		file string
		src  string
		want string // part of the only finding; none if empty
	}{
		{"root imports leaf", "db.go", imports("/internal/wal"), ""},
		{"root imports adapter", "db.go", imports("/s3"), "db.go (layer 2) imports s3 (layer 3)"},
		{"leaf imports root", "internal/wal/wal.go", imports(""), "imports . (layer 2)"},
		{"leaf imports leaf", "internal/wal/wal.go", imports("/internal/pagesum"), "imports internal/pagesum (layer 0)"},
		{"testutil imports leaf", "internal/testutil/db.go", imports("/internal/wal"), ""},
		{"testutil imports root", "internal/testutil/db.go", imports(""), "imports . (layer 2)"},
		{"adapter imports root", "s3/client.go", imports(""), ""},
		{"adapter imports adapter", "oss/client.go", imports("/s3"), "imports s3 (layer 3)"},
		{"suite imports root", "internal/replicatest/suite.go", imports(""), ""},
		{"suite imports adapter", "internal/replicatest/suite.go", imports("/file"), ""},
		{"adapter imports suite", "s3/client.go", imports("/internal/replicatest"), "imports internal/replicatest (layer 4)"},
		{"command imports all", "cmd/litestream/main.go", imports("/s3"), ""},
		{"root imports command", "db.go", imports("/cmd/litestream"), "imports cmd/litestream (layer 9)"},
		{"adapter imports test servers", "s3/client.go", imports("/tests/servers"), "imports tests/servers (layer 8)"},
		{"adapter's test imports test servers", "s3/client_test.go", imports("/tests/servers"), ""},
		{"other module of like name", "db.go", "package p\nimport _ \"" + module + "-extra/s3\"\n", ""},

		{"go statement", "db.go", goStmt, "db.go:2: starts a goroutine"},
		{"group", "db.go", "package p\nfunc f() { wg.Go(f) }\n", "db.go:2: starts a goroutine"},
		{"go statement in the pool", "internal/workpool/pool.go", goStmt, ""},
		{"go statement in the restore", "restore_read.go", goStmt, ""},
		{"go statement in a command", "cmd/litestream/replicate.go", goStmt, ""},
		{"go statement in a test", "db_test.go", goStmt, ""},

		{"init", "s3/client.go", "package p\nfunc init() {}\n", "func init"},
		{"init in register.go", "s3/register.go", "package p\nfunc init() {}\n", ""},
		{"init method", "s3/client.go", "package p\nfunc (c *T) init() {}\n", ""},

		{"longest file", "db.go", long(maxFileLines), ""},
		{"file too long", "db.go", long(maxFileLines + 1), "701 lines"},
		{"longest test file", "db_test.go", long(maxTestFileLines), ""},
		{"test file too long", "db_test.go", long(maxTestFileLines + 1), "1201 lines"},
		{"longest function", "db.go", longFunc(maxFuncLines), ""},
		{"function too long", "db.go", longFunc(maxFuncLines + 1), "func f has 81 lines"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, tt.file, tt.src, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			got := checkFile(fset, tt.file, f)
			switch {
			case tt.want == "" && len(got) != 0:
				t.Errorf("findings=%q, want none", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("findings=%q, want one with %q", got, tt.want)
			}
		})
	}
}

func TestCheckPackageComments(t *testing.T) {
	parse := func(src string) *ast.File {
		f, err := parser.ParseFile(token.NewFileSet(), "x.go", src, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	got := checkPackageComments(map[string]*ast.File{
		"s3/a.go":         parse("package s3\n"),
		"s3/b.go":         parse("// Package s3 stores.\npackage s3\n"),
		"file/a.go":       parse("// Copyright somebody.\n\npackage file\n"),
		"tests/a_test.go": parse("// Package tests tests.\npackage tests\n"),
	})
	if len(got) != 1 || !strings.Contains(got[0], "package file has no package comment") {
		t.Errorf("findings=%q, want one for package file", got)
	}
}
