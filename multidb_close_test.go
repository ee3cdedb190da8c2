package litestream_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/testutil"
)

// An orderly stop brings what changed to the replica, oldest change first.
func TestMultiDBManager_CloseOldestFirst(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.MaxHotDatabases = 1
	names := f.rested(6)
	f.open()
	f.awaitCounts(map[string]int{"clean": 6})
	f.cfg.ScanInterval = time.Hour // the scan at the end finds the changes
	f.close()
	f.open()
	waitFor(t, "the first scan", func() bool { return !f.m.ScanEnd().IsZero() })
	base := f.m.ScanEnd()
	order := []int{3, 0, 5, 1, 4, 2}
	var mu sync.Mutex
	var sent []string
	f.breaks(func(replica, op string, level int) error {
		if level == 0 && (op == testutil.OpWrite || op == testutil.OpWriteExclusive) {
			mu.Lock()
			sent = append(sent, replica)
			mu.Unlock()
		}
		return nil
	})
	var want []string
	for _, i := range order {
		makeRestedRows(t, f.path(names[i]), 1)
		want = append(want, names[i][:4])
	}
	waitFor(t, "time to pass", func() bool { return time.Since(base) > 20*time.Millisecond })
	for n, i := range order {
		at := base.Add(time.Duration(n+1) * time.Millisecond)
		if err := os.Chtimes(f.path(names[i]), at, at); err != nil {
			t.Fatal(err)
		}
	}
	f.close()
	if !slices.Equal(sent, want) {
		t.Errorf("sent %v, want %v", sent, want)
	}
	for _, name := range names {
		f.rows(name[:4], 2)
	}
}

// A replica that is away at the end: what is left is said, and the next start
// brings it.
func TestMultiDBManager_CloseReplicaAway(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"BeforeTheChange", "LongBefore"} {
		t.Run(when, func(t *testing.T) {
			f := newMemFleet(t)
			names := f.rested(4)
			f.open()
			f.awaitCounts(map[string]int{"clean": 4})
			f.breaks(func(_, op string, _ int) error { return errors.New("no route") })
			for _, name := range names[:3] {
				makeRestedRows(t, f.path(name), 1)
			}
			f.scans(1)
			if when == "LongBefore" {
				waitFor(t, "failed uploads", func() bool { return f.requests() > 6 })
				f.advance(time.Minute)
			}
			err := f.tryClose(2 * time.Second)
			if err == nil || !strings.Contains(err.Error(), "3 databases") {
				t.Errorf("got error %v, want one that counts 3 databases", err)
			}
			f.breaks(nil)
			f.open()
			f.replicated()
			for i, name := range names {
				f.rows(name[:4], []int{2, 2, 2, 1}[i])
			}
			f.close()
		})
	}
}

// Databases that failed because of the replica are tried once more at the end.
func TestMultiDBManager_CloseReplicaIsBack(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.MaxHotDatabases = 1
	names := f.rested(3)
	f.open()
	f.awaitCounts(map[string]int{"clean": 3})
	f.breaks(func(string, string, int) error { return errors.New("no route") })
	for _, name := range names {
		makeRestedRows(t, f.path(name), 1)
	}
	waitFor(t, "one to fail", func() bool {
		f.advance(5 * time.Second)
		return f.m.Counts()["failed"] > 0
	})
	f.breaks(nil)
	f.close()
	for _, name := range names {
		f.rows(name[:4], 2)
	}
}

