package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/benbjohnson/litestream"
)

var diffHelp = help{
	about: "diff shows what changed in a database between two restore points, by its replica alone.",
	forms: []string{"diff [arguments] DB_PATH POINT [POINT]", "diff [arguments] REPLICA_URL POINT [POINT]"},
	flags: [][2]string{
		configFlag, expandEnvFlag,
		{"-level LEVEL", "What to compare: pages, tables or rows. The default is tables."},
		{"-rows N", "Compare rows, and print the keys of up to N rows of each table that are\nnot the same. Keys are data of whom the database belongs to; other\nvalues are never printed."},
		{"-scratch DIR", "Where both states are restored to at level tables and rows. They are\nremoved again. The default is the system's directory for temporary files."},
		{"-exit-code", "Exit with 2 if there is a difference."},
		{"-parallelism N", "Requests to have in flight. The default is 8."},
		{"-hostname NAME", "Value of {{hostname}} in the replica template of multi-db."},
		jsonFlag,
	},
	notes: `A point is a transaction (16 hex digits) or a time such as 2000-01-01T00:00:00Z, which stands for the last one before
it, as "litestream restore -txid" and "-timestamp" take them. The later point is the newest if it is left out.
"litestream timeline" lists them.

Each level tells what it says and what those above it tell:

	pages      how many pages differ. Reads the files between both points where that is less than what restores both:
	           then a page that was written counts, even if it holds what it held before. Needs no disk.
	tables     which tables and indexes the pages belong to. Restores both states.
	rows       how many rows of each table were inserted, deleted and changed, by rowid or, WITHOUT ROWID, by
	           primary key. A row counts as changed if what is stored of it is not the same. A virtual table shows
	           in the tables that it keeps.

Exit status: 0, different or not; 1 after an error; with -exit-code 2 if there is a difference.`,
	examples: []string{
		"diff /path/to/db 2026-01-31T12:00:00Z",
		"diff -level rows /path/to/db 2026-01-31T12:00:00Z 2026-01-31T12:05:00Z",
		"diff -level pages s3://bucket/db 000000000000002a 000000000000002f",
	},
}

// errDiffers makes the exit status tell of a difference, and says nothing.
var errDiffers = partialError{errors.New("the points differ")}

// diffLevelFlag is the value of -level.
type diffLevelFlag struct{ level *litestream.DiffLevel }

// String returns the value as it is written on the command line.
func (f diffLevelFlag) String() string {
	if f.level == nil {
		return ""
	}
	return f.level.String()
}

// Set reads the value.
func (f diffLevelFlag) Set(s string) (err error) {
	*f.level, err = litestream.ParseDiffLevel(s)
	return err
}

// diffOptions is the parsed command line of diff.
type diffOptions struct {
	conf     configFlags
	opt      litestream.DiffOptions
	hostname string
	exitCode bool
	asJSON   bool
	arg      string
}

func (a *app) parseDiff(args []string) (*diffOptions, error) {
	o := diffOptions{opt: litestream.DiffOptions{Level: litestream.DiffTables}}
	flags := a.newFlagSet("litestream-diff", &diffHelp)
	o.conf.register(flags)
	flags.Var(diffLevelFlag{&o.opt.Level}, "level", "level")
	flags.IntVar(&o.opt.Keys, "rows", 0, "keys of rows")
	flags.StringVar(&o.opt.ScratchDir, "scratch", "", "scratch directory")
	flags.BoolVar(&o.exitCode, "exit-code", false, "tell by the exit status")
	flags.IntVar(&o.opt.Parallelism, "parallelism", litestream.DefaultRestoreParallelism, "requests in flight")
	flags.StringVar(&o.hostname, "hostname", "", "hostname")
	flags.BoolVar(&o.asJSON, "json", false, "print json")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	const try = "litestream diff /path/to/db 2000-01-01T00:00:00Z"
	switch {
	case flags.NArg() == 0:
		return nil, &tryError{errors.New("database path or replica URL required"), try}
	case flags.NArg() == 1:
		return nil, &tryError{errors.New("a point to compare with is required: a TXID or a time"), try}
	case flags.NArg() > 3:
		return nil, errTooManyArguments
	case o.opt.Keys < 0:
		return nil, errors.New("-rows must not be negative")
	case o.opt.Parallelism < 1:
		return nil, errors.New("-parallelism must be at least 1")
	}
	if o.opt.Keys > 0 {
		o.opt.Level = litestream.DiffRows
	}
	o.arg = flags.Arg(0)
	var err error
	if o.opt.From, err = parsePoint(flags.Arg(1)); err == nil && flags.NArg() == 3 {
		o.opt.To, err = parsePoint(flags.Arg(2))
	}
	return &o, err
}

