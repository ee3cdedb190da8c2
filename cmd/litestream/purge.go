package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/superfly/ltx"
	"golang.org/x/term"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/control"
	"github.com/benbjohnson/litestream/internal/registry"
)

// defaultPurgeTimeout is how long a daemon may take, in seconds.
const defaultPurgeTimeout = 600

var purgeHelp = help{
	about: "purge deletes the whole backup of a database whose file was deleted, and proves it by a listing. Nothing of it\ncan be restored afterwards.",
	forms: []string{"purge [arguments] DB_PATH", "purge [arguments] REPLICA_URL"},
	flags: [][2]string{
		configFlag, expandEnvFlag,
		{"-yes", "Do not ask. Needed where there is no terminal."},
		{"-dry-run", "Show what would be deleted and delete nothing."},
		{"-force", "Delete the replica although the database is there, or although its\npattern matches nothing, as if a volume was not mounted."},
		{"-hostname NAME", "Value of {{hostname}} in the replica template of multi-db."},
		{"-socket PATH", "Control socket of the daemon (default: that of the configuration,\nelse " + defaultSocketPath + ")."},
		timeoutFlag(defaultPurgeTimeout), rawFlag,
	},
	notes: `What is deleted: LTX files of all levels, a backup of Litestream v0.3 beside
them, writes that did not end, the entry of the catalog, and what this host
knows of the replica. A running daemon of multi-db is told to do it.

A URL says nothing about the database: that no daemon writes there has to be
known. Buckets with versions or locks keep what was deleted; purge says what.`,
	examples: []string{"purge -dry-run /path/to/db", "purge -yes -config /etc/litestream.yml /path/to/db", "purge s3://bucket/db"},
}

// purgeReport is what purge prints as JSON.
type purgeReport struct {
	Database string `json:"database,omitempty"`
	Replica  string `json:"replica"`
	Purged   bool   `json:"purged"` // else it was a dry run
	ByDaemon bool   `json:"by_daemon"`

	Files      int                   `json:"files"`
	V03        int                   `json:"v03_objects"`
	Unfinished int                   `json:"unfinished"`
	Bytes      int64                 `json:"bytes"`
	TXID       string                `json:"txid,omitempty"`
	Catalog    int                   `json:"catalog_entries"` // that were removed here; a daemon removes its own
	Kept       *control.KeptVersions `json:"kept,omitempty"`
}

// purge is one run of the command.
type purge struct {
	app     *app
	conf    configFlags
	control client
	yes     bool
	dryRun  bool
	force   bool
	host    string

	src     source
	multi   *MultiDBConfig // of a database found by pattern
	replica string         // its path, as the template makes it
	foreign bool           // it is of another host
	report  purgeReport
}

func (a *app) runPurge(ctx context.Context, args []string) error {
	p := &purge{app: a}
	fs := a.newFlagSet("litestream-purge", &purgeHelp)
	p.conf.register(fs)
	fs.BoolVar(&p.yes, "yes", false, "do not ask")
	fs.BoolVar(&p.dryRun, "dry-run", false, "only list")
	fs.BoolVar(&p.force, "force", false, "although it is there")
	fs.StringVar(&p.host, "hostname", "", "hostname")
	p.control.register(fs, defaultPurgeTimeout)
	p.control.socket = ""
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() == 0:
		return &tryError{errors.New("database path or replica URL required"), "litestream purge /path/to/db"}
	case fs.NArg() > 1:
		return errTooManyArguments
	}
	if err := p.control.check(); err != nil {
		return err
	}
	ctx, stop := a.cancelOnSignal(ctx)
	defer stop()
	if err := p.find(fs.Arg(0)); err != nil {
		return err
	}
	p.src.client.SetLogger(newLogger(a.stderr, p.src.logging))
	p.report.Database, p.report.Replica = p.src.path, redactedLocation(p.src.client)
	if err := p.run(ctx); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
			return fmt.Errorf("purge %w: start it again to delete the rest", cause)
		}
		return err
	}
	return p.print()
}

