package litestream

import (
	"cmp"
	"slices"
	"time"
)

// LargeLogBytes is from which size on a write-ahead log is named in a summary:
// its application does not checkpoint, or a reader keeps it from that.
const LargeLogBytes = 64 << 20

// How many databases a FleetSummary names.
const (
	fleetOldestN    = 10
	fleetLargeLogsN = 10
	fleetDamagedN   = 10
	fleetExamplesN  = 3 // per reason of failures
)

// FleetSummary is what `litestream status` shows of all databases found by
// pattern. The manager makes one after each scan and keeps it in the registry
// as JSON. Names that are not UTF-8 are quoted in it. Times are in UTC.
type FleetSummary struct {
	At        time.Time `json:"at"`         // when it was made
	StartedAt time.Time `json:"started_at"` // of the process that made it

	Hot      int            `json:"hot"`
	HotLimit int            `json:"hot_limit"`
	Cold     int            `json:"cold"`   // databases that are there and not hot
	States   map[string]int `json:"states"` // databases by name of their TenantState
	Queue    FleetQueue     `json:"queue"`

	// Unreplicated counts databases with a change that no upload holds yet, and
	// Oldest names those that wait longest, oldest first.
	Unreplicated int            `json:"unreplicated"`
	Oldest       []FleetWaiting `json:"oldest"`

	Failures []FleetFailure `json:"failures"` // one per class of reasons, most frequent first

	// LargeLogN counts logs of at least LargeLogBytes; LargeLogs are the
	// largest of them, largest first.
	LargeLogN int        `json:"large_wal_count"`
	LargeLogs []FleetLog `json:"large_wals"`

	// DamagedN counts databases whose replica the last drill found damaged, and
	// Damaged names some, with what is wrong.
	DamagedN int            `json:"damaged_count"`
	Damaged  []FleetExample `json:"damaged"`

	StagedBytes int64 `json:"staged_bytes"` // captured and not uploaded
	StagedLimit int64 `json:"staged_bytes_limit"`

	Scan FleetScan `json:"scan"`
}

// RecordedState returns the state that a record of the registry holds. Beside
// it the record may be marked as unsure.
func RecordedState(b uint8) TenantState { return TenantState(b &^ recordMarks) }

// RecordedDoomed reports whether the replica of a database that is gone is being
// deleted, by what a record of the registry holds.
func RecordedDoomed(b uint8) bool { return b&recordDoomed != 0 }

// FleetWaiting is a database with a change that is not replicated.
type FleetWaiting struct {
	Path      string    `json:"path"`
	ChangedAt time.Time `json:"changed_at"`
	State     string    `json:"state"`
	Reason    string    `json:"reason,omitempty"` // if it failed
}

// FleetFailure sums up the databases that failed for one class of reasons.
type FleetFailure struct {
	Reason   string         `json:"reason"` // as in FleetStats.Failed
	Count    int            `json:"count"`
	Examples []FleetExample `json:"examples"`
}

// FleetExample is a database that failed, and its error.
type FleetExample struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// FleetLog is a database with a large write-ahead log.
type FleetLog struct {
	Path string `json:"path"`
	Size int64  `json:"wal_size"`
}

// FleetScan is what the last scan saw.
type FleetScan struct {
	EndedAt   time.Time `json:"ended_at"`
	Seconds   float64   `json:"duration_seconds"`
	Files     int       `json:"files"`
	Errors    int       `json:"errors"`             // files and directories that could not be looked at
	Examples  []string  `json:"error_examples"`     // some of them, with the cause
	Unmatched []string  `json:"unmatched_patterns"` // patterns that matched nothing
}

// noNulls makes lists without entries empty ones, for those who read the JSON.
func (s *FleetSummary) noNulls() {
	s.Oldest = append([]FleetWaiting{}, s.Oldest...)
	s.Failures = append([]FleetFailure{}, s.Failures...)
	s.LargeLogs = append([]FleetLog{}, s.LargeLogs...)
	s.Damaged = append([]FleetExample{}, s.Damaged...)
	s.Scan.Examples = append([]string{}, s.Scan.Examples...)
	s.Scan.Unmatched = append([]string{}, s.Scan.Unmatched...)
}

// noteFailed counts a database that failed. path makes the database's path,
// here and below; it is called for those only that are named.
func (s *FleetSummary) noteFailed(class, reason string, path func() string) {
	i := slices.IndexFunc(s.Failures, func(f FleetFailure) bool { return f.Reason == class })
	if i < 0 {
		i = len(s.Failures)
		s.Failures = append(s.Failures, FleetFailure{Reason: class})
	}
	f := &s.Failures[i]
	f.Count++
	if len(f.Examples) < fleetExamplesN {
		f.Examples = append(f.Examples, FleetExample{Path: metricLabel(path()), Error: metricLabel(reason)})
	}
	for ; i > 0 && s.Failures[i-1].Count < s.Failures[i].Count; i-- {
		s.Failures[i-1], s.Failures[i] = s.Failures[i], s.Failures[i-1]
	}
}

// noteDamaged counts a database whose replica is damaged.
func (s *FleetSummary) noteDamaged(problem string, path func() string) {
	s.DamagedN++
	if len(s.Damaged) < fleetDamagedN {
		s.Damaged = append(s.Damaged, FleetExample{Path: metricLabel(path()), Error: metricLabel(problem)})
	}
}

// noteUnreplicated counts a database with a change that is not replicated. w
// lacks the path.
func (s *FleetSummary) noteUnreplicated(w FleetWaiting, path func() string) {
	s.Unreplicated++
	s.Oldest = keepFirst(s.Oldest, w, fleetOldestN,
		func(a, b FleetWaiting) int { return a.ChangedAt.Compare(b.ChangedAt) },
		func(w *FleetWaiting) { w.Path, w.Reason = metricLabel(path()), metricLabel(w.Reason) })
}

// scanSizes are the sizes of all files as a scan saw them. A record knows only
// those that its database had when it was last replicated.
type scanSizes struct {
	groups []int64 // bytes of files and logs, by the number of the group

	logN int        // of at least LargeLogBytes
	logs []FleetLog // the largest of these
}

// add takes note of the files of a database.
func (z *scanSizes) add(group uint32, size int64) {
	if n := int(group) + 1; n > len(z.groups) {
		z.groups = append(z.groups, make([]int64, n-len(z.groups))...)
	}
	z.groups[group] += size
}

// addLog takes note of a log of at least LargeLogBytes.
func (z *scanSizes) addLog(l FleetLog) {
	z.logN++
	z.logs = keepFirst(z.logs, l, fleetLargeLogsN,
		func(a, b FleetLog) int { return cmp.Compare(b.Size, a.Size) },
		func(l *FleetLog) { l.Path = metricLabel(l.Path) })
}

// of returns the bytes of a group; 0 for one that no scan has seen.
func (z *scanSizes) of(group uint32) int64 {
	if int(group) >= len(z.groups) {
		return 0
	}
	return z.groups[group]
}

// keepFirst inserts v into the sorted list a of at most n, unless it comes
// behind all of them. fill completes it then.
func keepFirst[T any](a []T, v T, n int, compare func(a, b T) int, fill func(*T)) []T {
	i := len(a)
	for i > 0 && compare(v, a[i-1]) < 0 {
		i--
	}
	if i == n {
		return a
	}
	fill(&v)
	return slices.Insert(a[:min(len(a), n-1)], i, v)
}
