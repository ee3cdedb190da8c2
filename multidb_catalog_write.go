package litestream

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/benbjohnson/litestream/internal/catalog"
)

const (
	// catalogRun is how many entries are sorted at a time. Their paths are in
	// memory meanwhile.
	catalogRun = 1 << 15
	// catalogBatch is how many records are read under one lock.
	catalogBatch = 256
	// maxDeltas bounds the layers over the base. A read asks for each of them.
	maxDeltas = 16
	// entryGuess is the size of an entry in bytes, for a base that is to come.
	entryGuess = 24
)

// errCatalogRival means that another process writes the same catalog.
var errCatalogRival = errors.New("another process writes the catalog of this replica")

// errCatalogTaken means that there is an object of the name of one that is to
// be written.
var errCatalogTaken = errors.New("an object of the catalog lies there already")

// catalogWriter is what one write after the other needs. No two run at a time.
type catalogWriter struct {
	id, folder, template, host string
	process                    string // of this process
	objects                    ObjectClient

	head       *catalog.Head // in force; nil: it has to be read
	generation uint64        // of the last attempt
	part       int           // number of the next object of it
	deltas     []catalogGroup
	foreign    [][]byte // segments of entries of which only the catalog knows, to be written with the base
	foreignN   []int
	kept       []catalog.Layer // the same, written
	old        []catalog.OldObject
	rival      string // process that was complained of
	n          catalogCounts
}

// catalogGroup is what one write added: layers over those before.
type catalogGroup struct {
	layers  []catalog.Layer
	entries int
	size    int64
}

func (g *catalogGroup) add(l catalog.Layer) {
	g.layers = append(g.layers, l)
	g.entries += l.Entries()
	g.size += l.Size()
}

// catalogCounts are requests of one write, and what was sent.
type catalogCounts struct {
	gets, puts, deletes int
	bytes               int64
}

// catalogUpdate brings the catalog up to date.
func (m *MultiDBManager) catalogUpdate(ctx context.Context) (catalogCounts, error) {
	w := &m.catalog.w
	w.n = catalogCounts{}
	if err := w.index(ctx); err != nil {
		return w.n, err
	}
	m.mu.Lock()
	reload := m.catalog.reload
	m.mu.Unlock()
	if w.head == nil || reload {
		if err := m.loadCatalog(ctx); err != nil {
			return w.n, err
		}
	}
	err := m.catalogWrite(ctx)
	if errors.Is(err, errCatalogTaken) {
		if err = m.catalogCollision(ctx); err == nil {
			err = m.catalogWrite(ctx)
		}
	}
	return w.n, err
}

// catalogWrite writes a delta, or a new base, and the head that names it.
func (m *MultiDBManager) catalogWrite(ctx context.Context) error {
	c := m.catalog
	w := &c.w
	m.mu.Lock()
	dirty := c.dirty
	if dirty == 0 && (len(w.foreign) == 0 || len(w.head.Layers) > 0) {
		c.stale = false
		m.mu.Unlock()
		return nil
	}
	m.mu.Unlock()
	from := w.plan(dirty)
	w.generation++
	w.part = 0
	group, err := m.catalogGroup(ctx, from)
	if err == nil {
		err = m.catalogComplete()
	}
	if err == nil && (group.entries > 0 || from == markBase) {
		err = w.commit(ctx, group, from, m.catalogEpoch(), m.now())
	}
	if err != nil {
		m.catalogUndo(from)
		return err
	}
	var written []string
	m.mu.Lock()
	c.stale = false
	for path, mark := range c.removed {
		if mark != markDirty {
			written = append(written, path)
		}
	}
	if from == markBase {
		maps.DeleteFunc(c.removed, func(_ string, mark uint8) bool { return mark != markDirty })
	}
	m.mu.Unlock()
	m.settleRemovals(written)
	return nil
}

// errCatalogLeft means that databases left the table while the catalog was
// written, which would have left the catalog, too.
var errCatalogLeft = errors.New("databases were let go meanwhile")

func (m *MultiDBManager) catalogComplete() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.catalog.reload {
		return errCatalogLeft
	}
	return nil
}

func (m *MultiDBManager) catalogEpoch() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.catalog.epoch
}

