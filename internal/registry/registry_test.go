package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/registry"
	"github.com/benbjohnson/litestream/internal/sqlitefile"
	"github.com/benbjohnson/litestream/internal/wal"
)

// logbook collects log lines.
type logbook struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")[:strings.Count(l.b.String(), "\n")]
}

func (l *logbook) options() registry.Options {
	return registry.Options{Logger: slog.New(slog.NewTextHandler(l, nil))}
}

func open(tb testing.TB, dir string, opt registry.Options) *registry.Registry {
	tb.Helper()
	r, err := registry.Open(tb.Context(), dir, opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { shut(tb, r, false) })
	return r
}

func shut(tb testing.TB, r *registry.Registry, clean bool) {
	tb.Helper()
	if err := r.Close(context.WithoutCancel(tb.Context()), clean); err != nil {
		tb.Error(err)
	}
}

func flush(tb testing.TB, r *registry.Registry) {
	tb.Helper()
	if err := r.Flush(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// loader is what a Registry and a Reader have in common.
type loader interface {
	Load(ctx context.Context, fn func(*registry.Record) error) error
}

func load(tb testing.TB, r loader) map[uint32]registry.Record {
	tb.Helper()
	rows := map[uint32]registry.Record{}
	err := r.Load(tb.Context(), func(rec *registry.Record) error {
		c := *rec
		c.Files = append([]byte(nil), rec.Files...)
		rows[c.ID] = c
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return rows
}

func ledger(tb testing.TB, r *registry.Registry, id uint32) string {
	tb.Helper()
	b, err := r.Ledger(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func sameRows(tb testing.TB, got, want map[uint32]registry.Record) {
	tb.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		tb.Errorf("rows (-want +got):\n%s", d)
	}
}

// full is a record without a zero field.
func full(id uint32, path string) registry.Record {
	at := func(n int) time.Time { return time.Unix(1_700_000_000+int64(n), 123).UTC() }
	return registry.Record{
		ID: id, Path: path, Place: uint64(id) << 40, Settled: true, TXID: ltx.TXID(id) + 7,
		Fingerprint: sqlitefile.Fingerprint{
			Main: wal.Print{ID: wal.FileID{Dev: 1 << 63, Ino: 2}, Size: 3, Mtime: -4, Ctime: 5},
			WAL:  wal.Print{ID: wal.FileID{Dev: 6, Ino: 7}, Size: 8, Mtime: 9, Ctime: 10},
		},
		SyncedAt: at(1), Due: at(2), ChangedAt: at(3), GoneAt: at(4),
		Files: []byte("files\x00"), State: 255, Reason: "locked by another\nprocess",
	}
}

func TestRegistry_RoundTrip(t *testing.T) {
	dir := t.TempDir()
	long := full(9, "/long")
	long.Reason, long.Files = strings.Repeat("r", 5000), []byte(strings.Repeat("f", 5000))
	var want []registry.Record
	for i, path := range []string{"/plain.db", "/\xff\xfe not utf-8 \x01", "/new\nline '\"; DROP TABLE tenant;--", "/?#%41{{x}}", "/" + strings.Repeat("x", 4095)} {
		want = append(want, full(uint32(i+1), path))
	}
	want = append(want, registry.Record{ID: 1<<32 - 1, Path: "/zero"})
	noWAL := full(8, "/no log")
	noWAL.Fingerprint.WAL = wal.Print{}
	want = append(want, noWAL)

	r := open(t, dir, registry.Options{})
	rows := map[uint32]registry.Record{}
	for _, rec := range want {
		r.Put(rec, []byte("ledger of "+rec.Path))
		rows[rec.ID] = rec
	}
	r.Put(long, nil)
	long.Reason, long.Files = long.Reason[:registry.MaxReasonBytes], long.Files[:registry.MaxFilesBytes]
	rows[long.ID] = long
	if got, want := r.Pending(), len(rows); got != want {
		t.Errorf("pending=%d, want %d", got, want)
	}
	flush(t, r)
	if got := r.Pending(); got != 0 {
		t.Errorf("pending=%d after a flush, want 0", got)
	}
	sameRows(t, load(t, r), rows)
	shut(t, r, true)

	r = open(t, dir, registry.Options{})
	sameRows(t, load(t, r), rows)
	for _, rec := range want {
		if got, want := ledger(t, r, rec.ID), "ledger of "+rec.Path; got != want {
			t.Errorf("ledger=%q, want %q", got, want)
		}
	}
	if got := ledger(t, r, 9); got != "" {
		t.Errorf("ledger=%q, want none", got)
	}
}

// TestRegistry_Queue compares a random schedule with a map.
func TestRegistry_Queue(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := open(t, t.TempDir(), registry.Options{})
	rows, ledgers := map[uint32]registry.Record{}, map[uint32]string{}
	for i := range 4000 {
		id := uint32(1 + rng.IntN(20))
		switch n := rng.IntN(100); {
		case n < 20:
			r.Delete(id)
			delete(rows, id)
			delete(ledgers, id)
		case n < 70:
			rec := full(id, fmt.Sprint("/", id))
			rec.TXID = ltx.TXID(i)
			var l []byte
			switch rng.IntN(3) {
			case 0:
				l = []byte{}
				delete(ledgers, id)
			case 1:
				l = fmt.Append(nil, "ledger ", i)
				ledgers[id] = string(l)
			}
			r.Put(rec, l)
			rows[id] = rec
		case n < 72:
			if err := r.Flush(canceled(t)); r.Pending() > 0 && !errors.Is(err, context.Canceled) {
				t.Fatalf("err=%v of a flush that was cancelled", err)
			}
		case n < 80:
			flush(t, r)
			sameRows(t, load(t, r), rows)
		default:
			if got := ledger(t, r, id); got != ledgers[id] {
				t.Fatalf("step %d: ledger of %d=%q, want %q", i, id, got, ledgers[id])
			}
		}
	}
}

func canceled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// TestRegistry_Concurrent is for the race detector.
func TestRegistry_Concurrent(t *testing.T) {
	r := open(t, t.TempDir(), registry.Options{})
	var wg sync.WaitGroup
	for g := range uint32(4) {
		wg.Go(func() {
			for i := range uint32(200) {
				id := g*200 + i + 1
				r.Put(full(id, fmt.Sprint("/", id)), fmt.Append(nil, "ledger ", id))
				if i%20 == 0 {
					if err := r.Flush(t.Context()); err != nil {
						t.Error(err)
					}
					r.SetSummary([]byte("{}"))
				}
				for _, id := range []uint32{id, g*200 + 1} {
					if b, err := r.Ledger(t.Context(), id); err != nil || string(b) != fmt.Sprint("ledger ", id) {
						t.Errorf("ledger of %d=%q, %v", id, b, err)
					}
				}
				r.Info()
				r.Pending()
			}
		})
	}
	wg.Wait()
	flush(t, r)
	if got := len(load(t, r)); got != 800 {
		t.Errorf("rows=%d, want 800", got)
	}
}

func TestRegistry_Info(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1_800_000_000, 5).UTC()
	opt := func(boot byte) registry.Options {
		return registry.Options{BootID: [16]byte{boot}, Now: func() time.Time { return now }}
	}
	for i, tt := range []struct {
		boot  byte
		clean bool // how this one stops
		want  registry.Info
	}{
		{boot: 1, clean: true, want: registry.Info{Fresh: true}},
		{boot: 1, clean: false, want: registry.Info{Clean: true, SameBoot: true, WrittenAt: now}},
		{boot: 2, clean: true, want: registry.Info{WrittenAt: now}},
		{boot: 0, clean: true, want: registry.Info{Clean: true, WrittenAt: now}},
		{boot: 0, clean: true, want: registry.Info{Clean: true, WrittenAt: now}}, // not known is not the same
	} {
		r := open(t, dir, opt(tt.boot))
		if d := cmp.Diff(tt.want, r.Info()); d != "" {
			t.Errorf("run %d (-want +got):\n%s", i, d)
		}
		shut(t, r, tt.clean)
		shut(t, r, false) // does nothing, not even to the flag
	}
}

func TestRegistry_Bind(t *testing.T) {
	dir := t.TempDir()
	var log logbook
	r := open(t, dir, log.options())
	bind := func(id byte, epoch string, want bool) {
		t.Helper()
		if got, err := r.Bind(t.Context(), [32]byte{id}, epoch); err != nil || got != want {
			t.Fatalf("Bind=%v, %v, want %v", got, err, want)
		}
	}
	bind(1, "a", false)
	bind(1, "a", true)
	const rows = 3000 // more than one step of the rewrite
	for id := range uint32(rows) {
		r.Put(full(id+1, fmt.Sprint("/", id+1)), []byte("ledger"))
	}
	flush(t, r)
	shut(t, r, true)

	r = open(t, dir, log.options())
	bind(1, "a", true)
	if got := load(t, r); len(got) != rows || got[7].TXID == 0 || ledger(t, r, 7) == "" || len(log.lines()) != 0 {
		t.Fatalf("the same replica emptied %d rows, log %q", len(got), log.lines())
	}
	r.Put(full(5000, "/queued"), []byte("ledger"))
	bind(1, "b", false)
	if got := log.lines(); len(got) != 1 || !strings.Contains(got[0], "databases=3001") {
		t.Errorf("log=%q, want one line with the number of databases", got)
	}
	shut(t, r, true)

	r = open(t, dir, log.options())
	if info := r.Info(); info.Identity != [32]byte{1} || info.Epoch != "b" {
		t.Errorf("info=%+v, want the new epoch", info)
	}
	got := load(t, r)
	if len(got) != rows+1 {
		t.Errorf("rows=%d, want %d", len(got), rows+1)
	}
	for id, rec := range got {
		old := full(id, rec.Path)
		want := registry.Record{ID: id, Path: rec.Path, Place: old.Place, State: old.State, Reason: old.Reason, ChangedAt: old.ChangedAt, GoneAt: old.GoneAt}
		if d := cmp.Diff(want, rec, cmpopts.EquateEmpty()); d != "" || ledger(t, r, id) != "" {
			t.Fatalf("ledger %q, row (-want +got):\n%s", ledger(t, r, id), d)
		}
	}
	bind(2, "b", false) // another identity counts too
}

func TestRegistry_Locked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	r := open(t, dir, registry.Options{})
	_, err := registry.Open(t.Context(), dir, registry.Options{})
	if !errors.Is(err, registry.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d;", os.Getpid())) {
		t.Errorf("err=%v, want ErrLocked that names this process", err)
	}
	for name, want := range map[string]fs.FileMode{"": 0o700 | fs.ModeDir, "/lock": 0o600, "/registry.db": 0o600, "/registry.db-wal": 0o600} {
		if st, err := os.Stat(dir + name); err != nil || st.Mode() != want {
			t.Errorf("mode of %q=%v, %v, want %v", name, st.Mode(), err, want)
		}
	}
	shut(t, r, true)
	shut(t, open(t, dir, registry.Options{}), true)
}

func TestRegistry_Closed(t *testing.T) {
	r := open(t, t.TempDir(), registry.Options{})
	shut(t, r, true)
	r.Put(full(1, "/x"), nil)
	r.Delete(2)
	r.SetSummary([]byte("x"))
	if got := r.Pending(); got != 0 {
		t.Errorf("pending=%d, want 0", got)
	}
	_, lerr := r.Ledger(t.Context(), 1)
	_, berr := r.Bind(t.Context(), [32]byte{}, "")
	for i, err := range []error{r.Flush(t.Context()), lerr, berr, r.Load(t.Context(), nil)} {
		if !errors.Is(err, registry.ErrClosed) {
			t.Errorf("call %d: err=%v, want ErrClosed", i, err)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
