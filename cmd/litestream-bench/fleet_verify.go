//go:build linux

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/benbjohnson/litestream"
)

const verifyWorkers = 2

// verified is what restores of some tenants showed.
type verified struct {
	mu       sync.Mutex // guards all
	tenants  int
	commits  int // acknowledged ones that were looked for
	lost     int // of these, not there or not what was written
	unsound  int // integrity_check was not ok, or another tenant's content
	failed   int // could not be restored
	examples []string
}

// note keeps a few of the problems for the report.
func (v *verified) note(format string, args ...any) {
	if len(v.examples) < 5 {
		v.examples = append(v.examples, fmt.Sprintf(format, args...))
	}
}

// chooseTenants picks n random tenants, half of them from those with commits as
// far as there are so many.
func (f *fleet) chooseTenants(o *oracle, n int, seed uint64) []int {
	var with, without []int
	for _, t := range rand.New(rand.NewPCG(seed, 5)).Perm(f.n) {
		if _, acked := o.of(t); acked > 0 {
			with = append(with, t)
		} else {
			without = append(without, t)
		}
	}
	n = min(n, f.n)
	k := min(len(with), max(n/2, n-len(without)))
	return append(with[:k:k], without[:n-k]...)
}

// verify restores tenants from the replica and compares them with the oracle.
// Only what stops the whole run is an error.
func (f *fleet) verify(ctx context.Context, o *oracle, r fleetReplica, tenants []int) (*verified, error) {
	dir, err := os.MkdirTemp(f.dir, "restored-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what stays goes with the scratch folder
	v := &verified{}
	var wg sync.WaitGroup
	for w := range verifyWorkers {
		wg.Go(func() {
			for k := w; k < len(tenants) && ctx.Err() == nil; k += verifyWorkers {
				t := tenants[k]
				f.verifyTenant(ctx, o, r.client(t), t, filepath.Join(dir, fmt.Sprintf("%06d", t)), v)
			}
		})
	}
	wg.Wait()
	return v, ctx.Err()
}

// verifyTenant adds what the restore of one tenant shows.
func (f *fleet) verifyTenant(ctx context.Context, o *oracle, c litestream.ReplicaClient, t int, path string, v *verified) {
	defer os.Remove(path)
	begun, acked := o.of(t)
	opt := litestream.NewRestoreOptions()
	opt.OutputPath, opt.Parallelism = path, 2
	opt.IntegrityCheck = litestream.IntegrityCheckFull
	_, err := litestream.Restore(ctx, c, opt)
	if err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.tenants++
		v.failed++
		v.commits += int(acked)
		v.lost += int(acked)
		v.note("restore %s: %v", f.relPath(t), err)
		return
	}
	found, err := readRestored(ctx, path, t, begun)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tenants++
	v.commits += int(acked)
	if err != nil {
		v.unsound++
		v.note("%s: %v", f.relPath(t), err)
	}
	for seq := uint32(1); seq <= acked; seq++ {
		if !found[seq] {
			v.lost++
			v.note("%s: commit %d of %d is missing", f.relPath(t), seq, acked)
		}
	}
}

// readRestored returns which commits a restored database holds. It is an error
// if it is another tenant's, or holds what was never written.
func readRestored(ctx context.Context, path string, tenant int, begun uint32) (found map[uint32]bool, err error) {
	u := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=ro&immutable=1"}
	db, err := sql.Open("sqlite3", u.String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	found = make(map[uint32]bool)
	var mark string
	if err := db.QueryRowContext(ctx, `SELECT v FROM info WHERE id = 1`).Scan(&mark); err != nil {
		return found, err
	}
	if want := fmt.Sprintf("%s%06d", tenantMarkStem, tenant); mark != want {
		return found, fmt.Errorf("it is the database of %q, want %q", mark, want)
	}
	rows, err := db.QueryContext(ctx, `SELECT seq, v FROM ledger WHERE seq > 0`)
	if err != nil {
		return found, err
	}
	defer rows.Close()
	for rows.Next() {
		var seq uint32
		var v string
		if err := rows.Scan(&seq, &v); err != nil {
			return found, err
		}
		if v != ledgerValue(tenant, seq) || seq > begun {
			return found, fmt.Errorf("commit %d holds %q, of %d that were made", seq, v, begun)
		}
		found[seq] = true
	}
	return found, rows.Err()
}
