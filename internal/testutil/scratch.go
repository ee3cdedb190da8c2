package testutil

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
)

// Setup prepares the tests of a package that make many files and wait a lot,
// for TestMain: with -short what they write lies in memory, where there is room
// for it, and n of those that may run beside each other do. The function that it
// returns is for goleak.Cleanup: it removes what was made, and exits.
//
// A file system may take long to make a file when many others were just
// deleted, which says nothing of the program. Without -short everything is on
// the disk, and as many tests run at a time as there are processors.
func Setup(n int) (exit func(code int)) {
	flag.Parse()
	dir := ""
	if testing.Short() {
		set := false
		flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
		if !set {
			must(flag.Set("test.parallel", strconv.Itoa(n)))
		}
		if memory := memoryFolder(); memory != "" {
			var err error
			dir, err = os.MkdirTemp(memory, "lt")
			must(err)
			must(os.Chmod(dir, 0o755)) // a server may be of another user
			must(os.Setenv("TMPDIR", dir))
		}
	}
	return func(code int) {
		if dir != "" {
			if err := os.RemoveAll(dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		os.Exit(code)
	}
}

// must ends a test's process that cannot begin.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
