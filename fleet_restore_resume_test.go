package litestream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream"
)

// fleetChild is what a child restores, and the step at which it is killed.
type fleetChild struct {
	Root, Replicas string
	N, Size        int
	Kill           int64 // 0: not at all
	Existing       litestream.FleetRestoreExisting
}

// childFleetRestore restores lost tenants in this process.
func childFleetRestore(arg string) error {
	var c fleetChild
	if err := json.Unmarshal([]byte(arg), &c); err != nil {
		return err
	}
	l := &lostTenants{dir: c.Replicas, n: c.N, entries: lostEntries(c.N, int64(c.Size))}
	opt := l.options(c.Root)
	opt.Existing = c.Existing
	var steps atomic.Int64
	opt.SetKnobs(nil, time.Millisecond, func(string) {
		if steps.Add(1) == c.Kill {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // until it arrives
		}
	})
	r, err := litestream.NewFleetRestore(opt)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Load(context.Background()); err != nil {
		return err
	}
	_, err = r.Run(context.Background())
	return err
}

// run runs a child to its end and tells whether it was killed.
func (c fleetChild) run(t *testing.T) (killed bool) {
	t.Helper()
	arg, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	p := startChild(t, "fleet-restore", string(arg))
	p.in.Close()
	err = p.cmd.Wait()
	killed = p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
	if err != nil && !killed {
		t.Fatal(err)
	}
	return killed
}

// A restore that is killed at any step goes on where it was: what has its name
// is whole at every moment and is not fetched again, and in the end all is as
// if nothing had happened.
func TestFleetRestore_Killed(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const n = 150
	l := newLostTenants(t, t.TempDir(), n)
	kills := 10
	if testing.Short() {
		kills = 3
	}
	for _, existing := range []litestream.FleetRestoreExisting{litestream.FleetRestoreRefuse, litestream.FleetRestoreReplace} {
		root := t.TempDir()
		c := fleetChild{Root: root, Replicas: l.dir, N: n, Size: len(l.image), Existing: existing}
		killed := 0
		for range kills {
			c.Kill = 1 + rng.Int64N(2*n/int64(kills)+10)
			if c.run(t) {
				killed++
			}
			l.wantWhole(root)
			if _, err := os.Stat(filepath.Join(root, litestream.FleetRestoreJournalName)); err != nil && killed > 0 && errors.Is(err, fs.ErrNotExist) {
				break // it came to its end
			}
		}
		if killed == 0 {
			t.Errorf("never killed")
		}
		l.opens.Store(0)
		sum, rows := runFleetRestore(t.Context(), t, func() litestream.FleetRestoreOptions {
			opt := l.options(root)
			opt.Existing = existing
			return opt
		}())
		if sum.Done() != n {
			t.Errorf("at the end: %+v, %v", sum, sum.First)
		}
		t.Logf("killed %d times, then %d verified and %d restored", killed, sum.Verified, sum.Restored)
		files := int64(0)
		for i, e := range l.entries {
			if rows[e.Path].Status == litestream.FleetRestored {
				files += int64(newestOf(i))
			}
		}
		if got := l.opens.Load(); got != files {
			t.Errorf("%d files were fetched, want %d: those of databases that were not there", got, files)
		}
		l.wantTenants(root)
	}
}

