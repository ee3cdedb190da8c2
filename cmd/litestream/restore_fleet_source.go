package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/benbjohnson/litestream"
)

// fleetSource tells which databases there are and where their replicas lie: by a
// configuration, or by a URL below which they are.
type fleetSource struct {
	name     string // of the place, for the journal
	kind     string // how the databases are known: catalog, listing or config
	logging  LoggingConfig
	stateDir string
	hostname string // that the catalog's entries must be of; empty: any
	list     bool   // the replica, in place of reading its catalog
	logger   *slog.Logger
	line     *progressLine

	cfg    *Config // nil: from a URL
	root   litestream.ReplicaClient
	folder string                                                     // of root, for client
	client func(replicaPath string) (litestream.ReplicaClient, error) // of one replica

	// What is compared with a listing when all that the catalog tells of is there.
	catalogs []litestream.CatalogSource
	known    []uint64 // hashes of the replicas that the catalog tells of
	unlisted int      // replicas of which it does not tell

	missing map[string]bool // variables that -tenant asks for, as long as no database has them
	looked  bool            // there was a database that could have

	unclear int      // replicas that do not tell their database
	others  int      // replicas of other configurations
	hosts   []string // that the catalog tells of
}

// fleetSource reads the configuration, or the URL.
func (a *app) fleetSource(o *restoreOptions) (*fleetSource, error) {
	if o.fleet.from != "" {
		return newURLFleet(o)
	}
	cfg, err := o.conf.read(a)
	if err != nil {
		return nil, err
	}
	s := &fleetSource{cfg: cfg, name: "dbs", kind: "config", logging: cfg.Logging, stateDir: litestream.DefaultStateDir, list: o.fleet.list}
	c := cfg.MultiDB
	if c == nil {
		if o.fleet.tenant != "" {
			return nil, errors.New("cannot specify -tenant: the configuration has no multi-db")
		}
		return s, nil
	}
	if o.hostname != "" {
		if err := c.setHostname(o.hostname); err != nil {
			return nil, err
		}
	}
	s.stateDir, s.client = c.StateDir, c.clientAt
	if s.folder, err = c.rootFolder(); err != nil {
		return nil, err
	}
	if s.root, err = c.clientAt(s.folder); err != nil {
		return nil, err
	}
	s.name = redactedLocation(s.root)
	return s, nil
}

// newURLFleet is the source of -from.
func newURLFleet(o *restoreOptions) (*fleetSource, error) {
	rc := &ReplicaConfig{URL: o.fleet.from}
	if err := rc.validateOwn("replica"); err != nil {
		return nil, unwrapConfigError(err)
	}
	rc.maxConns = max(o.fleet.parallelism, litestream.DefaultFleetRestoreParallelism)
	root, err := newReplicaClient(rc)
	if err != nil {
		return nil, err
	}
	prefixer, ok := root.(litestream.Prefixer)
	if !ok {
		return nil, fmt.Errorf("replicas of type %s cannot be restored together", root.Type())
	}
	_, _, folder, _, _, err := litestream.ParseReplicaURL(o.fleet.from)
	if err != nil {
		return nil, err
	}
	if root.Type() == replicaTypeFile {
		folder = rc.filePath()
	}
	return &fleetSource{
		name: redactedLocation(root), hostname: o.hostname, stateDir: litestream.DefaultStateDir, list: o.fleet.list, root: root, folder: folder,
		client: func(p string) (litestream.ReplicaClient, error) { return prefixer.WithPrefix(p), nil },
	}, nil
}

// open returns the client of a database's replica.
func (s *fleetSource) open(e *litestream.FleetRestoreEntry) (litestream.ReplicaClient, error) {
	var client litestream.ReplicaClient
	var err error
	if e.Foreign {
		client, err = newReplicaClient(s.cfg.db(e.Path).Replica)
	} else {
		client, err = s.client(path.Join(s.folder, e.Replica))
	}
	if err != nil {
		return nil, err
	}
	client.SetLogger(slog.New(slog.DiscardHandler))
	return client, nil
}

