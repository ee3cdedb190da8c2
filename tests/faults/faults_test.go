package faults_test

import (
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/tests/servers"
)

// patience is how long the daemons of the tests wait for a server that says
// nothing. The default is a minute.
const patience = 3 * time.Second

// A fault is what happens to the way between daemon and server.
type fault struct {
	name string
	// begin does it, and end undoes it.
	begin, end func(d *daemon)
	lasts      time.Duration // at least; 0: 1.5 s
	// rides is set where the fault passes so quickly, or spares so many
	// requests, that retries may hide it.
	rides bool
}

// failing and recovered are what is logged of a replica.
const (
	failing   = "monitor error"
	recovered = "replica sync recovered"
)

// suffer lets a daemon suffer a fault, and waits until it is over it.
func (d *daemon) suffer(f fault) {
	d.t.Helper()
	began, from := time.Now(), d.log.len()
	moved := d.tcp.Moved()
	f.begin(d)
	if f.rides {
		d.pause(max(f.lasts, 1500*time.Millisecond))
	} else {
		d.await("a line about "+f.name, func() bool { return len(d.log.since(from, failing)) > 0 })
		d.pause(700 * time.Millisecond) // for others to fail, too
	}
	f.end(d)
	held := time.Since(began)
	d.healed()
	d.await("as many ends as beginnings of "+f.name, func() bool {
		return len(d.log.since(from, failing)) == len(d.log.since(from, recovered))
	})
	bad := d.log.since(from, "level=WARN", "level=ERROR")
	if !d.told(f, from, len(bad)) {
		d.t.Errorf("%s: %d lines:", f.name, len(bad))
		for _, line := range d.log.since(from, "level=WARN", "level=ERROR", recovered) {
			d.t.Log(line)
		}
	}
	d.t.Logf("%-18s held %4.1f s, over after %4.1f s, %6d KB, %d lines, %d goroutines now", f.name, held.Seconds(),
		(time.Since(began) - held).Seconds(), (d.tcp.Moved()-moved)>>10, len(bad), d.countGoroutines())
}

// told reports whether the log says of a fault what it should: one line when it
// begins and one when it is over. A fault that comes and goes may have none, or
// more than one beginning, each behind the end of the one before.
func (d *daemon) told(f fault, from, badN int) bool {
	beginnings := 0
	for i, line := range d.log.since(from, failing, recovered) {
		if strings.Contains(line, failing) != (i%2 == 0) {
			return false
		}
		beginnings += (i + 1) % 2
	}
	return badN == beginnings && (f.rides || beginnings == 1)
}

// pause lets a fault last.
func (d *daemon) pause(length time.Duration) {
	timer := time.NewTimer(length)
	defer timer.Stop()
	<-timer.C
}

// network are the faults below HTTP.
func network(seedOf func() int64) []fault {
	return []fault{
		{
			name: "latency", rides: true,
			begin: func(d *daemon) { d.tcp.Delay(20 * time.Millisecond) },
			end:   func(d *daemon) { d.tcp.Delay(0) },
		},
		{
			name: "cuts", rides: true,
			begin: func(d *daemon) { d.cutOften(12, seedOf) },
			end:   func(*daemon) {},
		},
		{
			name:  "refusal",
			begin: func(d *daemon) { d.tcp.Refuse(true) },
			end:   func(d *daemon) { d.tcp.Refuse(false) },
		},
		{
			name: "silence", rides: true, lasts: patience + 2*time.Second,
			begin: func(d *daemon) { d.tcp.Hang() },
			end:   func(d *daemon) { d.tcp.Resume() },
		},
		{
			name:  "outage",
			begin: func(d *daemon) { d.place.stop() },
			end:   func(d *daemon) { d.place.restart() },
		},
	}
}

// cutOften cuts all connections at random bytes.
func (d *daemon) cutOften(times int, random func() int64) {
	d.t.Helper()
	for range times {
		cuts := d.tcp.Cuts()
		d.tcp.CutAfter(random())
		d.await("a cut", func() bool { return d.tcp.Cuts() > cuts })
	}
}

// httpFault breaks requests.
func httpFault(name string, rides bool, f servers.HTTPFault) fault {
	return fault{
		name: name, rides: rides,
		begin: func(d *daemon) { d.http.Break(f) },
		end: func(d *daemon) {
			d.await("a request that meets "+name, func() bool { return d.http.Hits() > 0 })
			d.http.Break(nil)
		},
	}
}

// answers are the faults of a server that speaks HTTP.
func answers(b *backend) []fault {
	faults := []fault{
		httpFault("some 500", true, servers.Sometimes(40, b.broken)),
		httpFault("503", false, b.busy),
		httpFault("429 with a hint", false, b.throttled),
		httpFault("expired", false, b.expired),
		httpFault("lost answers", true, servers.Sometimes(50, servers.Lose)),
		httpFault("cut uploads", true, servers.Sometimes(50, servers.CutUpload(true))),
		httpFault("short uploads", true, servers.Sometimes(50, servers.CutUpload(false))),
		httpFault("cut downloads", true, servers.Sometimes(50, servers.CutDownload(true))),
		httpFault("short downloads", true, servers.Sometimes(50, servers.CutDownload(false))),
	}
	if b.skewed != nil {
		faults = append(faults, httpFault("wrong clock", false, b.skewed))
	}
	return faults
}

// chosenSeed returns the seed of a run.
func chosenSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat it with -args -seed %d", seed, seed)
	return seed
}

// TestFaults lets each kind of replica suffer every fault, one after another
// under one daemon.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for outages of half a minute; the tests of each replica type meet the same faults one by one")
	}
	for _, b := range backends {
		t.Run(b.name+"/network", func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, &b, chosenSeed(t), true)
			d.healed()
			for _, f := range network(func() int64 { return 1 + d.rng.Int64N(60_000) }) {
				d.suffer(f)
			}
			if d.place.expire != nil {
				d.suffer(fault{
					name:  "expired",
					begin: func(d *daemon) { d.place.expire(); d.tcp.Cut() },
					end:   func(d *daemon) { d.place.renew() },
				})
			}
			d.finish()
		})
		if b.busy == nil {
			continue
		}
		t.Run(b.name+"/answers", func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, &b, chosenSeed(t), false)
			d.healed()
			for _, f := range answers(&b) {
				d.suffer(f)
			}
			d.finish()
		})
	}
}

// TestFaultsSoak lets one kind of replica after the other suffer everything,
// and a minute of silence, for as long as -soak says.
func TestFaultsSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("give a duration: -args -soak 10m")
	}
	seed := chosenSeed(t)
	for end := time.Now().Add(*soakFor); !t.Failed() && time.Now().Before(end); seed++ {
		for _, b := range backends {
			t.Run(b.name, func(t *testing.T) {
				t.Logf("seed %d", seed)
				d := newDaemon(t, &b, seed, true)
				d.healed()
				faults := network(func() int64 { return 1 + d.rng.Int64N(60_000) })
				for i := range faults {
					if faults[i].name == "silence" {
						faults[i].lasts = 65 * time.Second
					}
				}
				if b.busy != nil {
					faults = append(faults, answers(&b)...)
				}
				for _, f := range faults {
					d.suffer(f)
				}
				d.finish()
			})
		}
	}
}
