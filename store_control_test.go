package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// controlStore is an open store of databases whose replicas lie in memory and
// may hang.
type controlStore struct {
	*litestream.Store
	dir  string
	gate gate
	mem  map[string]*testutil.MemClient
}

func newControlStore(t *testing.T, names ...string) *controlStore {
	t.Helper()
	s := &controlStore{dir: t.TempDir(), mem: make(map[string]*testutil.MemClient)}
	var dbs []*litestream.DB
	for _, name := range names {
		makeRestedRows(t, s.path(name), 1)
		dbs = append(dbs, s.db(name))
	}
	s.Store = litestream.NewStore(dbs, nil)
	s.ShutdownSyncInterval = 10 * time.Millisecond
	if err := s.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *controlStore) path(name string) string { return filepath.Join(s.dir, name) }

func (s *controlStore) db(name string) *litestream.DB {
	if s.mem[name] == nil {
		s.mem[name] = testutil.NewMemClient()
	}
	db := litestream.NewDB(s.path(name))
	db.MonitorInterval = time.Hour
	db.Replica = litestream.NewReplicaWithClient(db, gateClient{hangingClient{s.mem[name], new(atomic.Bool)}, &s.gate})
	db.Replica.SyncInterval = time.Hour
	return db
}

func (s *controlStore) rows(t *testing.T, name string, want int) {
	t.Helper()
	if got := count(t, restoredFrom(t, s.mem[name]), "SELECT count(*) FROM t"); got != want {
		t.Errorf("restored %d rows of %s, want %d", got, name, want)
	}
}

