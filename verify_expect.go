package litestream

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/pagesum"
)

// LedgerSums returns what the page ledger at a path knows; nil if it is of no use
// for a replica. A ledger is a cache, so that one that is damaged is none.
func LedgerSums(path string, replica [32]byte) *VerifySums {
	l, err := pagesum.Open(path)
	if err != nil {
		return nil
	}
	return sumsOf(l, replica)
}

// TenantLedgerSums is LedgerSums for a database found by pattern, whose ledger
// the registry keeps, or the place of it.
func TenantLedgerSums(stateDir, dbPath string, stored []byte, replica [32]byte) *VerifySums {
	if len(stored) == 0 {
		return nil
	}
	l, err := pagesum.Unmarshal(stored, filepath.Join(stateDir, ledgersDir, tenantKey(dbPath)))
	if err != nil {
		return nil
	}
	return sumsOf(l, replica)
}

func sumsOf(l *pagesum.Ledger, replica [32]byte) *VerifySums {
	hdr := l.Header()
	if hdr.Replica != replica || hdr.TXID == 0 {
		return nil
	}
	return &VerifySums{TXID: hdr.TXID, PageN: hdr.PageN, Each: func(fn func(uint32, ltx.Checksum)) (err error) {
		r, err := l.Reader()
		if err != nil {
			return fmt.Errorf("read page ledger: %w", err)
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		for pgno := uint32(1); ; pgno++ {
			sum, err := r.Next()
			if errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("read page ledger: %w", err)
			}
			fn(pgno, sum)
		}
	}}
}