// plan decides what is written when so many entries are dirty: all entries
// whose mark is the returned one or a later one. Where that is the base, it
// replaces everything.
func (w *catalogWriter) plan(dirty int) (from int) {
	if len(w.head.Layers) == 0 {
		return markBase
	}
	var baseSize, deltaSize int64
	var entries int
	for i := range w.head.Layers {
		l := &w.head.Layers[i]
		if i < w.head.Base {
			baseSize += l.Size()
			entries += l.Entries()
		} else {
			deltaSize += l.Size()
		}
	}
	each := int64(entryGuess)
	if entries > 0 {
		each = max(baseSize/int64(entries), 1)
	}
	// What is as small as this delta is written again with it, so that there
	// are few of them, and each entry is written a few times only.
	n := len(w.deltas)
	for n > 0 && w.deltas[n-1].entries <= dirty {
		n--
		dirty += w.deltas[n].entries
		deltaSize -= w.deltas[n].size
	}
	found := len(w.head.Layers) - w.head.Base
	for _, g := range w.deltas {
		found -= len(g.layers)
	}
	if 2*(deltaSize+int64(dirty)*each) > baseSize || n+found >= maxDeltas {
		return markBase
	}
	return markBase + 1 + n
}

// catalogGroup writes the entries whose marks are from or later, and gives them
// the mark from.
func (m *MultiDBManager) catalogGroup(ctx context.Context, from int) (group catalogGroup, err error) {
	w := &m.catalog.w
	if from == markBase {
		if err := w.writeForeign(ctx); err != nil {
			return group, err
		}
	}
	enc := catalog.NewWriter()
	run := catalogRunOf{from: uint8(from)}
	removed := m.catalogRemoved(from)
	for first, more := uint32(0), true; more; {
		run.reset()
		for _, path := range removed {
			run.add(noRecord, path)
		}
		removed = nil
		if first, more = m.collect(ctx, &run, first); ctx.Err() != nil {
			return group, context.Cause(ctx)
		}
		run.sort()
		layer, err := m.writeRun(ctx, enc, &run)
		if err != nil {
			return group, err
		}
		if len(layer.Segments) > 0 {
			group.add(layer)
		}
	}
	return group, nil
}

// noRecord is the number of an entry that tells of a removal.
const noRecord = ^uint32(0)

// catalogRunOf is a sorted run of databases.
type catalogRunOf struct {
	from  uint8
	text  []byte
	items []runItem
}

type runItem struct {
	start, end uint32 // of the path in text
	i          uint32 // record, or noRecord
}

func (r *catalogRunOf) reset() { r.text, r.items = r.text[:0], r.items[:0] }

func (r *catalogRunOf) add(i uint32, path string) {
	start := len(r.text)
	r.text = append(r.text, path...)
	r.items = append(r.items, runItem{uint32(start), uint32(len(r.text)), i})
}

func (r *catalogRunOf) path(it runItem) []byte { return r.text[it.start:it.end] }

// sort sorts by path. Of a database that was removed and came back at that
// moment, the record counts.
func (r *catalogRunOf) sort() {
	slices.SortFunc(r.items, func(a, b runItem) int {
		return cmp.Or(bytes.Compare(r.path(a), r.path(b)), cmp.Compare(a.i, b.i))
	})
	r.items = slices.CompactFunc(r.items, func(a, b runItem) bool { return bytes.Equal(r.path(a), r.path(b)) })
}

// catalogRemoved returns the removals that are written; the base has none.
func (m *MultiDBManager) catalogRemoved(from int) (paths []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.catalog
	for path, mark := range c.removed {
		if int(mark) < from {
			continue
		}
		if mark == markDirty {
			c.dirty--
		}
		c.removed[path] = uint8(from)
		if i, ok := m.table.FindPath(path); from > markBase && (!ok || m.table.At(i).txid == 0) {
			paths = append(paths, path) // else it has come back
		}
	}
	return paths
}

// collect adds records from number first on to a run, until that is full. more
// says that there are others from next on.
func (m *MultiDBManager) collect(ctx context.Context, run *catalogRunOf, first uint32) (next uint32, more bool) {
	for ctx.Err() == nil {
		looked := 0
		m.mu.Lock()
		more = false
		for i, s := range m.table.From(first) {
			if looked == 4*catalogBatch || len(run.items) >= catalogRun {
				more = true
				break
			}
			first = i + 1
			looked++
			if s.txid > 0 && (run.from == markBase || m.catalog.at(i).mark >= run.from) {
				start := len(run.text)
				run.text = m.table.AppendPath(run.text, i)
				run.items = append(run.items, runItem{uint32(start), uint32(len(run.text)), i})
			}
		}
		m.mu.Unlock()
		if !more || len(run.items) >= catalogRun {
			break
		}
	}
	return first, more
}

// runEntry is an entry on its way.
type runEntry struct {
	catalog.Entry
	i    uint32
	look bool // the file has to be asked for its owner
	skip bool
}