// find finds the replica that is meant.
func (p *purge) find(arg string) error {
	if litestream.IsURL(arg) {
		src, err := p.app.findReplica(&p.conf, arg, "")
		if err == nil {
			p.src = *src
			p.control.socket = cmp.Or(p.control.socket, defaultSocketPath)
		}
		return err
	}
	cfg, err := p.conf.read(p.app)
	if err != nil {
		return err
	}
	p.src = source{arg: arg, logging: cfg.Logging}
	p.control.socket = cmp.Or(p.control.socket, cfg.Socket.Path, defaultSocketPath)
	if p.src.path, err = expandPath(arg); err != nil {
		return err
	}
	if p.src.db = cfg.db(p.src.path); p.src.db != nil {
		p.src.client, err = newReplicaClient(p.src.db.Replica)
		return err
	}
	here, err := cfg.tenantClient(p.src.path, "")
	if err != nil {
		return err
	}
	if p.src.client, err = cfg.tenantClient(p.src.path, p.host); err != nil {
		return err
	}
	p.multi = cfg.MultiDB
	p.foreign = redactedLocation(here) != redactedLocation(p.src.client)
	t, err := p.multi.tenants.Lookup(p.src.path)
	p.replica = t.ReplicaPath
	return err
}

// run looks, asks and deletes.
func (p *purge) run(ctx context.Context) error {
	if p.src.path != "" && !p.foreign && !p.force {
		if _, err := os.Lstat(p.src.path); err == nil {
			return fmt.Errorf("%s is there: its backup is not deleted without -force", p.src.path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for the database: %w", err)
		}
	}
	found, err := litestream.ListPurge(ctx, p.src.client)
	if err != nil {
		return err
	}
	p.report.set(found)
	if p.dryRun {
		return nil
	}
	if err := p.confirm(); err != nil {
		return err
	}
	switch {
	case p.multi != nil && !p.foreign:
		return p.tenant(ctx)
	case p.src.db != nil:
		if err := p.checkDaemon(ctx); err != nil {
			return err
		}
	}
	if err := p.here(ctx); err != nil {
		return err
	}
	if p.src.db == nil {
		return nil
	}
	return errors.Join(os.RemoveAll(litestream.LedgerPath(p.src.db.MetaPath)), os.RemoveAll(filepath.Join(p.src.db.MetaPath, "ltx")))
}

func (r *purgeReport) set(res *litestream.PurgeResult) {
	r.Files, r.V03, r.Unfinished, r.Bytes = res.Files, res.V03, res.Rest, res.Bytes
	if res.Newest > 0 {
		r.TXID = res.Newest.String()
	}
	r.Kept = keptVersions(res.Kept)
}

func keptVersions(k *litestream.KeptVersions) *control.KeptVersions {
	if k == nil || !k.Any() && len(k.Untold) == 0 {
		return nil
	}
	return &control.KeptVersions{
		Versions: k.Versions, Bytes: k.Bytes, Markers: k.Markers,
		Undeletable: k.Undeletable, Until: timeOrNil(k.UndeletableUntil), LockAsked: k.Asked, Locked: k.Locked,
		LockedUntil: timeOrNil(k.LockedUntil), LegalHolds: k.Held, DefaultLock: k.DefaultLock, Untold: k.Untold,
	}
}

// confirm asks on a terminal.
func (p *purge) confirm() error {
	if p.yes {
		return nil
	}
	if f, ok := p.app.stdin.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return &tryError{errors.New("nothing was deleted: there is no terminal to ask on"), "litestream purge -yes " + p.src.arg}
	}
	printf(p.app.stderr, "Delete the backup of %s: %s. It cannot be restored afterwards.\nType \"yes\" to go on: ", printable(p.src.arg), p.report.what())
	line, err := bufio.NewReader(p.app.stdin).ReadString('\n')
	if strings.TrimSpace(line) != "yes" {
		return errors.Join(errors.New("nothing was deleted"), err)
	}
	return nil
}

