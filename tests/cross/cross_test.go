// Package cross checks that the module compiles for platforms that the machine
// at hand is not. SQLite is C, and a C compiler with the headers of macOS is
// not to be had everywhere; but all that Go code has to know of it are its
// declarations, which are the same on every platform. So everything is
// type-checked for the other platform, with the SQLite package as the host
// compiles it.
package cross

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const sqlitePackage = "github.com/mattn/go-sqlite3"

// listedPackage is what go list says of a package.
type listedPackage struct {
	Dir        string
	ImportPath string // with " [x.test]" for a variant that a test needs
	ForTest    string
	Export     string // file of what it exports, as compiled
	GoFiles    []string
	CgoFiles   []string
	ImportMap  map[string]string
	Module     *struct {
		Main      bool
		GoVersion string
	}
}

// listPackages runs go list, which compiles what it can.
func listPackages(t *testing.T, env []string, args ...string) []*listedPackage {
	t.Helper()
	args = append([]string{"list", "-e", "-deps", "-export", "-json=Dir,ImportPath,ForTest,Export,GoFiles,CgoFiles,ImportMap,Module"}, args...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &errs)
	}
	var pkgs []*listedPackage
	for dec := json.NewDecoder(&out); ; {
		p := new(listedPackage)
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// checker type-checks the packages of the module for one platform.
type checker struct {
	fset    *token.FileSet
	sizes   types.Sizes
	exports map[string]string         // files by import path
	checked map[string]*types.Package // of this module, by import path
	others  types.Importer
	errs    []error
}

// check type-checks one package, whose dependencies are checked already.
func (c *checker) check(p *listedPackage) {
	var files []*ast.File
	for _, name := range p.GoFiles {
		if !filepath.IsAbs(name) { // the main package of a test is
			name = filepath.Join(p.Dir, name)
		}
		f, err := parser.ParseFile(c.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			c.errs = append(c.errs, err)
			return
		}
		files = append(files, f)
	}
	cfg := types.Config{
		Sizes: c.sizes, GoVersion: "go" + p.Module.GoVersion,
		Error: func(err error) { c.errs = append(c.errs, err) },
		Importer: importFunc(func(path string) (*types.Package, error) {
			if to, ok := p.ImportMap[path]; ok {
				path = to
			}
			if pkg := c.checked[path]; pkg != nil {
				return pkg, nil
			}
			return c.others.Import(path)
		}),
	}
	name, _, _ := strings.Cut(p.ImportPath, " ")
	pkg, _ := cfg.Check(name, c.fset, files, nil) // the errors were collected
	c.checked[p.ImportPath] = pkg
}

type importFunc func(path string) (*types.Package, error)

// Import implements types.Importer.
func (f importFunc) Import(path string) (*types.Package, error) { return f(path) }

func TestPlatforms(t *testing.T) {
	if os.Getenv("LITESTREAM_TEST_CROSS") == "" {
		t.Skip("compiles every dependency for each platform; make cross runs it")
	}
	var sqlite string
	for _, p := range listPackages(t, nil, sqlitePackage) {
		if p.ImportPath == sqlitePackage {
			sqlite = p.Export
		}
	}
	if sqlite == "" {
		t.Fatalf("%s was not compiled; is there a C compiler?", sqlitePackage)
	}
	for _, platform := range []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"} {
		t.Run(platform, func(t *testing.T) {
			goos, goarch, _ := strings.Cut(platform, "/")
			c := &checker{
				fset: token.NewFileSet(), sizes: types.SizesFor("gc", goarch),
				exports: map[string]string{}, checked: map[string]*types.Package{"unsafe": types.Unsafe},
			}
			c.others = importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) {
				if c.exports[path] == "" {
					return nil, fmt.Errorf("%s does not compile", path)
				}
				return os.Open(c.exports[path])
			})
			n := 0
			for _, p := range listPackages(t, []string{"CGO_ENABLED=0", "GOOS=" + goos, "GOARCH=" + goarch}, "-test", "./...") {
				switch {
				case p.Module == nil || !p.Module.Main:
					c.exports[p.ImportPath] = p.Export
				case strings.HasSuffix(p.ImportPath, ".test"): // made by the go command
				case len(p.CgoFiles) > 0:
					t.Errorf("%s has C code", p.ImportPath)
				default:
					c.exports[sqlitePackage] = sqlite
					c.check(p)
					n++
				}
			}
			for _, err := range c.errs {
				t.Error(err)
			}
			t.Logf("%d packages", n)
			if n < 20 {
				t.Errorf("%d packages were checked, want all of the module", n)
			}
		})
	}
}
