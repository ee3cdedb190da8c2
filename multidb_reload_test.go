package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
)

// settings returns those that the fleet was started with.
func (f *memFleet) settings() litestream.MultiDBSettings {
	m := f.m
	return litestream.MultiDBSettings{
		Patterns: f.cfg.Patterns, Exclude: f.cfg.Exclude,
		MaxHotDatabases: f.cfg.MaxHotDatabases, ScanInterval: f.cfg.ScanInterval, HotDuration: f.cfg.HotDuration,
		DeletedRetention: f.cfg.DeletedRetention, Checksums: f.cfg.Checksums, Drill: f.cfg.Drill,
		Levels: m.Levels, SnapshotInterval: m.SnapshotInterval, SnapshotRetention: m.SnapshotRetention,
		L0Retention: m.L0Retention, RetentionEnabled: m.RetentionEnabled,
	}
}

func (f *memFleet) reconfigure(c litestream.MultiDBSettings) {
	f.t.Helper()
	if err := f.m.Reconfigure(context.Background(), c); err != nil {
		f.t.Fatal(err)
	}
}

// A database that is excluded is synced a last time, hot as it is, and
// forgotten; its replica stays. The others notice nothing. Once it is matched
// again it is a new one, and its replica goes on.
func TestMultiDBManager_ReconfigurePatterns(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.HotDuration = time.Hour
	f.rested(20)
	insert := appWith(t, f.path("busy.db"), 1)
	stays := appWith(t, f.path("stays.db"), 1)
	f.open()
	f.awaitState("busy.db", "hot")
	f.awaitState("stays.db", "hot")
	waitFor(t, "first backups", func() bool { return f.client("stays").Requests() > 0 && len(f.client("stays").Files(0)) > 0 })
	insert(5)
	stays(2)
	c := f.settings()
	c.Exclude = []string{f.dir + "/busy.db", f.dir + "/t00*.db"}
	f.reconfigure(c)
	f.rows("busy", 6)
	for _, name := range []string{"busy.db", "t001.db"} {
		if state, _ := f.m.TenantState(f.path(name)); state != "" {
			t.Errorf("%s is still known, as %s", name, state)
		}
	}
	f.awaitState("stays.db", "hot")
	if n := len(f.client("stays").Files(litestream.SnapshotLevel)); n > 0 {
		t.Errorf("%d snapshots of the database that stays", n)
	}
	insert(1)
	f.resetCounts()
	f.scans(2)
	if n := f.client("busy").Requests() + f.client("t001").Requests(); n > 0 {
		t.Errorf("%d requests for databases that were let go", n)
	}
	f.rows("busy", 6)

	c.Exclude = nil
	c.HotDuration, c.ScanInterval = 50*time.Millisecond, 30*time.Millisecond
	f.reconfigure(c)
	waitFor(t, "all to be clean", func() bool { return f.m.Counts()["clean"] == 22 })
	f.rows("busy", 7)
	f.rows("stays", 3)
	f.rows("t001", 1)
	f.close()
	f.open() // with the patterns of the start, which are the same
	f.replicated()
	f.rows("busy", 7)
	f.close()
}

// A pattern that gives a database another place has it backed up there from the
// beginning: what the registry knows is about the old one.
func TestMultiDBManager_ReconfigureMoves(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.Patterns = []string{f.dir + "/p*.db"}
	insert := appWith(t, f.path("p1.db"), 3)
	makeRestedRows(t, f.path("p2.db"), 2)
	makeRestedRows(t, f.path("q.db"), 1)
	f.open()
	f.replicated()
	insert(1)
	c := f.settings()
	for round := range 3 { // there, back and there again, where files lie already
		c.Patterns = []string{f.dir + "/*.db"}
		f.reconfigure(c)
		insert(1)
		f.replicated()
		f.rows("p1", 5+2*round)
		f.rows("p2", 2)
		f.rows("q", 1)
		f.rows("1", 4+2*round)
		c.Patterns = []string{f.dir + "/p*.db"}
		f.reconfigure(c)
		insert(1)
		f.replicated()
		f.rows("1", 6+2*round)
	}
	f.close()
}

