package litestream

import (
	"encoding/json"
	"slices"
	"strings"
)

// stats are the gauges of the fleet, in one pass over all records.
func (m *MultiDBManager) stats() FleetStats {
	now := m.now()
	st := FleetStats{
		HotLimit: m.cfg().MaxHotDatabases, Databases: make(map[FleetState]int), Failed: make(map[string]int),
		Pools: m.store.resources.pools(), Connections: m.store.resources.connections(),
		StagedBytes: m.shared.staged.used.Load(), StagedLimit: m.cfg().MaxStagedBytes,
	}
	for s := TenantUnknown; s <= TenantGone; s++ { // a series stays when nothing is left of it
		st.Databases[FleetState{Tier: tierOf(s), State: s.String()}] = 0
	}
	groups := make(map[uint32]*FleetGroup)
	m.mu.Lock()
	defer m.mu.Unlock()
	st.Drilled = m.cfg().Drill.Interval > 0
	for i, s := range m.table.All() {
		if err := m.reasonLocked(i, s); err != nil {
			st.Failed[failureClass(err)]++
		}
		st.Databases[FleetState{Tier: tierOf(s.state), State: s.state.String()}]++
		g := groups[s.group]
		if g == nil {
			g = &FleetGroup{Size: m.scans.sizes.of(s.group)}
			groups[s.group] = g
		}
		if s.state != TenantGone {
			g.Branches = 1
		}
		switch s.state {
		case TenantHot:
			g.Hot++
			st.Hot++
		case TenantQueued:
			g.Queued++
			st.Cold++
		case TenantUnknown, TenantClean, TenantFailed:
			st.Cold++
		case TenantGone:
		}
		if st.Drilled && s.txid > 0 {
			if proven := m.catalog.at(i).proven; proven == 0 {
				st.Unproven++
			} else {
				st.OldestProven = max(st.OldestProven, now.Sub(proven.Time()))
			}
		}
		if s.changedAt != 0 && s.state != TenantGone {
			st.OldestUnreplicated = max(st.OldestUnreplicated, now.Sub(s.ChangedAt()))
		}
	}
	st.Queue = m.queueLocked()
	st.TableBytes = m.table.MemoryBytes() + m.catalog.records.bytes()
	st.MaintenanceQueue = m.upkeep.dueBy(now)
	st.Groups = m.groupsLocked(groups)
	return st
}

// groupsLocked joins the branches of each database of a project.
func (m *MultiDBManager) groupsLocked(groups map[uint32]*FleetGroup) []FleetGroup {
	type key struct{ project, database string }
	joined := make(map[key]*FleetGroup)
	for id, g := range groups {
		project, rest := m.table.Group(id)
		database, _, _ := strings.Cut(rest, "\x00")
		k := key{project, database}
		sum := joined[k]
		if sum == nil {
			sum = &FleetGroup{Project: project, Database: database}
			joined[k] = sum
		}
		sum.Hot, sum.Queued, sum.Size = sum.Hot+g.Hot, sum.Queued+g.Queued, sum.Size+g.Size
		sum.Branches += g.Branches
	}
	a := make([]FleetGroup, 0, len(joined))
	for _, g := range joined {
		a = append(a, *g)
	}
	return a
}

// tierOf returns the tier of a state, as metrics name it.
func tierOf(s TenantState) string {
	switch s {
	case TenantHot:
		return "hot"
	case TenantGone:
		return "none"
	case TenantUnknown, TenantClean, TenantQueued, TenantFailed:
		return "cold"
	default:
		return "none"
	}
}

// summary is what the status command shows of the fleet.
func (m *MultiDBManager) summary() FleetSummary {
	now := m.now()
	s := FleetSummary{
		At: now.UTC(), StartedAt: m.startedAt.UTC(), HotLimit: m.cfg().MaxHotDatabases, States: make(map[string]int),
		StagedBytes: m.shared.staged.used.Load(), StagedLimit: m.cfg().MaxStagedBytes,
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, r := range m.table.All() {
		s.States[r.state.String()]++
		switch tierOf(r.state) {
		case "hot":
			s.Hot++
		case "cold":
			s.Cold++
		}
		path := func() string { return m.table.Path(i) }
		reason := m.reasonLocked(i, r)
		if reason != nil {
			s.noteFailed(failureClass(reason), reason.Error(), path)
		}
		if problem := m.drill.found[i]; problem != "" {
			s.noteDamaged(problem, path)
		}
		if r.changedAt != 0 && r.state != TenantGone {
			w := FleetWaiting{ChangedAt: r.ChangedAt(), State: r.state.String()}
			if reason != nil {
				w.Reason = reason.Error()
			}
			s.noteUnreplicated(w, path)
		}
	}
	s.LargeLogN, s.LargeLogs = m.scans.sizes.logN, slices.Clone(m.scans.sizes.logs)
	s.Queue = m.queueLocked()
	s.Scan = m.scanSummaryLocked()
	s.noNulls()
	return s
}

// reasonLocked returns why a database is not replicated, or why not all of it.
// What failed once and is being tried again counts until it succeeds.
func (m *MultiDBManager) reasonLocked(i uint32, s *DBState) error {
	if s.state == TenantClean {
		return nil
	} else if err := m.unsent[i]; err != nil {
		return err
	} else if f := m.reasons[i]; f != nil {
		return f.err
	}
	return nil
}

func (m *MultiDBManager) queueLocked() FleetQueue {
	return FleetQueue{Changed: m.queue.ready[queueChanged].n, First: m.queue.ready[queueFirst].n, Delayed: m.queue.Delayed()}
}

// namedScanErrors is how many of what a scan could not look at a summary names.
const namedScanErrors = 5

func (m *MultiDBManager) scanSummaryLocked() FleetScan {
	s := FleetScan{
		EndedAt: m.scans.last.UTC(), Seconds: m.scans.took.Seconds(), Files: m.scans.files, Errors: m.scans.errorN,
	}
	for _, e := range m.scans.errors[:min(len(m.scans.errors), namedScanErrors)] {
		s.Examples = append(s.Examples, metricLabel(e.Error()))
	}
	for p, n := range m.scans.matches {
		if n == 0 {
			s.Unmatched = append(s.Unmatched, m.cfg().Patterns[p])
		}
	}
	return s
}

// putSummary leaves the summary for the status command.
func (m *MultiDBManager) putSummary() {
	s := m.summary()
	b, err := json.Marshal(&s)
	if err != nil {
		m.logger.Error("encode summary", "error", err)
		return
	}
	m.reg.SetSummary(b)
}
