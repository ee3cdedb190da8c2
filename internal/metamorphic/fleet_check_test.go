package metamorphic

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

// records are the rows of the manager's registry, by name. There are none as
// long as it is that of another replica, or is just being made.
func (f *fleet) records(ctx context.Context) (map[string]registry.Record, error) {
	r, err := registry.OpenReader(ctx, f.mcfg.State)
	if err != nil {
		return nil, untimely(ctx, err)
	}
	rows := make(map[string]registry.Record)
	info, err := r.Info(ctx)
	if err == nil {
		err = r.Load(ctx, func(rec *registry.Record) error {
			rows[filepath.Base(rec.Path)] = *rec
			return nil
		})
	}
	err = errors.Join(err, r.Close())
	epoch, eerr := os.ReadFile(filepath.Join(f.mcfg.Replica, "!litestream", "epoch"))
	if err = errors.Join(err, eerr); err != nil {
		return nil, untimely(ctx, err)
	} else if strings.TrimSpace(string(epoch)) != info.Epoch {
		return nil, nil
	}
	return rows, nil
}

// untimely drops an error that only says that something is being made, or that
// there is no time left.
func untimely(ctx context.Context, err error) error {
	young := errors.Is(err, registry.ErrChanged) || errors.Is(err, fs.ErrNotExist) ||
		strings.Contains(err.Error(), "it holds nothing yet")
	if young || ctx.Err() != nil {
		err = nil
	}
	return err
}

// claim holds the registry to its word: a database that counts as clean, and
// is as it was then, is on the replica with all that was committed before. It
// returns the ones that do not count as clean.
func (f *fleet) claim(ctx context.Context, tenants []*tenant) (open []*tenant, err error) {
	type look struct {
		before moment
		fp     sqlitefile.Fingerprint
	}
	looks := make(map[*tenant]look)
	for _, t := range tenants {
		if t.kind != tenantHere {
			continue
		}
		l := look{before: t.ackedNow()}
		if l.fp, err = sqlitefile.Take(t.cfg.DB); err != nil {
			return nil, err
		}
		looks[t] = l
	}
	rows, err := f.records(ctx)
	if err != nil {
		return nil, fmt.Errorf("read registry: %w", err)
	}
	for _, t := range tenants {
		l, ok := looks[t]
		if !ok {
			continue
		}
		rec, ok := rows[t.name]
		if !ok || litestream.TenantState(rec.State&0x7f) != litestream.TenantClean || !rec.Settled || rec.Fingerprint != l.fp {
			open = append(open, t)
			continue
		}
		t.isClean(ctx, l.before, rec)
	}
	return open, f.broken()
}

// isClean checks one database that counts as clean.
func (t *tenant) isClean(ctx context.Context, before moment, rec registry.Record) {
	t.storage.Lock()
	t.mu.Lock()
	if t.mortal.Load() { // the replica may be a new one
		clear(t.seen)
		t.marks = nil
	}
	t.mortal.Store(false)
	t.claimed, t.txid = before, rec.TXID
	t.marks = append(t.marks, mark{time.Now().Add(2 * time.Millisecond), before})
	if n := len(t.blind); n > 0 && t.blind[n-1][1] == openEnd {
		t.blind[n-1][1] = rec.TXID - 1
	}
	t.mu.Unlock()
	t.storage.Unlock()
	t.logf("is clean at %s with %s", rec.TXID, before)
	_, _, _ = t.restore(ctx, wish{name: "claim", txid: rec.TXID, atLeast: before, promised: true}) // it records a failure
}

// checkNames makes sure that nothing lies beside the databases that their
// applications did not put there.
func (f *fleet) checkNames() error {
	entries, err := os.ReadDir(f.mcfg.Data)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		for _, suffix := range []string{"-wal", "-shm", "-journal"} {
			name = strings.TrimSuffix(name, suffix)
		}
		if f.tenant(name) == nil {
			return fmt.Errorf("%s lies beside the databases", e.Name())
		}
	}
	return nil
}

// finish brings everything to rest and compares all there is.
func (f *fleet) finish(ctx context.Context) {
	for _, a := range f.apps {
		a.end(false)
	}
	if f.repl == nil {
		if err := f.startManager(); err != nil {
			_ = f.fail("%v", err)
			return
		}
	}
	err := f.order("faults 0 0 0 0")
	for _, t := range f.all() {
		if t.kind == tenantHere && err == nil {
			if err = t.lastCommit(); err != nil {
				err = fmt.Errorf("last commit to %s: %w", t.name, err)
			}
		}
	}
	if err == nil {
		err = f.converge(ctx)
	}
	if err == nil {
		err = f.checkFiles()
	}
	if err != nil {
		_ = f.fail("%v", err)
		return
	}
	f.compareAll(ctx)
	f.closeManager()
	for _, t := range f.all() {
		if t.claimedNow() != (moment{}) && !t.mortal.Load() && f.broken() == nil && f.rng.IntN(5) == 0 {
			_, _, _ = t.restore(ctx, wish{name: "after close", atLeast: t.claimedNow(), promised: true})
		}
	}
}

// converge waits until the manager has brought everything to the replica.
func (f *fleet) converge(ctx context.Context) error {
	f.logf("waiting for everything to be replicated")
	open := f.all()
	began := time.Now()
	for time.Since(began) < time.Minute {
		var err error
		if open, err = f.claim(ctx, open); err != nil {
			return err
		}
		if len(open) == 0 {
			f.logf("converged")
			f.reached["milliseconds to converge"] += int(time.Since(began).Milliseconds())
			return nil
		}
		pause(ctx, 100*time.Millisecond)
	}
	rows, err := f.records(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, t := range open[:min(len(open), 10)] {
		rec := rows[t.name]
		fmt.Fprintf(&b, "\n%s: state %d, settled %v, txid %s, %s", t.name, rec.State, rec.Settled, rec.TXID, rec.Reason)
	}
	return fmt.Errorf("%d databases do not become clean:%s", len(open), b.String())
}

// checkFiles makes sure that nothing is left of connections to databases at
// rest.
func (f *fleet) checkFiles() error {
	for _, t := range f.all() {
		for _, suffix := range []string{"-wal", "-shm"} {
			if _, err := os.Stat(t.cfg.DB + suffix); err == nil {
				return fmt.Errorf("%s%s lies beside a database that nobody has open", t.name, suffix)
			}
		}
	}
	return nil
}

// compareAll compares what is restored of each database with the database.
func (f *fleet) compareAll(ctx context.Context) {
	todo := make(chan *tenant)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for t := range todo {
				if ctx.Err() == nil {
					t.compare(ctx)
				}
			}
		})
	}
	for _, t := range f.all() {
		if t.kind == tenantHere {
			todo <- t
		}
	}
	close(todo)
	wg.Wait()
}

func (t *tenant) compare(ctx context.Context) {
	out := filepath.Join(t.dir, "last")
	defer os.Remove(out)
	got, _, err := t.restore(ctx, wish{name: "last", atLeast: t.ackedNow(), promised: true, output: out})
	if err != nil {
		return // it was recorded
	}
	if want := t.ackedNow(); got != want {
		_ = t.fail("restored %s, want %s", got, want)
	} else if err := t.comparePages(out); err != nil {
		_ = t.fail("%v", err)
	}
}
