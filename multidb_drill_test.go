package litestream_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	litestream "github.com/benbjohnson/litestream"
)

// Every database of a thousand is proven within the interval, at the budget. A
// fault that was planted is found within it: the log, a metric and the state
// tell. The proofs outlive the process.
func TestMultiDBManager_Drill(t *testing.T) {
	t.Parallel()
	n := 1000
	if raceEnabled {
		n = 200
	}
	f := newMemFleet(t)
	f.cfg.ScanInterval = time.Hour
	f.rested(n)
	f.open()
	value := func(name string, labels ...string) float64 {
		return fleetValue(t, f.reg, "litestream_multidb_"+name, labels...)
	}
	waitFor(t, "the first backups", func() bool { return f.m.Counts()["clean"] == n })
	f.resetCounts()
	f.advance(48 * time.Hour)
	f.close()
	if got := f.requests(); got != 0 {
		t.Errorf("%d requests without a drill, want 0", got)
	}

	const interval = 24 * time.Hour
	f.cfg.Drill = litestream.DrillConfig{Interval: interval, Budget: 1 << 30}
	f.open()
	start := f.ahead.Load()
	pass := func(what string, done func() bool) (took time.Duration) {
		t.Helper()
		waitFor(t, what, func() bool {
			if done() {
				return true
			}
			if f.m.DrillIdle() { // else the clock would run ahead of the drills
				f.advance(interval / time.Duration(n/2))
				f.m.DrillNow()
			}
			return false
		})
		return time.Duration(f.ahead.Load() - start)
	}
	took := pass("all to be proven", func() bool {
		return value("drill_unproven_databases") == 0 && value("drill_checks_total", "ok") >= float64(n)
	})
	if took > interval {
		t.Errorf("all were proven after %s, want %s at most", took, interval)
	}
	if got, ok := value("drill_requests_total"), value("drill_checks_total", "ok"); got == 0 || got > 12*ok || value("drill_read_bytes_total") == 0 {
		t.Errorf("%v requests for %v databases", got, ok)
	}

	// Planted: a damaged file, and a replica that is gone.
	c := f.client("t005")
	data, _ := c.Data(0, 1, 1)
	bad := []byte(strings.Clone(string(data)))
	bad[len(bad)/2] ^= 1
	c.Put(0, 1, 1, bad, time.Now())
	if !f.client("t006").Delete(0, 1, 1) {
		t.Fatal("t006 has no file")
	}
	start = f.ahead.Load()
	took = pass("the alarm", func() bool { return value("drill_failed_databases") == 2 })
	if took > interval {
		t.Errorf("the alarm came after %s, want %s at most", took, interval)
	}
	s := f.m.Summary()
	found := make(map[string]string)
	for _, e := range s.Damaged {
		found[e.Path], _, _ = strings.Cut(e.Error, ":")
	}
	if want := (map[string]string{f.path("t005.db"): "corrupt", f.path("t006.db"): "missing-lost"}); s.DamagedN != 2 || !maps.Equal(found, want) {
		t.Errorf("summary: %d damaged, %v, want %v", s.DamagedN, found, want)
	}
	f.log.mu.Lock()
	log := f.log.b.String()
	f.log.mu.Unlock()
	for name, state := range map[string]string{"t005.db": "corrupt", "t006.db": "missing-lost"} {
		if want := fmt.Sprintf(`msg="drill: the replica is damaged" db=%s state=%s`, f.path(name), state); strings.Count(log, want) != 1 {
			t.Errorf("%d lines with %q, want 1", strings.Count(log, want), want)
		}
	}
	f.close()

	// The next process knows, and sees that it is over.
	c.Put(0, 1, 1, data, time.Now())
	f.open()
	defer f.close()
	if proven := value("drill_unproven_databases"); proven != 0 {
		t.Errorf("%v databases are unproven after a restart, want 0", proven)
	}
	start = f.ahead.Load()
	pass("the end of one alarm", func() bool { return value("drill_failed_databases") == 1 })
}

