package litestream

import "testing"

func TestDecideTenantView(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   tenantFacts
		want viewKind
	}{
		{"rollback journal", tenantFacts{}, viewQuiet},
		{"rollback journal, disturbed", tenantFacts{disturbed: 2}, viewQuiet},
		{"rollback journal, busy", tenantFacts{disturbed: 3}, viewSliced},
		{"rollback journal, busy, network", tenantFacts{network: true, disturbed: 9}, viewQuiet},
		{"log, resting", tenantFacts{wal: true}, viewQuiet},
		{"log, resting, disturbed", tenantFacts{wal: true, connect: true, disturbed: 9}, viewQuiet},
		{"log, in use", tenantFacts{wal: true, live: true, connect: true}, viewStill},
		{"log, in use, disturbed", tenantFacts{wal: true, live: true, connect: true, disturbed: 5}, viewStill},
		{"log, in use, busy", tenantFacts{wal: true, live: true, connect: true, disturbed: 6}, viewLocked},
		{"log, in use, network", tenantFacts{wal: true, live: true, connect: true, network: true}, viewQuiet},
		{"log, in use, no connection", tenantFacts{wal: true, live: true}, viewStill},
		{"log, in use, no connection, busy", tenantFacts{wal: true, live: true, disturbed: 9}, viewStill},
		{"log, in use, may not write", tenantFacts{wal: true, live: true, readOnly: true, disturbed: 5}, viewStill},
		{"log, in use, may not write, busy", tenantFacts{wal: true, live: true, readOnly: true, disturbed: 6}, viewLocked},
	} {
		if got := decideTenantView(tt.in); got != tt.want {
			t.Errorf("%s: kind %d, want %d", tt.name, got, tt.want)
		}
	}
}
