package litestream

// tenantMode makes a DB one of a fleet of databases that belong to somebody
// else: it is never pinned, checkpointed or converted, nothing is put beside
// its file, and nothing of it is kept open between two looks. What stays of
// the local state while it is cold is the fleet's registry's.
type tenantMode struct {
	connections *ConnectionPool    // for views that need a read transaction
	metrics     *AggregatedMetrics // may be nil
}
