package litestream_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// maintenanceModel runs one database of a fleet through a random schedule and
// knows by itself what has to be restorable.
type maintenanceModel struct {
	*tenantFixture
	rng        *rand.Rand
	log        []string
	boundaries map[ltx.TXID]time.Time // of level 1 and snapshots in its place, by when the transaction was made
	flights    []retentionFlight
	restores   int
	busy       bool // a run is under way
}

func newMaintenanceModel(t *testing.T, seed uint64) *maintenanceModel {
	t.Helper()
	m := &maintenanceModel{
		tenantFixture: newTenantFixture(t), rng: rand.New(rand.NewPCG(seed, 1)), boundaries: map[ltx.TXID]time.Time{},
	}
	m.times = map[ltx.TXID]time.Time{}
	m.client.headerTime = m.rng.IntN(2) == 0
	m.client.wrote = func(level int, minTXID, maxTXID ltx.TXID) {
		m.logf("put %d: %d-%d", level, minTXID, maxTXID)
		if level == 1 || level == litestream.SnapshotLevel || minTXID == 1 {
			m.boundaries[maxTXID] = m.times[maxTXID]
		}
	}
	m.client.during = m.interfere
	s := &m.m.Settings
	s.SnapshotInterval = pick(m.rng, 0, 5*time.Minute, time.Hour, 24*time.Hour, 24*time.Hour)
	s.SnapshotRetention = pick(m.rng, time.Minute, 20*time.Minute, time.Hour, 24*time.Hour, 24*time.Hour)
	s.L0Retention = pick(m.rng, 0, 30*time.Second, 5*time.Minute, time.Hour)
	s.Grace = pick(m.rng, 0, time.Minute, 10*time.Minute)
	m.restart()
	if size := pick(m.rng, 0, 0, 0, 0, 1000, 1000, 1000, 4000); size > 0 {
		m.db.commit(size)
		for i := range m.db.history[0] {
			m.db.history[0][i] = m.rng.Uint64()
		}
		m.db.next = 1
		m.times[1] = m.now
	}
	return m
}

// restart stands for a new process, with other levels perhaps.
func (m *maintenanceModel) restart() {
	m.logf("restart")
	m.m.Settings.Levels = litestream.DefaultCompactionLevels()[:2+m.rng.IntN(3)]
	m.client.deletes, m.snapErr = -1, nil
	switch m.rng.IntN(4) {
	case 0: // the registry's record is torn
		data, err := m.files.MarshalBinary()
		if err != nil {
			m.t.Fatal(err)
		}
		if len(data) > 0 {
			data[m.rng.IntN(len(data))] ^= 0x5a
		}
		if m.files.UnmarshalBinary(data) == nil && len(data) > 0 {
			m.fatalf("a torn record was read")
		}
	case 1:
		m.files = litestream.TenantFiles{} // the registry was lost
	}
}

func (m *maintenanceModel) logf(format string, args ...any) {
	m.log = append(m.log, m.now.Format("02T15:04:05 ")+fmt.Sprintf(format, args...))
}

func (m *maintenanceModel) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\n%+v\n%+v\n%s", fmt.Sprintf(format, args...), m.m.Settings, m.files,
		strings.Join(m.log[max(0, len(m.log)-40):], "\n"))
}

func (m *maintenanceModel) write() {
	if size := len(m.db.at(m.db.txid())); size >= 1000 {
		m.db.commit(size, 1+m.rng.IntN(size))
	} else {
		m.db.randomCommit(m.rng)
	}
	m.times[m.db.txid()] = m.now
}

// interfere is called while a run is under way: what the application writes is
// uploaded at any time.
func (m *maintenanceModel) interfere() {
	if m.busy && m.rng.IntN(5) == 0 && !m.gone {
		m.write()
		m.upload()
	}
}

