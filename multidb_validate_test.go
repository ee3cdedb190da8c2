package litestream_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// fleetValue returns a value of a fleet, by name and the values of its labels.
func fleetValue(tb testing.TB, reg *prometheus.Registry, name string, labels ...string) (v float64) {
	tb.Helper()
	families, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if f.GetName() == name && fmt.Sprint(got) == fmt.Sprint(labels) {
				v += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return v
}

// Databases are validated after they changed, and not again before they do:
// one at rest costs no request, however many rounds go by. What is found is
// told once, looked at again in each round, and told once more when it is over.
func TestMultiDBManager_Validation(t *testing.T) {
	t.Parallel()
	f := newMemFleet(t)
	f.setup = func(m *litestream.MultiDBManager) {
		m.ValidationInterval = 2 * time.Second
		m.L0Retention = 0
		m.Levels = litestream.CompactionLevels{{Level: 0}, {Level: 1, Interval: 24 * time.Hour}}
	}
	f.rested(3)
	f.open()
	defer f.close()
	f.replicated()
	checks := func(result string) float64 {
		return fleetValue(t, f.reg, "litestream_multidb_validation_checks_total", result)
	}
	waitFor(t, "a round", func() bool { return checks("success") >= 3 })
	f.resetCounts()
	for range 2 {
		f.advance(time.Minute) // a round begins with the next tick
		next := f.m.NextValidation()
		waitFor(t, "a round", func() bool { return f.m.NextValidation().After(next) })
	}
	if n := f.requests(); n != 0 || checks("success") != 3 {
		t.Errorf("%d requests and %v checks in two more rounds, want 0 and 3", n, checks("success"))
	}

	app := openApp(t, f.path("t001.db"), "_journal_mode=wal")
	for i := range 3 {
		mustExec(t, app, "INSERT INTO t VALUES (1)")
		waitFor(t, "the upload", func() bool { return len(f.client("t001").Files(0)) == 2+i })
	}
	c := f.client("t001")
	data, _ := c.Data(0, 3, 3)
	if !c.Delete(0, 3, 3) {
		t.Fatalf("level 0 holds %v", c.Files(0))
	}
	f.advance(time.Minute)
	waitFor(t, "the gap to be found", func() bool { return checks("invalid") >= 1 })
	if n := fleetValue(t, f.reg, "litestream_multidb_invalid_databases"); n != 1 {
		t.Errorf("%v databases are invalid, want 1", n)
	}
	f.advance(time.Minute)
	waitFor(t, "the gap to be found again", func() bool { return checks("invalid") >= 2 })
	c.Put(0, 3, 3, data, time.Now())
	f.advance(time.Minute)
	waitFor(t, "the end of it", func() bool {
		return fleetValue(t, f.reg, "litestream_multidb_invalid_databases") == 0
	})
	f.breaks(func(replica, op string, level int) error {
		if replica == "t002" && op == testutil.OpList {
			return fmt.Errorf("away: %s", replica)
		}
		return nil
	})
	mustExec(t, openApp(t, f.path("t002.db"), "_journal_mode=wal"), "INSERT INTO t VALUES (1)")
	f.replicated()
	f.advance(time.Minute)
	waitFor(t, "a failed listing", func() bool { return checks("error") >= 1 })
	f.breaks(nil)
	f.advance(time.Minute)
	waitFor(t, "its end", func() bool { return fleetValue(t, f.reg, "litestream_multidb_invalid_databases") == 0 })
	for text, want := range map[string]int{
		"validation error detected": 1, "validation failed": 1, "validation recovered": 2,
	} {
		if got := f.log.has(text); got != want {
			t.Errorf("%d lines with %q, want %d", got, text, want)
		}
	}
}

// A round is spread over half of the interval.
func TestFleetValidation_Pace(t *testing.T) {
	if got := litestream.ValidationTicks(1000, 100*time.Second); got < 45 || got > 55 {
		t.Errorf("a round of 1,000 databases took %d of 100 ticks, want about 50", got)
	}
	if got := litestream.ValidationTicks(3, time.Hour); got > 5 {
		t.Errorf("a round of 3 databases took %d ticks", got)
	}
}

// With verify-compaction the level is listed after each merge, on the storage
// itself and not in what is known of it.
func TestMultiDBManager_VerifyCompaction(t *testing.T) {
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			t.Parallel()
			f := newMemFleet(t)
			f.setup = func(m *litestream.MultiDBManager) {
				m.VerifyCompaction = on
				m.Levels = litestream.CompactionLevels{{Level: 0}, {Level: 1, Interval: 30 * time.Second}}
			}
			f.rested(1)
			big := openApp(t, f.path("t000.db"), "_journal_mode=wal")
			mustExec(t, big, "INSERT INTO t VALUES (randomblob(1000000))") // a snapshot is dear
			if err := big.Close(); err != nil {
				t.Fatal(err)
			}
			f.open()
			defer f.close()
			f.replicated()
			c := f.client("t000")
			merged := func(n int) []*ltx.FileInfo {
				t.Helper()
				makeRestedRows(t, f.path("t000.db"), 1)
				f.replicated()
				f.advance(time.Minute)
				waitFor(t, "a merge", func() bool { return len(c.Files(1)) >= n })
				return c.Files(1)
			}
			merged(1)
			files := merged(2)
			last := files[len(files)-1]
			c.Delete(1, last.MinTXID, last.MaxTXID)
			merged(2)
			errs := func() float64 { return fleetValue(t, f.reg, "litestream_multidb_compaction_verify_errors_total") }
			if on {
				waitFor(t, "the verification to fail", func() bool { return errs() >= 1 })
				if f.log.has("compaction verification failed") == 0 {
					t.Error("nothing was logged")
				}
			} else if errs() != 0 {
				t.Error("it was verified")
			}
		})
	}
}
