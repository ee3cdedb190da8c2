// Package archtest checks rules of this repository that no linter knows: the
// layers, the sizes, who may start goroutines and who may have an init.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const (
	module           = "github.com/benbjohnson/litestream"
	maxFileLines     = 700
	maxTestFileLines = 1200
	maxFuncLines     = 80
)

// Layers; a package imports only packages of a smaller one. Test files are
// free, except that they obey Go's own rule against cycles.
const (
	systemLayer  = -2 // in place of package os, for every package
	baseLayer    = -1 // what leaves are built on
	leafLayer    = 0  // folders below internal/ that are not listed
	rootLayer    = 2
	adapterLayer = 3 // folders below the root that are not listed
	topLayer     = 9 // cmd/, examples/ and tests/: nothing imports them
)

var layerOf = map[string]int{
	".":                    rootLayer,
	"internal/ltxfile":     1,
	"internal/osfile":      systemLayer,
	"internal/registry":    1,
	"internal/replicatest": 4,            // conformance suite: uses the root
	"internal/doctor":      adapterLayer, // uses the root, whatever the adapter
	"internal/metamorphic": 5,            // whole-system test: uses the root and adapters
	"internal/scan":        1,
	"internal/sqlitefile":  leafLayer,
	"internal/testutil":    1, // fixtures every test may use, the root's included
	"internal/v03":         1,
	"internal/vfs/errfs":   1,
	"internal/vfs/memfs":   1,
	"internal/wal":         baseLayer,
	"tests/servers":        topLayer - 1, // tests/backends starts them
}

// mayStartGoroutines lists the owners of goroutines, as patterns of path.Match.
// Each of them waits for what it started before it returns from Close or Run.
var mayStartGoroutines = []string{
	"internal/blob/each.go",  // parallel requests of one call, which waits for them
	"internal/blob/parts.go", // parallel parts of one upload, which waits for them
	"internal/workpool/*.go",
	"internal/control/server.go",   // its loop
	"internal/control/handlers.go", // operations, which the server waits for
	"internal/scan/walk.go",        // parallel reads of directories of one scan, which waits for them
	"store.go",
	"store_control.go", // syncs of many databases on demand, which the call waits for
	"scheduler.go",
	"dir_monitor.go",
	"multidb_manager.go",
	"heartbeat.go",                 // the one request under way, which Close waits for
	"restore*.go",                  // parallel reads ahead of the writer
	"fleet_restore*.go",            // databases restored at a time by one call, which waits for them
	"internal/replicatest/*.go",    // concurrent callers of a client under test
	"internal/mcpserver/server.go", // one listener, which Close waits for
	"nats/pool.go",                 // the one attempt to connect, which closing the pool waits for
	"sftp/link.go",                 // calls that may be given up, which closing the connection waits for
	"tests/servers/proxy.go",       // both directions of each connection, which the end of the test waits for
	"cmd/*/*.go",
}

func layer(dir string) int {
	if l, ok := layerOf[dir]; ok {
		return l
	}
	switch top, _, _ := strings.Cut(dir, "/"); top {
	case "internal":
		return leafLayer
	case "cmd", "examples", "tests":
		return topLayer
	default:
		return adapterLayer
	}
}

// checkFile returns what one file does against the rules. rel is its path from
// the root of the repository, with slashes.
func checkFile(fset *token.FileSet, rel string, f *ast.File) []string {
	if strings.HasSuffix(rel, "_test.go") {
		return checkFileLines(fset, rel, f, maxTestFileLines)
	}
	a := checkFileLines(fset, rel, f, maxFileLines)
	a = append(a, checkImports(rel, f)...)
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			a = append(a, checkFunc(fset, rel, n)...)
		case *ast.GoStmt:
			a = append(a, checkGoroutine(fset, rel, n.Pos())...)
		case *ast.CallExpr: // WaitGroup.Go, errgroup.Group.Go
			if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Go" {
				a = append(a, checkGoroutine(fset, rel, n.Pos())...)
			}
		}
		return true
	})
	return a
}

func checkFileLines(fset *token.FileSet, rel string, f *ast.File, limit int) []string {
	if n := fset.File(f.FileStart).LineCount(); n > limit {
		return []string{fmt.Sprintf("%s: %d lines, want at most %d: split it into siblings named after what they do", rel, n, limit)}
	}
	return nil
}

func checkFunc(fset *token.FileSet, rel string, fn *ast.FuncDecl) (a []string) {
	if fn.Name.Name == "init" && fn.Recv == nil && path.Base(rel) != "register.go" {
		a = append(a, fmt.Sprintf("%s: func init; only an adapter's register.go may have one", rel))
	}
	if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
		a = append(a, fmt.Sprintf("%s: func %s has %d lines, want at most %d", rel, fn.Name.Name, n, maxFuncLines))
	}
	return a
}

func checkGoroutine(fset *token.FileSet, rel string, pos token.Pos) []string {
	for _, pattern := range mayStartGoroutines {
		if ok, err := path.Match(pattern, rel); err != nil || ok {
			return nil
		}
	}
	return []string{fmt.Sprintf("%s:%d: starts a goroutine; use internal/workpool or a lifecycle owner", rel, fset.Position(pos).Line)}
}

func checkImports(rel string, f *ast.File) (a []string) {
	from := path.Dir(rel)
	for _, imp := range f.Imports {
		to, ok := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module)
		if !ok || to != "" && to[0] != '/' {
			continue
		}
		to = path.Clean("." + to)
		if layer(to) >= layer(from) {
			a = append(a, fmt.Sprintf("%s (layer %d) imports %s (layer %d)", rel, layer(from), to, layer(to)))
		}
	}
	return a
}

// pkg is what the check for package comments gathers about one folder.
type pkg struct {
	documented bool
	name       string
}

// checkPackageComments wants one file of each package to begin with a comment.
// A folder of tests only is a package too.
func checkPackageComments(files map[string]*ast.File) (a []string) {
	pkgs := map[string]*pkg{}
	for rel, f := range files {
		dir := path.Dir(rel)
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{name: f.Name.Name}
		}
		if f.Doc != nil {
			pkgs[dir].documented = true
		}
	}
	for dir, p := range pkgs {
		if !p.documented {
			a = append(a, fmt.Sprintf("%s: package %s has no package comment", dir, p.name))
		}
	}
	return a
}

// parseRepository parses every Go file of the module, keyed by its path.
func parseRepository(t *testing.T, fset *token.FileSet, root string) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && file != root && (name[0] == '.' || name[0] == '_' || name == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(rel)] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestArchitecture(t *testing.T) {
	fset := token.NewFileSet()
	files := parseRepository(t, fset, filepath.Join("..", ".."))
	if files["litestream.go"] == nil {
		t.Fatal("litestream.go not found; is the root of the repository elsewhere?")
	}
	for rel, f := range files {
		for _, finding := range checkFile(fset, rel, f) {
			t.Error(finding)
		}
	}
	for _, finding := range checkPackageComments(files) {
		t.Error(finding)
	}
}
