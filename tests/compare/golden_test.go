package compare_test

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// class is one reason for which outputs differ (differences.txt).
type class struct {
	name string
	row  string // text of the row of docs/COMPATIBILITY.md
	why  string
	same func(theirs, ours string) bool // what may not differ; nil: nothing
	list []*expected
}

// expected is one difference, or several by a pattern, that is meant.
type expected struct {
	class  *class
	line   int
	stream string
	call   string // * stands for any text
	match  *regexp.Regexp
	lines  []string // the difference itself; none: not compared
	met    int
}

var entryForm = regexp.MustCompile(`^  (exit|stdout|stderr|log|files): (.*)$`)

// readDifferences reads the golden file.
func readDifferences(t *testing.T, path string) (classes []*class) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	var c *class
	for n := 1; sc.Scan(); n++ {
		line := sc.Text()
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case line == "" || line[0] == '#':
		case key == "class":
			c = &class{name: value}
			classes = append(classes, c)
		case key == "row":
			c.row = value
		case key == "why":
			c.why = strings.TrimSpace(c.why + " " + value)
		case key == "same":
			if c.same = likeness[value]; c.same == nil {
				t.Fatalf("%s:%d: nothing is called %q", path, n, value)
			}
		case strings.HasPrefix(line, "      "):
			e := c.list[len(c.list)-1]
			e.lines = append(e.lines, strings.TrimSpace(line))
		default:
			m := entryForm.FindStringSubmatch(line)
			if m == nil {
				t.Fatalf("%s:%d: cannot read %q", path, n, line)
			}
			pattern := strings.ReplaceAll(regexp.QuoteMeta(m[2]), `\*`, ".*")
			c.list = append(c.list, &expected{class: c, line: n, stream: m[1], call: m[2], match: regexp.MustCompile("^" + pattern + "$")})
		}
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return classes
}

// found is one difference.
type found struct {
	call, stream string
	theirs, ours string
	lines        []string
	by           *expected // nil: not expected
}

// explain finds the entry of the golden file that a difference is.
func (f *found) explain(classes []*class) {
	for _, c := range classes {
		for _, e := range c.list {
			switch {
			case e.stream != f.stream || !e.match.MatchString(f.call):
			case e.lines != nil && !slices.Equal(e.lines, f.lines):
			case e.lines == nil && c.same != nil && !c.same(f.theirs, f.ours):
			default:
				e.met++
				f.by = e
				return
			}
		}
	}
}

// entry returns the difference as the golden file has it.
func (f *found) entry() string {
	return fmt.Sprintf("  %s: %s\n      %s\n", f.stream, f.call, strings.Join(f.lines, "\n      "))
}

var lineKind = regexp.MustCompile(`^(Error:|Try:|Warning:|flag provided but not defined: \S+|flag needs an argument: \S+|invalid .* value .* for flag \S+:|(?:stdout|stderr) (?:WARN|ERROR|WRN|ERR))`)

// likeness lists what a class may want of texts that differ.
var likeness = map[string]func(theirs, ours string) bool{
	// Lines of the same kinds, in the same order. Log lines count as warnings
	// and errors only.
	"kinds": func(theirs, ours string) bool { return kinds(theirs) == kinds(ours) },
	// Both are the help of a command.
	"help": func(theirs, ours string) bool { return usage.MatchString(theirs) && usage.MatchString(ours) },
}

var usage = regexp.MustCompile(`(?m)^[Uu]sage:`)

// kinds reduces a text to the kinds of its lines. What follows an error belongs
// to it.
func kinds(text string) string {
	var list []string
	for line := range strings.Lines(text) {
		switch kind := lineKind.FindString(line); {
		case kind != "":
			list = append(list, kind)
		case strings.HasPrefix(line, "stdout ") || strings.HasPrefix(line, "stderr "): // a log line of no weight
		case len(list) == 0 || list[len(list)-1] != "Error:":
			list = append(list, "text")
		}
	}
	return strings.Join(slices.Compact(list), "\n")
}
