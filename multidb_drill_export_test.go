package litestream

import "fmt"

// DrillNow does what the loop does in each tick.
func (m *MultiDBManager) DrillNow() { m.drillDue() }

// DrillIdle reports whether no drill runs.
func (m *MultiDBManager) DrillIdle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.drill.running) == 0
}

// DrillFacts returns the state of the drill as text.
func (m *MultiDBManager) DrillFacts() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := &m.drill
	return fmt.Sprintf("%d of %d queued, credit %v, bytes %v, retry %v, next look %s", len(d.queue), d.n, d.credit, d.bytes, d.retry, d.refill)
}
