package litestream

import (
	"fmt"
	"time"
)

// Counts returns how many databases of a manager are in which state, once a
// scan has come to its end.
func (m *MultiDBManager) Counts() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := make(map[string]int)
	if m.scans.last.IsZero() {
		return counts
	}
	for _, s := range m.table.All() {
		counts[s.state.String()]++
	}
	return counts
}

// TenantState returns the state of a database, and why it failed.
func (m *MultiDBManager) TenantState(path string) (state string, reason error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, ok := m.table.FindPath(path)
	if !ok {
		return "", nil
	}
	if f := m.reasons[i]; f != nil {
		reason = f.err
	}
	return m.table.At(i).state.String(), reason
}

// NextValidation returns when the next round of validations begins.
func (m *MultiDBManager) NextValidation() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.validation.next
}

// ScanEnd returns when the last scan came to its end.
func (m *MultiDBManager) ScanEnd() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.scans.last
}

// Summary returns what status shows.
func (m *MultiDBManager) Summary() FleetSummary { return m.summary() }

// Stats returns what the metrics show.
func (m *MultiDBManager) Stats() FleetStats { return m.stats() }

// SetNow replaces the clock of the tiers, the maintenance and the queue.
func (m *MultiDBManager) SetNow(now func() time.Time) { m.now = now }

// UpkeepLen returns how many databases need maintenance some day.
func (m *MultiDBManager) UpkeepLen() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.upkeep.len() + len(m.underway)
}

// HotFacts tells of each hot database what its next move depends on.
func (m *MultiDBManager) HotFacts() (lines []string) {
	m.mu.Lock()
	open := m.hotLocked()
	m.mu.Unlock()
	for _, d := range open {
		d.mu.Lock()
		line := fmt.Sprintf("%s: %s", d.path, d.state)
		if d.state == LifecycleHot {
			line += fmt.Sprintf(" %+v", d.facts())
		}
		d.mu.Unlock()
		lines = append(lines, line)
	}
	return lines
}

// len returns how many databases need maintenance some day.
func (q *upkeepQueue) len() int { return q.wait.delayed.n }

// ScanNow scans and returns when that has ended.
func (m *MultiDBManager) ScanNow() {
	done := make(chan struct{})
	m.scanAsked <- done
	<-done
}

// Named returns the store, of the databases that are named in the configuration.
func (m *MultiDBManager) Named() *Store { return m.store }
