package litestream_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/knob"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// A database that failed is tried again though all places are taken by others
// that never rest: one of them yields.
func TestMultiDBManager_RetryAmongBusy(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.MaxHotDatabases, f.cfg.HotDuration = 1, time.Hour
	f.breaks(func(replica, _ string, _ int) error {
		if replica != "a" {
			return nil
		}
		return &litestream.ReplicaError{Type: "mem", Op: "put", Permanent: true, Err: errors.New("expired")}
	})
	makeRestedRows(t, f.path("a.db"), 1)
	f.open()
	defer f.close()
	f.awaitState("a.db", "failed")
	makeRestedRows(t, f.path("b.db"), 1)
	f.awaitState("b.db", "hot")
	waitFor(t, "b to be replicated", func() bool {
		info, err := f.m.Tenant(f.path("b.db"))
		return err == nil && info.TXID > 0
	})
	f.breaks(nil)
	f.advance(5 * time.Second)
	waitFor(t, "a to be replicated", func() bool {
		info, err := f.m.Tenant(f.path("a.db"))
		return err == nil && info.TXID > 0
	})
	f.rows("a", 1)
	// It is well again while it is hot, and not only when it rests.
	waitFor(t, "the reason to be forgotten", func() bool {
		info, err := f.m.Tenant(f.path("a.db"))
		return err == nil && info.Err == nil
	})
	if n := f.log.has("monitor error"); n != 1 {
		t.Errorf("%d lines about the replica, want 1", n)
	}
	waitFor(t, "the end", func() bool { return f.log.has("replica sync recovered") == 1 })
}

// A database that is written to faster than its uploads end has always
// something that is not sent. It yields all the same to one that waits.
func TestMultiDBManager_YieldBehindSlowUploads(t *testing.T) {
	f := newMemFleet(t)
	f.cfg.MaxHotDatabases, f.cfg.HotDuration = 1, time.Hour
	f.setup = func(m *litestream.MultiDBManager) {
		m.Tune(knob.Fleet{Monitor: 10 * time.Millisecond})
		m.SyncInterval = 0
	}
	makeRestedRows(t, f.path("a.db"), 1)
	f.open()
	defer f.close()
	waitFor(t, "a to be replicated", func() bool {
		info, err := f.m.Tenant(f.path("a.db"))
		return err == nil && info.TXID > 0
	})
	// Each upload takes as long as several looks.
	f.breaks(func(replica, op string, _ int) error {
		if replica == "a" && (op == testutil.OpWrite || op == testutil.OpWriteExclusive) {
			<-time.NewTimer(60 * time.Millisecond).C
		}
		return nil
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	app := openApp(t, f.path("a.db"), "_journal_mode=wal")
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				mustExec(t, app, "INSERT INTO t VALUES (randomblob(16))")
			}
		}
	})
	makeRestedRows(t, f.path("b.db"), 1)
	waitFor(t, "b to be replicated", func() bool {
		info, err := f.m.Tenant(f.path("b.db"))
		return err == nil && info.TXID > 0
	})
}