// parsePoint reads a TXID or a time.
func parsePoint(s string) (p litestream.DiffPoint, err error) {
	if err := (txidFlag{&p.TXID}).Set(s); err == nil && p.TXID != 0 {
		return p, nil
	}
	if p.Timestamp, err = time.Parse(time.RFC3339, s); err != nil || p.Timestamp.IsZero() {
		return p, fmt.Errorf("invalid point %q, want a TXID of 16 hex digits or a time such as 2000-01-01T00:00:00Z", s)
	}
	return p, nil
}

func (a *app) runDiff(ctx context.Context, args []string) error {
	o, err := a.parseDiff(args)
	if err != nil {
		return err
	}
	src, err := a.findReplica(&o.conf, o.arg, o.hostname)
	if err != nil {
		return err
	}
	line := newProgressLine(a.stderr)
	defer line.clear()
	o.opt.Progress, o.opt.Logger = line.update, newLogger(line.wrap(a.stderr), src.logging)
	src.client.SetLogger(o.opt.Logger)
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	res, err := litestream.Diff(ctx, src.client, o.opt)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errInterrupted) {
		return fmt.Errorf("diff %w", cause)
	} else if errors.Is(err, litestream.ErrNoBackups) {
		return noPoints(ctx, src, err)
	} else if err != nil {
		return err
	}
	line.clear()
	if o.asJSON {
		err = writeJSON(a.stdout, newDiffReport(src.arg, res))
	} else {
		err = a.printDiff(src.arg, res)
	}
	if err == nil && o.exitCode && res.Differs() {
		err = errDiffers
	}
	return err
}

// diffReport is a comparison as JSON has it.
type diffReport struct {
	Database     string         `json:"database"`
	Before       diffState      `json:"before"`
	After        diffState      `json:"after"`
	Level        string         `json:"level"`
	Method       string         `json:"method"`
	Differs      bool           `json:"differs"`
	Pages        diffPageCounts `json:"pages"`
	BytesChanged int64          `json:"bytes_changed"` // pages that changed or were added
	Entries      []diffEntry    `json:"entries"`
	Same         int            `json:"same"`
	Damage       []string       `json:"damage,omitempty"`
}

type diffState struct {
	TXID      string `json:"txid"`
	Timestamp string `json:"timestamp"`
	Pages     uint32 `json:"pages"`
	PageSize  uint32 `json:"page_size"`
	Bytes     int64  `json:"bytes"`
}

type diffPageCounts struct {
	Before  int `json:"before"`
	After   int `json:"after"`
	Changed int `json:"changed"`
	Added   int `json:"added"`
	Removed int `json:"removed"`
}

type diffEntry struct {
	Type          string         `json:"type"`
	Name          string         `json:"name"`
	Table         string         `json:"table,omitempty"`
	State         string         `json:"state"`
	SchemaChanged bool           `json:"schema_changed"`
	Pages         diffPageCounts `json:"pages"`
	Rows          *diffRowCounts `json:"rows,omitempty"`
	Note          string         `json:"note,omitempty"`
}

type diffRowCounts struct {
	Inserted int64        `json:"inserted"`
	Deleted  int64        `json:"deleted"`
	Changed  int64        `json:"changed"`
	Keys     []diffRowKey `json:"keys,omitempty"`
}

type diffRowKey struct {
	Change string `json:"change"`
	Key    string `json:"key"`
}

// typePages is the type of what is no entry of the schema.
const typePages = "pages"

func newDiffReport(name string, res *litestream.DiffResult) *diffReport {
	state := func(s *litestream.DiffState) diffState {
		return diffState{s.TXID.String(), s.At.UTC().Format(time.RFC3339Nano), s.PageN, s.PageSize, s.Bytes()}
	}
	r := &diffReport{
		Database: name, Before: state(&res.Before), After: state(&res.After),
		Level: res.Level.String(), Method: string(res.Method), Differs: res.Differs(),
		Pages: diffPageCounts(res.Pages), BytesChanged: changedBytes(res),
		Entries: []diffEntry{}, Same: res.Same, Damage: res.Damage,
	}
	for i := range res.Entries {
		e := &res.Entries[i]
		row := diffEntry{
			Type: e.Type, Name: e.Name, Table: e.Table, State: "changed", SchemaChanged: e.SchemaChanged,
			Pages: diffPageCounts(e.Pages), Note: e.Note,
		}
		switch {
		case e.Type == "":
			row.Type = typePages
		case e.Created:
			row.State = "created"
		case e.Dropped:
			row.State = "dropped"
		}
		if e.Rows != nil {
			row.Rows = &diffRowCounts{Inserted: e.Rows.Inserted, Deleted: e.Rows.Deleted, Changed: e.Rows.Changed}
			for _, k := range e.Rows.Keys {
				row.Rows.Keys = append(row.Rows.Keys, diffRowKey{string(k.Change), k.Key})
			}
		}
		r.Entries = append(r.Entries, row)
	}
	return r
}

