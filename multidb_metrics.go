package litestream

// AggregatedMetrics counts what happens to a fleet, without a series for each
// of its databases.
type AggregatedMetrics struct{}
