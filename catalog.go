package litestream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/catalog"
)

// CatalogEntry is what a catalog tells of one database. What is not known is
// the zero value.
type CatalogEntry struct {
	// Path is that of the database on its host, the bytes as the file system
	// had them. It is empty if the catalog was rebuilt, and the replica's path
	// does not tell it.
	Path    string
	Replica string // path of the replica, relative to the folder of all, with slashes
	Host    string // {{hostname}} of the configuration that replicated it

	TXID     ltx.TXID  // newest acknowledged transaction
	SyncedAt time.Time // when that was acknowledged
	Earliest time.Time // oldest time that can be restored
	Size     int64     // bytes of the main file

	Mode     fs.FileMode // permissions of the file; HasOwner says that these three are known
	UID, GID int
	HasOwner bool

	DeletedAt time.Time // when the file was found deleted; its replica is still there
	ProvenAt  time.Time // when a drill last restored it
}

// CatalogOptions are options of OpenCatalog.
type CatalogOptions struct {
	// DatabasePath returns the path of the database whose replica lies at a path
	// relative to the folder of all, for a catalog that has to be rebuilt. Nil,
	// or an error: it is not known.
	DatabasePath func(replica string) (string, error)
	Logger       *slog.Logger // nil: nothing is logged

	// NoRebuild: one that cannot be used is ErrNoCatalog, in place of a listing.
	NoRebuild bool
}

// CatalogSource is one configuration whose databases are in a catalog.
type CatalogSource struct {
	Host      string
	Template  string // of the replicas' paths, relative to the folder of all
	WrittenAt time.Time
	Entries   int
}

// Catalog is the list of all databases whose replicas lie in one folder, as the
// daemons wrote it into that folder, or else as a listing shows it. It does not
// change, and is safe for concurrent use.
type Catalog struct {
	sources []*catalogSource
	best    map[string]int // by replica, where there are several sources: which of them counts
	listed  []CatalogEntry // of a rebuilt one
	rebuilt bool
}

// catalogSource is one catalog that was read.
type catalogSource struct {
	head *catalog.Head
	data map[string][]byte // of the segments, by name; all were checked
	n    int
}

// ErrNoCatalog means that there is none that could be used.
var ErrNoCatalog = errors.New("there is no catalog that can be used")

// errNoCatalog means that none was written yet, or that it was deleted.
var errNoCatalog = errors.New("there is no catalog")

// OpenCatalog reads the catalog of all databases whose replicas lie below root's
// path. One that is missing, damaged or of another epoch of the replica is
// rebuilt from a listing, with one line in the log: then only paths are known.
// One that a newer version wrote is an error, and so is a root that cannot be
// read.
func OpenCatalog(ctx context.Context, root ReplicaClient, opt CatalogOptions) (*Catalog, error) {
	logger := opt.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if err := root.Init(ctx); err != nil {
		return nil, fmt.Errorf("open catalog: init replica client: %w", err)
	}
	c, err := readCatalog(ctx, root)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, catalog.ErrVersion):
		return nil, fmt.Errorf("open catalog: %w: use the version of litestream that wrote it, or a newer one", err)
	case !catalogLost(err):
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	if opt.NoRebuild {
		return nil, fmt.Errorf("%w: %w", ErrNoCatalog, err)
	}
	lister, ok := root.(ReplicaLister)
	if !ok {
		return nil, fmt.Errorf("open catalog: %w, and replicas of type %s are not listed", err, root.Type())
	}
	logger.Warn("the catalog cannot be used: it is rebuilt by listing the replica, which does not tell positions and times", "reason", err)
	return rebuildCatalog(ctx, lister, opt)
}

// catalogLost reports whether an error means that a catalog has to be rebuilt.
func catalogLost(err error) bool {
	return errors.Is(err, errNoCatalog) || errors.Is(err, catalog.ErrDamaged) || errors.Is(err, fs.ErrNotExist)
}

// readCatalog reads all catalogs of a root.
func readCatalog(ctx context.Context, root ReplicaClient) (*Catalog, error) {
	oc, ok := root.(ObjectClient)
	if !ok {
		return nil, errNoCatalog
	}
	names, err := readCatalogIndex(ctx, oc)
	if err != nil {
		return nil, err
	}
	mark, err := oc.ReadObject(ctx, epochObject)
	if err != nil {
		return nil, fmt.Errorf("read the replica's epoch: %w", err)
	}
	epoch := strings.TrimSpace(string(mark))
	c := &Catalog{}
	for _, name := range names {
		s, err := readCatalogSource(ctx, oc, name)
		if err != nil {
			return nil, err
		}
		if s.head.Epoch != epoch {
			return nil, fmt.Errorf("%w: it was written of another replica, which lay here before", catalog.ErrDamaged)
		}
		c.sources = append(c.sources, s)
	}
	c.choose()
	return c, nil
}

// readCatalogIndex returns the names of the catalogs of a root, at least one.
func readCatalogIndex(ctx context.Context, oc ObjectClient) ([]string, error) {
	b, err := oc.ReadObject(ctx, catalog.IndexName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoCatalog
	} else if err != nil {
		return nil, fmt.Errorf("read list of catalogs: %w", err)
	}
	names, err := catalog.DecodeIndex(b)
	if err == nil && len(names) == 0 {
		err = errNoCatalog
	}
	return names, err
}

// catalogTries is how often a catalog is read whose parts were replaced while
// that went on.
const catalogTries = 3

