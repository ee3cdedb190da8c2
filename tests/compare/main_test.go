// Package compare_test runs the same command lines with Litestream v0.5.18 and
// with this program, each in a folder of its own with the same content, and
// compares exit status, stdout, stderr, log lines and the files left behind.
// The differences that are meant are in differences.txt, each with the row of
// docs/COMPATIBILITY.md that explains it.
package compare_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/testutil"
)

// upstreamVersion is what upstream's program says of itself. Ours is built to
// say the same, so that nothing else may differ there.
const upstreamVersion = "v0.5.18"

// base is the folder of everything that the tests write. Its name is short,
// because the path of a unix socket may have no more than 107 bytes.
var base string

// TestMain fails the run if a test leaves a goroutine behind.
func TestMain(m *testing.M) {
	exit := testutil.Setup(8)
	dir, err := os.MkdirTemp("", "cmp")
	if err != nil {
		panic(err)
	}
	base = dir
	// Most of the time passes in waiting for processes.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		exit(code)
	}))
}

// ourProgram builds our command, once, and returns its path.
func ourProgram(t *testing.T) string {
	t.Helper()
	path, err := buildProgram()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildProgram = sync.OnceValues(func() (string, error) {
	path := filepath.Join(base, "litestream")
	out, err := exec.Command("go", "build", "-ldflags", "-X main.version="+upstreamVersion, "-o", path, "github.com/benbjohnson/litestream/cmd/litestream").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build litestream: %w\n%s", err, out)
	}
	return path, nil
})
