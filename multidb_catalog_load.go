package litestream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/catalog"
)

// loadCatalog reads the catalog that lies on the replica and compares it with
// the table: what differs is to be written, and what only the catalog knows is
// kept in it. A catalog that is lost is begun anew, with what a listing finds.
func (m *MultiDBManager) loadCatalog(ctx context.Context) error {
	w := &m.catalog.w
	w.n.gets++
	head, err := readCatalogHead(ctx, w.objects, w.id)
	if err == nil && head.Epoch != m.catalogEpoch() {
		err = fmt.Errorf("%w: it was written of another replica, which lay here before", catalog.ErrDamaged)
	}
	w.head, w.deltas, w.kept, w.foreign, w.foreignN = nil, nil, nil, nil, nil
	m.catalogUnmark()
	if err == nil {
		err = m.compareCatalog(ctx, head)
	}
	switch {
	case err == nil:
		w.head, w.generation = head, max(head.Generation, w.generation)
	case catalogLost(err):
		if err := m.renewCatalog(ctx, head, err); err != nil {
			return err
		}
	default:
		return err
	}
	return nil
}

// index makes sure that readers find the catalog. It is called with each write:
// two hosts that add theirs at one moment can overwrite each other's, and what
// the list does not tell of, no restore from the replica alone would miss.
func (w *catalogWriter) index(ctx context.Context) error {
	w.n.gets++
	names, err := readCatalogIndex(ctx, w.objects)
	if err != nil && !catalogLost(err) {
		return err
	}
	if !slices.Contains(names, w.id) {
		b, err := catalog.EncodeIndex(append(names, w.id))
		if err != nil {
			return err
		}
		w.n.puts++
		if err := w.objects.WriteObject(ctx, catalog.IndexName, b, false); err != nil {
			return fmt.Errorf("write list of catalogs: %w", err)
		}
	}
	return nil
}

// catalogUnmark makes all entries such that have to be written, as long as
// nothing is known of what lies there.
func (m *MultiDBManager) catalogUnmark() {
	m.mu.Lock()
	m.catalog.reload = false
	m.mu.Unlock()
	var next uint32
	for more := true; more; {
		more = false
		m.mu.Lock()
		n := 0
		for i, s := range m.table.From(next) {
			if n++; n > 4*catalogBatch {
				more = true
				break
			}
			next = i + 1
			if s.txid > 0 {
				m.catalog.touch(i)
			}
		}
		m.mu.Unlock()
	}
}

// compareCatalog reads all segments of a head, of which one for each layer is in
// memory at a time.
func (m *MultiDBManager) compareCatalog(ctx context.Context, head *catalog.Head) error {
	w := &m.catalog.w
	source := func(s *catalog.Segment) ([]byte, error) {
		w.n.gets++
		b, err := w.objects.ReadObject(ctx, catalog.ObjectName(w.id, s.Name))
		if err != nil {
			err = fmt.Errorf("read part of catalog: %w", err)
		}
		return b, err
	}
	enc := catalog.NewWriter()
	err := catalog.Merge(head.Layers, source, func(e *catalog.Entry) error {
		if m.compareEntry(e) {
			return ctx.Err()
		}
		return errors.Join(w.keepForeign(enc, e), ctx.Err())
	})
	if err != nil {
		return err
	}
	return w.endForeign(enc)
}

// compareEntry reports whether the table knows a database of the catalog, and
// takes over what only the catalog knows of it.
func (m *MultiDBManager) compareEntry(e *catalog.Entry) (known bool) {
	t, lookupErr := m.tenants().Lookup(string(e.Path))
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.catalog
	if _, ok := c.removed[string(e.Path)]; ok {
		return true
	}
	i, ok := m.table.FindPath(string(e.Path))
	if !ok || m.table.At(i).txid == 0 || lookupErr != nil || c.w.folder+string(e.Replica) != t.ReplicaPath {
		return false
	}
	s, r := m.table.At(i), c.at(i)
	r.proven = max(r.proven, unixSeconds(e.Proven))
	if r.owner == 0 && e.HasOwner {
		c.setOwner(i, e.Owner)
	}
	if r.earliest == 0 {
		r.earliest = unixSeconds(e.Earliest)
	}
	same := ltx.TXID(e.TXID) == s.txid && (e.Deleted != 0) == (s.state == TenantGone) &&
		int64(r.earliest) == e.Earliest && int64(r.proven) == e.Proven && e.HasOwner
	if same && r.mark == markDirty {
		r.mark = markBase
		c.dirty--
	}
	return true
}

// keepForeign keeps an entry that nobody else knows: of a database that an
// earlier configuration matched, or whose file was deleted before the state
// directory was lost.
func (w *catalogWriter) keepForeign(enc *catalog.Writer, e *catalog.Entry) error {
	if enc.Full() {
		if err := w.endForeign(enc); err != nil {
			return err
		}
		enc.Reset()
	}
	return enc.Add(e)
}

func (w *catalogWriter) endForeign(enc *catalog.Writer) error {
	if enc.Len() == 0 {
		return nil
	}
	n := enc.Len()
	b, err := enc.Bytes()
	if err != nil {
		return err
	}
	w.foreign, w.foreignN = append(w.foreign, bytes.Clone(b)), append(w.foreignN, n)
	return nil
}

// renewCatalog begins a catalog in place of one that cannot be used. Replicas
// that the table does not know are listed.
func (m *MultiDBManager) renewCatalog(ctx context.Context, head *catalog.Head, reason error) error {
	w := &m.catalog.w
	renewed := &catalog.Head{}
	// Nothing that lies there has a name of this generation: generations of
	// one process after the other are fewer than seconds.
	w.generation = max(w.generation, uint64(max(m.now().Unix(), 0)))
	if head != nil {
		w.generation = max(w.generation, head.Generation)
		renewed.Layers, renewed.Old = nil, head.Old
		for _, l := range head.Layers {
			for _, s := range l.Segments {
				w.old = append(w.old, catalog.OldObject{Name: s.Name})
			}
		}
	}
	m.catalogUnmark() // the comparison may have come a part of its way
	w.foreign, w.foreignN = nil, nil
	m.mu.Lock()
	empty := m.empty
	m.mu.Unlock()
	if !empty {
		if err := m.listForeign(ctx); err != nil {
			return err
		}
		n := 0
		for _, k := range w.foreignN {
			n += k
		}
		m.logger.Info("the catalog on the replica is made anew", "reason", reason, "listed", n)
	}
	renewed.Generation = w.generation
	w.head = renewed
	return nil
}

// listForeign lists the replicas that the table does not know.
func (m *MultiDBManager) listForeign(ctx context.Context) error {
	lister, ok := m.clients.Root.(ReplicaLister)
	if !ok {
		return nil
	}
	w := &m.catalog.w
	found := make(map[string]string) // replicas by path
	w.n.gets++
	err := lister.Replicas(ctx, func(replica string) error {
		t, err := m.tenants().FindReplica(path.Join(w.folder, replica))
		if err != nil {
			return nil // of another configuration, or with a name that was shortened
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if i, ok := m.table.FindPath(t.Path); !ok || m.table.At(i).txid == 0 {
			found[t.Path] = replica
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list replicas: %w", err)
	}
	paths := make([]string, 0, len(found))
	for p := range found {
		paths = append(paths, p)
	}
	slices.SortFunc(paths, strings.Compare)
	enc := catalog.NewWriter()
	for _, p := range paths {
		if err := w.keepForeign(enc, &catalog.Entry{Path: []byte(p), Replica: []byte(found[p])}); err != nil {
			return err
		}
	}
	return w.endForeign(enc)
}