// wantWhole compares what has its name with what it was.
func (l *lostTenants) wantWhole(root string) {
	l.tb.Helper()
	for i, e := range l.entries {
		got, err := os.ReadFile(filepath.Join(root, e.Path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || string(got) != string(l.want(i)) {
			l.tb.Fatalf("%s is there and is not whole: %d bytes, %v", e.Path, len(got), err)
		}
	}
}

// stopped restores some databases, and returns which.
func (l *lostTenants) stopped(t *testing.T, root string, after int) (there []int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var begun atomic.Int64
	opt := l.options(root)
	opt.Parallelism = 1
	opt.SetKnobs(nil, time.Nanosecond, func(name string) {
		if name == "fill" && begun.Add(1) > int64(after) {
			cancel()
		}
	})
	sum, rows := runFleetRestore(ctx, t, opt)
	if sum.Left == 0 || !errors.Is(sum.Stopped, context.Canceled) {
		t.Fatalf("not stopped: %+v", sum)
	}
	for i, e := range l.entries {
		if rows[e.Path].Status == litestream.FleetRestored {
			there = append(there, i)
		}
	}
	return there
}

// What changed since it was restored is somebody's: it is neither taken for
// restored nor replaced, unless that is asked for.
func TestFleetRestore_ChangedMeanwhile(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 60)
	root := t.TempDir()
	there := l.stopped(t, root, 5)
	changed, removed, stray := there[0], there[1], -1
	for i := range l.entries {
		if _, err := os.Stat(filepath.Join(root, l.entries[i].Path)); errors.Is(err, fs.ErrNotExist) {
			stray = i
		}
	}
	path := func(i int) string { return filepath.Join(root, l.entries[i].Path) }
	image := l.want(changed)
	image[len(image)-1] ^= 1 // same size
	for name, data := range map[string][]byte{path(changed): image, path(there[2]) + "-wal": []byte("in use")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(path(removed)); err != nil {
		t.Fatal(err)
	}
	// Right, but not of this restore: presence is no proof, and neither are
	// sizes and times.
	if err := errors.Join(os.MkdirAll(filepath.Dir(path(stray)), 0o755), os.WriteFile(path(stray), l.want(stray), 0o600)); err != nil {
		t.Fatal(err)
	}
	sum, rows := runFleetRestore(t.Context(), t, l.options(root))
	for i, want := range map[int]litestream.FleetRestoreStatus{
		changed: litestream.FleetRestoreRefused, stray: litestream.FleetRestoreRefused,
		removed: litestream.FleetRestored, there[2]: litestream.FleetRestoreVerified,
	} {
		if got := rows[l.entries[i].Path]; got.Status != want {
			t.Errorf("%s: %+v, want %s", got.Path, got, want)
		}
	}
	if !strings.Contains(rows[l.entries[changed].Path].Err.Error(), "changed since it was restored") || sum.Done() != 58 {
		t.Errorf("%+v, %v", sum, rows[l.entries[changed].Path].Err)
	}
	wantImage(t, path(changed), image)
	opt := l.options(root)
	opt.Existing = litestream.FleetRestoreReplace
	if sum, _ = runFleetRestore(t.Context(), t, opt); sum.Verified != 58 || sum.Restored != 2 {
		t.Errorf("replaced: %+v", sum)
	}
	if err := os.Remove(path(there[2]) + "-wal"); err != nil {
		t.Fatal(err) // a verified database is not touched, nor is what lies beside it
	}
	l.wantTenants(root)
}

// Files that SQLite left are refused, and replaced with force; with both, an
// old database goes with all that belongs to it.
func TestFleetRestore_Leftovers(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 9)
	root := t.TempDir()
	for i, suffix := range []string{"-wal", "-shm", "-journal"} {
		name := filepath.Join(root, l.entries[i].Path+suffix)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte("left"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for i, data := range map[int]string{3: "old", 4: ""} {
		name := filepath.Join(root, l.entries[i].Path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, l.entries[3].Path+"-wal"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum, rows := runFleetRestore(t.Context(), t, l.options(root))
	if sum.Refused != 4 || sum.Restored != 5 || !strings.Contains(rows[l.entries[1].Path].Err.Error(), "-shm was left by SQLite") {
		t.Errorf("%+v, %v", sum, rows[l.entries[1].Path].Err)
	}
	opt := l.options(root)
	opt.Existing = litestream.FleetRestoreReplace
	if sum, _ = runFleetRestore(t.Context(), t, opt); sum.Verified != 5 || sum.Restored != 4 {
		t.Errorf("forced: %+v, %v", sum, sum.First)
	}
	l.wantTenants(root)
}

// A disk is not filled: the restore ends while the reserve is there, says what
// to do, and goes on when there is room.
func TestFleetRestore_FullDisk(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 80)
	root := t.TempDir()
	var free atomic.Int64
	const reserve = 64 << 20
	free.Store(reserve + 100*int64(len(l.image)))
	opt := l.options(root)
	var lowest int64 = 1 << 60
	opt.SetKnobs(func() (uint64, uint64) {
		return 1 << 30, uint64(free.Load())
	}, time.Millisecond, func(name string) {
		if name == "fill" { // the file that is written then
			lowest = min(lowest, free.Add(-3*int64(len(l.image))))
		}
	})
	opt.Parallelism = 1
	sum, _ := runFleetRestore(t.Context(), t, opt)
	if sum.Restored == 0 || sum.Left == 0 || sum.Failed > 0 || !errors.Is(sum.Stopped, litestream.ErrDiskFull) || !strings.Contains(sum.Stopped.Error(), "start the same command again") {
		t.Fatalf("%+v", sum)
	}
	if lowest < reserve-4*int64(len(l.image)) {
		t.Errorf("%d bytes were free, of a reserve of %d", lowest, reserve)
	}
	before := sum.Restored
	if sum, _ = runFleetRestore(t.Context(), t, l.options(root)); sum.Verified != before || sum.Done() != 80 {
		t.Errorf("with room: %+v", sum)
	}
	l.wantTenants(root)
}

// A journal belongs to one restore, and to one process at a time. A line that
// was cut off counts for nothing.
func TestFleetRestore_Journal(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 60)
	root := t.TempDir()
	there := l.stopped(t, root, 3)
	name := filepath.Join(root, litestream.FleetRestoreJournalName, "journal")

	run := func(change func(*litestream.FleetRestoreOptions)) error {
		opt := l.options(root)
		change(&opt)
		r, err := litestream.NewFleetRestore(opt)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := r.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err = r.Run(t.Context())
		return err
	}
	for _, change := range []func(*litestream.FleetRestoreOptions){
		func(o *litestream.FleetRestoreOptions) { o.Source = "file:///elsewhere" },
		func(o *litestream.FleetRestoreOptions) { o.Timestamp = tenantTime },
	} {
		if err := run(change); err == nil || !strings.Contains(err.Error(), "it belongs to another restore, from file://") {
			t.Errorf("another restore: %v", err)
		}
	}
	held, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := run(func(*litestream.FleetRestoreOptions) {}); err == nil || !strings.Contains(err.Error(), "another restore is running") {
		t.Errorf("while another has it: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(f, "not json\n{\"path\":%q,\"sha256\":\"", l.entries[there[0]].Path); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if sum, _ := runFleetRestore(t.Context(), t, l.options(root)); sum.Verified != len(there) || sum.Done() != 60 {
		t.Errorf("%+v, want %d verified", sum, len(there))
	}
	l.wantTenants(root)
}

// A moment in the past is restored as it was; who came later has no backup of
// it, which is a failure unless that is allowed.
func TestFleetRestore_Timestamp(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 12)
	root := t.TempDir()
	opt := l.options(root)
	opt.Timestamp = tenantTime.Add(90 * time.Minute)
	sum, rows := runFleetRestore(t.Context(), t, opt)
	if diff := cmp.Diff(litestream.FleetRestoreSummary{Total: 12, Restored: 12}, counts(sum)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i, e := range l.entries {
		if row := rows[e.Path]; row.TXID != 1 || !row.Timestamp.Equal(tenantTime.Add(time.Hour)) {
			t.Errorf("%+v", row)
		}
		wantImage(t, filepath.Join(root, e.Path), l.at(i, 1))
	}
	opt.Root, opt.Timestamp = t.TempDir(), tenantTime
	if sum, _ = runFleetRestore(t.Context(), t, opt); sum.Failed != 12 || !errors.Is(sum.First, litestream.ErrTxNotAvailable) {
		t.Errorf("before all: %+v", sum)
	}
	opt.AllowMissing = true
	if sum, _ = runFleetRestore(t.Context(), t, opt); sum.Skipped != 12 {
		t.Errorf("where that is allowed: %+v", sum)
	}
}

// A database has its owner again, and so has a folder made for it; where that is
// not allowed it is a warning. Nothing known: that of the folder.
func TestFleetRestore_Owner(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 3)
	l.entries[0].HasOwner, l.entries[0].Mode, l.entries[0].UID, l.entries[0].GID = true, 0o600, 54321, 54322
	root := t.TempDir()
	folder := filepath.Join(root, "data", "p1")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	canSet := os.Chown(folder, 54323, 54324) == nil
	sum, rows := runFleetRestore(t.Context(), t, l.options(root))
	if sum.Restored != 3 || (sum.Warnings == 0) != canSet {
		t.Fatalf("%+v", sum)
	}
	if !canSet {
		if row := rows[l.entries[0].Path]; !strings.Contains(row.Warning, "the owner 54321:54322 cannot be set") {
			t.Errorf("%+v", row)
		}
		return
	}
	for name, want := range map[string][2]uint32{
		"data/p0": {54321, 54322}, "data/p0/t0000.db": {54321, 54322}, "data/p1/t0001.db": {54323, 54324}, "data/p2/t0002.db": {0, 0},
	} {
		fi, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		if got := [2]uint32{st.Uid, st.Gid}; got != want {
			t.Errorf("%s belongs to %v, want %v", name, got, want)
		}
	}
}

// The newest state that an earlier run restored is not the newest any more when
// the replica went on: that is said, and with force it is restored anew, unless
// the database is in use. A catalog that does not know is no excuse.
func TestFleetRestore_WentOn(t *testing.T) {
	for _, told := range []bool{true, false} {
		l := newLostTenants(t, t.TempDir(), 60)
		root := t.TempDir()
		there := l.stopped(t, root, 6)
		var moved []int // those that had one position only
		for _, i := range there {
			if newestOf(i) == 1 && len(moved) < 2 {
				moved = append(moved, i)
			}
		}
		for _, i := range moved {
			l.writeAt(i, 2)
		}
		for i, e := range l.entries {
			if e.TXID = 0; told {
				e.TXID = newestOf(i)
				if slices.Contains(moved, i) {
					e.TXID = 2
				}
			}
		}
		path := func(i int) string { return filepath.Join(root, l.entries[i].Path) }
		sum, rows := runFleetRestore(t.Context(), t, l.options(root))
		if row := rows[l.entries[moved[0]].Path]; row.Status != litestream.FleetRestoreVerified || !row.Behind || !strings.Contains(row.Warning, "the replica ends at 0000000000000002 now") {
			t.Errorf("told %t: %+v", told, row)
		}
		if sum.Behind != 2 || sum.Done() != 60 {
			t.Errorf("told %t: %+v", told, sum)
		}
		if err := os.WriteFile(path(moved[1])+"-wal", []byte("in use"), 0o600); err != nil {
			t.Fatal(err)
		}
		opt := l.options(root)
		opt.Existing = litestream.FleetRestoreReplace
		if sum, _ = runFleetRestore(t.Context(), t, opt); sum.Restored != 1 || sum.Verified != 59 || sum.Behind != 1 {
			t.Errorf("told %t, forced: %+v", told, sum)
		}
		wantImage(t, path(moved[0]), l.at(moved[0], 2))
		wantImage(t, path(moved[1]), l.want(moved[1]))
	}
}

// A replica that ends before the position that the catalog knows of has lost
// something: the database is there, and counted as older than it should be.
func TestFleetRestore_Behind(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 3)
	l.entries[1].TXID = 9
	sum, rows := runFleetRestore(t.Context(), t, l.options(t.TempDir()))
	if row := rows[l.entries[1].Path]; sum.Behind != 1 || sum.Restored != 3 || !row.Behind || !strings.Contains(row.Warning, "reached 0000000000000009") {
		t.Errorf("%+v: %+v", sum, row)
	}
}

// The end of a restore of some leaves what an earlier one of more needs to go on.
func TestFleetRestore_Choices(t *testing.T) {
	l := newLostTenants(t, t.TempDir(), 60)
	root := t.TempDir()
	there := l.stopped(t, root, 5)
	opt := l.options(root)
	opt.Match = func(e *litestream.FleetRestoreEntry) bool { return strings.HasPrefix(e.Path, "/data/p3/") }
	if sum, _ := runFleetRestore(t.Context(), t, opt); sum.Total == 0 || sum.Total != sum.Done() {
		t.Fatalf("%+v", sum)
	}
	sum, _ := runFleetRestore(t.Context(), t, l.options(root))
	if sum.Done() != 60 || sum.Verified < len(there) {
		t.Errorf("all: %+v, %v", sum, sum.First)
	}
	l.wantTenants(root)
}