// match returns what chooses databases by path and by variables.
func (s *fleetSource) match(f *fleetFlags) (func(*litestream.FleetRestoreEntry) bool, error) {
	globs := slices.Clone(f.globs)
	for i, g := range globs {
		if !strings.HasPrefix(g, "/") {
			globs[i] = "**/" + g
		}
		if !doublestar.ValidatePattern(globs[i]) {
			return nil, fmt.Errorf("invalid -glob: %s", g)
		}
	}
	want := make(map[string]string)
	for pair := range strings.SplitSeq(f.tenant, ",") {
		name, value, ok := strings.Cut(pair, "=")
		if f.tenant != "" && (!ok || name == "") {
			return nil, fmt.Errorf("invalid -tenant: %q is not name=value", pair)
		} else if ok {
			want[name] = value
		}
	}
	s.missing = make(map[string]bool)
	for name := range want {
		s.missing[name] = true
	}
	return func(e *litestream.FleetRestoreEntry) bool {
		file := "/" + strings.TrimPrefix(e.Path, "/")
		byPath := slices.ContainsFunc(globs, func(g string) bool {
			ok, err := doublestar.Match(g, file)
			return ok && err == nil // valid, as seen before
		})
		return (len(globs) == 0 || byPath) && (len(want) == 0 || s.hasVariables(e, want))
	}, nil
}

func (s *fleetSource) hasVariables(e *litestream.FleetRestoreEntry, want map[string]string) bool {
	t, err := s.cfg.MultiDB.tenants.Lookup(e.Path)
	if err != nil || e.Foreign {
		return false
	}
	s.looked = true
	vars := t.Variables()
	for name := range s.missing {
		if _, ok := vars[name]; ok {
			delete(s.missing, name)
		}
	}
	for name, value := range want {
		if got, ok := vars[name]; !ok || got != value {
			return false
		}
	}
	return true
}

// entries lists the databases of the source.
func (s *fleetSource) entries(ctx context.Context) iter.Seq2[*litestream.FleetRestoreEntry, error] {
	return func(yield func(*litestream.FleetRestoreEntry, error) bool) {
		if s.cfg != nil {
			for _, db := range s.cfg.DBs {
				if db.Path != "" && !yield(&litestream.FleetRestoreEntry{Path: db.Path, Replica: db.Path, Foreign: true}, nil) {
					return
				}
			}
			for _, dir := range s.cfg.Dirs {
				s.logger.Warn("databases in a directory are not restored together: only the replica knows which there were", "dir", dir.Dir)
			}
		}
		if s.root == nil {
			return
		}
		for e, err := range s.replicas(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			if out := s.entry(&e); out != nil && !yield(out, nil) {
				return
			}
		}
		if s.others > 0 {
			s.logger.Info("the replica holds databases of other configurations, too", "databases", s.others)
		}
	}
}

