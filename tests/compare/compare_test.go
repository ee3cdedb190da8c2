package compare_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream/tests/servers"
)

// shortShare is how many sessions there are for each that -short runs. Each is
// two processes at least, and the tests of the command run such calls, too.
const shortShare = 5

var show = flag.Bool("show", false, "print every difference with its reason")

// TestCompare holds that the differences between both programs are those of
// differences.txt, no more and no less.
func TestCompare(t *testing.T) {
	upstream, ours := servers.Upstream(t), ourProgram(t)
	scene := filepath.Join(base, "scene")
	newScene(t, scene)
	all := sessions()
	theirOutputs, ourOutputs := make([][]output, len(all)), make([][]output, len(all))
	t.Run("run", func(t *testing.T) {
		for i, s := range all {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				if testing.Short() && i%shortShare != 0 {
					t.Skipf("one session of %d is enough with -short", shortShare)
				}
				// Names of one length, so that tables look alike.
				theirs := &world{t: t, program: upstream, dir: filepath.Join(base, fmt.Sprintf("u%04d", i))}
				mine := &world{t: t, program: ours, dir: filepath.Join(base, fmt.Sprintf("o%04d", i))}
				copyScene(t, scene, theirs.dir)
				copyScene(t, scene, mine.dir)
				theirOutputs[i], ourOutputs[i] = theirs.run(s), mine.run(s)
			})
		}
	})
	if t.Failed() {
		return
	}
	classes := readDifferences(t, "differences.txt")
	var differences []*found
	complete := true
	for i, s := range all {
		complete = complete && theirOutputs[i] != nil
		for j := range theirOutputs[i] {
			differences = append(differences, compare(s.stepName(j), &theirOutputs[i][j], &ourOutputs[i][j])...)
		}
	}
	for _, f := range differences {
		if f.explain(classes); f.by == nil {
			t.Errorf("a difference that differences.txt does not have:\n%s", f.entry())
		}
	}
	if complete {
		checkMet(t, classes)
	}
	if *show {
		printReport(classes, differences)
	}
}

// compare returns the streams in which two outputs differ.
func compare(call string, theirs, ours *output) (list []*found) {
	for _, stream := range streams {
		if a, b := theirs.stream(stream), ours.stream(stream); a != b {
			list = append(list, &found{call: call, stream: stream, theirs: a, ours: b, lines: difference(a, b)})
		}
	}
	return list
}

// checkMet wants every expected difference to be there.
func checkMet(t *testing.T, classes []*class) {
	t.Helper()
	for _, c := range classes {
		for _, e := range c.list {
			if e.met == 0 {
				t.Errorf("differences.txt:%d: no such difference any more (class %s): %s: %s", e.line, c.name, e.stream, e.call)
			}
		}
	}
}

// TestDifferences_Explained holds that every class of differences has a reason
// and names a row of docs/COMPATIBILITY.md.
func TestDifferences_Explained(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "COMPATIBILITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range readDifferences(t, "differences.txt") {
		if c.why == "" || len(c.list) == 0 {
			t.Errorf("class %s lacks a reason or differences", c.name)
		}
		if c.row == "" || !strings.Contains(string(data), c.row) {
			t.Errorf("class %s: docs/COMPATIBILITY.md has no row %q", c.name, c.row)
		}
	}
}

// printReport shows every difference below its reason.
func printReport(classes []*class, all []*found) {
	calls := 0
	for _, s := range sessions() {
		calls += len(s.steps)
	}
	_, _ = fmt.Fprintf(os.Stdout, "%d command lines and requests, %d differences (- upstream, + ours)\n", calls, len(all))
	for _, c := range classes {
		_, _ = fmt.Fprintf(os.Stdout, "\n%s: %s\n(docs/COMPATIBILITY.md: %s)\n\n", c.name, c.why, c.row)
		for _, f := range all {
			if f.by != nil && f.by.class == c {
				_, _ = fmt.Fprint(os.Stdout, f.entry())
			}
		}
	}
}
