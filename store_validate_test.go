package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/testutil"
)

// Which gaps a validation tells of: those that a restore cannot pass, whatever
// retention and compaction leave.
func TestCompactor_Problems(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, files string // level:min-max, with @hours of age
		want        string
	}{
		{"Empty", "", ""},
		{"Joined", "0:1-1 0:2-2 0:3-3 1:1-2 1:3-3", ""},
		{"Gap", "0:1-1 0:2-2 0:4-4", "gap at level 0 between 2-2 and 4-4"},
		{"FilledAbove", "0:1-1 0:2-2 0:5-5 1:2-3 1:4-4", ""},
		{"HalfFilledAbove", "0:1-1 0:2-2 0:5-5 1:2-3", "gap at level 0 between 2-2 and 5-5"},
		{"NotFilledFromBelow", "0:1-1 0:2-2 0:3-3 1:1-1 1:3-3", "gap at level 1 between 1-1 and 3-3"},
		{"BaseInGap", "1:2-5 1:9-9 9:1-8", ""},
		{"BaseBeforeEndOfGap", "1:2-5 1:9-9 9:1-7", "gap at level 1 between 2-5 and 9-9"},
		{"BaseThenFiles", "1:2-5 1:9-9 9:1-7 2:8-8", ""},
		{"BaseInNextFile", "1:2-5 1:9-20 9:1-12", ""},
		{"BaseBehind", "1:2-5 1:9-9 9:1-12", "gap at level 1 between 2-5 and 9-9"},
		{"BaseBehindOld", "1:2-5@99 1:9-9@99 9:1-12", ""},
		{"NoBaseBehindOld", "1:2-5@99 1:9-9@99", "gap at level 1 between 2-5 and 9-9"},
		{"Overlap", "1:1-5 1:4-8", "overlap at level 1 between 1-5 and 4-8"},
		{"Unsorted", "1:5-6 1:1-4", "unsorted at level 1 between 5-6 and 1-4"},
		{"NotConfigured", "3:1-5 3:9-9", ""},
		{"Snapshots", "9:1-5 9:1-9", ""},
		{"FirstFileOnly", "0:1-1 0:300-300 1:290-300 9:1-299", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var levels [litestream.SnapshotLevel + 1][]*ltx.FileInfo
			for f := range strings.FieldsSeq(tt.files) {
				info := &ltx.FileInfo{}
				f, age, _ := strings.Cut(f, "@")
				var hours int
				_, _ = fmt.Sscan(age, &hours)
				if _, err := fmt.Sscanf(f, "%d:%d-%d", &info.Level, &info.MinTXID, &info.MaxTXID); err != nil {
					t.Fatal(err)
				}
				info.CreatedAt = now.Add(-time.Duration(hours) * time.Hour)
				levels[info.Level] = append(levels[info.Level], info)
			}
			c := litestream.NewCompactor(testutil.NewMemClient(), nil)
			c.Now = func() time.Time { return now }
			var got []string
			for _, p := range c.Problems(levels, 2) {
				got = append(got, fmt.Sprintf("%s at level %d between %d-%d and %d-%d", p.Kind, p.Next.Level, p.Prev.MinTXID, p.Prev.MaxTXID, p.Next.MinTXID, p.Next.MaxTXID))
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// A file that somebody deleted is told of once, counted in each round, and told
// of once more when it is back. So is a replica that cannot be listed.
func TestStore_Validation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	app := openApp(t, path, "_journal_mode=wal")
	mustExec(t, app, "CREATE TABLE t (x)")
	client := testutil.NewMemClient()
	var fail atomic.Bool
	client.Fail = func(op string, level int, _, _ ltx.TXID) error {
		if op == testutil.OpList && level == testutil.AllLevels && fail.Load() {
			return errors.New("away")
		}
		return nil
	}
	log := &logLines{t: t}
	db := litestream.NewDB(path)
	db.Logger = slog.New(slog.NewTextHandler(log, nil))
	db.MonitorInterval = 10 * time.Millisecond
	db.Replica = litestream.NewReplicaWithClient(db, client)
	db.Replica.SyncInterval = 10 * time.Millisecond
	store := litestream.NewStore([]*litestream.DB{db}, litestream.CompactionLevels{{Level: 0}, {Level: 1, Interval: time.Hour}})
	store.ValidationInterval = 20 * time.Millisecond
	reg := prometheus.NewRegistry()
	store.Metrics = litestream.NewMetrics(reg)
	if err := store.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		pos := db.Pos().TXID
		mustExec(t, app, "INSERT INTO t VALUES (?)", i)
		waitFor(t, "the capture of a commit", func() bool { return db.Pos().TXID > pos })
	}
	waitFor(t, "the uploads", func() bool { return len(client.Files(0)) >= 4 })
	checks := func(result string) float64 {
		return gathered(t, reg, path)[`litestream_validation_checks_total{level="0",result="`+result+`"}`]
	}
	more := func(result string) {
		t.Helper()
		was := checks(result)
		waitFor(t, "rounds with "+result, func() bool { return checks(result) >= was+2 })
	}
	more("success")
	data, ok := client.Data(0, 3, 3)
	if !ok || !client.Delete(0, 3, 3) {
		t.Fatal("there is no third file")
	}
	more("invalid")
	if got := gathered(t, reg, path)[`litestream_last_validation_success{level="0"}`]; got != 0 {
		t.Errorf("last_validation_success=%v while a file is missing", got)
	}
	client.Put(0, 3, 3, data, time.Now())
	more("success")
	fail.Store(true)
	more("error")
	fail.Store(false)
	more("success")
	if got := gathered(t, reg, path)[`litestream_last_validation_success{level="0"}`]; got != 1 {
		t.Errorf("last_validation_success=%v at the end", got)
	}
	for text, want := range map[string]int{
		`msg="validation error detected"`: 1, "type=gap": 1, `msg="validation recovered"`: 1,
		`msg="validation failed"`: 1, `msg="validation works again"`: 1,
	} {
		if got := log.has(text); got != want {
			t.Errorf("%d lines with %s, want %d", got, text, want)
		}
	}
	if err := store.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	for name := range gathered(t, reg, path) {
		if strings.Contains(name, "validation") {
			t.Errorf("%s is left of a closed database", name)
		}
	}
}

// After each compaction the level is listed, if that is asked for.
func TestStore_VerifyCompaction(t *testing.T) {
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			fx := newCompactorFixture(t)
			var verified []string
			if on {
				fx.c.OnVerified = func(level int, err error) { verified = append(verified, fmt.Sprintf("%d: %v", level, err)) }
			}
			compact := func() {
				t.Helper()
				if _, err := fx.c.Compact(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
			}
			fx.write(2, false)
			compact()
			fx.write(2, false)
			compact()
			delete(fx.replica.files, fixtureKey(1, 3, 4))
			fx.write(2, false)
			lists := fx.replica.lists
			compact()
			if lists == fx.replica.lists && on {
				t.Error("nothing was listed")
			} else if lists != fx.replica.lists && !on {
				t.Error("something was listed")
			}
			var want []string
			if on {
				want = []string{"1: <nil>", "1: <nil>", "1: gap at level 1 between " +
					"0000000000000001-0000000000000002.ltx and 0000000000000005-0000000000000006.ltx"}
			}
			if diff := cmp.Diff(want, verified); diff != "" {
				t.Errorf("verified (-want +got):\n%s", diff)
			}
		})
	}
}
