package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// fleet is one database of a fleet over many promotions: what the registry
// would keep of it, and its replica.
type fleet struct {
	tb     testing.TB
	path   string
	state  string
	client *testutil.MemClient
	pos    litestream.TenantPosition
	db     *litestream.DB
}

// newFleet makes a database that an application wrote to and closed, or that
// it holds open if params say so.
func newFleet(tb testing.TB) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, path: filepath.Join(tb.TempDir(), "t1.db"), state: tb.TempDir(), client: testutil.NewMemClient()}
	tb.Cleanup(func() {
		if f.db != nil {
			if err := f.db.Close(context.Background()); err != nil {
				tb.Error(err)
			}
		}
	})
	return f
}

// open makes the database hot, not seeded yet. Everything on disk counts as
// old, so that it may be read without a lock.
func (f *fleet) open() *litestream.DB {
	f.tb.Helper()
	db := litestream.NewTenantDB(f.path, f.state)
	db.Replica = litestream.NewReplicaWithClient(db, f.client)
	db.Checksums = true
	db.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
	if err := db.Open(f.tb.Context()); err != nil {
		f.tb.Fatal(err)
	}
	f.db = db
	return db
}

func (f *fleet) ok(err error) {
	f.tb.Helper()
	if err != nil {
		f.tb.Fatal(err)
	}
}

// promote opens the database with what the registry kept.
func (f *fleet) promote() *litestream.DB {
	f.tb.Helper()
	db := f.open()
	f.ok(db.Seed(f.pos.TXID, f.pos.Ledger))
	return db
}

func (f *fleet) sync() {
	f.tb.Helper()
	f.ok(f.db.Sync(f.tb.Context()))
	f.ok(f.db.Replica.Sync(f.tb.Context()))
}

func (f *fleet) detach() {
	f.tb.Helper()
	pos, err := f.db.Detach(f.tb.Context())
	f.ok(err)
	f.pos, f.db = pos, nil
}

// staged returns the files that lie in the state directory.
func (f *fleet) staged() (names []string) {
	f.tb.Helper()
	f.ok(filepath.WalkDir(f.state, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, f.state))
		}
		return err
	}))
	return names
}

// asked returns how many requests there were beside uploads.
func (f *fleet) asked() int {
	return f.client.Requests() - f.client.Count(testutil.OpWrite) - f.client.Count(testutil.OpWriteExclusive)
}

// files returns the number of pages of each level-0 file on the replica.
func (f *fleet) files() (pages []int) {
	f.tb.Helper()
	for txid := ltx.TXID(1); ; txid++ {
		r, err := f.client.OpenLTXFile(f.tb.Context(), 0, txid, txid, 0, 0)
		if errors.Is(err, litestream.ErrLTXFileNotFound) {
			return pages
		}
		f.ok(err)
		dec := ltx.NewDecoder(r)
		f.ok(dec.DecodeHeader())
		page, n := make([]byte, dec.Header().PageSize), 0
		for {
			var ph ltx.PageHeader
			if err := dec.DecodePage(&ph, page); err != nil {
				break
			}
			n++
		}
		f.ok(r.Close())
		pages = append(pages, n)
	}
}

// wantRestored compares the database with what a restore makes of its replica.
func (f *fleet) wantRestored() {
	f.tb.Helper()
	opt := litestream.NewRestoreOptions()
	opt.OutputPath = filepath.Join(f.tb.TempDir(), "restored.db")
	opt.IntegrityCheck = litestream.IntegrityCheckFull
	_, err := litestream.Restore(f.tb.Context(), f.client, opt)
	f.ok(err)
	const sum = "SELECT count(*) FROM (SELECT x FROM t)"
	if got, want := count(f.tb, opt.OutputPath, sum), count(f.tb, f.path, sum); got != want {
		f.tb.Errorf("restored %d rows, want %d", got, want)
	}
}

// write runs statements on a connection of its own, so that the database rests
// afterwards.
func (f *fleet) write(queries ...string) {
	f.tb.Helper()
	app := openApp(f.tb, f.path, "_journal_mode=wal")
	for _, q := range queries {
		mustExec(f.tb, app, q)
	}
	f.ok(app.Close())
}

const threePages = "CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(12000))"

func TestTenant_ColdAndHot(t *testing.T) {
	f := newFleet(t)
	f.write(threePages)
	db := f.open()
	f.ok(db.SeedEmpty())
	f.sync()
	for range 3 {
		if !f.db.Demotable() {
			t.Fatal("is not demotable")
		}
		f.detach()
		f.write("INSERT INTO t VALUES (1)")
		f.promote()
		f.sync()
	}
	// A seed does not tell when the last upload was, so that the own newest file is
	// looked for.
	if got, opens := f.asked(), f.client.Count(testutil.OpOpen); got != 3 || opens != 3 {
		t.Errorf("%d requests beside uploads, %d GETs, want one GET for each time that it became hot", got, opens)
	}
	pages := f.files()
	if len(pages) != 4 || pages[0] < 3 || pages[1] > 2 || pages[2] > 2 || pages[3] > 2 {
		t.Errorf("pages of the files: %v, want a full copy and three of what changed", pages)
	}
	f.wantRestored()
	f.detach()
	if got := f.staged(); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
	if !f.pos.Covered || f.pos.TXID != 4 || len(f.pos.Ledger) == 0 || !f.pos.Settled {
		t.Errorf("position %+v", f.pos)
	}
}

