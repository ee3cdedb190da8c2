package interop_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
)

// workload are changes that each need something else of a replica.
var workload = []struct {
	query       string
	checkpoints bool // moves commits out of the log
}{
	{query: "INSERT INTO t (v) VALUES (randomblob(300))"},
	{query: "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 60) INSERT INTO t (v) SELECT randomblob(3000) FROM n"},
	{query: "UPDATE t SET v = randomblob(500) WHERE id % 7 = 1"},
	{query: "DELETE FROM t WHERE id % 2 = 0"},
	{query: "VACUUM"},
	{query: "CREATE TABLE IF NOT EXISTS u AS SELECT * FROM t WHERE id < 20"},
	{query: "DROP TABLE u; DELETE FROM t WHERE id > 5; VACUUM"},
	{query: "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 40) INSERT INTO t (v) SELECT randomblob(2000) FROM n"},
	{
		query:       "INSERT INTO t (v) VALUES (randomblob(10)); PRAGMA wal_checkpoint(PASSIVE); INSERT INTO t (v) VALUES (randomblob(20))",
		checkpoints: true,
	},
}

// variants are the databases that the restore tests run with.
var variants = []struct {
	pageSize    int
	journalMode string
	closing     bool // the application closes the database after each change
	snapshots   bool // which carry checksums
}{
	{4096, "wal", false, true},
	{4096, "delete", false, false},
	{4096, "wal", true, true},
	{512, "wal", false, false},
	{65536, "wal", true, false},
	{512, "delete", true, true},
	{65536, "delete", false, true},
}

// TestOursTheirs has upstream restore every position of replicas that our
// engine wrote, before and after compaction and retention.
func TestOursTheirs(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(fmt.Sprintf("%d-%s-closing=%t-snapshots=%t", v.pageSize, v.journalMode, v.closing, v.snapshots), func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.create(v.pageSize, v.journalMode)
			e := s.oursRun()
			e.sync()
			for i, w := range workload {
				s.exec(w.query)
				if v.closing {
					s.closeApp()
				}
				e.sync()
				if v.snapshots && i%4 == 1 {
					e.snapshot()
				}
				if i == 5 {
					e.compact(1)
				}
			}
			e.stop()
			if n := len(s.images); n < len(workload) {
				t.Errorf("%d positions, want one for each change", n)
			}
			before := s.checkAll()
			e.compact(3)
			compacted := s.checkTXIDs()

			// A day later: level 0 and the levels below a snapshot go.
			now := time.Now().Add(25 * time.Hour)
			e.comp.Now = func() time.Time { return now }
			l0, err := e.comp.EnforceL0Retention(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			rest, err := e.comp.EnforceSnapshotRetention(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			after := s.checkTXIDs()
			t.Logf("%d targets, %d after compaction, %d after retention of %d and %d files", before, compacted, after, l0, rest)
			if l0 == 0 {
				t.Error("retention deleted nothing of level 0")
			}
		})
	}
}

// TestTheirsOurs restores every position of replicas that upstream wrote.
func TestTheirsOurs(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(fmt.Sprintf("%d-%s-closing=%t-snapshots=%t", v.pageSize, v.journalMode, v.closing, v.snapshots), func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.loose = true
			s.create(v.pageSize, v.journalMode)
			for i, w := range workload {
				if w.checkpoints && !v.closing {
					// Upstream misses commits that were checkpointed
					// while it did not run and whose log began anew.
					continue
				}
				s.exec(w.query)
				if v.closing {
					s.closeApp()
				}
				var flags []string
				if v.snapshots && i%4 == 1 {
					flags = append(flags, "-force-snapshot")
				}
				s.theirsOnce(flags...)
				s.remember()
			}
			before := s.checkAll()
			// Compaction by us of what they wrote.
			comp := litestream.NewCompactor(s.client(), nil)
			comp.StagingDir = t.TempDir()
			for level := 1; level <= 3; level++ {
				if _, err := comp.Compact(t.Context(), level); err != nil && !errors.Is(err, litestream.ErrNoCompaction) {
					t.Fatalf("compact into level %d: %v", level, err)
				}
			}
			compacted := s.checkTXIDs()
			now := time.Now().Add(25 * time.Hour)
			comp.Now = func() time.Time { return now }
			n, err := comp.EnforceL0Retention(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d targets, %d after compaction, %d after retention of %d files", before, compacted, s.checkTXIDs(), n)
		})
	}
}
