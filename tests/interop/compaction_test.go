package interop_test

import (
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// TestMixedCompaction has each program compact, snapshot and delete what the
// other wrote, in turns on one replica.
func TestMixedCompaction(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		retention bool // level 0 and old snapshots are deleted meanwhile
	}{
		{"keeping level 0", false},
		{"with retention", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.loose = true
			s.create(4096, "wal")
			s.exec(workload[1].query)
			extra, configure := "", func(*litestream.Store) {}
			if tt.retention {
				extra = "l0-retention: 500ms\nl0-retention-check-interval: 200ms\nsnapshot:\n  interval: 2s\n  retention: 3s\n"
				configure = func(st *litestream.Store) {
					st.L0Retention, st.L0RetentionCheckInterval = 500*time.Millisecond, 200*time.Millisecond
					st.SnapshotInterval, st.SnapshotRetention = 2*time.Second, 3*time.Second
				}
			}
			n := 0
			write := func(times int) {
				for range times {
					n++
					s.exec("INSERT INTO ledger VALUES (?)", n)
					s.exec("UPDATE t SET v = randomblob(600) WHERE id % 20 = ?", n%20)
				}
			}
			for round := range 2 {
				// Files of level 0 that nobody has compacted yet.
				e := s.oursRun()
				for range 4 {
					write(2)
					e.sync()
				}
				e.stop()
				write(1)
				before := s.newest()
				d := s.theirsRun([]string{"1s", "2s"}, extra)
				waitFor(t, "compaction by upstream", func() bool { return s.newestOf(2) > before })
				write(3)
				d.stop()
				s.remember()
				s.wantLevels(2)
				s.wantLedger(n)

				// And now the other way round.
				for range 3 {
					write(2)
					s.theirsOnce()
					s.remember()
				}
				before = s.newest()
				b := s.oursStore([]time.Duration{200 * time.Millisecond, 400 * time.Millisecond}, configure)
				write(1)
				waitFor(t, "compaction by ours", func() bool { return s.newestOf(2) > before })
				b.stop()
				if lines := b.log.with("level=ERROR"); len(lines) > 0 {
					t.Errorf("ours reports %q", lines)
				}
				s.remember()
				s.wantLevels(2)
				s.wantLedger(n)
				t.Logf("round %d: %d targets restored", round, s.checkTXIDs())
			}
		})
	}
}

// newestOf returns the newest TXID of a level.
func (s *scene) newestOf(level int) (txid ltx.TXID) {
	s.t.Helper()
	for _, info := range s.listing()[level] {
		txid = max(txid, info.MaxTXID)
	}
	return txid
}

// wantLevels checks that no level has a gap or an overlap.
func (s *scene) wantLevels(highest int) {
	s.t.Helper()
	comp := litestream.NewCompactor(s.client(), nil)
	for level := range highest + 1 {
		problems, err := comp.VerifyLevel(s.t.Context(), level)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, p := range problems {
			s.t.Errorf("level %d: %s", level, p)
		}
	}
}
