package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/scan"
)

var databasesHelp = help{
	about: "databases lists the databases of the configuration file and the kind of their replicas. It looks into the directories\nof dbs, and with multi-db for the files of all patterns, and shows where each is replicated to. No database is opened.",
	forms: []string{"databases [arguments]"},
	flags: [][2]string{
		configFlag, jsonFlag, expandEnvFlag,
		{"-filter GLOB", "Only paths that match. A pattern that does not begin with a slash\nmatches at any depth."},
		{"-count", "Print the number of databases instead of a list."},
		{"-print-config", "Print the configuration in force instead of a list: with all\ndefaults, with what replicas inherit, without secrets."},
		{"-check", "Print what would go wrong instead of a list; reads the header of\neach file. Exits with 1 if there is more than warnings."},
	},
	examples: []string{"databases", "databases -json -config /path/to/litestream.yml", "databases -filter '/data/p1/**'", "databases -check"},
}

var errTooManyArguments = errors.New("too many arguments")

// databaseList is one run of the databases command.
type databaseList struct {
	cfg    *Config
	filter string
	asJSON bool
}

// listedDatabase is a line of the list. Those of `dbs` have the first two
// fields only, as in Litestream v0.5.
type listedDatabase struct {
	Path      string            `json:"path"`
	Replica   string            `json:"replica"`
	Location  string            `json:"location,omitempty"`
	Pattern   string            `json:"pattern,omitempty"`
	Variables map[string]string `json:"variables,omitempty"`
}

func (a *app) runDatabases(ctx context.Context, args []string) error {
	var conf configFlags
	var l databaseList
	fs := a.newFlagSet("litestream-databases", &databasesHelp)
	conf.register(fs)
	fs.BoolVar(&l.asJSON, "json", false, "print json")
	fs.StringVar(&l.filter, "filter", "", "glob")
	count := fs.Bool("count", false, "print the number")
	check := fs.Bool("check", false, "print problems")
	printed := fs.Bool("print-config", false, "print the configuration")
	if err := fs.Parse(args); err != nil {
		return err
	} else if fs.NArg() > 0 {
		return errTooManyArguments
	}
	if l.filter != "" && !strings.HasPrefix(l.filter, "/") {
		l.filter = "**/" + l.filter
	}
	if !doublestar.ValidatePattern(l.filter) {
		return fmt.Errorf("invalid -filter: %s", l.filter)
	}
	var err error
	if l.cfg, err = conf.read(a); err != nil {
		return err
	}
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	switch {
	case *printed:
		return a.printConfig(ctx, l.cfg)
	case *check:
		return a.checkDatabases(ctx, &l)
	case *count:
		return a.countDatabases(ctx, &l)
	default:
		return a.listDatabases(ctx, &l)
	}
}

// each calls fn for the databases of `dbs`, then for those that the patterns
// of multi-db find.
func (l *databaseList) each(ctx context.Context, fn func(d *listedDatabase) error) (scan.Result, error) {
	for _, db := range l.cfg.DBs {
		if !l.matches(db.Path) {
			continue
		}
		if err := fn(&listedDatabase{Path: db.Path, Replica: db.Replica.replicaType()}); err != nil {
			return scan.Result{}, err
		}
	}
	var unread error // is told when the rest is
	for _, dir := range l.cfg.Dirs {
		var stop error
		err := dir.eachFile(ctx, func(file *DBConfig) error {
			stop = l.eachInDir(dir, file, fn)
			return stop
		})
		if stop != nil {
			return scan.Result{}, stop
		}
		unread = errors.Join(unread, err)
	}
	if l.cfg.MultiDB == nil {
		return scan.Result{}, unread
	}
	res, err := l.eachTenant(ctx, fn)
	return res, errors.Join(err, unread)
}

// eachInDir calls fn for a database of a directory.
func (l *databaseList) eachInDir(dir, file *DBConfig, fn func(d *listedDatabase) error) error {
	if !l.matches(file.Path) {
		return nil
	}
	client, err := newReplicaClient(file.Replica)
	if err != nil {
		return err
	}
	return fn(&listedDatabase{Path: file.Path, Replica: client.Type(), Location: redactedLocation(client), Pattern: filepath.Join(dir.Dir, dir.Pattern)})
}

// eachTenant calls fn for the databases that the patterns of multi-db find.
func (l *databaseList) eachTenant(ctx context.Context, fn func(d *listedDatabase) error) (scan.Result, error) {
	return l.cfg.MultiDB.eachTenant(ctx, func(_ *scan.Entry, t *litestream.Tenant, err error) error {
		switch {
		case !l.matches(t.Path):
			return nil
		case err != nil:
			return fn(&listedDatabase{Path: t.Path, Location: "error: " + err.Error()})
		}
		d, err := l.cfg.MultiDB.list(t, l.asJSON)
		if err != nil {
			return err
		}
		return fn(d)
	})
}

