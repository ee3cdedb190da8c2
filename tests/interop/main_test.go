// Package interop_test shows that replicas can be traded with Litestream
// v0.5.18, whose program it runs as a black box: either restores what the other
// wrote, and either goes on where the other stopped.
package interop_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the run if a test leaves a goroutine behind.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "litestream-interop-")
	if err != nil {
		panic(err)
	}
	program.dir = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}))
}

// program is our command, built once.
var program struct {
	dir  string
	once sync.Once
	err  error
}

// ourProgram returns the path of our command.
func ourProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(program.dir, "litestream")
	program.once.Do(func() {
		out, err := exec.Command("go", "build", "-o", path, "github.com/benbjohnson/litestream/cmd/litestream").CombinedOutput()
		if err != nil {
			program.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if program.err != nil {
		t.Fatalf("build litestream: %v", program.err)
	}
	return path
}
