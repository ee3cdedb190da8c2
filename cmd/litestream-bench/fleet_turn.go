//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/backoff"
)

// fleetTurn is the measurement of one tool with one size of the fleet.
type fleetTurn struct {
	*fleetBench
	fleet   *fleet
	oracle  *oracle
	replica fleetReplica
	tool    *fleetTool
	run     *fleetRun
}

// turn measures. The run holds what was found also when it ends with an error.
// Its files stay until the end of all: ext4 makes new ones more slowly for
// minutes after many were deleted, which would be measured in the next turn.
func (b *fleetBench) turn(ctx context.Context, t tool, n int, upstream bool) (run *fleetRun, err error) {
	name := t.name
	run = newFleetRun(name, n)
	dir, err := os.MkdirTemp(b.dir, "turn-")
	if err != nil {
		return run, err
	}
	f := &fleet{dir: dir, n: n, large: b.large, largePages: b.largePages, withWAL: b.withWAL}
	progress("%s, %d databases: generate", name, n)
	took, err := timed(func() error { return f.generate(ctx) })
	if err != nil {
		return run, fmt.Errorf("generate: %w", err)
	}
	progress("%d databases in %s (%.0f/s)", n, took.Round(time.Millisecond), float64(n)/took.Seconds())
	unix.Sync() // a fleet that rests is on the disk; its writing would be measured as the backup's
	ft := &fleetTurn{fleetBench: b, fleet: f, oracle: newOracle(n), run: run}
	if ft.replica, err = b.newReplica(ctx, f, ft.oracle, upstream); err != nil {
		return run, err
	}
	defer func() { err = errors.Join(err, ft.replica.close()) }()
	if ft.tool, err = b.newFleetTool(ctx, t, upstream, f, ft.replica); err != nil {
		return run, err
	}
	defer func() {
		if ft.tool.process != nil {
			ft.tool.stop()
		}
	}()
	if err := backoff.Wait(ctx, settle); err != nil {
		return run, err
	}
	return run, ft.measure(ctx)
}