// readCatalogSource reads one catalog whole, and checks it.
func readCatalogSource(ctx context.Context, oc ObjectClient, id string) (s *catalogSource, err error) {
	for range catalogTries {
		var head *catalog.Head
		if head, err = readCatalogHead(ctx, oc, id); err != nil {
			return nil, err
		}
		s = &catalogSource{head: head, data: make(map[string][]byte)}
		err = s.load(ctx, oc, id)
		if !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
	}
	return nil, err
}

func readCatalogHead(ctx context.Context, oc ObjectClient, id string) (*catalog.Head, error) {
	b, err := oc.ReadObject(ctx, catalog.HeadName(id))
	if err != nil {
		return nil, fmt.Errorf("read head of catalog: %w", err)
	}
	return catalog.DecodeHead(b)
}

// load reads the segments, which are kept compressed, and counts the entries.
func (s *catalogSource) load(ctx context.Context, oc ObjectClient, id string) error {
	for i := range s.head.Layers {
		for j := range s.head.Layers[i].Segments {
			name := s.head.Layers[i].Segments[j].Name
			b, err := oc.ReadObject(ctx, catalog.ObjectName(id, name))
			if err != nil {
				return fmt.Errorf("read part of catalog: %w", err)
			}
			s.data[name] = b
		}
	}
	return s.each(func(*catalog.Entry) error {
		s.n++
		return ctx.Err()
	})
}

// each calls fn with the entries in force.
func (s *catalogSource) each(fn func(*catalog.Entry) error) error {
	return catalog.Merge(s.head.Layers, func(seg *catalog.Segment) ([]byte, error) { return s.data[seg.Name], nil }, fn)
}

// choose finds replicas that are in several sources, as when a template was
// written in another way that leads to the same paths. The newest counts.
func (c *Catalog) choose() {
	if len(c.sources) < 2 {
		return
	}
	c.best = make(map[string]int)
	newest := make(map[string]int64)
	for i, s := range c.sources {
		_ = s.each(func(e *catalog.Entry) error { // was read once already
			at, known := newest[string(e.Replica)]
			// A deletion does not change the time.
			later := known && e.SyncedAt == at && s.head.WrittenAt.After(c.sources[c.best[string(e.Replica)]].head.WrittenAt)
			if !known || e.SyncedAt > at || later {
				c.best[string(e.Replica)], newest[string(e.Replica)] = i, e.SyncedAt
			}
			return nil
		})
	}
}

// rebuildCatalog lists the replicas.
func rebuildCatalog(ctx context.Context, lister ReplicaLister, opt CatalogOptions) (*Catalog, error) {
	c := &Catalog{rebuilt: true}
	seen := make(map[string]bool)
	err := lister.Replicas(ctx, func(replica string) error {
		if seen[replica] {
			return nil
		}
		seen[replica] = true
		e := CatalogEntry{Replica: replica}
		if opt.DatabasePath != nil {
			if path, err := opt.DatabasePath(replica); err == nil {
				e.Path = path
			}
		}
		c.listed = append(c.listed, e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open catalog: list replicas: %w", err)
	}
	slices.SortFunc(c.listed, func(a, b CatalogEntry) int {
		return strings.Compare(a.Path+"\x00"+a.Replica, b.Path+"\x00"+b.Replica)
	})
	return c, nil
}

// Rebuilt reports whether the catalog comes from a listing, which tells neither
// positions nor times, nor which databases were deleted.
func (c *Catalog) Rebuilt() bool { return c.rebuilt }

// Len returns the number of entries.
func (c *Catalog) Len() int {
	switch {
	case c.rebuilt:
		return len(c.listed)
	case c.best != nil:
		return len(c.best)
	case len(c.sources) == 1:
		return c.sources[0].n
	default:
		return 0
	}
}

// Sources returns the configurations that the entries come from; none if the
// catalog was rebuilt.
func (c *Catalog) Sources() []CatalogSource {
	list := make([]CatalogSource, 0, len(c.sources))
	for _, s := range c.sources {
		list = append(list, CatalogSource{Host: s.head.Host, Template: s.head.Template, WrittenAt: s.head.WrittenAt, Entries: s.n})
	}
	return list
}

// errStopIteration ends a loop over entries.
var errStopIteration = errors.New("no more entries are wanted")

// Entries iterates over all databases; those of one source come in the order of
// their paths. Each replica comes once.
func (c *Catalog) Entries() iter.Seq[CatalogEntry] {
	if c.rebuilt {
		return slices.Values(c.listed)
	}
	return func(yield func(CatalogEntry) bool) {
		for i, s := range c.sources {
			err := s.each(func(e *catalog.Entry) error {
				if c.best != nil && c.best[string(e.Replica)] != i {
					return nil
				}
				if !yield(s.entry(e)) {
					return errStopIteration
				}
				return nil
			})
			if err != nil { // by the caller's wish: all was read once already
				return
			}
		}
	}
}

func (s *catalogSource) entry(e *catalog.Entry) CatalogEntry {
	out := CatalogEntry{
		Path: string(e.Path), Replica: string(e.Replica), Host: s.head.Host,
		TXID: ltx.TXID(e.TXID), SyncedAt: secondsTime(e.SyncedAt), Earliest: secondsTime(e.Earliest),
		Size: e.Size, DeletedAt: secondsTime(e.Deleted), ProvenAt: secondsTime(e.Proven), HasOwner: e.HasOwner,
	}
	if e.HasOwner {
		out.Mode, out.UID, out.GID = fs.FileMode(e.Owner.Mode)&fs.ModePerm, int(e.Owner.UID), int(e.Owner.GID)
	}
	return out
}

func secondsTime(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}
