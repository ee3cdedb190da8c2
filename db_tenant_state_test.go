package litestream_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// create makes the database with a page size of its own.
func (f *fleet) create(pageSize int) {
	f.tb.Helper()
	app := openApp(f.tb, f.path, "")
	mustExec(f.tb, app, fmt.Sprintf("PRAGMA page_size=%d; CREATE TABLE t (x)", pageSize))
	f.ok(app.Close())
}

// While an application holds the database open and commits, each promotion
// takes only what was committed since the last one.
func TestTenant_Tails(t *testing.T) {
	f := newFleet(t)
	app := openApp(t, f.path, "_journal_mode=wal")
	mustExec(t, app, threePages)
	f.ok(f.open().SeedEmpty())
	f.sync()
	for range 3 {
		f.detach()
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		f.promote()
		f.sync()
	}
	if pages := f.files(); len(pages) != 4 || pages[1] != 1 || pages[2] != 1 || pages[3] != 1 {
		t.Errorf("pages of the files: %v, want a full copy and three of one page", pages)
	}
	f.wantRestored()
}

// The ledger of a large database lies in a file, and the registry says which.
func TestTenant_LargeLedger(t *testing.T) {
	const rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 4500) INSERT INTO t SELECT randomblob(400) FROM n"
	f := newFleet(t)
	f.create(512)
	f.write(rows)
	f.ok(f.open().SeedEmpty())
	f.sync()
	f.detach()
	if len(f.pos.Ledger) > 64 {
		t.Errorf("the registry gets %d bytes", len(f.pos.Ledger))
	}
	if got := f.staged(); len(got) != 1 || !strings.HasPrefix(got[0], "/ledgers/") {
		t.Errorf("staged: %v, want one ledger", got)
	}
	f.ok(litestream.SweepStaging(f.state)) // as a new process does
	first := f.pos
	f.write("INSERT INTO t VALUES (1)")
	f.promote()
	f.sync()
	f.detach()
	if pages := f.files(); len(pages) != 2 || pages[1] > 4 {
		t.Errorf("pages of the files: %v, want a full copy and a small one", pages)
	}
	// The registry lost its last write: the file is not the one it means.
	last := f.pos
	f.pos = first
	f.pos.TXID = last.TXID
	f.write("INSERT INTO t VALUES (2)")
	f.promote()
	f.sync()
	if pages := f.files(); len(pages) != 3 || pages[2] < 4000 {
		t.Errorf("pages of the files: %v, want a full copy at the end", pages)
	}
	f.wantRestored()
	// Once it is small, the file goes.
	f.write("DELETE FROM t", "VACUUM")
	f.sync()
	f.detach()
	if got := f.staged(); len(got) != 0 {
		t.Errorf("staged: %v, want nothing", got)
	}
	f.ok(litestream.RemoveTenantLedger(f.state, f.path))
}

// A process that is killed leaves staged files and a registry that is behind.
// The next one throws the files away, asks the storage and goes on from there.
func TestTenant_KilledProcess(t *testing.T) {
	for _, uploaded := range []bool{false, true} {
		t.Run(fmt.Sprint("uploaded=", uploaded), func(t *testing.T) {
			f := newFleet(t)
			f.write(threePages)
			f.ok(f.open().SeedEmpty())
			f.sync()
			f.detach()
			f.write("INSERT INTO t VALUES (1)")
			killed := f.promote()
			f.ok(killed.Sync(t.Context()))
			if uploaded {
				f.ok(killed.Replica.Sync(t.Context()))
			}
			if got, want := len(f.staged()), map[bool]int{true: 0, false: 1}[uploaded]; got != want {
				t.Fatalf("%d files staged, want %d", got, want)
			}
			f.ok(litestream.SweepStaging(f.state))
			if got := f.staged(); len(got) != 0 {
				t.Fatalf("staged after the sweep: %v", got)
			}
			f.write("INSERT INTO t VALUES (2)")
			db := f.open()
			f.ok(db.SeedUnconfirmed(f.pos.TXID, f.pos.Ledger))
			f.ok(db.Replica.Sync(t.Context()))
			f.sync()
			want, full := ltx.TXID(2), false
			if uploaded {
				want, full = 3, true // the registry's ledger is older than the storage
			}
			pages := f.files()
			if db.Pos().TXID != want || len(pages) != int(want) || (pages[want-1] >= 3) != full {
				t.Errorf("at %s with pages %v, want %s, a full copy %v", db.Pos().TXID, pages, want, full)
			}
			f.wantRestored()
		})
	}
}

// Whatever lies at the path the next time is replicated as it is.
func TestTenant_Replaced(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(f *fleet)
	}{
		{"recreated", func(f *fleet) {
			f.ok(os.Remove(f.path))
			f.write("CREATE TABLE t (x); INSERT INTO t VALUES (7), (8)")
		}},
		{"another page size", func(f *fleet) {
			f.ok(os.Remove(f.path))
			f.create(8192)
			f.write("INSERT INTO t VALUES (7), (8)")
		}},
		{"renamed over it", func(f *fleet) {
			other := &fleet{tb: f.tb, path: f.path + ".new"}
			other.write("CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(50000)), (8)")
			f.ok(os.Rename(other.path, f.path))
		}},
		{"copied over it", func(f *fleet) {
			other := &fleet{tb: f.tb, path: f.path + ".new"}
			other.write("CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (9)")
			b, err := os.ReadFile(other.path)
			f.ok(err)
			f.ok(os.WriteFile(f.path, b, 0o600))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t)
			f.write(threePages)
			f.ok(f.open().SeedEmpty())
			f.sync()
			f.detach()
			tt.change(f)
			f.promote()
			f.sync()
			f.wantRestored()
			tt.change(f) // while it is hot
			f.sync()
			f.wantRestored()
			f.detach()
		})
	}
}