// changedBytes is what the pages that changed or were added hold.
func changedBytes(res *litestream.DiffResult) int64 {
	return int64(res.Pages.Changed+res.Pages.Added) * int64(res.After.PageSize)
}

// printDiff tells a comparison in words.
func (a *app) printDiff(name string, res *litestream.DiffResult) error {
	r := newDiffReport(name, res)
	printf(a.stdout, "%s\n", printable(name))
	for _, s := range []struct {
		when string
		diffState
	}{{"before", r.Before}, {"after", r.After}} {
		printf(a.stdout, "  %-6s  txid %s, %s: %d pages of %d bytes, %s\n", s.when, s.TXID, s.Timestamp, s.Pages, s.PageSize, humanize.Bytes(uint64(s.Bytes)))
	}
	switch {
	case res.Method == litestream.DiffNothing:
		printf(a.stdout, "\nBoth points are the same transaction.\n")
		return nil
	case !r.Differs:
		printf(a.stdout, "\nNo page differs.\n")
		return nil
	}
	most := ""
	if res.Method == litestream.DiffFiles {
		most = "at most "
	}
	printf(a.stdout, "  pages   %s%d changed, %d added, %d removed: %s\n", most, r.Pages.Changed, r.Pages.Added, r.Pages.Removed, humanize.Bytes(uint64(r.BytesChanged)))
	if res.Before.PageSize != res.After.PageSize {
		printf(a.stdout, "          the size of pages changed, so that no page is in both states\n")
	}
	for _, text := range r.Damage {
		printf(a.stderr, "Warning: damage %s\n", printable(text))
	}
	if res.Level == litestream.DiffPages {
		return nil
	}
	printf(a.stdout, "\n")
	if err := a.printDiffEntries(r); err != nil {
		return err
	}
	if r.Same > 0 {
		printf(a.stdout, "\nTables and indexes that are the same in both: %d.\n", r.Same)
	}
	return nil
}

func (a *app) printDiffEntries(r *diffReport) error {
	header := []string{"type", "name", "pages", "changed", "added", "removed"}
	withRows := r.Level == litestream.DiffRows.String()
	if withRows {
		header = append(header, "rows inserted", "deleted", "changed")
	}
	header = append(header, "")
	rows := make([][]string, 0, len(r.Entries))
	for _, e := range r.Entries {
		row := []string{e.Type, printable(e.Name)}
		for _, n := range []int{e.Pages.After, e.Pages.Changed, e.Pages.Added, e.Pages.Removed} {
			row = append(row, strconv.Itoa(n))
		}
		switch {
		case withRows && e.Rows != nil:
			row = append(row, strconv.FormatInt(e.Rows.Inserted, 10), strconv.FormatInt(e.Rows.Deleted, 10), strconv.FormatInt(e.Rows.Changed, 10))
		case withRows:
			row = append(row, "-", "-", "-")
		}
		rows = append(rows, append(row, e.remarks()))
	}
	if err := writeTable(a.stdout, header, rows); err != nil {
		return err
	}
	for _, e := range r.Entries {
		if e.Rows == nil || len(e.Rows.Keys) == 0 {
			continue
		}
		total := e.Rows.Inserted + e.Rows.Deleted + e.Rows.Changed
		printf(a.stdout, "\nKeys of %s, %d of %d:\n", printable(e.Name), len(e.Rows.Keys), total)
		for _, k := range e.Rows.Keys {
			printf(a.stdout, "  %-8s  %s\n", k.Change, printable(k.Key))
		}
	}
	return nil
}

// remarks are what a table has no column for.
func (e *diffEntry) remarks() string {
	var words []string
	if e.State != "changed" {
		words = append(words, e.State)
	}
	if e.SchemaChanged {
		words = append(words, "declared in another way")
	}
	if e.Note != "" {
		words = append(words, printable(e.Note))
	}
	return strings.Join(words, "; ")
}
