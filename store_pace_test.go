package litestream

import (
	"testing"
	"time"
)

// TestStore_WantUpload checks when what was just captured is sent. An upload
// that takes a while must not push the next one away: looks that come once in
// each sync interval keep it already.
func TestStore_WantUpload(t *testing.T) {
	for _, tt := range []struct {
		name          string
		monitor, sync time.Duration
		sinceLast     time.Duration // since the last upload ended
		want          time.Duration // from now on
	}{
		{"SameInterval", time.Second, time.Second, 900 * time.Millisecond, 0},
		{"RareLooks", 10 * time.Second, time.Second, 100 * time.Millisecond, 0},
		{"FrequentLooks", time.Second, 10 * time.Second, 4 * time.Second, 6 * time.Second},
		{"FrequentLooksLate", time.Second, 10 * time.Second, time.Minute, 0},
		{"LooksByHand", 0, time.Second, 400 * time.Millisecond, 600 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewStore(nil, nil)
			s.sched = newScheduler(nil)
			m := &managedDB{db: NewDB("/db")}
			for i := range m.tasks {
				m.tasks[i] = scheduled{m: m, kind: taskKind(i), index: -1}
			}
			before := time.Now()
			m.db.MonitorInterval = tt.monitor
			m.db.Replica = &Replica{SyncInterval: tt.sync, lastSync: before.Add(-tt.sinceLast)}
			s.wantUpload(m)
			after := time.Now()

			task := m.tasks[taskUpload]
			if task.index < 0 {
				t.Fatal("no upload is scheduled")
			}
			if task.due.Before(before.Add(tt.want)) || task.due.After(after.Add(tt.want)) {
				t.Errorf("due in %s, want in %s", task.due.Sub(before), tt.want)
			}
		})
	}
}