// Settings that cannot be used leave everything as it is.
func TestMultiDBManager_ReconfigureRefused(t *testing.T) {
	f := newMemFleet(t)
	f.rested(3)
	if err := os.MkdirAll(f.path("sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.replicated()
	for want, change := range map[string]func(*litestream.MultiDBSettings){
		"max-hot-databases: must be greater than 0":  func(c *litestream.MultiDBSettings) { c.MaxHotDatabases = 0 },
		"patterns: at least one pattern is required": func(c *litestream.MultiDBSettings) { c.Patterns = nil },
		"variable {{1}} has no value":                func(c *litestream.MultiDBSettings) { c.Patterns = []string{f.path("t000.db")} },
		"compaction levels must begin with level 0":  func(c *litestream.MultiDBSettings) { c.Levels = nil },
		"has the replica path of another database": func(c *litestream.MultiDBSettings) {
			c.Patterns = []string{f.dir + "/*0.db", f.dir + "/*1.db"}
		},
	} {
		c := f.settings()
		change(&c)
		checked, err := f.m.CheckSettings(context.Background(), c), f.m.Reconfigure(context.Background(), c)
		if checked == nil || err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(checked.Error(), want) {
			t.Errorf("got %v and %v, want %q", checked, err, want)
		}
	}
	f.resetCounts()
	f.scans(2)
	if n := f.requests(); n > 0 || f.m.Counts()["clean"] != 3 {
		t.Errorf("%d requests, %v", n, f.m.Counts())
	}
	c := f.settings()
	m := f.m
	f.close()
	if err := m.Reconfigure(context.Background(), c); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A replica that hangs keeps no database from being let go: the error names
// what was not sent.
func TestMultiDBManager_ReconfigureReplicaHangs(t *testing.T) {
	f := newMemFleet(t)
	f.rested(2)
	insert := appWith(t, f.path("busy.db"), 1)
	f.setup = func(m *litestream.MultiDBManager) { m.Store().ShutdownSyncTimeout = time.Second }
	f.open()
	f.replicated()
	f.hang.Store(true)
	insert(1)
	c := f.settings()
	c.Exclude = []string{f.path("busy.db")}
	err := f.m.Reconfigure(context.Background(), c)
	if err == nil || !strings.Contains(err.Error(), "its last changes may not be on the replica") {
		t.Errorf("got %v, want an error about the last sync", err)
	}
	if state, _ := f.m.TenantState(f.path("busy.db")); state != "" {
		t.Errorf("it is still known, as %s", state)
	}
	f.hang.Store(false)
	f.reconfigure(f.settings())
	f.replicated()
	f.rows("busy", 2)
	f.close()
}

// Databases are written to, come and go while the settings change again and
// again. In the end everything is replicated.
func TestMultiDBManager_ReconfigureUnderLoad(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.MaxHotDatabases = 3
	f.setup = func(m *litestream.MultiDBManager) { m.Store().ShutdownSyncTimeout = 2 * time.Second }
	names := f.rested(12)
	f.open()
	stop, done := make(chan struct{}), make(chan int)
	app := openApp(t, f.path("w.db"), "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	go func() {
		n := 0
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				done <- n
				return
			case <-tick.C:
			}
			if _, err := app.Exec("INSERT INTO t VALUES (1)"); err == nil {
				n++
			}
		}
	}()
	const rounds = 6
	for round := range rounds {
		c := f.settings()
		c.MaxHotDatabases = 1 + round%4
		c.HotDuration = time.Duration(10+round) * time.Millisecond
		if round%2 == 0 {
			c.Exclude = []string{fmt.Sprintf("%s/t%03d.db", f.dir, round), f.path("w.db")}
		}
		// The one that is being written to may be disturbed at its last look.
		if err := f.m.Reconfigure(context.Background(), c); err != nil && !strings.Contains(err.Error(), "its last changes may not be on the replica") {
			t.Error(err)
		}
		insertClosed(t, f.path(names[round]))
	}
	close(stop)
	n := <-done
	f.replicated()
	f.rows("w", n)
	for i, name := range names {
		want := 1
		if i < rounds {
			want = 2
		}
		f.rows(strings.TrimSuffix(name, ".db"), want)
	}
	f.close()
}