// replicas reads the catalog, or lists the replica.
func (s *fleetSource) replicas(ctx context.Context) iter.Seq2[litestream.CatalogEntry, error] {
	fail := func(err error) iter.Seq2[litestream.CatalogEntry, error] {
		return func(yield func(litestream.CatalogEntry, error) bool) { yield(litestream.CatalogEntry{}, err) }
	}
	if s.list {
		return s.listed(ctx)
	}
	c, err := litestream.OpenCatalog(ctx, s.root, litestream.CatalogOptions{DatabasePath: s.databasePath, Logger: s.logger})
	if err != nil {
		return fail(err)
	}
	s.kind = "catalog"
	if c.Rebuilt() {
		s.kind = "listing"
	}
	s.catalogs = c.Sources()
	for _, src := range s.catalogs {
		if src.Host != "" && !slices.Contains(s.hosts, src.Host) {
			s.hosts = append(s.hosts, src.Host)
		}
	}
	return func(yield func(litestream.CatalogEntry, error) bool) {
		for e := range c.Entries() {
			if !c.Rebuilt() {
				s.known = append(s.known, replicaHash(e.Replica))
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// errFleetEnough ends a listing.
var errFleetEnough = errors.New("no more replicas are wanted")

// listed lists the replica. One may come more than once.
func (s *fleetSource) listed(ctx context.Context) iter.Seq2[litestream.CatalogEntry, error] {
	s.kind = "listing"
	return func(yield func(litestream.CatalogEntry, error) bool) {
		lister, ok := s.root.(litestream.ReplicaLister)
		if !ok {
			yield(litestream.CatalogEntry{}, fmt.Errorf("replicas of type %s are not listed", s.root.Type()))
			return
		}
		err := s.root.Init(ctx)
		if err == nil {
			err = lister.Replicas(ctx, func(rel string) error {
				e := litestream.CatalogEntry{Replica: rel}
				e.Path, _ = s.databasePath(rel)
				if !yield(e, nil) {
					return errFleetEnough
				}
				return nil
			})
		}
		if err != nil && !errors.Is(err, errFleetEnough) {
			yield(litestream.CatalogEntry{}, err)
		}
	}
}

// databasePath returns the path of the database of a replica; empty: that is not
// told, or it is none of this configuration.
func (s *fleetSource) databasePath(replica string) (string, error) {
	if s.cfg == nil {
		return "", nil
	}
	t, err := s.cfg.MultiDB.tenants.FindReplica(path.Join(s.folder, replica))
	return t.Path, err
}

// entry turns an entry of the catalog into one of a restore; nil: it is none of
// ours.
func (s *fleetSource) entry(e *litestream.CatalogEntry) *litestream.FleetRestoreEntry {
	out := &litestream.FleetRestoreEntry{
		Path: e.Path, Replica: e.Replica, TXID: e.TXID, SyncedAt: e.SyncedAt, DeletedAt: e.DeletedAt, Size: e.Size,
		HasOwner: e.HasOwner, Mode: e.Mode, UID: e.UID, GID: e.GID,
	}
	if s.cfg == nil {
		if s.hostname != "" && e.Host != s.hostname {
			s.others++
			return nil
		}
		if out.Path == "" {
			out.Path = decodedReplica(e.Replica)
		}
		if !filepath.IsLocal(filepath.FromSlash(e.Replica)) {
			out.Problem = fmt.Sprintf("unsafe replica path %q: it leaves the place of all", e.Replica)
		}
		return out
	}
	if e.Path == "" {
		if _, err := s.databasePath(e.Replica); errors.Is(err, litestream.ErrNoTenant) {
			s.others++
			return nil
		} else if err != nil {
			if s.unclear++; s.unclear <= maxFleetWarnings {
				s.logger.Warn("a replica does not tell its database: restore it by the database's path, or with -o by its URL", "error", err)
			}
			return nil
		}
	}
	// Another configuration may keep its replicas in the same folder, and one
	// with another hostname those of the same paths.
	t, err := s.cfg.MultiDB.tenants.Lookup(e.Path)
	if err != nil || strings.Trim(t.ReplicaPath, "/") != strings.Trim(path.Join(s.folder, e.Replica), "/") {
		s.others++
		return nil
	}
	return out
}

// decodedReplica returns the path that a replica without a known database gets:
// that of the replica, with the escapes that a template writes taken back. Where
// that is no path, as it is.
func decodedReplica(replica string) string {
	decoded, err := url.PathUnescape(replica)
	if err != nil || !filepath.IsLocal(filepath.FromSlash(decoded)) || strings.Count(decoded, "/") != strings.Count(replica, "/") || strings.IndexByte(decoded, 0) >= 0 {
		return replica
	}
	return decoded
}

// nothing is the error of a source without a database that was asked for.
func (s *fleetSource) nothing(total, deleted int) error {
	switch {
	case total > 0 || s.unclear > 0:
		return nil
	case len(s.missing) > 0 && s.looked:
		return fmt.Errorf("no database matches in %s: none has a variable %s, which the patterns and the template of replica paths name",
			s.name, strings.Join(slices.Sorted(maps.Keys(s.missing)), ", "))
	case deleted > 0:
		return fmt.Errorf("no database matches in %s but %d whose files were deleted (-deleted restores them)", s.name, deleted)
	case len(s.known) > 0 && s.others == 0:
		return fmt.Errorf("no database matches in %s, as its catalog tells (-list looks for what is not in that)", s.name)
	case s.others > 0 && len(s.hosts) > 0:
		return fmt.Errorf("no database matches, but %d of other configurations, of the hosts %s (-hostname restores those of one of them)", s.others, strings.Join(s.hosts, ", "))
	default:
		return fmt.Errorf("no database matches in %s", s.name)
	}
}