func (l *databaseList) matches(path string) bool {
	return l.filter == "" || doublestar.MatchUnvalidated(l.filter, path)
}

// eachTenant scans for the files of all patterns, always in the same order. err
// tells why a file cannot be mapped to a replica.
func (c *MultiDBConfig) eachTenant(ctx context.Context, fn func(e *scan.Entry, t *litestream.Tenant, err error) error) (scan.Result, error) {
	cfg := c.tenants.ScanConfig()
	cfg.Sorted, cfg.Workers = true, 1
	s, err := scan.New(cfg)
	if err != nil {
		return scan.Result{}, err
	}
	return s.Scan(ctx, func(e *scan.Entry) error {
		t, err := c.tenants.Lookup(e.Path())
		return fn(e, &t, err)
	})
}

func (c *MultiDBConfig) list(t *litestream.Tenant, variables bool) (*listedDatabase, error) {
	client, err := c.client(t)
	if err != nil {
		return nil, err
	}
	d := &listedDatabase{Path: t.Path, Replica: client.Type(), Location: redactedLocation(client), Pattern: c.Patterns[t.Pattern].node.Value}
	if variables {
		d.Variables = t.Variables()
	}
	return d, nil
}

func (a *app) countDatabases(ctx context.Context, l *databaseList) error {
	n := 0
	res, err := l.each(ctx, func(*listedDatabase) error { n++; return nil })
	if err != nil {
		return err
	}
	if l.asJSON {
		err = writeJSON(a.stdout, map[string]int{"count": n})
	} else {
		_, err = fmt.Fprintln(a.stdout, n)
	}
	return errors.Join(err, scanError(res))
}

// listDatabases prints as it goes: nothing is kept of the databases.
func (a *app) listDatabases(ctx context.Context, l *databaseList) error {
	bw := bufio.NewWriter(a.stdout)
	var out listWriter[listedDatabase] = newTableWriter(bw, l.cfg.MultiDB != nil || len(l.cfg.Dirs) > 0)
	if l.asJSON {
		out = &jsonListWriter[listedDatabase]{w: bw}
	}
	res, err := l.each(ctx, out.write)
	return errors.Join(err, out.end(), bw.Flush(), scanError(res))
}

// scanError returns an error if something could not be looked at, so that
// nobody takes a list for complete that is not.
func scanError(res scan.Result) error {
	if res.ErrorN == 0 {
		return nil
	}
	return fmt.Errorf("the list is not complete: %d files or directories could not be looked at: %w", res.ErrorN, res.Errors[0])
}

// listWriter prints rows one by one.
type listWriter[T any] interface {
	write(row *T) error
	end() error
}

// tableWriter prints databases in a table.
type tableWriter struct {
	table chunkedTable
	wide  bool // with the location
}

func newTableWriter(w io.Writer, wide bool) *tableWriter {
	header := []string{"path", "replica"}
	if wide {
		header = append(header, "location")
	}
	return &tableWriter{table: chunkedTable{w: w, header: header}, wide: wide}
}

func (t *tableWriter) write(d *listedDatabase) error {
	row := []string{printable(d.Path), d.Replica}
	if t.wide {
		row = append(row, printable(d.Location))
	}
	return t.table.add(row)
}

func (t *tableWriter) end() error { return t.table.flush() }

// printable returns a path as it is, or quoted if a terminal could be confused
// by it.
func printable(s string) string {
	if q := fmt.Sprintf("%q", s); len(q) != len(s)+2 {
		return q
	}
	return s
}

// jsonListWriter prints a JSON array element by element, in the form that
// writeJSON gives it.
type jsonListWriter[T any] struct {
	w      io.Writer
	indent string // of an element; empty: two spaces
	begun  bool
}

func (j *jsonListWriter[T]) write(row *T) error {
	indent := cmp.Or(j.indent, "  ")
	data, err := json.MarshalIndent(row, indent, "  ")
	if err != nil {
		return fmt.Errorf("encode json: %w", err)
	}
	sep := ",\n" + indent
	if !j.begun {
		sep, j.begun = "[\n"+indent, true
	}
	_, err = fmt.Fprintf(j.w, "%s%s", sep, data)
	return err
}

func (j *jsonListWriter[T]) end() error {
	text := "\n]\n"
	if !j.begun {
		text = "[]\n"
	}
	_, err := io.WriteString(j.w, text)
	return err
}