func TestTenant_Demotable(t *testing.T) {
	f := newFleet(t)
	f.write(threePages)
	db := f.open()
	f.ok(db.SeedEmpty())
	if db.Demotable() {
		t.Error("before the first look")
	}
	f.ok(db.Sync(t.Context()))
	if db.Demotable() {
		t.Error("before the upload")
	}
	pos, err := db.Detach(t.Context())
	if !errors.Is(err, litestream.ErrNotCovered) || pos.Covered || pos.TXID != 0 || pos.Ledger != nil {
		t.Errorf("detach: %+v, %v", pos, err)
	}
	f.ok(db.Replica.Sync(t.Context()))
	if !db.Demotable() {
		t.Error("not after the upload")
	}
	f.write("INSERT INTO t VALUES (1)")
	if db.Demotable() {
		t.Error("after a change")
	}
	f.sync()
	f.detach()
	if err := db.Sync(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("sync after detach: %v", err)
	}
}

func TestTenant_Seed(t *testing.T) {
	for _, tt := range []struct {
		name     string
		seed     func(f *fleet, db *litestream.DB) error
		listings bool
		full     bool // the next capture is a full copy
		txid     ltx.TXID
	}{
		{name: "known", txid: 2, seed: func(f *fleet, db *litestream.DB) error { return db.Seed(1, f.pos.Ledger) }},
		{name: "known, no ledger", txid: 2, full: true, seed: func(_ *fleet, db *litestream.DB) error { return db.Seed(1, nil) }},
		{name: "torn ledger", txid: 2, full: true, seed: func(f *fleet, db *litestream.DB) error {
			return db.Seed(1, f.pos.Ledger[:len(f.pos.Ledger)-1])
		}},
		{name: "damaged ledger", txid: 2, full: true, seed: func(f *fleet, db *litestream.DB) error {
			b := bytes.Clone(f.pos.Ledger)
			b[20] ^= 1
			return db.Seed(1, b)
		}},
		{name: "garbage", txid: 2, full: true, seed: func(_ *fleet, db *litestream.DB) error { return db.Seed(1, []byte("x")) }},
		{name: "unconfirmed, in step", txid: 2, listings: true, seed: func(f *fleet, db *litestream.DB) error {
			return db.SeedUnconfirmed(1, f.pos.Ledger)
		}},
		{name: "unconfirmed, unknown", txid: 2, full: true, listings: true, seed: func(_ *fleet, db *litestream.DB) error {
			return db.SeedUnconfirmed(0, nil)
		}},
		{name: "unconfirmed, replica is ahead", txid: 3, full: true, listings: true, seed: func(f *fleet, db *litestream.DB) error {
			b, _ := f.client.Data(0, 1, 1)
			f.client.Put(0, 2, 2, b, time.Now())
			return db.SeedUnconfirmed(1, f.pos.Ledger)
		}},
		{name: "unconfirmed, replica was emptied", txid: 1, full: true, listings: true, seed: func(f *fleet, db *litestream.DB) error {
			if err := f.client.DeleteAll(context.Background()); err != nil {
				return err
			}
			return db.SeedUnconfirmed(1, f.pos.Ledger)
		}},
		{name: "not seeded", txid: 2, full: true, listings: true, seed: func(*fleet, *litestream.DB) error { return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t)
			f.write(threePages)
			db := f.open()
			f.ok(db.SeedEmpty())
			f.sync()
			f.detach()
			f.write("INSERT INTO t VALUES (1)")
			db = f.open()
			f.ok(tt.seed(f, db))
			f.client.ResetCounts()
			if tt.listings {
				f.ok(db.Sync(t.Context()))
				if pos := db.Pos(); pos.TXID > 1 {
					t.Errorf("captured %s before the storage was asked", pos.TXID)
				}
				f.ok(db.Replica.Sync(t.Context()))
			}
			f.sync()
			if got := db.Pos().TXID; got != tt.txid {
				t.Errorf("at %s, want %s", got, tt.txid)
			}
			if got := f.client.Count(testutil.OpList) > 0; got != tt.listings {
				t.Errorf("listed %v, want %v", got, tt.listings)
			}
			pages := f.files()
			if full := pages[len(pages)-1] >= 3; full != tt.full {
				t.Errorf("pages of the files %v, want a full copy %v", pages, tt.full)
			}
			f.detach()
			if got := f.staged(); len(got) > 0 {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}