// what tells in words what is deleted.
func (r *purgeReport) what() string {
	s := countOf(r.Files, "LTX file")
	if r.V03 > 0 {
		s += fmt.Sprintf(", %s of a backup of Litestream v0.3", countOf(r.V03, "object"))
	}
	if r.Unfinished > 0 {
		s += fmt.Sprintf(", %s that did not end", countOf(r.Unfinished, "write"))
	}
	s += ", " + humanize.IBytes(uint64(max(r.Bytes, 0)))
	if r.TXID != "" {
		s += ", up to txid " + r.TXID
	}
	return s
}

// tenant deletes a database of multi-db: its daemon does, where one runs.
func (p *purge) tenant(ctx context.Context) (err error) {
	off, err := litestream.BeginOfflinePurge(ctx, p.multi.StateDir, p.src.path)
	if errors.Is(err, registry.ErrLocked) {
		return p.byDaemon(ctx, err)
	} else if err != nil {
		return err
	}
	done := false
	defer func() { err = errors.Join(err, off.End(context.WithoutCancel(ctx), done)) }()
	if err := p.here(ctx); err != nil {
		return err
	}
	done = true
	return nil
}

// byDaemon has the daemon do it that holds the state directory.
func (p *purge) byDaemon(ctx context.Context, locked error) error {
	if _, err := os.Stat(p.control.socket); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; or set socket.enabled, so that the daemon can be told: there is no control socket at %s", locked, p.control.socket)
	}
	var res control.PurgeResponse
	req := control.PurgeRequest{Path: p.src.path, Force: p.force, Timeout: p.control.timeout}
	if err := p.control.call(ctx, "purge", http.MethodPost, "/purge", req, &res); err != nil {
		return err
	}
	r := &p.report
	r.Purged, r.ByDaemon, r.Kept = true, true, res.Kept
	r.Files, r.V03, r.Unfinished, r.Bytes, r.TXID = res.Files, res.V03, res.Unfinished, res.Bytes, ""
	if res.TXID > 0 {
		r.TXID = ltx.TXID(res.TXID).String()
	}
	return nil
}

// checkDaemon refuses where a daemon replicates the database of dbs.
func (p *purge) checkDaemon(ctx context.Context) error {
	if _, err := os.Stat(p.control.socket); err != nil {
		return nil //nolint:nilerr // nobody can be asked
	}
	c := p.control
	c.timeout = min(c.timeout, defaultQueryTimeout)
	var list control.ListResponse
	if err := c.call(ctx, "list", http.MethodGet, "/list", nil, &list); err != nil {
		if errors.Is(err, errNoDaemon) {
			return nil
		}
		return err
	}
	for _, db := range list.Databases {
		if db.Path == p.src.path && db.Status != "stopped" {
			return &tryError{fmt.Errorf("a daemon replicates %s: its backup is not deleted", p.src.path), "litestream stop " + p.src.arg}
		}
	}
	return nil
}

// here deletes the replica, and its entries of catalogs.
func (p *purge) here(ctx context.Context) error {
	res, err := litestream.PurgeReplica(ctx, p.src.client)
	if err != nil {
		return fmt.Errorf("purge %s: %w", p.src.arg, err)
	}
	p.report.set(res)
	if err := p.catalog(ctx); err != nil {
		return err
	}
	p.report.Purged = true
	return nil
}

