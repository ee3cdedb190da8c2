package litestream_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

func TestCompactor_EnforceL0Retention(t *testing.T) {
	fx := newCompactorFixture(t)
	var local []string
	fx.c.DeleteLocal = func(level int, minTXID, maxTXID ltx.TXID) error {
		if fx.replica.files[fixtureKey(level, minTXID, maxTXID)] != nil {
			t.Errorf("local copy of %d deleted before the replica's", minTXID)
		}
		local = append(local, fmt.Sprintf("%d:%d-%d", level, minTXID, maxTXID))
		return nil
	}
	var stats litestream.L0RetentionStats
	fx.c.OnL0Retention = func(s litestream.L0RetentionStats) { stats = s }
	fx.write(4, false)
	fx.mustCompact(1)
	fx.write(2, false)
	if n, err := fx.c.EnforceL0Retention(t.Context()); n != 0 || err != nil {
		t.Fatalf("deleted %d, %v, want nothing that young", n, err)
	}

	fx.now = fx.now.Add(fx.c.L0Retention + fx.c.Grace)
	if n, err := fx.c.EnforceL0Retention(t.Context()); n != 4 || err != nil {
		t.Fatalf("deleted %d, %v, want 4", n, err)
	}
	if diff := cmp.Diff([]string{"5-5", "6-6"}, fx.replica.names(0)); diff != "" {
		t.Errorf("level 0 (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"0:1-1", "0:2-2", "0:3-3", "0:4-4"}, local); diff != "" {
		t.Errorf("local deletions (-want +got):\n%s", diff)
	}
	if want := (litestream.L0RetentionStats{Eligible: 4, NotCompacted: 1, TooRecent: 1}); stats != want {
		t.Errorf("stats=%+v, want %+v", stats, want)
	}
	fx.c.L0Retention = 0
	fx.mustCompact(1)
	fx.now = fx.now.Add(100 * time.Hour)
	if n, err := fx.c.EnforceL0Retention(t.Context()); n != 0 || err != nil {
		t.Errorf("deleted %d, %v, want nothing with a retention of 0", n, err)
	}
}

// With retention.enabled off, local copies go once and nothing is asked of the
// replica again and again.
func TestCompactor_RetentionDisabled(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.c.RetentionEnabled = false
	local := 0
	fx.c.DeleteLocal = func(int, ltx.TXID, ltx.TXID) error { local++; return nil }
	fx.write(4, false)
	fx.mustCompact(1)
	fx.snapshot()
	fx.now = fx.now.Add(100 * time.Hour)
	fx.write(1, false)
	fx.snapshot()
	fx.now = fx.now.Add(100 * time.Hour)
	if _, err := fx.c.EnforceL0Retention(t.Context()); err != nil {
		t.Fatal(err)
	}
	fx.replica.requests()
	for range 10 {
		fx.now = fx.now.Add(15 * time.Second)
		if n, err := fx.c.EnforceL0Retention(t.Context()); n != 0 || err != nil {
			t.Fatalf("deleted %d, %v", n, err)
		}
		if n, err := fx.c.EnforceSnapshotRetention(t.Context()); n != 0 || err != nil {
			t.Fatalf("deleted %d, %v", n, err)
		}
	}
	if n := fx.replica.requests(); n != 0 {
		t.Errorf("%d requests, want 0", n)
	}
	if local != 4 || len(fx.replica.names(0)) != 5 || len(fx.replica.names(9)) != 2 {
		t.Errorf("%d local deletions, level 0 %v, snapshots %v", local, fx.replica.names(0), fx.replica.names(9))
	}
}

// daily writes four days with a snapshot at each end.
func (fx *compactorFixture) daily() {
	for range 4 {
		fx.write(3, false)
		fx.mustCompact(1)
		fx.mustCompact(2)
		fx.snapshot()
		fx.now = fx.now.Add(24 * time.Hour)
	}
}

func TestCompactor_EnforceSnapshotRetention(t *testing.T) {
	fx := newCompactorFixture(t)
	fx.daily()
	// A level that an earlier configuration had.
	fx.db.upload(t, fx.replica, 6, fx.db.ltx(t, 1, 3, fx.now.Add(-90*time.Hour), false))
	fx.db.upload(t, fx.replica, 6, fx.db.ltx(t, 4, 5, fx.now.Add(-70*time.Hour), false))
	if n, err := fx.c.EnforceSnapshotRetention(t.Context()); n != 9 || err != nil {
		t.Fatalf("deleted %d, %v, want 9", n, err)
	}
	for level, want := range map[int][]string{
		9: {"1-9", "1-12"}, 6: {"4-5"}, 2: {"10-12"}, 1: {"10-12"},
	} {
		if diff := cmp.Diff(want, fx.replica.names(level)); diff != "" {
			t.Errorf("level %d (-want +got):\n%s", level, diff)
		}
	}
	fx.replica.requests()
	if n, err := fx.c.EnforceSnapshotRetention(t.Context()); n != 0 || err != nil || fx.replica.requests() != 0 {
		t.Errorf("second pass deleted %d, %v", n, err)
	}
	// Compaction goes on behind what is left.
	fx.write(2, false)
	fx.mustCompact(1)
	fx.mustCompact(2)
}

// A pass that is cut short after any number of deletions leaves every promised
// position restorable, and the next process finishes it.
func TestCompactor_EnforceSnapshotRetention_Crash(t *testing.T) {
	for left := range 6 {
		fx := newCompactorFixture(t)
		fx.daily()
		fx.replica.deletesLeft = left
		if _, err := fx.c.EnforceSnapshotRetention(t.Context()); !errors.Is(err, errCrash) {
			t.Fatalf("crash after %d: %v", left, err)
		}
		for _, txid := range []ltx.TXID{9, 12} {
			if got, want := restoreChain(fx.replica.plan(fx.replica.listing(), txid)), fx.db.at(txid); !cmp.Equal(got, want) {
				t.Errorf("crash after %d: restore of %d: got %v, want %v", left, txid, got, want)
			}
		}
		// What is no longer promised is restored right or not at all.
		for _, txid := range []ltx.TXID{3, 6} {
			if chain := fx.replica.plan(fx.replica.listing(), txid); chain != nil && !cmp.Equal(restoreChain(chain), fx.db.at(txid)) {
				t.Errorf("crash after %d: restore of %d is wrong", left, txid)
			}
		}
		fx.replica.deletesLeft = -1
		fx.reopen()
		if _, err := fx.c.EnforceSnapshotRetention(t.Context()); err != nil {
			t.Fatalf("next process: %v", err)
		}
		if diff := cmp.Diff([]string{"1-9", "1-12"}, fx.replica.names(9)); diff != "" {
			t.Errorf("snapshots (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"10-12"}, fx.replica.names(1)); diff != "" {
			t.Errorf("level 1 (-want +got):\n%s", diff)
		}
	}
}
