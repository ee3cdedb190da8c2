package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

func childContext() context.Context { return context.Background() }

// childTenant opens a database of a fleet in a child process, whose state and
// replica lie beside the folder of the database.
func childTenant(path string) (*litestream.DB, error) {
	base := filepath.Dir(filepath.Dir(path))
	state := filepath.Join(base, "state")
	if err := litestream.SweepStaging(state); err != nil {
		return nil, err
	}
	db := litestream.NewTenantDB(path, state)
	db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(filepath.Join(base, "replica")))
	db.SetConnections(litestream.NewConnectionPool(litestream.ConnectionPoolOptions{}))
	if err := db.Open(childContext()); err != nil {
		return nil, err
	}
	return db, db.SeedEmpty()
}

// replicate does what a line asks a child to do with its database.
func replicate(db *litestream.DB, line string) error {
	switch line {
	case "sync":
		return errors.Join(db.SyncFully(childContext()), db.Replica.Sync(childContext()))
	case "settle": // until what was written is old enough to prove something
		<-time.NewTimer(2100 * time.Millisecond).C
		return db.Sync(childContext())
	case "look":
		return db.Sync(childContext())
	default:
		return fmt.Errorf("unknown request %s", line)
	}
}

// fileFact is what must not change of a file beside a tenant.
type fileFact struct {
	name string
	mode os.FileMode
	sys  string // owner, group and inode
}

func listDir(tb testing.TB, dir string) (facts []fileFact) {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			tb.Fatal(err)
		}
		facts = append(facts, fileFact{name: e.Name(), mode: info.Mode(), sys: ownerOf(info)})
	}
	return facts
}

// live makes a database of a fleet hot with the clock as it is.
func (f *fleet) live(pool *litestream.ConnectionPool) *litestream.DB {
	f.tb.Helper()
	f.ok(litestream.SweepStaging(f.state))
	db := f.open()
	db.SetClock(time.Now)
	db.SetConnections(pool)
	f.ok(db.SeedEmpty())
	return db
}

// first captures a database whose application has just written to it.
func (f *fleet) first() {
	f.tb.Helper()
	for range 3 { // a young file disturbs the first look
		if f.sync(); f.db.Pos().TXID == 1 {
			return
		}
	}
	f.tb.Fatalf("at %s after three looks, want 1", f.db.Pos().TXID)
}

// A database that its application has open is captured and then tailed without
// a connection.
func TestTenant_LiveLog(t *testing.T) {
	f := newFleet(t)
	app := startChild(t, "app", f.path)
	app.exec("PRAGMA journal_mode=wal", "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
	before := listDir(t, filepath.Dir(f.path))
	pool := litestream.NewConnectionPool(litestream.ConnectionPoolOptions{})
	db := f.live(pool)
	f.first()
	for i := range 20 {
		app.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		f.sync()
		if n := db.OpenFiles() + openDescriptors(t, f.path); n != 0 {
			t.Fatalf("%d descriptors are open between two looks, want none", n)
		}
	}
	if s := pool.Stats(); s.Opened != 0 {
		t.Errorf("%+v, want no connection", s)
	}
	if got := db.Pos().TXID; got != 21 {
		t.Errorf("at %s, want 21", got)
	}
	if after := listDir(t, filepath.Dir(f.path)); !slices.Equal(before, after) {
		t.Errorf("the folder holds %v, want %v", after, before)
	}
	app.close()
	if got := listDir(t, filepath.Dir(f.path)); len(got) != 1 {
		t.Errorf("the application left %v when it closed, want the database alone", got)
	}
	f.wantRestored()
}
