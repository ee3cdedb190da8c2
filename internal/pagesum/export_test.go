package pagesum

import "github.com/superfly/ltx"

// Used returns how many bytes the attached ledgers hold.
func (b *Budget) Used() int64 { return b.used.Load() }

// BaseTXID returns the position that survives a loss of power now.
func (l *Ledger) BaseTXID() ltx.TXID { return l.durableTXID }