func (b *fleetBench) newReplica(ctx context.Context, f *fleet, o *oracle, upstream bool) (fleetReplica, error) {
	prefix := f.replicaPath
	if upstream {
		prefix = func(i int) string { return upstreamPrefix + "/" + f.relPath(i) }
	}
	dir := filepath.Join(f.dir, "replica")
	if b.replica == "file" {
		return newFileReplica(dir, f.n, prefix, o)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return newS3Replica(ctx, b.versitygw, dir, prefix, o)
}

// measure takes all figures in the order in which a host would see them.
func (t *fleetTurn) measure(ctx context.Context) error {
	phases := []struct {
		name string
		run  func(context.Context) error
		ours bool // it makes no sense for upstream
	}{
		{"first backup", t.firstBackup, false},
		{"rest", t.atRest, false},
		{"load", t.underLoad, false},
		{"burst", t.inBurst, true},
		{"outage", t.inOutage, true},
		{"stop", t.stopTool, false},
		{"restart", t.restart, true},
		{"verify", t.verify, false},
	}
	for _, p := range phases {
		if p.ours && t.tool.upstream {
			continue
		}
		progress("%s, %d databases: %s", t.run.Tool, t.fleet.n, p.name)
		if err := p.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// setRequests records how many requests came to the server since the last call,
// per so many. A file replica has none.
func (t *fleetTurn) setRequests(key string, per int) {
	if kinds := t.replica.requests(); kinds != nil {
		t.run.set(key, float64(total(kinds))/float64(per))
	}
}

// setIdleRequests records the requests since the last call, apart from those
// for the catalog, which is written once after what changed last.
func (t *fleetTurn) setIdleRequests() {
	if kinds := t.replica.requests(); kinds != nil {
		t.run.set("idle_catalog", float64(kinds[catalogKind]))
		t.run.set("idle_requests", float64(total(kinds)-kinds[catalogKind]))
	}
}

func total(kinds map[string]int) (n int) {
	for _, k := range kinds {
		n += k
	}
	return n
}

func (t *fleetTurn) firstBackup(ctx context.Context) error {
	t.replica.requests()
	begin := time.Now()
	if err := t.tool.start(); err != nil {
		return err
	}
	s := t.tool.sample(ctx, t.maxRSS)
	last, moved := 0, begin
	err := t.tool.await(ctx, "first backup", 100*time.Millisecond, t.patience, func() (bool, error) {
		n, err := t.replica.backedUp()
		if n > last {
			last, moved = n, time.Now()
		} else if time.Since(moved) > t.stall && n < t.fleet.n {
			// Perhaps only the one that is looked at does not come.
			all, err := t.replica.countBackedUp()
			if err != nil || all <= last {
				return false, errors.Join(err, t.stalled(all))
			}
			last, moved = all, time.Now()
		}
		return n == t.fleet.n, err
	})
	took := time.Since(begin)
	if _, err := s.stop(err); err != nil {
		if all, countErr := t.replica.countBackedUp(); countErr == nil {
			t.run.Notes = append(t.run.Notes, fmt.Sprintf("%s of them had a backup after %s.", thousands(all), took.Round(time.Second)))
		}
		return err
	}
	t.run.set("backup_rate", float64(t.fleet.n)/took.Seconds())
	t.run.set("backup_seconds", took.Seconds())
	u, err := t.tool.usage()
	if err != nil {
		return err
	}
	t.run.set("backup_peak_mb", u.peak)
	t.setRequests("backup_requests", t.fleet.n)
	files, _, err := t.replica.size()
	t.run.set("backup_files", float64(files))
	if _, ok := t.replica.(*fileReplica); err != nil || t.tool.upstream || !ok {
		return err
	}
	bare, err := bareWrites(filepath.Join(t.fleet.dir, "bare"), t.fleet.n)
	t.run.set("bare_write_rate", bare)
	return err
}

func (t *fleetTurn) stalled(backed int) error {
	return fmt.Errorf("no database more in %s, %s of %s are backed up\n%s", t.stall, thousands(backed), thousands(t.fleet.n), t.tool.logTail())
}

// atRest measures what the fleet costs while nothing happens.
func (t *fleetTurn) atRest(ctx context.Context) error {
	if err := backoff.Wait(ctx, t.rest); err != nil {
		return err
	}
	before, err := scrape(ctx, t.tool.addr)
	if err != nil {
		return err
	}
	t.replica.requests()
	cpu, err := t.tool.cpuWindow(func() error { return backoff.Wait(ctx, t.idle) })
	if err != nil {
		return err
	}
	u, err := t.tool.usage()
	if err != nil {
		return err
	}
	page, err := scrape(ctx, t.tool.addr)
	if err != nil {
		return err
	}
	t.run.set("idle_cpu", cpu)
	t.run.set("idle_rss_mb", u.rss)
	t.run.set("idle_fds", float64(u.fds))
	t.run.set("idle_goroutines", page.sum("go_goroutines"))
	t.setIdleRequests()
	t.run.set("metrics_kb", float64(page.bytes)/1024)
	t.run.set("metrics_series", float64(len(page.values)))
	if bytes := page.sum(metricTableBytes); bytes > 0 {
		t.run.set("record_bytes", bytes/float64(t.fleet.n))
	}
	if err := saveProfiles(ctx, t.tool.addr, t.profiles, t.profileName("rest")); err != nil {
		return err
	}
	if t.tool.upstream {
		return nil
	}
	return t.scanRatio(before, page)
}

func (t *fleetTurn) profileName(phase string) string {
	return fmt.Sprintf("%s-%d-%s", t.run.Tool, t.fleet.n, phase)
}

func (t *fleetTurn) scanRatio(before, page *metricsPage) error {
	bare, err := t.fleet.bareScan(true)
	if err != nil {
		return err
	}
	stat, err := t.fleet.bareScan(false)
	if err != nil {
		return err
	}
	t.run.set("bare_ms", bare.Seconds()*1000)
	t.run.set("bare_stat_ms", stat.Seconds()*1000)
	if mean, n := page.mean(metricScanSeconds, before); n > 0 {
		t.run.set("scan_ms", mean*1000)
		t.run.set("scan_ratio", mean/bare.Seconds())
	}
	return nil
}

// underLoad lets a part of the tenants be busy and some others commit once.
func (t *fleetTurn) underLoad(ctx context.Context) (err error) {
	if t.load == 0 {
		return nil
	}
	order := rand.New(rand.NewPCG(t.seed, 1)).Perm(t.fleet.n)
	hot := order[:min(t.hot, len(order)/2)]
	cold := order[len(hot):][:min(t.cold, len(order)-len(hot))]
	if err := t.replica.watch(append(hot[:min(t.watched, len(hot)):min(t.watched, len(hot))], cold...)); err != nil {
		return err
	}
	load, err := t.startHotLoad(ctx, hot)
	if err != nil {
		return err
	}
	// The load begins, and a scan finds it, in a part that is not counted.
	s := t.tool.sample(ctx, t.maxRSS)
	ramp := backoff.Wait(ctx, t.hotPause+t.scan+settle)
	load.ramped.Store(true)
	before, scrapeErr := scrape(ctx, t.tool.addr)
	commits, begin := t.oracle.count(), time.Now()
	cpu, err := t.tool.cpuWindow(func() error {
		return errors.Join(ramp, scrapeErr, t.coldCommits(ctx, cold))
	})
	if err == nil {
		t.run.set("load_commits", float64(t.oracle.count()-commits)/time.Since(begin).Seconds())
		err = saveProfiles(ctx, t.tool.addr, t.profiles, t.profileName("load"))
	}
	p, err := s.stop(errors.Join(err, load.end()))
	if err != nil {
		return err
	}
	t.run.set("load_cpu", cpu)
	t.run.set("load_rss_mb", p.rss)
	t.run.set("hot_kb", max(0, p.rss-t.run.Values["idle_rss_mb"])*1024/float64(len(hot)))
	t.run.set("load_fds", float64(p.fds))
	t.run.set("load_goroutines", p.goroutines)
	return t.loadTimes(ctx, before)
}

// coldCommits is the window under load. It ends early enough that every commit
// can come to the replica before the applications close their databases.
func (t *fleetTurn) coldCommits(ctx context.Context, cold []int) error {
	end := time.Now().Add(t.load)
	within := max(t.load/2, t.load-2*t.scan-10*time.Second)
	var closed error
	done := make(chan struct{})
	half := len(cold) / 2
	go func() {
		defer close(done)
		_, closed = t.fleet.touchCold(ctx, t.oracle, cold[half:], within, false)
	}()
	release, err := t.fleet.touchCold(ctx, t.oracle, cold[:half], within, true)
	<-done
	err = errors.Join(err, closed)
	if err == nil {
		err = backoff.Wait(ctx, time.Until(end))
	}
	return errors.Join(err, release())
}

// loadTimes reports how long commits took to the replica, once the last ones
// have come there.
func (t *fleetTurn) loadTimes(ctx context.Context, before *metricsPage) error {
	err := t.tool.await(ctx, "last commits of the load", time.Second, min(t.patience, 4*t.scan+30*time.Second), func() (bool, error) {
		return len(t.oracle.behind()) == 0, t.replica.sweep(ctx)
	})
	if ctx.Err() != nil || t.tool.alive() != nil {
		return err
	}
	if err != nil {
		t.run.Notes = append(t.run.Notes, fmt.Sprintf("of %d tenants commits of the load had not come to the replica when it was over; they count with what they had waited.", len(t.oracle.behind())))
	}
	now := time.Now()
	for key, kind := range map[string]commitKind{"hot": hotCommit, "cold": coldCommit, "closed": coldCloseCommit} {
		s := t.oracle.times(kind, now)
		if len(s) == 0 {
			continue
		}
		t.run.set(key+"_p50", quantile(s, 0.5))
		t.run.set(key+"_p99", quantile(s, 0.99))
	}
	page, err := scrape(ctx, t.tool.addr)
	if err == nil && page.sum(metricLag+"_count") > 0 {
		t.run.set("lag_p99", page.bound(metricLag, 0.99, before))
	}
	return err
}

// stopTool stops the tool as an operator would.
func (t *fleetTurn) stopTool(ctx context.Context) error {
	u, err := t.tool.usage()
	if err != nil {
		return err
	}
	t.run.set("peak_mb", u.peak)
	page, err := scrape(ctx, t.tool.addr)
	if err != nil {
		return err
	}
	if !t.tool.upstream {
		t.run.set("audit_failures", page.sum(metricAuditFailure))
	}
	took, _ := timed(func() error { t.tool.stop(); return nil })
	t.run.set("stop_seconds", took.Seconds())
	if t.tool.err != nil {
		t.run.Notes = append(t.run.Notes, fmt.Sprintf("its end after %s: %v", took.Round(time.Second), t.tool.err))
	}
	return nil
}

// restart starts the tool again on a fleet that did not change, until it knows
// that, and stops it.
func (t *fleetTurn) restart(ctx context.Context) error {
	t.replica.requests()
	begin := time.Now()
	if err := t.tool.start(); err != nil {
		return err
	}
	var last *metricsPage
	var hot float64
	err := t.tool.await(ctx, "restart", 50*time.Millisecond, t.patience, func() (bool, error) {
		page, err := scrape(ctx, t.tool.addr)
		if err != nil {
			return false, nil //nolint:nilerr // it does not serve yet
		}
		last = page
		scanned := page.sum(metricScanSeconds+"_count") > 0
		// Maintenance opens some databases that rest, at any moment.
		hot = page.sum(metricDatabases, `state="hot"`)
		return scanned && page.sum(metricDatabases, `state="clean"`)+hot >= float64(t.fleet.n), nil
	})
	if err != nil && last != nil {
		return fmt.Errorf("%w\n%s", err, last.text(metricDatabases))
	} else if err != nil {
		return err
	}
	t.run.set("restart_seconds", time.Since(begin).Seconds())
	t.run.set("restart_hot", hot)
	t.setRequests("restart_requests", 1)
	u, err := t.tool.usage()
	if err != nil {
		return err
	}
	t.run.set("restart_rss_mb", u.rss)
	t.tool.stop()
	return nil
}

func (t *fleetTurn) verify(ctx context.Context) error {
	if t.verifyN == 0 {
		return nil
	}
	v, err := t.fleet.verify(ctx, t.oracle, t.replica, t.fleet.chooseTenants(t.oracle, t.verifyN, t.seed))
	if err != nil {
		return err
	}
	t.run.set("restored", float64(v.tenants))
	t.run.set("checked", float64(v.commits))
	t.run.set("lost", float64(v.lost))
	t.run.set("unsound", float64(v.unsound+v.failed))
	t.run.Notes = append(t.run.Notes, v.examples...)
	return nil
}
