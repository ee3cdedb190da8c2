package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// printf prints what a person reads. There is nobody to tell of an error: the
// terminal or pipe that would show it is the one that is gone.
func printf(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format, args...)
}

// writeJSON prints v indented by two spaces.
func writeJSON(w io.Writer, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode json: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", data)
	return err
}

// writeTable prints a header, unless it is nil, and rows in columns at least
// two spaces apart.
func writeTable(w io.Writer, header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if header != nil {
		rows = append([][]string{header}, rows...)
	}
	for _, row := range rows {
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// chunkedTable prints a table in parts, so that the width of columns need not be
// known of all rows.
type chunkedTable struct {
	w      io.Writer
	header []string // nil once it is printed
	rows   [][]string
}

const tableRows = 256

func (t *chunkedTable) add(row []string) error {
	if t.rows = append(t.rows, row); len(t.rows) < tableRows {
		return nil
	}
	return t.flush()
}

// flush prints what is left; the header, too, if there is none.
func (t *chunkedTable) flush() error {
	err := writeTable(t.w, t.header, t.rows)
	t.header, t.rows = nil, t.rows[:0]
	return err
}
