package litestream_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// retentionModel runs one database's replica through a random schedule and
// knows by itself what has to be restorable.
type retentionModel struct {
	t       *testing.T
	rng     *rand.Rand
	db      fixtureDB
	replica *fixtureReplica
	c       *litestream.Compactor
	now     time.Time
	log     []string

	interval       time.Duration // of snapshots
	l0ret, snapret time.Duration
	grace          time.Duration
	checksums      int                    // 0 none, 1 all, 2 mixed
	times          map[ltx.TXID]time.Time // of each transaction
	uploaded       ltx.TXID
	boundaries     []ltx.TXID             // ends of level-1 files ever written
	snapshots      map[ltx.TXID]time.Time // when they were made first
	flights        []retentionFlight
	restores       int
}

// retentionFlight is a restore that was planned and runs.
type retentionFlight struct {
	until time.Time
	chain []*replicaFile
}

func newRetentionModel(t *testing.T, seed uint64) *retentionModel {
	t.Helper()
	m := &retentionModel{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), times: map[ltx.TXID]time.Time{}, snapshots: map[ltx.TXID]time.Time{},
		now: time.Date(2026, 11, 22, 21, 7, 13, 0, time.UTC),
	}
	clock := func() time.Time { return m.now }
	m.replica = newFixtureReplica(t, clock)
	m.replica.uploadTime = m.rng.IntN(2) == 0
	m.interval = pick(m.rng, 5*time.Minute, time.Hour, 24*time.Hour)
	m.snapret = pick(m.rng, time.Minute, 20*time.Minute, time.Hour, 24*time.Hour)
	m.l0ret = pick(m.rng, 0, 30*time.Second, 5*time.Minute, time.Hour)
	m.grace = pick(m.rng, 0, time.Minute, 10*time.Minute)
	m.checksums = m.rng.IntN(3)
	m.restart()
	return m
}

func pick[T any](rng *rand.Rand, a ...T) T { return a[rng.IntN(len(a))] }

// restart stands for a new process, with other levels perhaps.
func (m *retentionModel) restart() {
	m.note("restart")
	m.c = litestream.NewCompactor(m.replica, nil)
	m.c.Path = "/db"
	m.c.Now = func() time.Time { return m.now }
	m.c.StagingDir = m.t.TempDir()
	m.c.Levels = litestream.DefaultCompactionLevels()[:1+m.rng.IntN(4)]
	m.c.L0Retention, m.c.SnapshotRetention, m.c.Grace = m.l0ret, m.snapret, m.grace
	m.c.MaxInputs = pick(m.rng, 1, 3, 256)
	m.replica.deletesLeft = -1
}

func (m *retentionModel) note(format string, args ...any) {
	m.log = append(m.log, m.now.Format("02T15:04:05 ")+fmt.Sprintf(format, args...))
}

func (m *retentionModel) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\nsnapshot.interval=%s snapshot.retention=%s l0-retention=%s grace=%s\n%s", fmt.Sprintf(format, args...),
		m.interval, m.snapret, m.l0ret, m.grace, strings.Join(m.log[max(0, len(m.log)-40):], "\n"))
}

func (m *retentionModel) step() {
	switch n := m.rng.IntN(100); {
	case n < 40:
		m.db.randomCommit(m.rng)
		m.times[m.db.txid()] = m.now
	case n < 70:
		m.upload(m.rng.IntN(8) == 0)
	case n < 85:
		m.compact()
	case n < 88:
		m.snapshot(m.rng.IntN(4) == 0)
	case n < 97:
		m.retain()
	case n < 98:
		m.restart()
	}
	m.fly()
	m.now = m.now.Add(time.Duration(m.rng.Int64N(int64(pick(m.rng, time.Second, time.Second, 20*time.Second, 5*time.Minute)))))
	if m.rng.IntN(200) == 0 {
		m.now = m.now.Add(pick(m.rng, time.Hour, 25*time.Hour))
	}
	m.check()
}

// upload sends what is staged; not all of it if the network is slow.
func (m *retentionModel) upload(slow bool) {
	for m.uploaded < m.db.txid() {
		if slow && m.rng.IntN(3) == 0 {
			return
		}
		txid := m.uploaded + 1
		sums := m.checksums == 1 || m.checksums == 2 && m.rng.IntN(4) > 0
		info := m.db.upload(m.t, m.replica, 0, m.db.ltx(m.t, txid, txid, m.times[txid], sums))
		m.uploaded = txid
		m.note("upload %d", txid)
		m.c.NoteL0(info)
	}
}

func (m *retentionModel) compact() {
	for level := 1; level <= m.c.Levels.MaxLevel(); level++ {
		if !m.c.Due(level) && m.rng.IntN(10) > 0 {
			continue
		}
		info, err := m.c.Compact(m.t.Context(), level)
		if errors.Is(err, litestream.ErrNoCompaction) {
			continue
		} else if err != nil {
			m.fatalf("compact into level %d: %v", level, err)
		}
		m.note("compact %d: %d-%d", level, info.MinTXID, info.MaxTXID)
		if level == 1 {
			m.boundaries = append(m.boundaries, info.MaxTXID)
		}
	}
}

