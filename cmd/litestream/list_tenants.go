package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/benbjohnson/litestream"
)

var listTenantsHelp = help{
	about: "list-tenants lists the databases that the replica of multi-db holds, by its catalog or else a listing, without\nthe host that they come from.",
	forms: []string{"list-tenants [arguments]", "list-tenants -from URL [arguments]"},
	flags: [][2]string{
		configFlag, expandEnvFlag,
		{"-from URL", "Folder of the replicas, in place of a configuration."},
		{"-glob PATTERN", "List the databases whose path matches. May be repeated. A pattern\nthat does not begin with a slash matches at any depth."},
		{"-tenant NAME=VALUE,...", "List the databases whose variables have these values."},
		{"-hostname NAME", "Value of {{hostname}} in the replica template, or with -from the\nhost whose databases are listed."},
		{"-deleted", "List databases too whose file was deleted, and whose replica is still\nthere."},
		{"-list", "List the replica in place of reading its catalog."},
		{"-count", "Print their number only."},
		jsonFlag,
	},
	notes:    `A catalog is at most a minute behind its daemon. Without one, positions and times are not known: "-".`,
	examples: []string{"list-tenants", "list-tenants -from s3://bucket/prefix -glob '/data/p1/**'"},
}

// listedTenant is one database of a replica.
type listedTenant struct {
	Path      string `json:"path"`
	Replica   string `json:"replica"` // relative to the folder of all
	Host      string `json:"host,omitempty"`
	TXID      string `json:"txid,omitempty"`
	SyncedAt  string `json:"synced_at,omitempty"`
	Earliest  string `json:"earliest,omitempty"`
	Size      int64  `json:"size,omitempty"`
	DeletedAt string `json:"deleted_at,omitempty"`
	ProvenAt  string `json:"proven_at,omitempty"`
}

func (a *app) runListTenants(ctx context.Context, args []string) error {
	var o restoreOptions
	fs := a.newFlagSet("litestream-list-tenants", &listTenantsHelp)
	o.conf.register(fs)
	fs.StringVar(&o.fleet.from, "from", "", "url")
	fs.Func("glob", "pattern", func(s string) error { o.fleet.globs = append(o.fleet.globs, s); return nil })
	fs.StringVar(&o.fleet.tenant, "tenant", "", "variables")
	fs.StringVar(&o.hostname, "hostname", "", "hostname")
	fs.BoolVar(&o.fleet.deleted, "deleted", false, "deleted ones too")
	fs.BoolVar(&o.fleet.list, "list", false, "list the replica")
	count := fs.Bool("count", false, "print their number")
	asJSON := fs.Bool("json", false, "print json")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() == 1 && litestream.IsURL(fs.Arg(0)):
		return &tryError{errTooManyArguments, "litestream list-tenants -from " + fs.Arg(0)}
	case fs.NArg() > 0:
		return errTooManyArguments
	case o.fleet.from != "" && o.conf.path != "":
		return errors.New("cannot specify both -from and -config")
	case o.fleet.from != "" && o.fleet.tenant != "":
		return errors.New("cannot specify -tenant with -from: the variables are those of a configuration")
	case o.fleet.from != "" && !litestream.IsURL(o.fleet.from):
		return fmt.Errorf("invalid -from: %s is no replica URL", o.fleet.from)
	}
	s, err := a.fleetSource(&o)
	if err != nil {
		return err
	}
	if s.root == nil {
		return errors.New("the configuration has no multi-db: name the folder of the replicas with -from")
	}
	s.logger = newLogger(a.stderr, s.logging)
	s.root.SetLogger(s.logger)
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	return a.listTenants(ctx, s, &o, *count, *asJSON)
}

// listTenants prints as it goes.
func (a *app) listTenants(ctx context.Context, s *fleetSource, o *restoreOptions, count, asJSON bool) error {
	bw := bufio.NewWriter(a.stdout)
	var out listWriter[listedTenant] = newTenantTable(bw, o.fleet.deleted)
	if asJSON {
		out = &jsonListWriter[listedTenant]{w: bw}
	}
	n := 0
	err := s.each(ctx, &o.fleet, func(e *litestream.CatalogEntry) error {
		n++
		if count {
			return nil
		}
		return out.write(newListedTenant(e))
	})
	switch {
	case err != nil && n == 0:
		return err // nothing was printed
	case count && asJSON:
		return errors.Join(err, writeJSON(a.stdout, map[string]int{"count": n}))
	case count:
		_, werr := fmt.Fprintln(a.stdout, n)
		return errors.Join(err, werr)
	}
	if n == 0 && !asJSON {
		return errors.Join(err, s.nothing(0, 0))
	}
	return errors.Join(err, out.end(), bw.Flush())
}

// each calls fn for the databases that flags choose.
func (s *fleetSource) each(ctx context.Context, f *fleetFlags, fn func(e *litestream.CatalogEntry) error) error {
	match, err := s.match(f)
	if err != nil {
		return err
	}
	for e, err := range s.replicas(ctx) {
		if err != nil {
			return err
		}
		entry := s.entry(&e)
		if entry == nil || !f.deleted && !e.DeletedAt.IsZero() || !match(entry) {
			continue
		}
		e.Path = entry.Path
		if err := fn(&e); err != nil {
			return err
		}
	}
	return nil
}

func newListedTenant(e *litestream.CatalogEntry) *listedTenant {
	at := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	l := &listedTenant{
		Path: e.Path, Replica: e.Replica, Host: e.Host, Size: e.Size, SyncedAt: at(e.SyncedAt),
		Earliest: at(e.Earliest), DeletedAt: at(e.DeletedAt), ProvenAt: at(e.ProvenAt),
	}
	if e.TXID > 0 {
		l.TXID = e.TXID.String()
	}
	return l
}

// tenantTable prints databases in a table.
type tenantTable struct {
	table   chunkedTable
	deleted bool // with the time of the deletion
}

func newTenantTable(w io.Writer, deleted bool) *tenantTable {
	header := []string{"path", "replica", "txid", "synced", "earliest", "size", "proven"}
	if deleted {
		header = append(header, "deleted")
	}
	return &tenantTable{table: chunkedTable{w: w, header: header}, deleted: deleted}
}

func (t *tenantTable) write(d *listedTenant) error {
	size := ""
	if d.Size > 0 {
		size = strconv.FormatInt(d.Size, 10)
	}
	row := []string{printable(d.Path), printable(d.Replica), d.TXID, d.SyncedAt, d.Earliest, size, d.ProvenAt}
	if t.deleted {
		row = append(row, d.DeletedAt)
	}
	for i, s := range row {
		if s == "" {
			row[i] = "-"
		}
	}
	return t.table.add(row)
}

func (t *tenantTable) end() error { return t.table.flush() }