// writeRun writes the entries of a run as one layer.
func (m *MultiDBManager) writeRun(ctx context.Context, enc *catalog.Writer, run *catalogRunOf) (layer catalog.Layer, err error) {
	w := &m.catalog.w
	var batch [catalogBatch]runEntry
	flush := func() error {
		if enc.Len() == 0 {
			return nil
		}
		seg, err := w.putSegment(ctx, enc)
		if err == nil {
			layer.Segments = append(layer.Segments, seg)
		}
		return err
	}
	enc.Reset()
	for items := range slices.Chunk(run.items, catalogBatch) {
		entries := batch[:len(items)]
		m.readEntries(run, items, entries)
		for k := range entries {
			e := &entries[k]
			if !e.skip && !e.Removed {
				m.completeEntry(e)
			}
			if e.skip {
				continue
			}
			if enc.Full() {
				if err := flush(); err != nil {
					return layer, err
				}
				enc.Reset()
			}
			if err := enc.Add(&e.Entry); err != nil {
				return layer, err
			}
		}
		m.noteOwners(entries)
	}
	return layer, flush()
}

// readEntries takes what the table knows, and marks it as written.
func (m *MultiDBManager) readEntries(run *catalogRunOf, items []runItem, entries []runEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.catalog
	var path []byte
	for k, it := range items {
		e := &entries[k]
		*e = runEntry{i: it.i, Entry: catalog.Entry{Path: run.path(it)}}
		if it.i == noRecord {
			e.Removed = true
			continue
		}
		s := m.table.At(it.i)
		if path = m.table.AppendPath(path[:0], it.i); s == nil || s.txid == 0 || !bytes.Equal(path, e.Path) {
			e.skip = true // it was removed since, and maybe another one has its number
			continue
		}
		r := c.at(it.i)
		if r.mark == markDirty {
			c.dirty--
			e.look = true
		}
		r.mark = run.from
		e.TXID, e.SyncedAt, e.Size = uint64(s.txid), int64(s.syncedAt), s.size
		e.Earliest, e.Proven = int64(r.earliest), int64(r.proven)
		if r.owner > 0 {
			e.Owner, e.HasOwner = c.owners[r.owner-1], true
		}
		e.look = e.look || !e.HasOwner
		if s.state == TenantGone {
			e.Deleted, e.look = int64(s.since), false
		}
	}
}

// completeEntry adds what the table does not know.
func (m *MultiDBManager) completeEntry(e *runEntry) {
	path := string(e.Path)
	t, err := m.tenants().Lookup(path)
	if err != nil || len(t.ReplicaPath) <= len(m.catalog.w.folder) {
		e.skip = true
		return
	}
	e.Replica = []byte(t.ReplicaPath[len(m.catalog.w.folder):])
	if !e.look {
		return
	}
	fi, err := os.Stat(path)
	if err != nil {
		e.look = false
		return // a scan will tell
	}
	e.Size = fi.Size()
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		e.Owner, e.HasOwner = catalog.Owner{Mode: uint32(st.Mode) & 0o7777, UID: st.Uid, GID: st.Gid}, true
	}
}

// noteOwners keeps whose files they are: of one that is deleted later nobody
// could tell.
func (m *MultiDBManager) noteOwners(entries []runEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range entries {
		if e := &entries[k]; e.look && !e.skip && e.HasOwner && m.table.At(e.i) != nil {
			m.catalog.setOwner(e.i, e.Owner)
		}
	}
}