func (m *retentionModel) snapshot(force bool) {
	due, err := m.c.SnapshotDue(m.t.Context(), m.uploaded, m.interval)
	if err != nil {
		m.fatalf("snapshot due: %v", err)
	}
	if m.uploaded == 0 || !due && !force {
		return
	}
	info := m.db.upload(m.t, m.replica, litestream.SnapshotLevel, m.db.ltx(m.t, 1, m.uploaded, m.now, true))
	if _, ok := m.snapshots[info.MaxTXID]; !ok {
		m.snapshots[info.MaxTXID] = m.now
	}
	m.note("snapshot %d", info.MaxTXID)
	m.c.NoteSnapshot(info)
}

// retain runs one pass, which is cut short by a crash now and then.
func (m *retentionModel) retain() {
	if m.rng.IntN(4) == 0 {
		m.replica.deletesLeft = m.rng.IntN(6)
	}
	enforce := m.c.EnforceL0Retention
	if m.rng.IntN(3) == 0 {
		enforce = m.c.EnforceSnapshotRetention
	}
	n, err := enforce(m.t.Context())
	m.note("retention deleted %d, err=%v", n, err)
	if errors.Is(err, errCrash) {
		m.restart()
	} else if err != nil {
		m.fatalf("retention: %v", err)
	}
	m.replica.deletesLeft = -1
}

// promised returns the positions that have to be restorable, ascending.
func (m *retentionModel) promised() []ltx.TXID {
	if m.uploaded == 0 {
		return nil
	}
	a := []ltx.TXID{m.uploaded}
	for txid := ltx.TXID(1); txid <= m.uploaded; txid++ {
		if m.l0ret == 0 || m.times[txid].After(m.now.Add(-m.l0ret)) {
			a = append(a, txid)
		}
	}
	var before ltx.TXID
	for _, txid := range m.boundaries {
		if m.times[txid].After(m.now.Add(-m.snapret)) {
			a = append(a, txid)
		} else {
			before = max(before, txid)
		}
	}
	for txid, at := range m.snapshots {
		if !at.After(m.now.Add(-m.snapret)) {
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
// Where level 0 is never deleted, every position is promised, but for the old
// ones a restore may have to plan again when a snapshot was deleted.
func (m *retentionModel) fly() {
	if a := m.promised(); len(a) > 0 && m.l0ret > 0 {
		txid := pick(m.rng, a[0], pick(m.rng, a...)) // the oldest is the next to lose its promise
		m.flights = append(m.flights, retentionFlight{m.now.Add(m.grace), m.replica.plan(m.replica.listing(), txid)})
	}
}

func (m *retentionModel) check() {
	m.t.Helper()
	levels := m.replica.listing()
	if a := m.c.Problems(levels, min(m.c.Levels.MaxLevel(), 1)); len(a) > 0 {
		m.fatalf("a validation would find %v", a)
	}
	for _, txid := range m.promised() {
		chain := m.replica.plan(levels, txid)
		if chain == nil {
			m.fatalf("promised position %d of %d is not restorable", txid, m.uploaded)
		}
		if got, want := restoreChain(chain), m.db.at(txid); !slices.Equal(got, want) {
			m.fatalf("restore of %d: got %v, want %v", txid, got, want)
		}
		m.restores++
	}
	m.flights = slices.DeleteFunc(m.flights, func(f retentionFlight) bool { return f.until.Before(m.now) })
	for _, fl := range m.flights {
		for _, f := range fl.chain {
			if m.replica.files[fixtureKey(f.info.Level, f.info.MinTXID, f.info.MaxTXID)] == nil {
				m.fatalf("level %d file %d-%d was deleted under a running restore", f.info.Level, f.info.MinTXID, f.info.MaxTXID)
			}
		}
	}
	if m.checksums == 1 {
		for _, f := range m.replica.files {
			if f.hdr.NoChecksum() {
				m.fatalf("level %d file %d-%d lost its checksums", f.info.Level, f.info.MinTXID, f.info.MaxTXID)
			}
		}
	}
}

// modelRun returns for how long a model test runs, and its first seed:
// LITESTREAM_SOAK and LITESTREAM_SEED set them.
func modelRun(t *testing.T, usual time.Duration) (budget time.Duration, first uint64) {
	t.Helper()
	budget, first = usual, rand.Uint64()
	if testing.Short() {
		budget = time.Second
	}
	if s := os.Getenv("LITESTREAM_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("LITESTREAM_SOAK=%q: %v", s, err)
		}
		budget = d
	}
	if s := os.Getenv("LITESTREAM_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("LITESTREAM_SEED=%q: %v", s, err)
		}
		first = n
	}
	return budget, first
}

// TestRetention_Model runs random schedules of writes, uploads, compactions,
// snapshots, retention passes, crashes between deletions and restarts on a
// fake clock. After every step every promised position must be restorable with
// the right content, and no file of a running restore may be gone.
//
// LITESTREAM_SOAK sets for how long it runs, LITESTREAM_SEED the first seed.
func TestRetention_Model(t *testing.T) {
	budget, first := modelRun(t, 8*time.Second)
	runs, restores, deleted := 0, 0, 0
	for start := time.Now(); time.Since(start) < budget; runs++ {
		seed := first + uint64(runs)
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			m := newRetentionModel(t, seed)
			for range 300 {
				m.step()
			}
			restores += m.restores
			deleted += int(m.uploaded) - len(m.replica.names(0))
		})
		if !ok {
			return
		}
	}
	t.Logf("first seed %d: %d schedules, %d restores, %d level-0 files deleted", first, runs, restores, deleted)
	if deleted == 0 && runs > 20 {
		t.Error("retention deleted nothing in any schedule")
	}
}
