package litestream

import (
	"testing"
	"time"

	"github.com/superfly/ltx"
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

// TestStore_HoldBack checks that a database that is captured faster than it is
// uploaded is not looked at until an upload makes room, or a second is over.
func TestStore_HoldBack(t *testing.T) {
	s := NewStore(nil, nil)
	s.sched = newScheduler(nil)
	now := time.Now()
	newDB := func(sinceLook time.Duration) *managedDB {
		m := &managedDB{db: NewDB(t.TempDir() + "/none")}
		for i := range m.tasks {
			m.tasks[i] = scheduled{m: m, kind: taskKind(i), index: -1}
		}
		m.db.MonitorInterval = time.Millisecond
		m.lookedAt.Store(now.Add(-sinceLook).UnixNano())
		for txid := ltx.TXID(1); txid <= 2; txid++ {
			m.db.stage.add(stagedFile{TXID: txid})
			m.db.stage.files[txid-1].at = 0
			if txid == 1 {
				m.db.stage.sendAll(true)
			}
		}
		return m
	}
	next := func(m *managedDB) time.Duration {
		if m.tasks[taskSync].index < 0 {
			t.Fatal("no look is scheduled")
		}
		return m.tasks[taskSync].due.Sub(time.Unix(0, m.lookedAt.Load()))
	}

	m := newDB(0)
	s.runSync(t.Context(), m)
	if got := next(m); got != longestHold || !m.held.Load() {
		t.Errorf("next look %s after the last one, held=%t, want it held for %s", got, m.held.Load(), longestHold)
	}
	s.resumeLook(m) // nothing has changed
	if got := next(m); got != longestHold {
		t.Errorf("next look %s after the last one, want %s: there is still no room", got, longestHold)
	}
	m.db.stage.ack(1)
	s.resumeLook(m)
	if got := next(m); got != time.Millisecond || m.held.Load() {
		t.Errorf("next look %s after the last one, held=%t, want it after an interval", got, m.held.Load())
	}

	m = newDB(2 * longestHold)
	s.runSync(t.Context(), m)
	if m.held.Load() || m.lookedAt.Load() < now.UnixNano() {
		t.Error("a database is not looked at although the last look was long ago")
	}
	m = newDB(0)
	m.db.stage.sendAll(false)
	s.runSync(t.Context(), m)
	if m.held.Load() || m.lookedAt.Load() < now.UnixNano() {
		t.Error("a database is not looked at although nothing is being uploaded")
	}
}

// TestStage_Ahead checks how many files may be added while an upload goes on.
func TestStage_Ahead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		waiting int    // when the upload begins
		steps   string // a: a file is added; s: one is sent
		want    string // after each step, 1 if no more may be added
	}{
		{"Empty", 0, "aa", "01"},
		{"Few", 1, "asasaas", "1010111"},
		{"Many", 5, "asssas", "110011"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s stage
			newest, oldest := ltx.TXID(0), ltx.TXID(1)
			add := func() {
				newest++
				s.add(stagedFile{TXID: newest})
				s.files[len(s.files)-1].at = 0
			}
			for range tt.waiting {
				add()
			}
			if s.ahead() {
				t.Error("ahead although no upload goes on")
			}
			s.sendAll(true)
			got := ""
			for _, step := range tt.steps {
				if step == 'a' {
					add()
				} else {
					s.ack(oldest)
					oldest++
				}
				if s.ahead() {
					got += "1"
				} else {
					got += "0"
				}
			}
			if got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.steps, got, tt.want)
			}
			s.sendAll(false)
			if s.ahead() {
				t.Error("ahead although the upload ended")
			}
			s.sendAll(true)
			for range 100 {
				s.add(stagedFile{})
			}
			s.files[0].at = time.Now().Add(time.Hour).UnixNano()
			if s.ahead() {
				t.Error("ahead although nothing has waited for long")
			}
		})
	}
}