// catalogUndo makes what a failed write left without an entry one to be written.
func (m *MultiDBManager) catalogUndo(from int) {
	c := m.catalog
	var next uint32
	for more := true; more; {
		more = false
		m.mu.Lock()
		n := 0
		for i := range m.table.From(next) {
			if n++; n > 4*catalogBatch {
				more = true
				break
			}
			next = i + 1
			if mark := c.at(i).mark; int(mark) >= from && mark != markDirty {
				c.touch(i)
			}
		}
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, mark := range c.removed {
		if int(mark) >= from && mark != markDirty {
			c.removed[path] = markDirty
			c.dirty++
		}
	}
}

// writeForeign writes the entries of which only the catalog knows as layers of
// their own, which later bases keep.
func (w *catalogWriter) writeForeign(ctx context.Context) error {
	if len(w.foreign) == 0 {
		return nil
	}
	var layer catalog.Layer
	for k, data := range w.foreign {
		seg, err := w.putObject(ctx, data, w.foreignN[k])
		if err != nil {
			return err
		}
		layer.Segments = append(layer.Segments, seg)
	}
	w.kept = []catalog.Layer{layer}
	w.foreign, w.foreignN = nil, nil
	return nil
}

// putSegment finishes a segment and writes it.
func (w *catalogWriter) putSegment(ctx context.Context, enc *catalog.Writer) (catalog.Segment, error) {
	n := enc.Len()
	data, err := enc.Bytes()
	if err != nil {
		return catalog.Segment{}, err
	}
	return w.putObject(ctx, data, n)
}

// putObject writes an object under a name of its own. It is old until a head
// names it.
func (w *catalogWriter) putObject(ctx context.Context, data []byte, entries int) (catalog.Segment, error) {
	seg := catalog.NewSegment(segmentName(w.generation, w.part), data, entries)
	name := catalog.ObjectName(w.id, seg.Name)
	w.part++
	w.n.puts++
	w.old = append(w.old, catalog.OldObject{Name: seg.Name})
	err := w.objects.WriteObject(ctx, name, data, true)
	if errors.Is(err, fs.ErrExist) { // it may be our own, after a lost answer
		w.n.gets++
		var there []byte
		if there, err = w.objects.ReadObject(ctx, name); err == nil && !bytes.Equal(there, data) {
			err = errCatalogTaken
		}
	}
	if err != nil {
		return seg, fmt.Errorf("write part of catalog: %w", err)
	}
	w.n.bytes += int64(len(data))
	return seg, nil
}

// commit writes a head that names the group, over what was written before it.
func (w *catalogWriter) commit(ctx context.Context, group catalogGroup, from int, epoch string, now time.Time) error {
	head := &catalog.Head{
		Generation: w.generation, Owner: w.process, Epoch: epoch, Host: w.host, Template: w.template,
		WrittenAt: now.UTC().Truncate(time.Second),
	}
	deltas := w.deltas
	if from == markBase {
		head.Layers = slices.Concat(w.kept, group.layers)
		head.Base = len(head.Layers)
		deltas = nil
	} else {
		keep := len(w.head.Layers)
		for _, g := range w.deltas[from-markBase-1:] {
			keep -= len(g.layers)
		}
		head.Base = w.head.Base
		head.Layers = slices.Concat(w.head.Layers[:keep], group.layers)
		deltas = append(slices.Clip(deltas[:from-markBase-1]), group)
	}
	if err := w.sweep(ctx, head, now); err != nil {
		return err
	}
	b, err := catalog.EncodeHead(head)
	if err != nil {
		return err
	}
	w.n.puts++
	if err := w.objects.WriteObject(ctx, catalog.HeadName(w.id), b, false); err != nil {
		w.head = nil // it may be in force all the same
		return fmt.Errorf("write head of catalog: %w", err)
	}
	w.n.bytes += int64(len(b))
	w.head, w.deltas, w.old = head, deltas, nil
	return nil
}

// sweep finds what a new head does not name any more, and deletes what none has
// named for long enough.
func (w *catalogWriter) sweep(ctx context.Context, head *catalog.Head, now time.Time) error {
	used := make(map[string]bool)
	for _, l := range head.Layers {
		for _, s := range l.Segments {
			used[s.Name] = true
		}
	}
	old := w.old
	if w.head != nil {
		old = slices.Concat(w.head.Old, old)
		for _, l := range w.head.Layers {
			for _, s := range l.Segments {
				old = append(old, catalog.OldObject{Name: s.Name})
			}
		}
	}
	deleter, _ := w.objects.(ObjectDeleter)
	for _, o := range old {
		if used[o.Name] {
			continue
		}
		used[o.Name] = true // it may be named twice
		if o.Since.IsZero() || o.Since.After(now) {
			o.Since = now.UTC().Truncate(time.Second)
		}
		if deleter != nil && now.Sub(o.Since) > catalogGrace {
			w.n.deletes++
			if err := deleter.DeleteObject(ctx, catalog.ObjectName(w.id, o.Name)); err == nil {
				continue
			} else if ctx.Err() != nil {
				return fmt.Errorf("delete old part of catalog: %w", err)
			}
		}
		head.Old = append(head.Old, o)
	}
	if extra := len(head.Old) - catalog.MaxOld; extra > 0 {
		head.Old = head.Old[extra:]
	}
	return nil
}

// catalogCollision looks who has written what lies where a part should go.
func (m *MultiDBManager) catalogCollision(ctx context.Context) error {
	w := &m.catalog.w
	w.n.gets++
	head, err := readCatalogHead(ctx, w.objects, w.id)
	if err == nil && head.Generation == w.head.Generation && head.Owner == w.head.Owner {
		return w.leftovers(ctx) // of a process that died before it wrote its head
	}
	if err != nil && !catalogLost(err) {
		return err
	}
	w.head = nil
	if err != nil {
		return err
	}
	if w.rival != head.Owner {
		w.rival = head.Owner
		m.logger.Warn("another process writes the catalog of this replica: two daemons must not replicate to one place",
			"host", head.Host, "generation", head.Generation)
	}
	return errCatalogRival
}

// leftovers finds all parts of the generation that could not be written.
func (w *catalogWriter) leftovers(ctx context.Context) error {
	for n := 1; ; n++ {
		name := segmentName(w.generation, n)
		w.n.gets++
		_, err := w.objects.ReadObject(ctx, catalog.ObjectName(w.id, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read part of catalog: %w", err)
		}
		w.old = append(w.old, catalog.OldObject{Name: name})
	}
}

func segmentName(generation uint64, n int) string { return fmt.Sprintf("%x-%d", generation, n) }