// catalog removes the entries of catalogs: by the configuration that of multi-db,
// by a URL those of all folders above.
func (p *purge) catalog(ctx context.Context) error {
	if p.multi != nil {
		folder, err := p.multi.rootFolder()
		if err != nil {
			return err
		}
		root, err := p.multi.clientAt(folder)
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.Trim(p.replica, "/"), strings.Trim(folder, "/"))
		p.report.Catalog, err = litestream.RemoveFromCatalog(ctx, root, rel)
		return err
	}
	prefixer, ok := p.src.client.(litestream.Prefixer)
	if !ok || p.src.db != nil {
		return nil
	}
	_, _, folder, _, _, err := litestream.ParseReplicaURL(p.src.arg)
	if err != nil {
		return err
	}
	if p.src.client.Type() == replicaTypeFile {
		folder = (&ReplicaConfig{URL: p.src.arg}).filePath()
	}
	for dir := strings.TrimSuffix(folder, "/"); dir != "" && dir != "." && dir != "/"; {
		dir = path.Dir(dir)
		place := dir
		if dir == "." {
			place = ""
		}
		n, err := litestream.RemoveFromCatalog(ctx, prefixer.WithPrefix(place), strings.TrimPrefix(folder, place))
		p.report.Catalog += n
		if err != nil {
			printf(p.app.stderr, "Warning: whether a catalog in %q names the database is not known: %v\n", place, err)
			break // further up it is not better
		}
	}
	return nil
}

// print tells what was done.
func (p *purge) print() error {
	r, w := &p.report, p.app.stdout
	if p.control.asJSON {
		return writeJSON(w, r)
	}
	if !r.Purged {
		printf(w, "Would delete of %s: %s\nNothing was deleted: this was a dry run.\n", printable(r.Replica), r.what())
		return nil
	}
	if r.Files+r.V03+r.Unfinished == 0 {
		printf(w, "Nothing lay at %s: check the path if there should have been a backup.\n", printable(r.Replica))
	} else {
		printf(w, "Deleted of %s: %s\nA listing afterwards is empty.\n", printable(r.Replica), r.what())
	}
	if r.Catalog > 0 {
		printf(w, "The catalog does not name the database any more.\n")
	} else if r.ByDaemon {
		printf(w, "The daemon takes the database off the catalog with its next write.\n")
	}
	p.printKept()
	return nil
}

// printKept warns of what the storage keeps.
func (p *purge) printKept() {
	k, w := p.report.Kept, p.app.stderr
	if k == nil {
		return
	}
	bytes := humanize.IBytes(uint64(max(k.Bytes, 0)))
	if k.Versions+k.Markers > 0 {
		printf(w, "Warning: the bucket keeps versions: %s of files (%s), and %s.\n", countOf(k.Versions, "version"), bytes, countOf(k.Markers, "delete marker"))
	}
	if k.Undeletable > 0 {
		printf(w, "Warning: the storage can bring back %s (%s) that %s deleted (soft delete)%s.\n",
			countOf(k.Undeletable, "file"), bytes, wasWere(k.Undeletable), untilText(k.Until))
	}
	if k.Locked > 0 && k.LockedUntil != nil {
		printf(w, "Of %d that were asked for, %d are locked, the last one until %s.\n", k.LockAsked, k.Locked, k.LockedUntil.Format(time.RFC3339))
	}
	if k.LegalHolds > 0 {
		printf(w, "%s under a legal hold, which somebody has to lift.\n", countOf(k.LegalHolds, "version"))
	}
	if k.DefaultLock != "" {
		printf(w, "The bucket locks new objects: %s.\n", k.DefaultLock)
	}
	for _, s := range k.Untold {
		printf(w, "Not told: %s\n", s)
	}
	if k.Versions+k.Markers > 0 {
		printf(w, "A lifecycle rule of the bucket removes versions for good when no lock holds them%s.\n", lifecycleRule(p.src.client.Type()))
	}
}

func wasWere(n int) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

// untilText tells when the storage deletes by itself what it can bring back.
func untilText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return ", until " + t.Format(time.RFC3339) + " at the latest"
}

// lifecycleRule names what removes versions from a kind of storage.
func lifecycleRule(kind string) string {
	switch kind {
	case replicaTypeS3, "oss":
		return ": NoncurrentVersionExpiration and ExpiredObjectDeleteMarker"
	case "gs":
		return ": Delete with daysSinceNoncurrentTime"
	case "abs":
		return ": delete of versions and of snapshots"
	default:
		return ""
	}
}
