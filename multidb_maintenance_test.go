package litestream_test

import (
	"testing"
	"time"
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
	fx.wantRequests(map[string]int{"PUT 9": 1, "LIST": 1, "DELETE": 1})
	fx.wantFiles(map[int][]string{0: {"6-6"}, 1: {"2-6"}, 9: {"1-6"}})
	fx.pass(year)
	fx.wantRequests(nil)
}
