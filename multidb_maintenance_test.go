package litestream_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

const year = 365 * 24 * time.Hour

func TestMaintenance_FirstBackupNeedsNothing(t *testing.T) {
	fx := newTenantFixture(t)
	fx.commit(1, 0)
	fx.wantRequests(map[string]int{"PUT 0": 1})
	if due := fx.due(); !due.IsZero() {
		t.Fatalf("due at %s", due)
	}
	fx.pass(year)
	fx.wantRequests(nil)
}

// A small database writes a snapshot and is silent after one more pass.
func TestMaintenance_SmallBurst(t *testing.T) {
	fx := newTenantFixture(t)
	fx.commit(1, 0)
	fx.pass(year)
	fx.commit(5, time.Second)
	fx.client.take()
	fx.pass(time.Hour)
	fx.wantRequests(map[string]int{"PUT 9": 1})
	fx.wantFiles(map[int][]string{0: {"1-1", "2-2", "3-3", "4-4", "5-5", "6-6"}, 9: {"1-6"}})
	fx.pass(year)
	fx.wantRequests(map[string]int{"LIST": 1, "DELETE": 1})
	fx.wantFiles(map[int][]string{0: {"6-6"}, 9: {"1-6"}})
	if fx.runs != 2 {
		t.Errorf("%d runs, want 2", fx.runs)
	}
	fx.pass(year)
	fx.wantRequests(nil)
}

func TestMaintenance_LargeBurst(t *testing.T) {
	fx := newTenantFixture(t)
	fx.large()
	fx.pass(year)
	fx.commit(5, time.Second)
	fx.client.take()
	fx.pass(time.Hour)
	fx.wantRequests(map[string]int{"GET": 5, "PUT 1": 1})
	fx.pass(year)
	fx.wantRequests(map[string]int{"PUT 9": 1, "LIST": 1, "DELETE": 2})
	fx.wantFiles(map[int][]string{0: {"6-6"}, 9: {"1-6"}})
	fx.pass(year)
	fx.wantRequests(nil)
}

// A large database that changes all the time has its levels and one snapshot a
// day, and few requests beside them.
func TestMaintenance_LargeActive(t *testing.T) {
	fx := newTenantFixture(t)
	fx.large()
	fx.client.take()
	const minutes = 150
	for range minutes {
		fx.commit(1, 0)
		fx.pass(time.Minute)
	}
	got := fx.client.take()
	// Eight files of a level or more are merged into the next. A snapshot comes
	// when the files since the last weigh as much, 16 KiB at least each.
	size := fx.client.Files(litestream.SnapshotLevel)[0].Size
	t.Logf("snapshot of %d KiB, requests: %v", size>>10, got)
	if got["PUT 0"] != minutes || got["PUT 1"] > minutes || got["PUT 2"] > minutes/10 || got["PUT 2"] == 0 || got["PUT 3"] > minutes/60 {
		t.Errorf("requests %v", got)
	}
	if n, most := got["PUT 9"], minutes*20<<10/int(size)*2; n < 1 || n > most {
		t.Errorf("%d snapshots of %d bytes, want %d at most", n, size, most)
	}
	// One pass of retention in 64 files, and a listing for each climb.
	if got["LIST"] > got["PUT 2"]+minutes/25 || got["DELETE"] > minutes/25 {
		t.Errorf("requests %v", got)
	}
	if n := len(fx.client.names(0)); n > 100 {
		t.Errorf("%d files of level 0", n)
	}
}

func TestMaintenance_SmallActive(t *testing.T) {
	fx := newTenantFixture(t)
	fx.commit(1, 0)
	fx.pass(time.Hour)
	fx.client.take()
	for range 5 * 24 {
		fx.commit(1, 0)
		fx.pass(time.Hour)
	}
	got := fx.client.take()
	if got["PUT 0"] != 120 || got["PUT 9"] != 120 || got["LIST"] > 5 || got["DELETE"] > 10 || len(got) != 4 {
		t.Errorf("requests of 120 changes in 5 days: %v", got)
	}
	if n := len(fx.client.names(litestream.SnapshotLevel)); n > 51 {
		t.Errorf("%d snapshots", n)
	}
}

// What a deleted database left is merged and expires without its file.
func TestMaintenance_DeletedDatabase(t *testing.T) {
	fx := newTenantFixture(t)
	fx.commit(1, 0)
	fx.pass(time.Hour)
	fx.commit(3, time.Second)
	fx.pass(time.Hour)
	fx.commit(3, time.Second)
	fx.gone = true
	fx.client.take()
	fx.pass(year)
	fx.wantRequests(map[string]int{"GET": 3, "PUT 1": 1, "LIST": 1, "DELETE": 1})
	fx.wantFiles(map[int][]string{0: {"7-7"}, 1: {"5-7"}, 9: {"1-4"}})
	if err := fx.m.DeleteReplica(t.Context(), fx.path, fx.client); err != nil {
		t.Fatal(err)
	}
	fx.wantFiles(map[int][]string{})
}

