package litestream

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
