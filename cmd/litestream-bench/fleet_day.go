//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/benbjohnson/litestream/internal/backoff"
)

// inBurst touches every database within a minute, far more than can be hot, and
// waits until all are on the replica.
func (t *fleetTurn) inBurst(ctx context.Context) error {
	if t.burst == 0 {
		return nil
	}
	return t.burstOf(ctx, "burst", burstCommit, nil)
}

// inOutage does the same with the replica away for a while, from the middle of
// the burst on.
func (t *fleetTurn) inOutage(ctx context.Context) error {
	if t.burst == 0 || t.outage == 0 {
		return nil
	}
	return t.burstOf(ctx, "outage", outageCommit, func(ctx context.Context) (end time.Time, err error) {
		if err := backoff.Wait(ctx, t.burst/2); err != nil {
			return end, err
		}
		begin := time.Now()
		restore, err := t.replica.outage()
		if err != nil {
			return end, err
		}
		err = backoff.Wait(ctx, t.outage)
		// It comes back also when the run is being stopped.
		err = errors.Join(err, restore(context.WithoutCancel(ctx)))
		t.run.set("outage_seconds", time.Since(begin).Seconds())
		return time.Now(), err
	})
}

// burstOf makes a burst with something beside it, and sets the figures that
// begin with key.
func (t *fleetTurn) burstOf(ctx context.Context, key string, kind commitKind, beside func(context.Context) (time.Time, error)) error {
	for i := range t.fleet.n {
		t.oracle.watch(i)
	}
	s := t.tool.sample(ctx, t.maxRSS)
	begin := time.Now()
	from := begin // which the drain counts from
	var besideErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if beside != nil {
			from, besideErr = beside(ctx)
		}
	}()
	took, err := t.fleet.burst(ctx, t.oracle, t.burst, kind, t.seed+uint64(kind))
	<-done
	if err = errors.Join(err, besideErr); err == nil {
		err = t.drain(ctx)
	}
	end := time.Now()
	p, err := s.stop(err)
	if err != nil {
		if behind := t.oracle.behind(); len(behind) > 0 {
			t.run.Notes = append(t.run.Notes, fmt.Sprintf("%s: %s databases were not on the replica %s after its begin, among them %s.",
				key, thousands(len(behind)), end.Sub(begin).Round(time.Second), t.fleet.relPath(behind[0])))
		}
		if page, scrapeErr := scrape(ctx, t.tool.addr); scrapeErr == nil { // what the tool thinks of it
			err = fmt.Errorf("%w\n%s", err, page.text(metricDatabases))
		}
		return err
	}
	times := t.oracle.times(kind, end)
	t.run.set(key+"_oldest", quantile(times, 1))
	t.run.set(key+"_rss_mb", p.rss)
	if kind == outageCommit {
		t.run.set("outage_converged", end.Sub(from).Seconds())
		return nil
	}
	t.run.set("burst_seconds", took.Seconds())
	t.run.set("burst_drain", end.Sub(from).Seconds())
	t.run.set("burst_p50", quantile(times, 0.5))
	return nil
}

// drain waits until every commit is on the replica.
func (t *fleetTurn) drain(ctx context.Context) error {
	// A look costs a part of the machine that is being measured.
	every := max(200*time.Millisecond, time.Duration(t.fleet.n)*50*time.Microsecond)
	logged := time.Now()
	return t.tool.await(ctx, "all on the replica", every, t.patience, func() (bool, error) {
		if err := t.replica.sweep(ctx); err != nil {
			return false, err
		}
		n := len(t.oracle.behind())
		if time.Since(logged) > 15*time.Second {
			progress("%s databases are not on the replica yet", thousands(n))
			logged = time.Now()
		}
		return n == 0, nil
	})
}