// Copies on this host spare the requests for level 0.
func TestMaintenance_LocalFiles(t *testing.T) {
	fx := newTenantFixture(t)
	fx.large()
	fx.commit(3, time.Second)
	fx.client.take()
	fx.local = func(level int, minTXID, maxTXID ltx.TXID) (io.ReadCloser, error) {
		data, _ := fx.client.Data(level, minTXID, maxTXID)
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	fx.pass(time.Hour)
	fx.wantRequests(map[string]int{"PUT 1": 1})
}

func TestMaintenance_DamagedFile(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprintf("gone=%v", gone), func(t *testing.T) {
			fx := newTenantFixture(t)
			fx.large()
			fx.commit(3, time.Second)
			fx.client.Corrupt(t, 0, 3, 3, -20)
			fx.client.take()
			fx.gone = gone
			fx.now = fx.due()
			err := fx.run()
			if !gone {
				if err != nil {
					t.Fatal(err)
				}
				fx.wantRequests(map[string]int{"GET": 6, "PUT 1": 1, "PUT 9": 1})
				return
			}
			var le *litestream.LTXError
			if !errors.As(err, &le) || le.MinTXID != 3 {
				t.Fatalf("err=%v, want the damaged file", err)
			}
			fx.client.take()
			fx.pass(year)
			fx.wantRequests(map[string]int{"LIST": 1, "DELETE": 1}) // what is merged
			fx.wantFiles(map[int][]string{0: {"1-1", "3-3", "4-4"}, 1: {"2-2"}})
			fx.pass(year)
			fx.wantRequests(nil)
		})
	}
}

// Transactions that are missing on the replica are healed by a snapshot, which
// needs two listings to be believed.
func TestMaintenance_MissingFile(t *testing.T) {
	fx := newTenantFixture(t)
	fx.large()
	fx.commit(5, time.Second)
	fx.client.Delete(0, 3, 3)
	fx.client.take()
	fx.pass(time.Minute)
	got := fx.client.take()
	if got["LIST"] != 2 || got["PUT 9"] != 1 {
		t.Errorf("requests %v", got)
	}
	if fx.plan(fx.client.listing(), fx.uploaded) == nil {
		t.Error("the newest position is not restorable")
	}
	fx.pass(year)
	fx.wantFiles(map[int][]string{0: {"6-6"}, 9: {"1-6"}})
}

// A listing may miss a file that had just come and have a newer one: that costs
// another listing and no snapshot.
func TestMaintenance_FalseGap(t *testing.T) {
	for _, unseen := range [][]ltx.TXID{{3}, {6}, {3, 4}, {5, 3, 4, 2}} {
		fx := newTenantFixture(t)
		fx.large()
		fx.commit(5, time.Second)
		fx.client.take()
		_ = fx.files.UnmarshalBinary([]byte("lost"))
		fx.client.unseen = slices.Clone(unseen)
		fx.pass(time.Minute)
		lists := len(unseen) + 1
		if unseen[0] == 6 {
			lists = 1 // without the newest there is no gap
		}
		got := fx.client.take()
		if got["LIST"] != lists || got["PUT 9"] != 0 {
			t.Errorf("unseen %v: requests %v, want %d listings and no snapshot", unseen, got, lists)
		}
		fx.pass(year)
		fx.wantFiles(map[int][]string{0: {"6-6"}, 9: {"1-6"}})
	}
}

// A replica that refuses to delete does not keep a database from being
// compacted, and is not asked for ever.
func TestMaintenance_DeletionFails(t *testing.T) {
	fx := newTenantFixture(t)
	fx.commit(1, 0)
	fx.commit(3, time.Second)
	fx.client.deletes = 0
	failed := 0
	for due := fx.due(); !due.IsZero(); due = fx.due() {
		fx.now = due
		if err := fx.run(); errors.Is(err, errCrash) {
			failed++
		} else if err != nil {
			t.Fatal(err)
		}
		if failed > 20 {
			t.Fatalf("still due at %s", due)
		}
	}
	fx.client.take()
	fx.client.deletes = -1
	fx.commit(1, 0)
	fx.pass(year)
	fx.wantRequests(map[string]int{"PUT 0": 1, "PUT 9": 1, "LIST": 1, "DELETE": 3})
	fx.wantFiles(map[int][]string{0: {"5-5"}, 9: {"1-5"}})
}

func TestMaintenance_SnapshotFails(t *testing.T) {
	fx := newTenantFixture(t)
	fx.commit(4, time.Second)
	fx.snapErr = errors.New("database is locked")
	fx.now = fx.due()
	if err := fx.run(); !errors.Is(err, fx.snapErr) || !strings.Contains(err.Error(), fx.path) {
		t.Fatalf("err=%v, want the snapshot's with the path", err)
	}
	if due := fx.due(); due.After(fx.now) || due.IsZero() {
		t.Fatalf("due at %s, want at once", due)
	}
	fx.snapErr = nil
	fx.pass(time.Minute)
	fx.wantRequests(map[string]int{"PUT 0": 4, "PUT 9": 1})
}
