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

// NoteLog counts a database with a log of that size.
func (s *FleetSummary) NoteLog(size int64, path string) {
	s.noteLog(size, func() string { return path })
}

// NoNulls prepares a summary for those who read the JSON.
func (s *FleetSummary) NoNulls() { s.noNulls() }