// A budget that is spent stops the drill until there is some again.
func TestMultiDBManager_DrillBudget(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.ScanInterval = time.Hour
	f.rested(20)
	f.cfg.Drill = litestream.DrillConfig{Interval: time.Hour, Budget: 24 * 1 << 20} // 1 MiB an hour
	f.open()
	defer f.close()
	waitFor(t, "the first backups", func() bool { return f.m.Counts()["clean"] == 20 })
	spent := func() float64 {
		return 16<<10*fleetValue(t, f.reg, "litestream_multidb_drill_requests_total") + fleetValue(t, f.reg, "litestream_multidb_drill_read_bytes_total")
	}
	for range 30 {
		f.advance(time.Minute)
		f.m.DrillNow()
		waitFor(t, "the drills to end", f.m.DrillIdle)
	}
	// Half an hour's share, and the last ones that were begun.
	if got := spent(); got == 0 || got > 1<<20/2+4*(400<<10) {
		t.Errorf("%v bytes spent in half an hour: %s", got, f.m.DrillFacts())
	}
}

// A drill that is turned on, bounded and turned off while the manager runs. What
// it could have spent before does not count.
func TestMultiDBManager_DrillReconfigure(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.cfg.ScanInterval = time.Hour
	f.rested(20)
	f.open()
	defer f.close()
	waitFor(t, "the first backups", func() bool { return f.m.Counts()["clean"] == 20 })
	drilled := func(d time.Duration) float64 {
		for range 10 {
			f.advance(d / 10)
			f.m.DrillNow()
			waitFor(t, "the drills to end", f.m.DrillIdle)
		}
		return fleetValue(t, f.reg, "litestream_multidb_drill_checks_total", "ok")
	}
	if n := drilled(48 * time.Hour); n != 0 {
		t.Fatalf("%v databases were proven without a drill", n)
	}
	c := f.settings()
	c.Drill.Interval = 20 * time.Hour
	f.reconfigure(c)
	f.m.DrillNow()
	waitFor(t, "the drills to end", f.m.DrillIdle)
	if n := drilled(time.Minute); n > 1 {
		t.Errorf("%v databases were proven at once", n)
	}
	waitFor(t, "all to be proven", func() bool { return drilled(time.Hour) == 20 })

	// 1 MiB a day are 64 requests: with 20 databases to prove within an hour it is
	// the budget that counts.
	c.Drill = litestream.DrillConfig{Interval: time.Hour, Budget: 1 << 20}
	f.reconfigure(c)
	before := drilled(0)
	n := drilled(24*time.Hour) - before
	if n == 0 || n > 40 {
		t.Errorf("%v databases were proven in a day, want a few", n)
	}
	c.Drill.Interval = 0
	f.reconfigure(c)
	before = drilled(0)
	if n := drilled(48 * time.Hour); n != before {
		t.Errorf("%v databases were proven after the drill was turned off", n-before)
	}
	c.Drill.Interval = time.Second
	if err := f.m.CheckSettings(t.Context(), c); err == nil {
		t.Error("an interval of 1s was accepted")
	}
}

// Replicas that are damaged, a third of all, do not keep the others from being
// proven within the interval.
func TestMultiDBManager_DrillDamagedMany(t *testing.T) {
	t.Parallel()
	const n, bad, interval = 60, 20, 24 * time.Hour
	f := newMemFleet(t)
	f.cfg.ScanInterval = time.Hour
	f.rested(n)
	f.open()
	waitFor(t, "the first backups", func() bool { return f.m.Counts()["clean"] == n })
	f.close()
	for i := range bad {
		if !f.client(fmt.Sprintf("t%03d", i)).Delete(0, 1, 1) {
			t.Fatalf("t%03d has no file", i)
		}
	}
	f.advance(time.Hour) // else they are late, not lost
	f.cfg.Drill.Interval = interval
	f.open()
	defer f.close()
	value := func(name string, labels ...string) float64 {
		return fleetValue(t, f.reg, "litestream_multidb_"+name, labels...)
	}
	const steps = 4 * 60
	oldest := 0.0
	for range steps { // four intervals
		f.advance(4 * interval / steps)
		f.m.DrillNow()
		waitFor(t, "the drills to end", f.m.DrillIdle)
		oldest = max(oldest, value("drill_oldest_proven_seconds"))
	}
	if got := value("drill_unproven_databases"); got != bad {
		t.Errorf("%v databases were never proven, want the %d that are damaged", got, bad)
	}
	if oldest > interval.Seconds() {
		t.Errorf("the oldest proof was %s old, want %s at most", time.Duration(oldest)*time.Second, interval)
	}
}