// A replica that does not answer does not keep the process from ending in time.
func TestMultiDBManager_CloseHangs(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	names := f.rested(5)
	f.open()
	f.awaitCounts(map[string]int{"clean": 5})
	f.hang.Store(true)
	for _, name := range names {
		makeRestedRows(t, f.path(name), 1)
	}
	f.scans(1)
	waitFor(t, "captures", func() bool { return f.m.Counts()["hot"] == 5 })
	start := time.Now()
	err := f.tryClose(time.Second)
	if err == nil || !strings.Contains(err.Error(), "5 databases") {
		t.Errorf("got error %v, want one that counts 5 databases", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("closing took %v, with a second to do it", took)
	}
	f.hang.Store(false)
	f.open()
	f.replicated()
	for _, name := range names {
		f.rows(name[:4], 2)
	}
	f.close()
}

// With fewer places than changes, one of them written without a pause, all get
// their turn.
func TestMultiDBManager_Fairness(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.MaxHotDatabases = 2
	names := f.rested(50)
	insert := appWith(t, f.path("busy.db"), 1)
	f.open()
	f.awaitCounts(map[string]int{"clean": 51})
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 1
		defer func() { stopped <- n }()
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				insert(1)
				n++
			}
		}
	}()
	for _, name := range names {
		makeRestedRows(t, f.path(name), 1)
	}
	f.scans(1)
	waitFor(t, "all others", func() bool {
		clean := 0
		for _, name := range names {
			if state, _ := f.m.TenantState(f.path(name)); state == "clean" {
				clean++
			}
		}
		return clean == len(names)
	})
	close(stop)
	n := <-stopped
	f.replicated()
	for _, name := range names {
		f.rows(name[:4], 2)
	}
	f.rows("busy", n)
	f.close()
}

// A replica that is away for long: the reason is told, other databases go on,
// and everything gets there afterwards.
func TestMultiDBManager_Outage(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.MaxHotDatabases = 3
	names := f.rested(12)
	f.open()
	f.awaitCounts(map[string]int{"clean": 12})
	sick := func(replica string) bool { return replica < "t006" }
	f.breaks(func(replica, op string, _ int) error {
		if sick(replica) && op != testutil.OpInit {
			return errors.New("503 slow down")
		}
		return nil
	})
	for round := range 3 {
		for _, name := range names {
			makeRestedRows(t, f.path(name), 1)
		}
		f.scans(1)
		waitFor(t, fmt.Sprintf("the healthy ones in round %d", round), func() bool {
			f.advance(50 * time.Millisecond)
			for _, name := range names[6:] {
				if state, _ := f.m.TenantState(f.path(name)); state != "clean" {
					return false
				}
			}
			return true
		})
	}
	waitFor(t, "the verdict", func() bool {
		f.advance(time.Second)
		st := f.m.Stats()
		return st.Failed["replica"] >= 4 && st.OldestUnreplicated > 5*time.Second
	})
	sum := f.m.Summary()
	if sum.Unreplicated != 6 || len(sum.Oldest) != 6 || !strings.Contains(fmt.Sprint(sum.Failures), "503 slow down") {
		t.Errorf("the summary has %d unreplicated, %v; failures %v", sum.Unreplicated, sum.Oldest, sum.Failures)
	}
	f.breaks(nil)
	f.advance(time.Minute) // no pause is longer where the replica is to blame
	f.replicated()
	waitFor(t, "the sick ones", func() bool { f.advance(time.Second); return f.m.Counts()["clean"] == 12 })
	for _, name := range names {
		f.rows(name[:4], 4)
	}
	if sum := f.m.Summary(); sum.Unreplicated != 0 || len(sum.Failures) != 0 {
		t.Errorf("afterwards the summary has %+v", sum)
	}
	f.close()
}

// Applications that write while the process ends do not keep it from that.
func TestMultiDBManager_CloseWhileWritten(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	insert := appWith(t, f.path("busy.db"), 1)
	f.open()
	f.awaitState("busy.db", "clean")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				insert(1)
			}
		}
	}()
	f.awaitState("busy.db", "hot")
	start := time.Now()
	err := f.tryClose(30 * time.Second)
	took := time.Since(start)
	close(stop)
	<-stopped
	if err != nil || took > 10*time.Second {
		t.Errorf("closing took %v, error %v", took, err)
	}
}
