//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// table is what one section found.
type table struct {
	rows []row
	note string
}

// row is one measure of both tools, with a sample of each turn.
type row struct {
	name    string
	unit    string
	more    bool // more is better
	samples [2][]float64
}

// add records one sample of tool i for a measure, whose row it makes if need
// be. A measure of which more is better has a unit with "/s" at its end.
func (t *table) add(i int, name, unit string, v float64) {
	at := slices.IndexFunc(t.rows, func(r row) bool { return r.name == name })
	if at < 0 {
		at = len(t.rows)
		t.rows = append(t.rows, row{name: name, unit: unit, more: strings.HasSuffix(unit, "/s")})
	}
	r := &t.rows[at]
	r.samples[i] = append(r.samples[i], v)
}

func (t *table) markdown() string {
	var b strings.Builder
	b.WriteString("| | litestream | upstream | litestream ÷ upstream |\n|---|---:|---:|---:|\n")
	for _, r := range t.rows {
		ours, theirs := median(r.samples[0]), median(r.samples[1])
		compared := "–"
		if len(r.samples[0]) > 0 && len(r.samples[1]) > 0 {
			compared = ratio(ours, theirs, r.more)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.name, r.cell(0), r.cell(1), compared)
	}
	if t.note != "" {
		b.WriteString("\n" + t.note + "\n")
	}
	return b.String()
}

// cell shows the median, and the range where there are several samples.
func (r *row) cell(i int) string {
	s := slices.Sorted(slices.Values(r.samples[i]))
	if len(s) == 0 {
		return "–"
	}
	text := strings.TrimSpace(number(median(s)) + " " + r.unit)
	if len(s) > 1 && s[0] != s[len(s)-1] {
		text += fmt.Sprintf(" (%s–%s)", number(s[0]), number(s[len(s)-1]))
	}
	return text
}

func ratio(ours, theirs float64, more bool) string {
	if theirs == 0 {
		switch {
		case ours == 0:
			return "both 0"
		case more:
			return "–"
		default:
			return "– **behind**"
		}
	}
	q := fmt.Sprintf("%.2f", ours/theirs)
	if q != "1.00" && more == (ours < theirs) {
		q += " **behind**"
	}
	return q
}

func number(v float64) string {
	switch {
	case v == float64(int64(v)):
		return fmt.Sprintf("%d", int64(v))
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func median(samples []float64) float64 { return quantile(samples, 0.5) }

// quantile returns the sample below which a part q of all lies, the mean of
// two for the middle of an even number. It is 0 without samples.
func quantile(samples []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	if len(s) == 0 {
		return 0
	}
	at := q * float64(len(s)-1)
	low := int(at)
	high := min(low+1, len(s)-1)
	return s[low] + (at-float64(low))*(s[high]-s[low])
}

// machine describes where the figures come from.
func (b *bench) machine(ctx context.Context) (string, error) {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", err
	}
	mem, err := procField("/proc/meminfo", "MemTotal")
	if err != nil {
		return "", err
	}
	var versions []string
	for _, t := range b.tools {
		out, err := exec.CommandContext(ctx, t.bin, "version").Output()
		if err != nil {
			return "", fmt.Errorf("version of %s: %w", t.name, err)
		}
		versions = append(versions, t.name+" "+strings.TrimSpace(string(out)))
	}
	return fmt.Sprintf("%d cores, %d GiB, %s, kernel %s, %s; %s.\n",
		runtime.NumCPU(), (mem+1<<19)>>20, distribution(), strings.TrimSpace(string(kernel)), fileSystem(b.dir),
		strings.Join(versions, ", ")), nil
}

// loadAverage tells how busy the machine is, in the words of a note.
func loadAverage() (string, error) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "", err
	}
	load, _, _ := strings.Cut(string(b), " ")
	return "Load average when it began: " + load + ".", nil
}

func distribution() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}

// fileSystem names the type of the file system that a folder is on.
func fileSystem(dir string) string {
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "unknown file system"
	}
	name, longest := "unknown file system", ""
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < len(longest) {
			continue
		}
		if rest, ok := strings.CutPrefix(dir, f[1]); ok && (rest == "" || rest[0] == '/' || f[1] == "/") {
			name, longest = f[2], f[1]
		}
	}
	return name
}

// updatePage replaces what stands between the marks of a section, HTML comments
// that Markdown does not show. An empty path is no page.
func updatePage(path, section, text string) error {
	if path == "" {
		return nil
	}
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+section+" -->\n", "<!-- /"+section+" -->"
	head, rest, ok := bytes.Cut(page, []byte(begin))
	if !ok {
		return fmt.Errorf("%s: no mark %q", path, strings.TrimSpace(begin))
	}
	_, tail, ok := bytes.Cut(rest, []byte(end))
	if !ok {
		return fmt.Errorf("%s: no mark %q", path, end)
	}
	out := string(head) + begin + text + end + string(tail)
	return os.WriteFile(path, []byte(out), 0o644)
}
