package interop_test

import (
	"os"
	"testing"
)

// A switch is the moment when one program goes on where the other stopped.
type switches struct{ incremental, full int }

func (c *switches) add(full bool) {
	if full {
		c.full++
	} else {
		c.incremental++
	}
}

// TestTakeOver has both programs take turns on one database, one replica and
// one metadata directory, with writes before, during and after each turn.
// Nothing may be lost, and no TXID be skipped or used twice.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	const rounds = 3
	for _, tt := range []struct {
		name         string
		pageSize     int
		closeBetween bool // the application closes the database between turns
		closeDuring  bool // and while a program still runs
		checkpoint   bool // and checkpoints it and writes on before ours
		forget       bool // the metadata is deleted between turns
		checkpointN  int  // our threshold in pages; 0 is the default
		fullTheirs   int  // turns of upstream that begin with a full copy
		fullOurs     int  // and of ours
	}{
		{name: "app stays open", pageSize: 4096, fullOurs: 1},
		{name: "app closes between", pageSize: 4096, closeBetween: true, fullTheirs: rounds, fullOurs: 1},
		{name: "app closes during", pageSize: 4096, closeDuring: true, fullOurs: 1},
		{name: "metadata deleted", pageSize: 4096, forget: true, fullOurs: rounds},
		{name: "metadata deleted and app closes", pageSize: 4096, closeBetween: true, forget: true, fullTheirs: rounds, fullOurs: rounds},
		{name: "app checkpoints between", pageSize: 4096, checkpoint: true, fullOurs: 1},
		{name: "with checkpoints", pageSize: 1024, checkpointN: 10, fullOurs: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.loose = true
			s.create(tt.pageSize, "wal")
			s.exec(workload[1].query) // so that a full copy is seen as one
			s.theirsOnce()
			var theirs, ours switches
			n := 0
			write := func() {
				n++
				s.exec("INSERT INTO ledger VALUES (?)", n)
				s.exec("UPDATE t SET v = randomblob(400) WHERE id = ?", n%20)
			}
			between := func() {
				write()
				if tt.closeBetween {
					s.closeApp()
				}
				if tt.forget {
					if err := os.RemoveAll(s.dir + "/.app.db-litestream"); err != nil {
						t.Fatal(err)
					}
				}
			}
			turn := func(c *switches, run func()) {
				before := s.newest()
				run()
				s.wantContiguous()
				if s.newest() == before {
					t.Fatalf("no position behind %s", before)
				}
				c.add(s.isFull(before + 1))
				s.wantLedger(n)
			}
			for range rounds {
				if tt.checkpoint {
					write()
					s.exec("PRAGMA wal_checkpoint(PASSIVE)")
				}
				between()
				turn(&ours, func() {
					e := s.oursStart(tt.checkpointN)
					for range 5 {
						write()
						e.sync()
					}
					if tt.closeDuring {
						s.closeApp()
					}
					e.stop()
				})
				between()
				turn(&theirs, func() {
					before := s.newest()
					d := s.theirsRun(nil, "")
					waitFor(t, "capture by upstream", func() bool { return s.newest() > before })
					write()
					if tt.closeDuring {
						s.closeApp()
					}
					d.stop()
					s.remember()
				})
			}
			t.Logf("ours went on %d times incrementally, %d times with a full copy; upstream %d and %d; %d positions, %d targets",
				ours.incremental, ours.full, theirs.incremental, theirs.full, s.newest(), s.checkTXIDs())
			if ours.full > tt.fullOurs || theirs.full > tt.fullTheirs {
				t.Errorf("full copies: ours %d, upstream %d; want at most %d and %d", ours.full, theirs.full, tt.fullOurs, tt.fullTheirs)
			}
		})
	}
}

// wantLedger restores the newest position with both programs and checks that
// all n acknowledged writes are there.
func (s *scene) wantLedger(n int) {
	s.t.Helper()
	theirs, err := s.theirs(target{})
	if err != nil {
		s.t.Fatalf("upstream: %v", err)
	}
	ours, err := s.ours(target{})
	if err != nil {
		s.t.Fatalf("ours: %v", err)
	}
	if d := difference(ours, theirs); string(ours) != string(theirs) {
		s.t.Fatalf("restores of %s differ: %s", s.newest(), d)
	}
	if got := s.ledger(ours); got != n {
		s.t.Fatalf("restored %d of %d writes at %s", got, n, s.newest())
	}
}
