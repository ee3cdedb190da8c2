package archtest

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)[`/]")

// TestDocs_NamedTests holds that every test that a document names exists.
func TestDocs_NamedTests(t *testing.T) {
	root := filepath.Join("..", "..")
	exists := map[string]bool{}
	for _, f := range parseRepository(t, token.NewFileSet(), root) {
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				exists[fn.Name.Name] = true
			}
		}
	}
	named := 0
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			for _, m := range testName.FindAllStringSubmatch(readFile(t, file), -1) {
				if named++; !exists[m[1]] {
					t.Errorf("%s names the test %s, which does not exist", file, m[1])
				}
			}
		}
	}
	if named < 100 {
		t.Errorf("the documents name %d tests, want at least 100", named)
	}
}

// TestDocs_Interfaces holds that docs/COMPATIBILITY.md names every variable of
// the environment, URL parameter and path of the control socket that the code
// knows.
func TestDocs_Interfaces(t *testing.T) {
	root := filepath.Join("..", "..")
	doc := readFile(t, filepath.Join(root, "docs", "COMPATIBILITY.md"))
	want := func(what, name string) {
		if !regexp.MustCompile("[`/ ]" + regexp.QuoteMeta(name) + "[^\\w-]").MatchString(doc) {
			t.Errorf("docs/COMPATIBILITY.md does not name the %s %s", what, name)
		}
	}
	for rel, f := range parseRepository(t, token.NewFileSet(), root) {
		if strings.HasSuffix(rel, "_test.go") || strings.HasPrefix(rel, "tests/") || strings.HasPrefix(rel, "examples/") ||
			strings.HasPrefix(rel, "cmd/") && !strings.HasPrefix(rel, "cmd/litestream/") {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			texts := textArguments(call)
			switch name := calledName(call); {
			case name == "Getenv" || name == "LookupEnv":
				for _, text := range texts {
					want("variable", text)
				}
			case rel == "s3/url.go" && (name == "firstQuery" || name == "Get"):
				for _, text := range texts {
					want("URL parameter", text)
				}
			case strings.HasPrefix(rel, "internal/control/") && name == "HandleFunc" && len(texts) == 1:
				_, path, _ := strings.Cut(texts[0], " ")
				want("path", path)
			}
			return true
		})
	}
}

// calledName returns the last part of a called function's name.
func calledName(call *ast.CallExpr) string {
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		return fn.Name
	case *ast.SelectorExpr:
		return fn.Sel.Name
	default:
		return ""
	}
}

// textArguments returns the arguments of a call that are text in the source.
func textArguments(call *ast.CallExpr) (texts []string) {
	for _, arg := range call.Args {
		if lit, ok := arg.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil {
				texts = append(texts, text)
			}
		}
	}
	return texts
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
