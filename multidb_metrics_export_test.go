package litestream

import "time"

// SetSource says where the state of a fleet is asked for.
func (m *AggregatedMetrics) SetSource(source func() FleetStats) { m.setSource(source) }

// CountFailure counts a failure of the fleet.
func (m *AggregatedMetrics) CountFailure(reason string) { m.failed(reason) }

// EveryEvent tells m of one event of each kind.
func EveryEvent(m *AggregatedMetrics) {
	m.promoted()
	m.demoted()
	m.captured("full", "no-cursor")
	m.captured("tail", "")
	m.walBytes(4120)
	m.walBytes(-1)
	m.replicated(1500 * time.Millisecond)
	m.sent(300)
	m.replicated(-time.Hour)
	m.sent(0)
	m.scanned(200*time.Millisecond, scanStats{
		End: time.UnixMilli(1_700_000_000_500), Files: 100, New: 3, Changed: 2, Deleted: 1, Skipped: 4, Errors: 5, Unmatched: 6,
	})
	m.auditFailed()
	m.maintained("compact", "ok")
	m.failed("locked")
	m.validated("invalid", 7)
	m.verified(errPatternEmpty)
	m.verified(nil)
	m.drilled("ok", 3, 500, 2)
	m.catalogWritten(catalogCounts{gets: 1, puts: 2, deletes: 3, bytes: 400}, time.UnixMilli(1_700_000_001_500), nil)
	m.catalogWritten(catalogCounts{puts: 1}, time.Time{}, errPatternEmpty)
}

// CountCapture counts a capture of the fleet.
func (m *AggregatedMetrics) CountCapture(reason string) { m.captured("diff", reason) }

// CountMaintenance counts an action of the fleet's maintenance.
func (m *AggregatedMetrics) CountMaintenance(kind string) { m.maintained(kind, "ok") }