// TestStore_SyncDB captures at once, and with wait returns when the replica has
// it, though nothing would be looked at for an hour.
func TestStore_SyncDB(t *testing.T) {
	s := newControlStore(t, "a.db")
	ctx := t.Context()
	app := openApp(t, s.path("a.db"), "_journal_mode=wal")
	for i := range 5 {
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		res, err := s.SyncDB(ctx, s.path("a.db"), true)
		if err != nil || res.TXID == 0 || res.Acked != res.TXID || i > 0 && res.TXID != res.Before+1 {
			t.Fatalf("got %+v, %v", res, err)
		}
		s.rows(t, "a.db", 2+i)
	}
	if res, err := s.SyncDB(ctx, s.path("a.db"), true); err != nil || res.TXID != res.Before {
		t.Errorf("without a change: got %+v, %v", res, err)
	}
	s.gate.shut()
	mustExec(t, app, "INSERT INTO t VALUES (1)")
	if res, err := s.SyncDB(ctx, s.path("a.db"), false); err != nil || res.TXID != res.Before+1 || res.Acked >= res.TXID {
		t.Errorf("replica hangs, not waiting: got %+v, %v", res, err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if res, err := s.SyncDB(short, s.path("a.db"), true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("replica hangs: got %+v, %v; want a timeout", res, err)
	}
	s.gate.open()
	if _, err := s.SyncDB(ctx, s.path("a.db"), true); err != nil {
		t.Errorf("replica is back: %v", err)
	}
	s.rows(t, "a.db", 7)
	if _, err := s.SyncDB(ctx, s.path("none"), true); !errors.Is(err, litestream.ErrDatabaseNotFound) {
		t.Errorf("unknown: %v", err)
	}
}

// TestStore_StopStart stops a database and starts it again: what was written
// meanwhile is replicated then, and its TXIDs go on.
func TestStore_StopStart(t *testing.T) {
	s := newControlStore(t, "a.db", "b.db")
	ctx, path := t.Context(), s.path("a.db")
	app := openApp(t, path, "_journal_mode=wal")
	for i := range 3 {
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		info, changed, err := s.StopDB(ctx, path)
		if err != nil || !changed || !info.Stopped || info.Status.TXID == 0 {
			t.Fatalf("stop: %+v, %t, %v", info, changed, err)
		}
		s.rows(t, "a.db", 2+2*i)
		if again, changed, err := s.StopDB(ctx, path); err != nil || changed || again.Status.TXID != info.Status.TXID {
			t.Errorf("second stop: %+v, %t, %v", again, changed, err)
		}
		if _, err := s.SyncDB(ctx, path, true); !errors.Is(err, litestream.ErrDatabaseNotOpen) {
			t.Errorf("sync: %v", err)
		}
		if infos := s.DBInfos(); len(infos) != 2 || !infos[0].Stopped || infos[1].Stopped {
			t.Errorf("infos: %+v", infos)
		}
		if err := s.AddDB(ctx, s.db("a.db")); err == nil || !strings.Contains(err.Error(), "was stopped") {
			t.Errorf("add: %v", err)
		}
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		if _, changed, err := s.StartDB(ctx, path); err != nil || !changed {
			t.Fatalf("start: %t, %v", changed, err)
		}
		if _, changed, err := s.StartDB(ctx, path); err != nil || changed {
			t.Errorf("second start: %t, %v", changed, err)
		}
		res, err := s.SyncDB(ctx, path, true)
		if err != nil || res.TXID <= info.Status.TXID {
			t.Fatalf("sync: %+v, %v; want a TXID behind %d", res, err, info.Status.TXID)
		}
		s.rows(t, "a.db", 3+2*i)
	}
	for name, fn := range map[string]func() error{
		"start":      func() error { _, _, err := s.StartDB(ctx, s.path("none")); return err },
		"stop":       func() error { _, _, err := s.StopDB(ctx, s.path("none")); return err },
		"unregister": func() error { _, err := s.UnregisterDB(ctx, s.path("none")); return err },
	} {
		if err := fn(); !errors.Is(err, litestream.ErrDatabaseNotFound) {
			t.Errorf("%s of an unknown one: %v", name, err)
		}
	}
}

// TestStore_StartMissing starts a database whose file is gone by now: its
// position stays known.
func TestStore_StartMissing(t *testing.T) {
	s := newControlStore(t, "a.db")
	ctx, path := t.Context(), s.path("a.db")
	stopped, _, err := s.StopDB(ctx, path)
	if err != nil || stopped.Status.TXID == 0 {
		t.Fatalf("stop: %+v, %v", stopped, err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if _, _, err := s.StartDB(ctx, path); err != nil {
		t.Fatal(err)
	}
	var info litestream.DBInfo
	waitFor(t, "the first look", func() bool {
		info, _, err = s.StartDB(ctx, path)
		return err != nil || info.Status.State == litestream.SyncStateMissing
	})
	if err != nil || info.Status.TXID != stopped.Status.TXID {
		t.Errorf("second start: TXID %d, %v; want %d", info.Status.TXID, err, stopped.Status.TXID)
	}
}

// TestStore_StopHung stops a database whose replica hangs: it is stopped in its
// time, and after a start nothing is missing.
func TestStore_StopHung(t *testing.T) {
	s := newControlStore(t, "a.db")
	path := s.path("a.db")
	app := openApp(t, path, "_journal_mode=wal")
	if _, err := s.SyncDB(t.Context(), path, true); err != nil {
		t.Fatal(err)
	}
	s.gate.shut()
	mustExec(t, app, "INSERT INTO t VALUES (1)")
	if _, err := s.SyncDB(t.Context(), path, false); err != nil { // an upload hangs from now on
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	info, changed, err := s.StopDB(ctx, path)
	if err == nil || !changed || !info.Stopped || !strings.Contains(err.Error(), "1 files") {
		t.Fatalf("stop: %+v, %t, %v", info, changed, err)
	}
	s.gate.open()
	if _, _, err := s.StartDB(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SyncDB(t.Context(), path, true); err != nil {
		t.Fatal(err)
	}
	s.rows(t, "a.db", 2)
}

// TestStore_ControlParallel stops, starts and syncs one database from many
// sides at a time: every call comes to an end, and nothing is lost.
func TestStore_ControlParallel(t *testing.T) {
	s := newControlStore(t, "a.db")
	path := s.path("a.db")
	app := openApp(t, path, "_journal_mode=wal")
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for range 5 {
				var err error
				switch i % 3 {
				case 0:
					_, _, err = s.StopDB(t.Context(), path)
				case 1:
					_, _, err = s.StartDB(t.Context(), path)
				default:
					_, err = s.SyncDB(t.Context(), path, true)
				}
				if err != nil && !errors.Is(err, litestream.ErrDatabaseNotOpen) && !errors.Is(err, os.ErrClosed) {
					t.Error(err)
				}
			}
		})
	}
	const rows = 50
	for range rows {
		mustExec(t, app, "INSERT INTO t VALUES (1)")
	}
	wg.Wait()
	if _, _, err := s.StartDB(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SyncDB(t.Context(), path, true); err != nil {
		t.Fatal(err)
	}
	s.rows(t, "a.db", 1+rows)
}

// TestStore_RegisterDB refuses what would make two databases one.
func TestStore_RegisterDB(t *testing.T) {
	s := newControlStore(t, "a.db")
	replicas := t.TempDir()
	db := func(name, replica string) *litestream.DB {
		db := litestream.NewDB(s.path(name))
		db.Replica = litestream.NewReplicaWithClient(db, file.NewReplicaClient(filepath.Join(replicas, replica)))
		return db
	}
	if err := s.RegisterDB(t.Context(), db("new.db", "r1")); err != nil { // there is no file yet
		t.Fatal(err)
	}
	makeRestedRows(t, s.path("new.db"), 3)
	if _, err := s.SyncDB(t.Context(), s.path("new.db"), true); err != nil {
		t.Fatal(err)
	}
	if got := count(t, restored(t, filepath.Join(replicas, "r1")), "SELECT count(*) FROM t"); got != 3 {
		t.Errorf("restored %d rows, want 3", got)
	}
	if err := os.Link(s.path("a.db"), s.path("hard.db")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(s.path("a.db"), s.path("soft.db")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, replica, want string }{
		{"c.db", "r1", "belongs to database " + s.path("new.db")},
		{"hard.db", "r2", "is the same file as " + s.path("a.db")},
		{"soft.db", "r2", "is the same file as " + s.path("a.db")},
		{"a.db", "r2", s.path("a.db") + " is replicated to mem already"},
	} {
		if err := s.RegisterDB(t.Context(), db(tt.name, tt.replica)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s to %s: got %v, want %q", tt.name, tt.replica, err, tt.want)
		}
	}
	if _, _, err := s.StopDB(t.Context(), s.path("new.db")); err != nil {
		t.Fatal(err)
	}
	if err := s.RegisterDB(t.Context(), db("c.db", "r1")); err == nil {
		t.Error("the replica of a stopped database was given away")
	}
	if info, err := s.UnregisterDB(t.Context(), s.path("new.db")); err != nil || info.Status.TXID == 0 {
		t.Errorf("unregister: %+v, %v", info, err)
	}
	if err := s.RegisterDB(t.Context(), db("new.db", "r1")); err != nil {
		t.Errorf("register again: %v", err)
	}
}

// TestStore_SyncAll tells what it did, also where replicas hang or fail.
func TestStore_SyncAll(t *testing.T) {
	names := []string{"a.db", "b.db", "c.db", "d.db"}
	s := newControlStore(t, names...)
	if _, _, err := s.StopDB(t.Context(), s.path("d.db")); err != nil {
		t.Fatal(err)
	}
	if res := s.SyncAll(t.Context(), true); res.Databases != 3 || res.Synced != 3 || res.Failed+res.Left != 0 {
		t.Errorf("got %+v", res)
	}
	for _, name := range names[:3] {
		s.rows(t, name, 1)
	}
	s.gate.shut() // before the change, which the store may notice by itself
	for _, name := range names[:3] {
		makeRestedRows(t, s.path(name), 1)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	res := s.SyncAll(ctx, true)
	if res.Databases != 3 || res.Left != 3 || len(res.Errors) != 3 || !strings.Contains(fmt.Sprint(res.Errors), s.path("a.db")) {
		t.Errorf("replicas hang: got %+v", res)
	}
	s.gate.open()
}

// TestDB_Renew holds that a database which is started again has the settings
// that it had.
func TestDB_Renew(t *testing.T) {
	db := litestream.NewDB("/x")
	db.SetMetaPath("/meta")
	db.Replica = litestream.NewReplicaWithClient(db, testutil.NewMemClient())
	set := func(v reflect.Value) (names []string) {
		for i := range v.NumField() {
			name, f := v.Type().Field(i).Name, v.Field(i)
			if !f.CanSet() || name == "Replica" || name == "Client" || name == "Logger" {
				continue
			}
			switch f.Kind() {
			case reflect.Int, reflect.Int64:
				f.SetInt(12345)
			case reflect.Bool:
				f.SetBool(!f.Bool())
			default:
				t.Errorf("%s: this test does not know how to set a %s", name, f.Kind())
			}
			names = append(names, name)
		}
		return names
	}
	fields := set(reflect.ValueOf(db).Elem())
	replicaFields := set(reflect.ValueOf(db.Replica).Elem())
	n := db.Renew()
	check := func(names []string, a, b any) {
		for _, name := range names {
			if got, want := reflect.ValueOf(a).Elem().FieldByName(name).Interface(), reflect.ValueOf(b).Elem().FieldByName(name).Interface(); got != want {
				t.Errorf("%s is %v, want %v", name, got, want)
			}
		}
	}
	check(fields, n, db)
	check(replicaFields, n.Replica, db.Replica)
	if n.MetaPath() != "/meta" || n.Path() != "/x" || n.Replica.Client != db.Replica.Client || n.Replica.DB() != n {
		t.Errorf("got %s, %s, %v", n.Path(), n.MetaPath(), n.Replica)
	}
}
