package pagesum

import "sync/atomic"

// DefaultBudgetBytes bounds what the ledgers of one process keep in memory.
const DefaultBudgetBytes = 16 << 20

// maxOverlayPages is the number of changed pages after which a ledger with a
// budget is flushed however much room the budget has left.
const maxOverlayPages = 65536

// overlayEntryBytes is what one changed page costs in a Go map of uint32 to
// uint64, measured as an average over its growth steps.
const overlayEntryBytes = 32

// Budget is the memory shared by the overlays of many ledgers. It is safe for
// concurrent use.
type Budget struct {
	limit   int64
	used    atomic.Int64
	holders atomic.Int64 // ledgers with at least one changed page
}

// NewBudget returns a budget of so many bytes; 0 or less means
// DefaultBudgetBytes.
func NewBudget(limit int64) *Budget {
	if limit <= 0 {
		limit = DefaultBudgetBytes
	}
	return &Budget{limit: limit}
}

// Limit returns the size of the budget in bytes.
func (b *Budget) Limit() int64 { return b.limit }

// charge records that one ledger's use went from old to now.
func (b *Budget) charge(old, now int64) {
	b.used.Add(now - old)
	switch {
	case old == 0 && now > 0:
		b.holders.Add(1)
	case old > 0 && now == 0:
		b.holders.Add(-1)
	}
}

// mustFlush reports whether a ledger of this use has to give its memory back.
// When the budget is exceeded at least one ledger holds its equal share or
// more; those pay. A ledger with three changed pages does not rewrite its
// file every second because a neighbour is large.
func (b *Budget) mustFlush(own int64) bool {
	if own == 0 || b.used.Load() <= b.limit {
		return false
	}
	return own >= b.limit/max(1, b.holders.Load())
}
