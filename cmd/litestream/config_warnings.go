package main

import (
	"log/slog"
	"slices"
	"strings"
)

// configWarning is something in the file that has no effect, or another one
// than its author may expect.
type configWarning struct {
	Key  string // path of the key
	Line int    // 0 if it does not stand in the file
	Text string

	// Instead says what is in force; it is asked once the file is complete.
	Instead func(*Config) string
}

func (c *Config) warn(key string, line int, text string) {
	c.warnings = append(c.warnings, configWarning{Key: key, Line: line, Text: text})
}

// logWarnings writes one line per warning, in the order of the file. A key
// that many databases repeat is logged for the first three of them only.
func (c *Config) logWarnings(logger *slog.Logger) {
	const perKind = 3
	slices.SortStableFunc(c.warnings, func(a, b configWarning) int { return a.Line - b.Line })
	count := make(map[string]int)
	kind := func(w configWarning) string {
		return w.Key[strings.LastIndexByte(w.Key, '.')+1:] + w.Text
	}
	for _, w := range c.warnings {
		count[kind(w)]++
		if count[kind(w)] > perKind {
			continue
		}
		args := []any{"key", w.Key}
		if w.Line > 0 {
			args = append(args, "line", w.Line)
		}
		args = append(args, "reason", w.Text)
		if w.Instead != nil {
			args = append(args, "instead", w.Instead(c))
		}
		logger.Warn("config", args...)
	}
	for _, k := range slices.Sorted(mapsKeys(count)) {
		if n := count[k] - perKind; n > 0 {
			logger.Warn("config: more warnings of the same kind", "kind", k, "count", n)
		}
	}
}

func mapsKeys(m map[string]int) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// didYouMean returns a hint when name is close to a key of the scope, or is a
// key of another scope.
func didYouMean(s scope, name string) string {
	lower := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	best, bestDist := "", 3
	for _, k := range configKeys {
		if k.scope != s || k.ignored() {
			continue
		}
		if dist := editDistance(lower, k.name, bestDist); dist < bestDist && dist < len(k.name)/2 {
			best, bestDist = k.name, dist
		}
	}
	if best != "" {
		return `; did you mean "` + best + `"?`
	}
	for _, k := range configKeys {
		if k.name == lower && !k.ignored() {
			return `; the key belongs below "` + string(k.scope) + `"`
		}
	}
	return ""
}

// editDistance returns the Levenshtein distance of a and b, or limit if it is
// at least that.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return min(row[len(b)], limit)
}