func (m *maintenanceModel) step() {
	switch n := m.rng.IntN(100); {
	case n < 35 && !m.gone:
		m.write()
	case n < 65 && !m.gone:
		m.upload()
	case n < 90:
		m.maintain()
	case n < 92:
		m.restart()
	case n < 94 && m.uploaded > 0:
		m.gone = !m.gone
		m.logf("gone=%v", m.gone)
	}
	m.fly()
	m.now = m.now.Add(time.Duration(m.rng.Int64N(int64(pick(m.rng, time.Second, time.Second, 20*time.Second, 5*time.Minute)))))
	if m.rng.IntN(60) == 0 {
		m.now = m.now.Add(pick(m.rng, time.Hour, 25*time.Hour))
	}
	m.check()
}

// maintain runs what is due, and sometimes what is not.
func (m *maintenanceModel) maintain() {
	due := m.due()
	if (due.IsZero() || due.After(m.now)) && m.rng.IntN(10) > 0 {
		return
	}
	if m.rng.IntN(10) == 0 {
		m.client.deletes = m.rng.IntN(6)
	}
	if m.rng.IntN(20) == 0 {
		m.snapErr = errors.New("database is locked")
	}
	m.busy = true
	err := m.run()
	m.busy = false
	m.logf("run: %v, next at %s", err, m.due().Format("02T15:04:05"))
	if err != nil && !errors.Is(err, errCrash) && (m.snapErr == nil || !errors.Is(err, m.snapErr)) {
		m.fatalf("run: %v", err)
	}
	m.client.deletes, m.snapErr = -1, nil
}

// promised returns the positions that have to be restorable, ascending.
func (m *maintenanceModel) promised() []ltx.TXID {
	if m.uploaded == 0 {
		return nil
	}
	s := m.m.Settings
	a := []ltx.TXID{m.uploaded}
	for txid := ltx.TXID(1); txid <= m.uploaded; txid++ {
		if s.L0Retention == 0 || m.times[txid].After(m.now.Add(-s.L0Retention)) {
			a = append(a, txid)
		}
	}
	var before ltx.TXID
	for txid, at := range m.boundaries {
		if at.After(m.now.Add(-s.SnapshotRetention)) {
			a = append(a, txid)
		} else {
			before = max(before, txid)
		}
	}
	if before > 0 {
		a = append(a, before)
	}
	slices.Sort(a)
	return slices.Compact(a)
}

// fly plans a restore of a promised position that lasts the grace period.
func (m *maintenanceModel) fly() {
	if a := m.promised(); len(a) > 0 && m.m.Settings.L0Retention > 0 {
		txid := pick(m.rng, a[0], pick(m.rng, a...))
		m.flights = append(m.flights, retentionFlight{m.now.Add(m.m.Settings.Grace), m.plan(m.client.listing(), txid)})
	}
}

// verify holds that Verify finds nothing wrong with a listing.
func (m *maintenanceModel) verify() {
	m.t.Helper()
	if m.uploaded == 0 {
		return
	}
	s := m.m.Settings
	opt := litestream.VerifyOptions{
		Now:     func() time.Time { return m.now },
		Promise: &litestream.VerifyPromise{Levels: s.Levels, SnapshotRetention: s.SnapshotRetention, L0Retention: s.L0Retention, Tenant: true},
	}
	opt.SetKnobs(1, litestream.RestoreKnobs{ChunkBytes: 1})
	for range 2 {
		res, err := litestream.Verify(m.t.Context(), listedLevels{levels: m.client.listing()}, opt)
		if err != nil || res.State != litestream.VerifyOK {
			m.fatalf("verify: %v, %s", err, res.Summary())
		}
		opt.Promise = nil
	}
}

// listedLevels is a replica that only lists.
type listedLevels struct {
	litestream.ReplicaClient
	levels [litestream.SnapshotLevel + 1][]*ltx.FileInfo
}

// Init implements litestream.ReplicaClient.
func (listedLevels) Init(context.Context) error { return nil }