func TestTenant_Deleted(t *testing.T) {
	f := newFleet(t)
	f.write(threePages)
	f.ok(f.open().SeedEmpty())
	f.sync()
	f.ok(os.Remove(f.path))
	f.sync()
	if st := f.db.Status(); st.State != litestream.SyncStateMissing || f.db.Demotable() {
		t.Errorf("state %s, demotable %v", st.State, f.db.Demotable())
	}
	f.detach()
	if f.pos.TXID != 1 || !f.pos.Covered {
		t.Errorf("position %+v", f.pos)
	}
}

// No acknowledged file stays while a database is hot; all files are our own
// user's; nothing lies beside the database.
func TestTenant_StagedFiles(t *testing.T) {
	f := newFleet(t)
	app := openApp(t, f.path, "_journal_mode=wal&_synchronous=OFF")
	mustExec(t, app, threePages)
	f.ok(os.Chmod(f.path, 0o666))
	db := f.open()
	f.ok(db.SeedEmpty())
	for range 70 {
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		f.sync()
	}
	if got := len(f.staged()); got != 0 {
		t.Errorf("%d files staged, want none", got)
	}
	snap, err := db.StageSnapshot(t.Context())
	f.ok(err)
	f.ok(filepath.WalkDir(filepath.Join(f.state, "staging"), func(path string, e fs.DirEntry, err error) error {
		f.ok(err)
		info, err := e.Info()
		f.ok(err)
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[e.IsDir()]; info.Mode().Perm() != want {
			t.Errorf("%s has mode %s, want %s", path, info.Mode().Perm(), want)
		}
		return nil
	}))
	f.ok(snap.Close())
	f.detach()
	if got := f.staged(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	beside, err := filepath.Glob(filepath.Dir(f.path) + "/*")
	f.ok(err)
	hidden, err := filepath.Glob(filepath.Dir(f.path) + "/.*")
	f.ok(err)
	if len(beside) != 3 || len(hidden) != 0 {
		t.Errorf("beside the database: %v %v, want its -wal and -shm", beside, hidden)
	}
}

// A storage that is down keeps a known database from nothing, and an unknown
// one from being captured.
func TestTenant_StorageDown(t *testing.T) {
	f := newFleet(t)
	f.write(threePages)
	f.ok(f.open().SeedEmpty())
	f.sync()
	f.detach()
	down := errors.New("down")
	f.client.Fail = func(string, int, ltx.TXID, ltx.TXID) error { return down }
	f.write("INSERT INTO t VALUES (1)")
	db := f.promote()
	f.ok(db.Sync(t.Context()))
	if err := db.Replica.Sync(t.Context()); !errors.Is(err, down) || db.Pos().TXID != 2 {
		t.Errorf("at %s, %v", db.Pos().TXID, err)
	}
	f.ok(db.Close(t.Context()))
	if got := f.staged(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	db = f.open()
	f.ok(db.SeedUnconfirmed(f.pos.TXID, f.pos.Ledger))
	if err := db.Replica.Sync(t.Context()); !errors.Is(err, down) {
		t.Fatal(err)
	}
	f.ok(db.Sync(t.Context()))
	if got := db.Pos().TXID; got != 1 {
		t.Errorf("captured %s before the storage was asked", got)
	}
	if err := db.SyncFully(t.Context()); err == nil {
		t.Error("the last sync does not say that it waits")
	}
	f.client.Fail = nil
	f.ok(db.Replica.Sync(t.Context()))
	f.sync()
	f.wantRestored()
	if err := db.Seed(1, nil); err == nil {
		t.Error("took a second seed")
	}
}

func TestTenant_Metrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	f := newFleet(t)
	app := openApp(t, f.path, "_journal_mode=wal")
	mustExec(t, app, threePages)
	db := f.open()
	db.SetFleetMetrics(litestream.NewAggregatedMetrics(reg, 0))
	f.ok(db.SeedEmpty())
	f.sync()
	mustExec(t, app, "INSERT INTO t VALUES (1)")
	f.sync()
	families, err := reg.Gather()
	f.ok(err)
	got := make(map[string]float64)
	for _, fam := range families {
		for _, m := range fam.GetMetric() {
			got[fam.GetName()] += m.GetCounter().GetValue()
		}
	}
	if n := got["litestream_multidb_captures_total"]; n != 2 {
		t.Errorf("%v captures, want 2", n)
	}
	if n := got["litestream_multidb_wal_bytes_total"]; n < 4096 {
		t.Errorf("%v bytes of log", n)
	}
}

// What a hot database holds in memory.
func TestTenant_Resident(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector changes what memory costs")
	}
	const n = 1000
	paths, state := smallTenants(t, n), t.TempDir()
	if err := litestream.SweepStaging(state); err != nil {
		t.Fatal(err)
	}
	store := litestream.NewStore(nil, nil)
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	base := file.NewReplicaClient(filepath.Join(state, "replica"))
	held := make([]any, 0, 2*n)
	dbs := make([]*litestream.DB, n)
	before := heapInUse()
	for i, path := range paths {
		db := openTenant(t, path, state)
		db.Replica.Client = base
		dbs[i] = db
		held = append(held, db, litestream.ManageTenant(store, db))
		if err := db.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	each := (heapInUse() - before) / n
	t.Logf("%d bytes each", each)
	if each > 50<<10 {
		t.Errorf("%d bytes each, want at most 50 KiB", each)
	}
	runtime.KeepAlive(held)
	if err := store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, db := range dbs {
		if db.Pos().TXID != 1 {
			t.Fatal("nothing was captured")
		}
		if err := db.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
