package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/catalog"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// catalogOf reads the catalog of a root, which must not have to be rebuilt.
func catalogOf(t *testing.T, root litestream.ReplicaClient) map[string]litestream.CatalogEntry {
	t.Helper()
	c, err := litestream.OpenCatalog(context.Background(), root, litestream.CatalogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Rebuilt() {
		t.Fatal("the catalog is of no use")
	}
	got := make(map[string]litestream.CatalogEntry)
	for e := range c.Entries() {
		got[e.Path] = e
	}
	if len(got) != c.Len() {
		t.Errorf("%d databases, %d entries", len(got), c.Len())
	}
	return got
}

// known returns position and whether the file is gone of each database that a
// manager replicated, which has to be closed.
func known(t *testing.T, m *litestream.MultiDBManager) map[string]string {
	t.Helper()
	want := make(map[string]string)
	err := m.Tenants(context.Background(), 0, func(info litestream.TenantInfo, _ uint32) error {
		if info.TXID > 0 {
			want[info.Path] = fmt.Sprintf("%s %t", info.TXID, info.State == litestream.TenantGone)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return want
}

func checkCatalog(t *testing.T, root litestream.ReplicaClient, m *litestream.MultiDBManager) map[string]litestream.CatalogEntry {
	t.Helper()
	entries := catalogOf(t, root)
	got := make(map[string]string)
	for path, e := range entries {
		got[path] = fmt.Sprintf("%s %t", e.TXID, !e.DeletedAt.IsZero())
	}
	if diff := cmp.Diff(known(t, m), got); diff != "" {
		t.Errorf("catalog (-table +catalog):\n%s", diff)
	}
	return entries
}

func TestMultiDBCatalog_Entries(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	names := f.rested(5)
	for i, name := range names {
		if err := os.Chmod(f.path(name), fs.FileMode(0o600+8*i)); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now().Add(-time.Second)
	f.open()
	f.replicated()
	entries := f.closeChecked()
	for i, name := range names {
		e := entries[f.path(name)]
		fi, err := os.Stat(f.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if e.Replica != strings.TrimSuffix(name, ".db") || e.TXID != 1 || e.Size != fi.Size() || !e.HasOwner ||
			e.Mode != fs.FileMode(0o600+8*i) || e.UID != os.Getuid() || e.GID != os.Getgid() || !e.DeletedAt.IsZero() {
			t.Errorf("%s: %+v", name, e)
		}
		if now := time.Now().Add(time.Second); e.SyncedAt.Before(began) || e.SyncedAt.After(now) || e.Earliest.Before(began) || e.Earliest.After(now) {
			t.Errorf("%s: synced at %v, restorable from %v", name, e.SyncedAt, e.Earliest)
		}
	}

	// A restart costs nothing, one change a delta; what is written follows.
	f.resetCounts()
	f.open()
	f.scans(3)
	f.close()
	if n := f.root.Requests(); n != 1 {
		t.Errorf("%d requests for a restart, want the read of the epoch: %v", n, f.root.Counts())
	}
	f.resetCounts()
	f.open()
	makeRestedRows(t, f.path(names[0]), 1)
	if err := os.Chmod(f.path(names[1]), 0o666); err != nil {
		t.Fatal(err)
	}
	removeDB(t, f.path(names[2]))
	f.replicated()
	f.awaitState(names[2], "gone")
	entries = f.closeChecked()
	if e := entries[f.path(names[1])]; e.Mode != 0o666 {
		t.Errorf("mode after chmod: %v", e.Mode)
	}
	if e := entries[f.path(names[2])]; e.Mode != 0o620 || e.DeletedAt.IsZero() {
		t.Errorf("deleted: %+v", e)
	}
	if n := f.root.BytesSent(); n > 4000 {
		t.Errorf("%d bytes written for three changes", n)
	}
}

// A write happens when something changed and not more often than it may, and
// parts that were replaced are deleted when nobody reads them any more.
func TestMultiDBCatalog_Rhythm(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	// Not what the machine takes for a round, however slow it is.
	const interval = 10 * time.Hour
	f.setup = func(m *litestream.MultiDBManager) { m.Tune(knob.Fleet{Catalog: interval}) }
	names := f.rested(30)
	f.open()
	f.replicated()
	writes := func() int { return f.root.Count(testutil.OpWriteObject) }
	written := func(n int) func() bool {
		return func() bool { _, running := f.m.CatalogState(); return writes() >= n && !running }
	}
	// The first write comes at once, and may come before there is anything.
	waitFor(t, "the first write", written(2)) // epoch and index at least
	f.resetCounts()
	f.advance(interval)
	makeRestedRows(t, f.path(names[4]), 1)
	f.replicated()
	waitFor(t, "a catalog", written(2))
	for i := range 4 {
		f.resetCounts()
		makeRestedRows(t, f.path(names[i%3]), 1)
		f.replicated()
		f.scans(3)
		if n := writes(); n != 0 {
			t.Fatalf("%d writes soon after the last one", n)
		}
		f.advance(interval)
		waitFor(t, "a write", written(2))
		f.scans(3)
		if n := writes(); n != 2 {
			t.Fatalf("%d writes for one change", n)
		}
	}
	f.closeChecked()
	if n := len(f.root.Named()); n > 20 {
		t.Errorf("%d objects are left: %v", n, f.root.Named())
	}
}

// closeChecked closes the fleet and compares its catalog with what it knew.
func (f *memFleet) closeChecked() map[string]litestream.CatalogEntry {
	f.t.Helper()
	m := f.m
	f.close()
	return checkCatalog(f.t, f.root, m)
}

func (f *memFleet) awaitCatalogIdle() {
	f.t.Helper()
	waitFor(f.t, "the catalog to be written", func() bool { dirty, running := f.m.CatalogState(); return dirty == 0 && !running })
}

// The catalog is no data: while it cannot be written, replication goes on.
func TestMultiDBCatalog_Failures(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.setup = func(m *litestream.MultiDBManager) { m.Tune(knob.Fleet{Catalog: time.Millisecond}) }
	names := f.rested(4)
	for _, op := range []string{testutil.OpWriteObject, testutil.OpReadObject} {
		f.open()
		f.replicated()
		f.breaks(func(replica, o string, _ int) error {
			if replica == "" && o == op {
				return errors.New("broken")
			}
			return nil
		})
		for _, name := range names {
			makeRestedRows(t, f.path(name), 1)
		}
		f.replicated()
		f.close() // no error
		f.breaks(nil)
		f.open()
		f.replicated()
		f.closeChecked()
	}
}

// TestMultiDBCatalog_Model lets a fleet do anything, with a catalog that is
// damaged, and writes that fail, now and then.
func TestMultiDBCatalog_Model(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	f := newMemFleet(t)
	f.cfg.DeletedRetention = 300 * time.Hour
	f.setup = func(m *litestream.MultiDBManager) { m.Tune(knob.Fleet{Catalog: time.Millisecond}) }
	names := f.rested(12)
	for range 4 {
		if rng.IntN(4) == 0 {
			f.damage(rng)
		}
		f.open()
		for range 1 + rng.IntN(5) {
			name := names[rng.IntN(len(names))]
			switch rng.IntN(6) {
			case 0, 1, 2:
				makeRestedRows(t, f.path(name), 1)
			case 3:
				removeDB(t, f.path(name))
			case 4:
				f.advance(time.Duration(rng.IntN(100)) * time.Hour)
			case 5:
				f.breaks(func(replica, op string, _ int) error {
					if replica == "" && rng.Uint32()%3 == 0 {
						return errors.New("broken")
					}
					return nil
				})
			}
			if rng.IntN(4) == 0 {
				f.replicated()
			}
		}
		f.breaks(nil)
		f.replicated()
		f.touchAll(names)
		f.replicated()
		f.closeChecked()
	}
}

// touchAll changes a database, so that there is something to write.
func (f *memFleet) touchAll(names []string) { makeRestedRows(f.t, f.path(names[0]), 1) }

// damage breaks or removes an object of the catalog.
func (f *memFleet) damage(rng *rand.Rand) {
	f.t.Helper()
	var mine []string
	for _, name := range f.root.Named() {
		if strings.HasPrefix(name, "!litestream/catalog") {
			mine = append(mine, name)
		}
	}
	if len(mine) == 0 {
		return
	}
	name := mine[rng.IntN(len(mine))]
	b, err := f.root.ReadObject(context.Background(), name)
	if err != nil {
		f.t.Fatal(err)
	}
	if rng.IntN(2) == 0 || len(b) == 0 {
		err = f.root.DeleteObject(context.Background(), name)
	} else {
		b[rng.IntN(len(b))] ^= 4
		err = f.root.WriteObject(context.Background(), name, b, false)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// What only the catalog knows stays in it: databases that were deleted before
// the state directory was lost, and such that no pattern matches any more.
func TestMultiDBCatalog_Foreign(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	names := f.rested(6)
	f.open()
	f.replicated()
	removeDB(t, f.path(names[0]))
	f.awaitState(names[0], "gone")
	want := f.closeChecked()
	if err := os.RemoveAll(f.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	f.cfg.Exclude = []string{f.path(names[1])}
	for range 2 {
		f.open()
		makeRestedRows(t, f.path(names[3]), 1)
		f.replicated()
		f.close()
		got := catalogOf(t, f.root)
		for _, name := range names[:2] {
			if diff := cmp.Diff(want[f.path(name)], got[f.path(name)]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		if len(got) != 6 || got[f.path(names[3])].TXID < 2 {
			t.Errorf("%d entries, %+v", len(got), got[f.path(names[3])])
		}
	}

	// One that leaves the patterns while the process runs, and one that is back.
	f.open()
	makeRestedRows(t, f.path(names[0]), 1)
	f.replicated()
	set := litestream.MultiDBSettings{
		Patterns: f.cfg.Patterns, Exclude: []string{f.path(names[1]), f.path(names[2])}, MaxHotDatabases: f.cfg.MaxHotDatabases,
		ScanInterval: f.cfg.ScanInterval, HotDuration: f.cfg.HotDuration, Levels: litestream.DefaultCompactionLevels(),
		SnapshotInterval: time.Hour, SnapshotRetention: time.Hour, RetentionEnabled: true,
	}
	if err := f.m.Reconfigure(context.Background(), set); err != nil {
		t.Fatal(err)
	}
	makeRestedRows(t, f.path(names[3]), 1)
	f.replicated()
	f.close()
	got := catalogOf(t, f.root)
	if len(got) != 6 || got[f.path(names[2])].TXID == 0 || !got[f.path(names[0])].DeletedAt.IsZero() {
		t.Errorf("%d entries, left: %+v, back: %+v", len(got), got[f.path(names[2])], got[f.path(names[0])])
	}
}

// A database whose replica was deleted leaves the catalog.
func TestMultiDBCatalog_Removed(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.DeletedRetention = 24 * time.Hour
	names := f.rested(20)
	f.open()
	f.replicated()
	f.close()
	f.open()
	removeDB(t, f.path(names[7]))
	f.awaitState(names[7], "gone")
	f.advance(25 * time.Hour)
	f.awaitState(names[7], "")
	if got := f.closeChecked(); len(got) != 19 {
		t.Errorf("%d entries", len(got))
	}
	f.open()
	makeRestedRows(t, f.path(names[7]), 1)
	f.replicated()
	f.closeChecked()
}

// A process that could not write the catalog any more after it deleted a replica
// leaves no entry behind for ever. A database that came back keeps its own.
func TestMultiDBCatalog_RemovedUnwritten(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.DeletedRetention = 24 * time.Hour
	f.setup = func(m *litestream.MultiDBManager) { m.Tune(knob.Fleet{Catalog: time.Millisecond}) }
	names := f.rested(20)
	f.open()
	f.replicated()
	for _, name := range names[3:6] {
		removeDB(t, f.path(name))
		f.awaitState(name, "gone")
	}
	f.awaitCatalogIdle()
	f.breaks(func(replica, op string, _ int) error {
		if replica == "" && op == testutil.OpWriteObject {
			return errors.New("broken")
		}
		return nil
	})
	f.advance(25 * time.Hour)
	for _, name := range names[3:6] {
		f.awaitState(name, "")
	}
	f.close()
	f.breaks(nil)
	if n := len(catalogOf(t, f.root)); n != 20 {
		t.Fatalf("%d entries, want those from before", n)
	}
	makeRestedRows(t, f.path(names[4]), 2)
	f.open()
	f.replicated()
	if got := f.closeChecked(); len(got) != 18 {
		t.Errorf("%d entries, want 18: %+v", len(got), got)
	}
	if _, err := os.Stat(filepath.Join(f.cfg.StateDir, "catalog-removed")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was to be removed is still noted: %v", err)
	}
}

// Of two daemons that replicate to one place the second one to write says so,
// and the catalog stays readable.
func TestMultiDBCatalog_Rivals(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.setup = func(m *litestream.MultiDBManager) { m.Tune(knob.Fleet{Catalog: time.Millisecond}) }
	names := f.rested(30)
	f.open()
	f.replicated()
	f.awaitCatalogIdle()

	other := newMemFleet(t) // databases of its own, in the same root
	other.setup, other.root = f.setup, f.root
	for i := range 30 {
		makeRestedRows(t, other.path(fmt.Sprintf("o%03d.db", i)), 1)
	}
	other.open()
	other.replicated()
	other.awaitCatalogIdle()

	makeRestedRows(t, f.path(names[0]), 1)
	f.replicated()
	waitFor(t, "the first to notice", func() bool {
		return f.log.has("another process writes the catalog of this replica") == 1
	})
	f.advance(time.Hour)
	f.awaitCatalogIdle()
	f.close()
	got := catalogOf(t, f.root)
	if len(got) != 60 || got[f.path(names[0])].TXID != 2 {
		t.Errorf("%d entries, changed: %+v", len(got), got[f.path(names[0])])
	}
	other.close()
	if f.log.has("another process") != 1 {
		t.Error("said more than once")
	}
}

// What a process left that died between a part and its head is in nobody's way.
func TestMultiDBCatalog_Leftovers(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	names := f.rested(3)
	f.open()
	f.replicated()
	f.close()
	id, head := f.catalogHead()
	for n := range 3 {
		name := catalog.ObjectName(id, fmt.Sprintf("%x-%d", head.Generation+1, n))
		if err := f.root.WriteObject(context.Background(), name, []byte("left"), true); err != nil {
			t.Fatal(err)
		}
	}
	f.open()
	makeRestedRows(t, f.path(names[0]), 1)
	f.replicated()
	f.closeChecked()
	if f.log.has("another process") > 0 {
		t.Error("it was taken for another process")
	}
	f.advance(time.Hour)
	f.open()
	makeRestedRows(t, f.path(names[0]), 1)
	f.replicated()
	f.close()
	if names := f.root.Named(); len(names) > 8 || strings.Contains(strings.Join(names, " "), fmt.Sprintf("/%x-2", head.Generation+1)) {
		t.Errorf("objects are left: %v", names)
	}
}

// catalogHead returns the head of the one catalog of a fleet.
func (f *memFleet) catalogHead() (id string, head *catalog.Head) {
	f.t.Helper()
	b, err := f.root.ReadObject(context.Background(), catalog.IndexName)
	if err != nil {
		f.t.Fatal(err)
	}
	ids, err := catalog.DecodeIndex(b)
	if err != nil || len(ids) != 1 {
		f.t.Fatalf("index %v: %v", ids, err)
	}
	if b, err = f.root.ReadObject(context.Background(), catalog.HeadName(ids[0])); err != nil {
		f.t.Fatal(err)
	}
	if head, err = catalog.DecodeHead(b); err != nil {
		f.t.Fatal(err)
	}
	return ids[0], head
}

// A catalog that a newer version wrote is left alone.
func TestMultiDBCatalog_Newer(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	names := f.rested(3)
	f.open()
	f.replicated()
	f.close()
	id, _ := f.catalogHead()
	b, err := f.root.ReadObject(context.Background(), catalog.HeadName(id))
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Replace(b, []byte(" 1 "), []byte(" 7 "), 1)
	if err := f.root.WriteObject(context.Background(), catalog.HeadName(id), newer, false); err != nil {
		t.Fatal(err)
	}
	f.open()
	makeRestedRows(t, f.path(names[0]), 1)
	f.replicated()
	f.close()
	if got, err := f.root.ReadObject(context.Background(), catalog.HeadName(id)); err != nil || !bytes.Equal(got, newer) {
		t.Errorf("it was replaced: %v", err)
	}
	if n := f.log.has("it is not written by this one"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// A catalog that is lost is made anew, with what a listing finds; only where the
// replica was not empty.
func TestMultiDBCatalog_Lost(t *testing.T) {
	t.Parallel()
	f := newTestFleet(t)
	var log logLines
	log.t = t
	f.log = slog.NewTextHandler(&log, nil)
	for i := range 4 {
		makeRestedRows(t, f.path(i), 1)
	}
	replicate := func() {
		t.Helper()
		makeRestedRows(t, f.path(1), 1)
		if err := f.manager().SyncOnce(context.Background(), litestream.SyncOnceOptions{}); err != nil {
			t.Fatal(err)
		}
		f.close()
	}
	root := file.NewReplicaClient(f.replica)
	replicate()
	checkCatalog(t, root, f.m)
	if n := log.has("is made anew"); n != 0 {
		t.Errorf("said %d times of an empty replica", n)
	}
	removeDB(t, f.path(0))
	for _, dir := range []string{f.state, filepath.Join(f.replica, "!litestream", "catalog")} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	replicate()
	if n := log.has("is made anew"); n != 1 {
		t.Errorf("said %d times", n)
	}
	got := catalogOf(t, root)
	if e, ok := got[f.path(0)]; len(got) != 4 || !ok || e.Replica != "t000" || e.TXID != 0 {
		t.Errorf("%d entries, the deleted one: %+v", len(got), e)
	}
	if err := os.Remove(filepath.Join(f.state, "catalog")); err != nil {
		t.Fatal(err)
	}
	replicate()
	if got := catalogOf(t, root); len(got) != 4 || log.has("is made anew") != 1 {
		t.Errorf("%d entries", len(got))
	}
}

// Hosts that add their catalogs to the index at one moment overwrite each
// other's: the next write of each finds out.
func TestMultiDBCatalog_IndexRace(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.setup = func(m *litestream.MultiDBManager) { m.Tune(knob.Fleet{Catalog: time.Millisecond}) }
	names := f.rested(3)
	f.open()
	f.replicated()
	f.awaitCatalogIdle()
	id, _ := f.catalogHead()
	b, err := catalog.EncodeIndex([]string{"0123456789abcdef"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.root.WriteObject(t.Context(), catalog.IndexName, b, false); err != nil {
		t.Fatal(err)
	}
	makeRestedRows(t, f.path(names[0]), 1)
	f.replicated()
	f.close()
	if b, err = f.root.ReadObject(t.Context(), catalog.IndexName); err != nil {
		t.Fatal(err)
	}
	if got, err := catalog.DecodeIndex(b); err != nil || !slices.Equal(got, []string{"0123456789abcdef", id}) {
		t.Errorf("index %q, %v", got, err)
	}
}
