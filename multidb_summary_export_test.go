package litestream

import "time"

// NoteFailed counts a database that failed.
func (s *FleetSummary) NoteFailed(class, reason, path string) {
	s.noteFailed(class, reason, func() string { return path })
}

// NoteUnreplicated counts a database with a change that is not replicated.
func (s *FleetSummary) NoteUnreplicated(changedAt time.Time, reason string, path func() string) {
	s.noteUnreplicated(FleetWaiting{ChangedAt: changedAt, State: "failed", Reason: reason}, path)
}

// NoteLog counts a large log.
func (s *FleetSummary) NoteLog(size int64, path string) {
	z := scanSizes{logN: s.LargeLogN, logs: s.LargeLogs}
	z.addLog(FleetLog{Path: path, Size: size})
	s.LargeLogN, s.LargeLogs = z.logN, z.logs
}

// NoNulls prepares a summary for those who read the JSON.
func (s *FleetSummary) NoNulls() { s.noNulls() }