// LTXTree implements litestream.TreeLister.
func (c listedLevels) LTXTree(context.Context) (tree []*ltx.FileInfo, err error) {
	for level, files := range c.levels {
		for _, f := range files {
			info := *f
			info.Level, info.Size = level, max(info.Size, 1000) // those of the model have no real ones
			tree = append(tree, &info)
		}
	}
	return tree, nil
}

func (m *maintenanceModel) check() {
	m.t.Helper()
	levels := m.client.listing()
	if a := m.m.Problems(levels, 1); len(a) > 0 {
		m.fatalf("a validation would find %v", a)
	}
	m.verify()
	promised := m.promised()
	if len(promised) > 12 { // the ends and some between
		promised = append(promised[:2:2], promised[len(promised)-2-m.rng.IntN(8):]...)
	}
	for _, txid := range promised {
		chain := m.plan(levels, txid)
		if chain == nil {
			m.fatalf("promised position %d of %d is not restorable", txid, m.uploaded)
		}
		if got, want := restoreChain(chain), m.db.at(txid); !slices.Equal(got, want) {
			m.fatalf("restore of %d differs", txid)
		}
		m.restores++
	}
	m.flights = slices.DeleteFunc(m.flights, func(f retentionFlight) bool { return f.until.Before(m.now) })
	for _, fl := range m.flights {
		for _, f := range fl.chain {
			if m.client.decode(&f.info) == nil {
				m.fatalf("level %d file %d-%d was deleted under a running restore", f.info.Level, f.info.MinTXID, f.info.MaxTXID)
			}
		}
	}
}

// settle lets everything become due that ever will, then nothing may happen.
func (m *maintenanceModel) settle() {
	m.t.Helper()
	m.upload()
	m.check()
	runs := m.runs
	for n := 0; ; n++ {
		due := m.due()
		if due.IsZero() {
			break
		}
		if n > 12 {
			m.fatalf("still due at %s after %d runs", due, n)
		}
		if due.After(m.now) {
			m.now = due
		}
		if err := m.run(); err != nil {
			m.fatalf("run: %v", err)
		}
		m.logf("run, next at %s", m.due())
		m.check()
	}
	m.client.take()
	m.now = m.now.Add(year)
	m.check()
	if due := m.due(); !due.IsZero() || len(m.client.take()) > 0 {
		m.fatalf("due at %s after a year of silence", due)
	}
	m.logf("%d runs to settle", m.runs-runs)
	if m.files.Lost() {
		return // the record was lost, and nothing uploaded since: nobody looks
	}
	if s := m.m.Settings; s.L0Retention > 0 && !m.gone && m.uploaded > 1 {
		if names := m.client.names(0); len(names) > 2 || len(names) == 2 && names[0] != "1-1" {
			m.fatalf("level 0 holds %v", names)
		}
		if names := m.client.names(litestream.SnapshotLevel); len(names) > 1 {
			m.fatalf("snapshots %v", names)
		}
	}
}

// TestMaintenance_Model runs random schedules of writes, uploads, maintenance,
// crashes between deletions, restarts that lost what was known, failing
// snapshots and deleted databases on a fake clock. After every step every
// promised position must be restorable with the right content, no file of a
// running restore may be gone, and in the end there must be silence.
//
// LITESTREAM_SOAK sets for how long it runs, LITESTREAM_SEED the first seed.
func TestMaintenance_Model(t *testing.T) {
	budget, first := modelRun(t, 6*time.Second)
	runs, restores := 0, 0
	for start := time.Now(); time.Since(start) < budget; runs++ {
		seed := first + uint64(runs)
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			m := newMaintenanceModel(t, seed)
			for range 300 {
				m.step()
			}
			m.settle()
			restores += m.restores
		})
		if !ok {
			return
		}
	}
	t.Logf("first seed %d: %d schedules, %d restores", first, runs, restores)
}
