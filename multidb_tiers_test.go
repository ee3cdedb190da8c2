package litestream

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream/internal/sqlitefile"
)

func TestDecideTier(t *testing.T) {
	const hot = 15 * time.Second
	done := tierFacts{state: SyncStateOK, looked: true, settled: true, quiet: hot}
	with := func(change func(*tierFacts)) tierFacts {
		f := done
		change(&f)
		return f
	}
	for _, tt := range []struct {
		name  string
		facts tierFacts
		want  tierMove
	}{
		{"Quiet", done, tierCool},
		{"NotQuiet", with(func(f *tierFacts) { f.quiet-- }), tierStay},
		{"NotQuietOthersWait", with(func(f *tierFacts) { f.quiet, f.waiting = 0, true }), tierCool},
		{"NotSettled", with(func(f *tierFacts) { f.settled = false }), tierStay},
		{"NotSettledOthersWait", with(func(f *tierFacts) { f.settled, f.waiting = false, true }), tierCool},
		{"NotLooked", with(func(f *tierFacts) { f.looked = false }), tierStay},
		{"NotLookedOthersWait", with(func(f *tierFacts) { f.looked, f.waiting = false, true }), tierStay},
		{"Unknown", with(func(f *tierFacts) { f.state, f.waiting = SyncStateUnknown, true }), tierStay},
		{"Suspended", with(func(f *tierFacts) { f.suspended, f.waiting = true, true }), tierStay},
		{"Pending", with(func(f *tierFacts) { f.pending = 1 }), tierStay},
		{"PendingOthersWait", with(func(f *tierFacts) { f.pending, f.waiting = 1, true }), tierStay},
		{"SendFails", with(func(f *tierFacts) { f.pending, f.sendFailed, f.sendFailing = 1, true, time.Hour }), tierStay},
		{"SendFailsOthersWait", with(func(f *tierFacts) { f.pending, f.sendFailed, f.sendFailing, f.waiting = 1, true, time.Hour, true }), tierFail},
		{"SendFailedShortly", with(func(f *tierFacts) {
			f.pending, f.sendFailed, f.sendFailing, f.waiting = 1, true, patienceWithReplica, true
		}), tierStay},
		{"SendFailedAgain", with(func(f *tierFacts) { f.pending, f.sendFailed, f.retried, f.waiting = 1, true, true, true }), tierFail},
		{"SendFailedAgainNobodyWaits", with(func(f *tierFacts) { f.pending, f.sendFailed, f.retried = 1, true, true }), tierStay},
		{"SendFailsForGood", with(func(f *tierFacts) { f.pending, f.sendFailed, f.permanent = 1, true, true }), tierFail},
		{"ContactFailsForGood", with(func(f *tierFacts) { f.state, f.looked, f.sendFailed, f.permanent = SyncStateUnknown, false, true, true }), tierFail},
		{"ContactFailsOthersWait", with(func(f *tierFacts) {
			f.state, f.looked, f.sendFailed, f.sendFailing, f.waiting = SyncStateUnknown, false, true, time.Hour, true
		}), tierFail},
		{"Failed", with(func(f *tierFacts) { f.state = SyncStateFailed }), tierFail},
		{"FailedPending", with(func(f *tierFacts) { f.state, f.pending = SyncStateFailed, 1 }), tierStay},
		{"Empty", with(func(f *tierFacts) { f.state = SyncStateEmpty }), tierFail},
		{"Missing", with(func(f *tierFacts) { f.state = SyncStateMissing }), tierGone},
		{"MissingPending", with(func(f *tierFacts) { f.state, f.pending = SyncStateMissing, 1 }), tierStay},
		{"MissingNotLooked", with(func(f *tierFacts) { f.state, f.looked = SyncStateMissing, false }), tierGone},
		{"Used", with(func(f *tierFacts) { f.users, f.waiting = 1, true }), tierStay},
		{"UsedFailed", with(func(f *tierFacts) { f.users, f.state = 1, SyncStateFailed }), tierStay},
	} {
		if got := decideTier(tt.facts, hot); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

// Whatever the facts, a database is let go only when nothing of it is missing
// on the storage, and always gets out of the way of others in the end.
func TestDecideTier_All(t *testing.T) {
	flag := []bool{false, true}
	for _, state := range []SyncState{SyncStateUnknown, SyncStateOK, SyncStateFailed, SyncStateEmpty, SyncStateMissing} {
		for bits := range 1 << 7 {
			has := func(i int) bool { return flag[bits>>i&1] }
			f := tierFacts{state: state, suspended: has(0), looked: has(1), settled: has(2), permanent: has(3), waiting: has(4)}
			if has(5) {
				f.pending = 1
			}
			f.sendFailed, f.sendFailing, f.quiet = has(6), time.Hour, time.Hour
			move := decideTier(f, time.Second)
			if move == tierCool && (f.pending > 0 || f.suspended || !f.looked || state != SyncStateOK) {
				t.Errorf("%+v cools", f)
			}
			if move == tierGone && (f.pending > 0 || state != SyncStateMissing) {
				t.Errorf("%+v is gone", f)
			}
			if move == tierStay && f.waiting && f.sendFailed {
				t.Errorf("%+v keeps its place for ever", f)
			}
		}
	}
}

func TestChooseYields(t *testing.T) {
	const now = int64(time.Hour)
	const recent, late = now - int64(yieldPatience) + 1, now - int64(yieldPatience)
	for _, tt := range []struct {
		name    string
		hot     []yieldFacts
		waiting int
		want    []int
	}{
		{"One", []yieldFacts{{5, 0}, {3, 0}, {9, 0}}, 1, []int{1}},
		{"AsManyAsTheShare", []yieldFacts{{5, 0}, {3, 0}, {9, 0}}, yieldShare, []int{1}},
		{"OneMore", []yieldFacts{{5, 0}, {3, 0}, {9, 0}}, yieldShare + 1, []int{1, 0}},
		{"MoreThanThereAre", []yieldFacts{{5, 0}, {3, 0}, {9, 0}}, 1000, []int{1, 0, 2}},
		{"ChosenAlready", []yieldFacts{{5, 0}, {3, recent}, {9, 0}}, yieldShare, nil},
		{"ChosenAndOneMore", []yieldFacts{{5, 0}, {3, recent}, {9, 0}}, yieldShare + 1, []int{0}},
		{"ChosenInVain", []yieldFacts{{5, 0}, {3, late}, {9, 0}}, yieldShare, []int{0}},
		{"AllChosenInVain", []yieldFacts{{5, late}}, 9, nil},
	} {
		if got := chooseYields(tt.hot, tt.waiting, now); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestYields(t *testing.T) {
	for _, tt := range []struct {
		name     string
		mode     yieldMode
		chosen   bool
		captures int
		want     bool
	}{
		{"NobodyWaits", yieldNone, true, 1, false},
		{"All", yieldAll, false, 9, true},
		{"Chosen", yieldSome, true, 9, true},
		{"Busy", yieldSome, false, 2, false},
		{"CameForOneChange", yieldSome, false, 1, true},
		{"CameForNone", yieldSome, false, 0, true},
	} {
		if got := yields(tt.mode, tt.chosen, tt.captures); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestTenantRetry(t *testing.T) {
	for _, tt := range []struct {
		tries   uint8
		changed bool
		want    time.Duration
	}{
		{0, false, 2 * time.Second},
		{1, false, 4 * time.Second},
		{5, false, 64 * time.Second},
		{10, false, 2048 * time.Second},
		{11, false, time.Hour},
		{255, false, time.Hour},
		{0, true, 2 * time.Second},
		{4, true, 32 * time.Second},
		{5, true, time.Minute},
		{255, true, time.Minute},
	} {
		if got := tenantRetry(tt.tries, tt.changed); got != tt.want {
			t.Errorf("after %d tries, changed %v: got %v, want %v", tt.tries, tt.changed, got, tt.want)
		}
	}
}

func TestFailureClass(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("sync /data/t.db: %w", err) }
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errNoPages, "empty"},
		{wrap(errCutShort), "cut-short"},
		{wrap(errSamePath), "same-replica-path"},
		{wrap(ErrReplicaPathTooLong), "replica-path"},
		{secondPath("/data/a.db"), "second-path"},
		{wrap(errNetworkFS), "network-fs"},
		{errors.Join(errLeftoverLog, errors.New("close")), "leftover-wal"},
		{wrap(ErrNotDatabase), "not-a-database"},
		{wrap(ErrDatabaseLocked), "locked"},
		{wrap(ErrDiskFull), "disk-full"},
		{wrap(fs.ErrPermission), "permission"},
		{wrap(fs.ErrNotExist), "missing"},
		{wrap(&ReplicaError{Op: "write", Err: errors.New("503")}), "replica"},
		// What the storage answers is not about the database's own file.
		{wrap(&ReplicaError{Op: "write", Err: fs.ErrPermission}), "replica"},
		{wrap(&ReplicaError{Op: "open", Err: fs.ErrNotExist}), "replica"},
		{errors.New("odd"), "other"},
	} {
		if got := failureClass(tt.err); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.err, got, tt.want)
		}
	}
}

// A reason says what to do, and stays of its class.
func TestAdvise(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{ErrNotDatabase, "exclude it"},
		{fmt.Errorf("%w nfs", errNetworkFS), "replicate it on the machine"},
		{&fs.PathError{Op: "open", Path: "/data/t.db", Err: fs.ErrPermission}, fmt.Sprintf("user id %d read access", os.Geteuid())},
		{ErrDatabaseLocked, "locking_mode=normal"},
		{&ReplicaError{Op: "write", Err: fs.ErrPermission}, ""},
		{errNoPages, ""},
	} {
		got := advise(tt.err)
		if failureClass(got) != failureClass(tt.err) {
			t.Errorf("%v: class %q, want %q", got, failureClass(got), failureClass(tt.err))
		}
		if added := strings.TrimPrefix(got.Error(), tt.err.Error()); !strings.Contains(added, tt.want) || (tt.want == "") != (added == "") {
			t.Errorf("%v: added %q, want %q", tt.err, added, tt.want)
		}
	}
}

