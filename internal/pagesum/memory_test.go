package pagesum_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/pagesum"
)

// createVolatile is create for a ledger that need not survive the process.
func createVolatile(tb testing.TB, path string, h pagesum.Header) *pagesum.Ledger {
	tb.Helper()
	w, err := pagesum.NewVolatileWriter(path, h.PageSize, h.PageN)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range h.PageN {
		if err := w.Append(sumOf(i + 1)); err != nil {
			tb.Fatal(err)
		}
	}
	l, err := w.Commit(h)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func marshal(tb testing.TB, l *pagesum.Ledger) []byte {
	tb.Helper()
	b, err := l.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// A ledger in memory goes through the same random changes as one in a file,
// across the bound where it gets a file itself, and through Marshal and
// Unmarshal on the way. They stay equal, and so do their encodings.
func TestVolatile_LikeAFile(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	h := pagesum.Header{Replica: [32]byte{9}, TXID: 1, PageSize: 512, PageN: 20, Meta: []byte("cursor")}
	file := create(t, filepath.Join(dir, "file"), h)
	l := createVolatile(t, filepath.Join(dir, "v", "w", "volatile"), h)
	inFile := 0
	for i := range 400 {
		h = file.Header()
		h.TXID++
		h.Rolling, h.Meta = 0, nil
		if rnd.IntN(3) == 0 {
			h.PageN = uint32(max(1, int(h.PageN)+rnd.IntN(41)-20))
		}
		switch i % 100 {
		case 99:
			h.PageN = pagesum.MaxMemoryPages + uint32(rnd.IntN(3)) - 1
		case 50:
			h.PageN = 10
		}
		changes := make([]pagesum.Change, rnd.IntN(8))
		for j := range changes {
			changes[j] = pagesum.Change{Pgno: 1 + rnd.Uint32N(h.PageN), Sum: sumOf(rnd.Uint32())}
			if rnd.IntN(20) == 0 {
				changes[j].Sum = 0
			}
		}
		wantRoll, err := file.RollingAfter(changes, h)
		if err != nil {
			t.Fatal(err)
		}
		if roll, err := l.RollingAfter(changes, h); err != nil || roll != wantRoll {
			t.Fatalf("rolling after %s, %v, want %s", roll, err, wantRoll)
		}
		if err := errors.Join(file.Apply(changes, h), l.Apply(changes, h)); err != nil {
			t.Fatal(err)
		}
		if rnd.IntN(10) == 0 {
			h = file.Header()
			pgnos := []uint32{1, h.PageN}
			if err := errors.Join(file.MarkUnknown(pgnos, h), l.MarkUnknown(pgnos, h)); err != nil {
				t.Fatal(err)
			}
		}
		if rnd.IntN(4) == 0 {
			if err := file.Flush(); err != nil {
				t.Fatal(err)
			}
			b := marshal(t, l)
			if bytes.HasPrefix(b, []byte("LTSPREF")) {
				inFile++
			} else if onDisk, err := os.ReadFile(file.Path()); err != nil || !bytes.Equal(b, onDisk) {
				t.Fatalf("step %d: encodings differ, %v: %s", i, err, cmp.Diff(file.Header(), l.Header()))
			}
			if l, err = pagesum.Unmarshal(b, l.Path()); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(file.Header(), l.Header()); diff != "" {
			t.Fatalf("step %d: header (-file +memory):\n%s", i, diff)
		}
		if diff := cmp.Diff(readAll(t, file), readAll(t, l)); diff != "" {
			t.Fatalf("step %d: sums (-file +memory):\n%s", i, diff)
		}
		pgno := 1 + rnd.Uint32N(h.PageN)
		want, err := file.Sum(pgno)
		got, gerr := l.Sum(pgno)
		if got != want || errors.Join(err, gerr) != nil {
			t.Fatalf("step %d: sum of page %d is %s, want %s (%v, %v)", i, pgno, got, want, err, gerr)
		}
	}
	if inFile == 0 {
		t.Error("never got a file")
	}
}

func TestVolatile_SmallHasNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "ledger")
	l := createVolatile(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: pagesum.MaxMemoryPages})
	h := l.Header()
	h.Rolling = 0
	if err := errors.Join(l.Apply([]pagesum.Change{{Pgno: 1, Sum: sumOf(2)}}, h), l.Flush(), l.Remove()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

func TestUnmarshal_Refused(t *testing.T) {
	dir := t.TempDir()
	small := createVolatile(t, filepath.Join(dir, "small"), pagesum.Header{TXID: 3, PageSize: 4096, PageN: 3, Meta: []byte("m")})
	large := createVolatile(t, filepath.Join(dir, "large"), pagesum.Header{TXID: 3, PageSize: 4096, PageN: 5000})
	blob, ref := marshal(t, small), marshal(t, large)
	for i := range blob {
		torn := blob[:i]
		if _, err := pagesum.Unmarshal(torn, small.Path()); !errors.Is(err, pagesum.ErrInvalid) {
			t.Fatalf("%d bytes: %v, want ErrInvalid", i, err)
		}
		bad := bytes.Clone(blob)
		bad[i] ^= 0x40
		if _, err := pagesum.Unmarshal(bad, small.Path()); !errors.Is(err, pagesum.ErrInvalid) {
			t.Fatalf("byte %d changed: %v, want ErrInvalid", i, err)
		}
	}
	if _, err := pagesum.Unmarshal(ref, large.Path()); err != nil {
		t.Fatal(err)
	}
	if _, err := pagesum.Unmarshal(ref, small.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file gone: %v", err)
	}
	// A file of the same position and another content, as after a loss of power.
	w, err := pagesum.NewVolatileWriter(large.Path(), 4096, 5000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(5000) {
		if err := w.Append(sumOf(i, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(pagesum.Header{TXID: 3, PageSize: 4096, PageN: 5000}); err != nil {
		t.Fatal(err)
	}
	if _, err := pagesum.Unmarshal(ref, large.Path()); !errors.Is(err, pagesum.ErrInvalid) {
		t.Errorf("another file: %v", err)
	}
	if err := large.Remove(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

// Sums in memory count against the budget, and move to a file when it is
// exceeded.
func TestVolatile_Budget(t *testing.T) {
	budget := pagesum.NewBudget(20 << 10)
	dir := t.TempDir()
	small := createVolatile(t, filepath.Join(dir, "small"), pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3})
	large := createVolatile(t, filepath.Join(dir, "large"), pagesum.Header{TXID: 1, PageSize: 4096, PageN: 4000})
	small.SetBudget(budget)
	large.SetBudget(budget)
	if want := int64(8 * 4003); budget.Used() != want {
		t.Errorf("used %d, want %d", budget.Used(), want)
	}
	for _, l := range []*pagesum.Ledger{small, large} {
		h := l.Header()
		h.Rolling = 0
		if err := l.Apply([]pagesum.Change{{Pgno: 2, Sum: sumOf(5)}}, h); err != nil {
			t.Fatal(err)
		}
	}
	if want := int64(8 * 3); budget.Used() != want {
		t.Errorf("used %d, want %d", budget.Used(), want)
	}
	if sum, err := large.Sum(2); err != nil || sum != sumOf(5) {
		t.Errorf("sum %s, %v", sum, err)
	}
	small.Discard()
	large.Discard()
	if budget.Used() != 0 {
		t.Errorf("used %d after both are gone", budget.Used())
	}
}

// One that grows when its folder cannot be made keeps its changes.
func TestVolatile_NoRoomForTheFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := createVolatile(t, filepath.Join(dir, "f", "ledger"), pagesum.Header{TXID: 1, PageSize: 4096, PageN: 4096})
	h := l.Header()
	h.PageN++
	h.TXID, h.Rolling = 2, 0
	if err := l.Apply([]pagesum.Change{{Pgno: 4097, Sum: sumOf(4097)}}, h); !errors.Is(err, pagesum.ErrFlush) {
		t.Fatalf("err=%v, want ErrFlush", err)
	}
	if sum, err := l.Sum(4097); err != nil || sum != sumOf(4097) || l.Header().TXID != 2 {
		t.Errorf("sum %s, %v", sum, err)
	}
}

// What a small ledger costs while it is held, and each time it is made.
func TestVolatile_Cost(t *testing.T) {
	meta := make([]byte, 160)
	h := pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3}
	const n = 1000
	held := make([]*pagesum.Ledger, n)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range held {
		held[i] = createVolatile(t, "p", h)
		h := held[i].Header()
		h.Meta = meta
		if err := held[i].Apply(nil, h); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := int64(after.HeapAlloc-before.HeapAlloc) / n; each > 1024 {
		t.Errorf("%d bytes each, want at most 1024", each)
	}
	runtime.KeepAlive(held)
	var l *pagesum.Ledger
	if allocs := testing.AllocsPerRun(100, func() {
		w, err := pagesum.NewVolatileWriter("p", 4096, 3)
		for range 3 {
			err = errors.Join(err, w.Append(ltx.ChecksumFlag))
		}
		if l, err = w.Commit(h); err != nil {
			t.Fatal(err)
		}
	}); allocs > 4 {
		t.Errorf("%v allocations to make one, want at most 4", allocs)
	}
	runtime.KeepAlive(l)
}