func TestChangeTime(t *testing.T) {
	base := time.Unix(1_700_000_000, 0)
	at := func(d time.Duration) int64 { return base.Add(d).UnixNano() }
	last, now := base, base.Add(15*time.Second)
	for _, tt := range []struct {
		name      string
		main, log int64
		want      time.Time
	}{
		{"Main", at(3 * time.Second), 0, base.Add(3 * time.Second)},
		{"Log", at(-time.Hour), at(4 * time.Second), base.Add(4 * time.Second)},
		{"AtLastScan", at(0), 0, base},
		{"Old", at(-time.Second), at(-time.Hour), now},
		{"Future", at(time.Hour), at(time.Second), now},
		{"Epoch", 0, 0, now},
	} {
		var fp sqlitefile.Fingerprint
		fp.Main.Mtime, fp.WAL.Mtime = tt.main, tt.log
		if got := changeTime(fp, last, now); !got.Equal(tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestUpkeepQueue_Model(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	base := time.Unix(1_700_000_000, 0)
	q, model := newUpkeepQueue(), make(map[uint32]time.Time)
	at := func() time.Time { return base.Add(time.Duration(r.IntN(50)) * time.Second) }
	for range 20_000 {
		idx := uint32(r.IntN(40))
		switch r.IntN(6) {
		case 0, 1, 2:
			when := at()
			if r.IntN(5) == 0 {
				when = time.Time{}
			}
			q.set(idx, when)
			if delete(model, idx); !when.IsZero() {
				model[idx] = when
			}
		case 3:
			q.remove(idx)
			delete(model, idx)
		case 4:
			if got, want := q.at(idx), model[idx]; !got.Equal(want) {
				t.Fatalf("%d is due at %v, want %v", idx, got, want)
			}
		case 5:
			popFromModel(t, q, model, at())
		}
		if q.len() != len(model) {
			t.Fatalf("%d entries, want %d", q.len(), len(model))
		}
		now, due := at(), 0
		for _, when := range model {
			if !when.After(now) {
				due++
			}
		}
		if got := q.dueBy(now); got != due {
			t.Fatalf("%d are due, want %d", got, due)
		}
	}
}

func popFromModel(t *testing.T, q *upkeepQueue, model map[uint32]time.Time, now time.Time) {
	t.Helper()
	oldest := time.Time{}
	for _, when := range model {
		oldest = earliest(oldest, when)
	}
	idx, ok := q.pop(now)
	if want := !oldest.IsZero() && !oldest.After(now); ok != want {
		t.Fatalf("pop is %v, want %v", ok, want)
	}
	if !ok {
		return
	}
	if when, there := model[idx]; !there || !when.Equal(oldest) {
		t.Fatalf("popped %d, due at %v; the oldest is due at %v", idx, when, oldest)
	}
	delete(model, idx)
}

func TestTenantMap_Distinct(t *testing.T) {
	for _, tt := range []struct {
		template string
		patterns []string
		want     bool
	}{
		{"{{path}}", []string{"/data/*.db"}, true},
		{"a/{{relpath}}", []string{"/data/**/*.db"}, true},
		{"{{1}}", []string{"/data/*.db"}, true},
		{"{{project}}/{{2}}", []string{"/data/*/tenants/*.db"}, true},
		{"{{project}}/x-{{2}}.db", []string{"/data/*/tenants/*.db"}, true},
		{"{{path}}", []string{"/data/*.db", "/other/*.db"}, false}, // nobody asked yet whether they could meet
		{"{{tenant}}", []string{"/data/*/tenants/*.db"}, false},
		{"{{project}}-{{2}}", []string{"/data/*/tenants/*.db"}, false},
		// {{tenant}} drops the extension: a.db and a.sqlite meet.
		{"{{tenant}}", []string{"/data/*"}, false},
		{"{{1}}", []string{"/data/*"}, true},
		// Alternatives outside wildcards are no variable.
		{"{{1}}", []string{"/data/*.{db,sqlite}"}, false},
		{"{{1}}", []string{"/{a,b}/*.db"}, false},
		{"{{1}}", []string{"/data[12]/*.db"}, false},
		{"{{1}}", []string{"/data?/*.db"}, false},
		{"{{tenant}}", []string{"/data/{{tenant}}.db"}, true},
	} {
		c := NewMultiDBConfig()
		c.Patterns, c.ReplicaPath = tt.patterns, tt.template
		m, err := NewTenantMap(c)
		if err != nil {
			t.Logf("%q of %q: %v", tt.template, tt.patterns, err)
			continue
		}
		if got := m.distinct(); got != tt.want {
			t.Errorf("%q of %q: got %v, want %v", tt.template, tt.patterns, got, tt.want)
		}
	}
}

// An outage lets all databases fail: what is kept of the reasons is bounded.
func TestLeanReasons(t *testing.T) {
	for n, want := range map[uint32]int{1: 1, 1000: 1000, 50_000: 1001} {
		if got := LeanReasons(n); got != want {
			t.Errorf("%d databases failed: %d errors kept, want %d", n, got, want)
		}
	}
}
