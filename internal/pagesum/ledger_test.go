package pagesum_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/pagesum"
)

// sumOf returns a well-formed sum that depends on all of its arguments.
func sumOf(a ...uint32) ltx.Checksum {
	var b []byte
	for _, v := range a {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return ltx.ChecksumPage(1, b)
}

// create writes a ledger of n pages at path and returns it with its model.
func create(tb testing.TB, path string, h pagesum.Header) *pagesum.Ledger {
	tb.Helper()
	w, err := pagesum.NewWriter(path, h.PageSize)
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

// readAll returns the sums by a Reader.
func readAll(tb testing.TB, l *pagesum.Ledger) []ltx.Checksum {
	tb.Helper()
	r, err := l.Reader()
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	sums := []ltx.Checksum{}
	for {
		c, err := r.Next()
		if errors.Is(err, io.EOF) {
			return sums
		} else if err != nil {
			tb.Fatal(err)
		}
		sums = append(sums, c)
	}
}

func TestLedger_RoundTrip(t *testing.T) {
	for pageSize := uint32(512); pageSize <= ltx.MaxPageSize; pageSize *= 2 {
		for _, pageN := range []uint32{0, 1, 2, 511, 512, 513, 5000} {
			t.Run(fmt.Sprintf("%d/%d", pageSize, pageN), func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "db.ledger")
				want := pagesum.Header{
					Replica: [32]byte{1, 2, 31: 9}, TXID: 77, PageSize: pageSize, PageN: pageN,
					Meta: bytes.Repeat([]byte{7}, int(pageN)%(pagesum.MaxMetaBytes+1)),
				}
				l := create(t, path, want)
				want.Rolling = ltx.ChecksumFlag
				for i := range pageN {
					want.Rolling = ltx.ChecksumFlag | (want.Rolling ^ sumOf(i+1))
				}
				if len(want.Meta) == 0 {
					want.Meta = nil
				}
				if diff := cmp.Diff(want, l.Header()); diff != "" {
					t.Fatalf("header of the writer (-want +got):\n%s", diff)
				}
				l, err := pagesum.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, l.Header()); diff != "" {
					t.Fatalf("header after open (-want +got):\n%s", diff)
				}
				if l.Dirty() || l.BaseTXID() != 77 || l.OverlayBytes() != 0 {
					t.Fatalf("fresh ledger: dirty=%v base=%v overlay=%d", l.Dirty(), l.BaseTXID(), l.OverlayBytes())
				}
				sums := readAll(t, l)
				if got := uint32(len(sums)); got != pageN {
					t.Fatalf("reader gave %d sums, want %d", got, pageN)
				}
				for i, got := range sums {
					if want := sumOf(uint32(i) + 1); got != want {
						t.Fatalf("page %d: reader gave %s, want %s", i+1, got, want)
					}
				}
				for _, pgno := range []uint32{0, 1, pageN / 2, pageN, pageN + 1, ^uint32(0)} {
					var want ltx.Checksum
					if pgno >= 1 && pgno <= pageN {
						want = sumOf(pgno)
					}
					if got, err := l.Sum(pgno); err != nil || got != want {
						t.Fatalf("Sum(%d)=%s, %v, want %s", pgno, got, err, want)
					}
				}
			})
		}
	}
}

func TestLedger_LockPage(t *testing.T) {
	const pageSize = 65536
	lock := ltx.LockPgno(pageSize)
	path := filepath.Join(t.TempDir(), "db.ledger")
	l := create(t, path, pagesum.Header{TXID: 1, PageSize: pageSize, PageN: lock + 2})
	var want ltx.Checksum
	for pgno := uint32(1); pgno <= lock+2; pgno++ {
		if pgno != lock {
			want ^= sumOf(pgno)
		}
	}
	want |= ltx.ChecksumFlag
	if got := l.Header().Rolling; got != want {
		t.Fatalf("rolling=%s, want %s without the lock page", got, want)
	}
	if got, err := l.Sum(lock); got != 0 || err != nil {
		t.Fatalf("Sum(lock)=%s, %v, want 0", got, err)
	}

	// Shrinking over the lock page and growing back needs no sum for it.
	if err := l.Apply(nil, pagesum.Header{TXID: 2, PageSize: pageSize, PageN: lock - 1}); err != nil {
		t.Fatal(err)
	}
	changes := []pagesum.Change{{Pgno: lock, Sum: sumOf(9)}, {Pgno: lock + 1, Sum: sumOf(lock + 1)}, {Pgno: lock + 2, Sum: sumOf(lock + 2)}}
	if err := l.Apply(changes, pagesum.Header{TXID: 3, PageSize: pageSize, PageN: lock + 2}); err != nil {
		t.Fatal(err)
	}
	if got := l.Header().Rolling; got != want {
		t.Fatalf("rolling after shrink and growth=%s, want %s", got, want)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if l, err := pagesum.Open(path); err != nil {
		t.Fatal(err)
	} else if got, err := l.Sum(lock); got != 0 || err != nil || l.Header().Rolling != want {
		t.Fatalf("Sum(lock)=%s, %v, rolling=%s", got, err, l.Header().Rolling)
	}
}

func TestOpen_Missing(t *testing.T) {
	if _, err := pagesum.Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("err=%v, want fs.ErrNotExist", err)
	}
	if _, err := pagesum.Open(t.TempDir()); !errors.Is(err, pagesum.ErrInvalid) {
		t.Fatalf("folder: err=%v, want ErrInvalid", err)
	}
}

func TestOpen_Truncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.ledger")
	create(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: 20, Meta: []byte("cursor")})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pagesum.Open(path); !errors.Is(err, pagesum.ErrInvalid) {
			t.Fatalf("first %d of %d bytes: err=%v, want ErrInvalid", n, len(data), err)
		}
	}
	if err := os.WriteFile(path, append(data, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pagesum.Open(path); !errors.Is(err, pagesum.ErrInvalid) {
		t.Fatalf("one byte more: err=%v, want ErrInvalid", err)
	}
}

func TestOpen_FlippedBit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.ledger")
	create(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: 20, Meta: []byte("cursor")})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(data) * 8 {
		data[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pagesum.Open(path); !errors.Is(err, pagesum.ErrInvalid) {
			t.Fatalf("bit %d: err=%v, want ErrInvalid", bit, err)
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
}

func TestLedger_Apply(t *testing.T) {
	header := func(pageN uint32) pagesum.Header { return pagesum.Header{TXID: 2, PageSize: 4096, PageN: pageN} }
	roll := func(sums ...ltx.Checksum) ltx.Checksum {
		c := ltx.Checksum(0)
		for _, s := range sums {
			c ^= s
		}
		return c | ltx.ChecksumFlag
	}
	s := sumOf
	for _, tt := range []struct {
		name    string
		changes []pagesum.Change
		h       pagesum.Header
		rolling ltx.Checksum // given
		want    []ltx.Checksum
		roll    ltx.Checksum
		err     error
	}{
		{
			name: "Replace", changes: []pagesum.Change{{2, s(22)}}, h: header(3),
			want: []ltx.Checksum{s(1), s(22), s(3)}, roll: roll(s(1), s(22), s(3)),
		}, {
			name: "UnsortedTwice", changes: []pagesum.Change{{3, s(33)}, {1, s(9)}, {1, s(11)}}, h: header(3),
			want: []ltx.Checksum{s(11), s(2), s(33)}, roll: roll(s(11), s(2), s(33)),
		}, {
			name: "Shrink", changes: []pagesum.Change{{3, s(33)}, {1, s(11)}}, h: header(2),
			want: []ltx.Checksum{s(11), s(2)}, roll: roll(s(11), s(2)),
		}, {
			name: "GrowthCovered", changes: []pagesum.Change{{4, s(4)}, {5, s(5)}}, h: header(5),
			want: []ltx.Checksum{s(1), s(2), s(3), s(4), s(5)}, roll: roll(s(1), s(2), s(3), s(4), s(5)),
		}, {
			name: "GrowthWithHole", changes: []pagesum.Change{{5, s(5)}}, h: header(5),
			want: []ltx.Checksum{s(1), s(2), s(3), 0, s(5)}, roll: 0,
		}, {
			name: "HoleButRollingGiven", changes: []pagesum.Change{{5, s(5)}}, h: header(5), rolling: s(99),
			want: []ltx.Checksum{s(1), s(2), s(3), 0, s(5)}, roll: s(99),
		}, {
			name: "RollingAgrees", changes: []pagesum.Change{{2, s(22)}}, h: header(3), rolling: roll(s(1), s(22), s(3)),
			want: []ltx.Checksum{s(1), s(22), s(3)}, roll: roll(s(1), s(22), s(3)),
		}, {
			name: "RollingDiffers", changes: []pagesum.Change{{2, s(22)}}, h: header(3), rolling: s(99),
			err: pagesum.ErrRollingMismatch,
		}, {
			name: "ToUnknown", changes: []pagesum.Change{{2, 0}}, h: header(3),
			want: []ltx.Checksum{s(1), 0, s(3)}, roll: 0,
		}, {
			name: "Empty", changes: nil, h: header(0), want: []ltx.Checksum{}, roll: ltx.ChecksumFlag,
		}, {
			name: "OtherPageSize", h: pagesum.Header{PageSize: 512, PageN: 3}, err: pagesum.ErrPageSize,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db.ledger")
			l := create(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3})
			before := l.Header()
			tt.h.Rolling = tt.rolling
			if err := l.Apply(tt.changes, tt.h); !errors.Is(err, tt.err) {
				t.Fatalf("err=%v, want %v", err, tt.err)
			}
			if tt.err != nil {
				if diff := cmp.Diff(before, l.Header()); diff != "" || l.Dirty() {
					t.Fatalf("changed by a refused call, dirty=%v:\n%s", l.Dirty(), diff)
				}
				return
			}
			for range 2 { // from the overlay, then from the new base
				if diff := cmp.Diff(tt.want, readAll(t, l)); diff != "" {
					t.Fatalf("sums (-want +got):\n%s", diff)
				}
				if got := l.Header().Rolling; got != tt.roll {
					t.Fatalf("rolling=%s, want %s", got, tt.roll)
				}
				if err := l.Flush(); err != nil {
					t.Fatal(err)
				}
				var err error
				if l, err = pagesum.Open(path); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestLedger_ApplyInvalid(t *testing.T) {
	l := create(t, filepath.Join(t.TempDir(), "db.ledger"), pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3})
	h := pagesum.Header{TXID: 2, PageSize: 4096, PageN: 3}
	for name, call := range map[string]func() error{
		"page 0":           func() error { return l.Apply([]pagesum.Change{{Pgno: 0, Sum: sumOf(1)}}, h) },
		"sum without flag": func() error { return l.Apply([]pagesum.Change{{Pgno: 1, Sum: 5}}, h) },
		"mark page 0":      func() error { return l.MarkUnknown([]uint32{0}, h) },
		"meta too long": func() error {
			h := h
			h.Meta = make([]byte, pagesum.MaxMetaBytes+1)
			return l.Apply(nil, h)
		},
		"rolling without flag": func() error {
			h := h
			h.Rolling = 1
			return l.MarkUnknown(nil, h)
		},
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if l.Dirty() {
		t.Fatal("refused calls changed the ledger")
	}
}

func TestLedger_ShrinkThenGrow(t *testing.T) {
	// What the base holds above the smallest size in between is of pages that
	// are gone, so that it must not come back with the growth.
	l := create(t, filepath.Join(t.TempDir(), "db.ledger"), pagesum.Header{TXID: 1, PageSize: 4096, PageN: 10})
	if err := l.Apply(nil, pagesum.Header{TXID: 2, PageSize: 4096, PageN: 4}); err != nil {
		t.Fatal(err)
	}
	if err := l.MarkUnknown([]uint32{2, 30}, pagesum.Header{TXID: 3, PageSize: 4096, PageN: 8, Rolling: sumOf(5)}); err != nil {
		t.Fatal(err)
	}
	want := []ltx.Checksum{sumOf(1), 0, sumOf(3), sumOf(4), 0, 0, 0, 0}
	if diff := cmp.Diff(want, readAll(t, l)); diff != "" {
		t.Fatalf("sums (-want +got):\n%s", diff)
	}
	if got := l.Header().Rolling; got != sumOf(5) {
		t.Fatalf("rolling=%s, want the given one", got)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, readAll(t, l)); diff != "" {
		t.Fatalf("sums after flush (-want +got):\n%s", diff)
	}
	if l.BaseTXID() != 3 || l.Dirty() {
		t.Fatalf("base=%s dirty=%v", l.BaseTXID(), l.Dirty())
	}
}

// TestLedger_Model compares random histories with a plain map.
func TestLedger_Model(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	steps := 1500
	if testing.Short() {
		steps = 300
	}
	path := filepath.Join(t.TempDir(), "db.ledger")
	l := create(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: 700})
	model := map[uint32]ltx.Checksum{}
	for i := range uint32(700) {
		model[i+1] = sumOf(i + 1)
	}
	h := l.Header()
	budget := pagesum.NewBudget(20_000)
	l.SetBudget(budget)
	for step := range steps {
		next := pagesum.Header{TXID: h.TXID + 1, PageSize: 4096, PageN: h.PageN, Meta: []byte{byte(step)}}
		if rnd.IntN(4) == 0 {
			next.PageN = uint32(rnd.IntN(1500))
		}
		var changes []pagesum.Change
		for range rnd.IntN(40) {
			c := pagesum.Change{Pgno: 1 + uint32(rnd.IntN(1600)), Sum: sumOf(rnd.Uint32())}
			if rnd.IntN(50) == 0 {
				c.Sum = 0
			}
			changes = append(changes, c)
		}
		if rnd.IntN(3) > 0 { // mostly complete growth, and heal what is unknown
			for pgno := uint32(1); pgno <= next.PageN; pgno++ {
				if model[pgno] == 0 {
					changes = append(changes, pagesum.Change{Pgno: pgno, Sum: sumOf(pgno, rnd.Uint32())})
				}
			}
		}
		switch rnd.IntN(10) {
		case 0:
			var pgnos []uint32
			for i := range changes {
				pgnos = append(pgnos, changes[i].Pgno)
				changes[i].Sum = 0
			}
			if err := l.MarkUnknown(pgnos, next); err != nil {
				t.Fatal(err)
			}
		default:
			if err := l.Apply(changes, next); err != nil {
				t.Fatal(err)
			}
		}
		for pgno := next.PageN + 1; pgno <= h.PageN; pgno++ {
			delete(model, pgno)
		}
		for _, c := range changes {
			if c.Pgno <= next.PageN {
				model[c.Pgno] = c.Sum
			}
		}
		h = next
		if rnd.IntN(20) == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if l.Dirty() || l.OverlayBytes() != 0 {
				t.Fatal("dirty after flush")
			}
		}
		if rnd.IntN(40) == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			l.SetBudget(nil)
			var err error
			if l, err = pagesum.Open(path); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			l.SetBudget(budget)
		}
		if budget.Used() > 20_000 || budget.Used() != l.OverlayBytes() {
			t.Fatalf("step %d: budget used %d, overlay %d", step, budget.Used(), l.OverlayBytes())
		}
		checkModel(t, l, h, model, rnd)
	}
}

func checkModel(t *testing.T, l *pagesum.Ledger, h pagesum.Header, model map[uint32]ltx.Checksum, rnd *rand.Rand) {
	t.Helper()
	var (
		roll    ltx.Checksum
		unknown bool
	)
	sums := readAll(t, l)
	if uint32(len(sums)) != h.PageN {
		t.Fatalf("txid %d: %d sums, want %d", h.TXID, len(sums), h.PageN)
	}
	for i, got := range sums {
		want := model[uint32(i)+1]
		if got != want {
			t.Fatalf("txid %d: page %d is %s, want %s", h.TXID, i+1, got, want)
		}
		roll, unknown = roll^got, unknown || got == 0
	}
	pgno := uint32(rnd.IntN(1600))
	if got, err := l.Sum(pgno); err != nil || got != model[pgno] {
		t.Fatalf("txid %d: Sum(%d)=%s, %v, want %s", h.TXID, pgno, got, err, model[pgno])
	}
	got := l.Header()
	if r := got.Rolling; r != 0 && (unknown || r != roll|ltx.ChecksumFlag) {
		t.Fatalf("txid %d: rolling=%s, want %s, unknown=%v", h.TXID, r, roll|ltx.ChecksumFlag, unknown)
	}
	if !l.Dirty() && !unknown && got.Rolling == 0 {
		t.Fatalf("txid %d: rolling unknown after a flush with all sums known", h.TXID)
	}
	got.Rolling = 0
	if diff := cmp.Diff(h, got); diff != "" {
		t.Fatalf("header (-want +got):\n%s", diff)
	}
}

func TestLedger_UnfinishedWrite(t *testing.T) {
	// A stop between the temporary file and the rename leaves the old base.
	dir := t.TempDir()
	path := filepath.Join(dir, "db.ledger")
	create(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3})
	w, err := pagesum.NewWriter(path, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(sumOf(8)); err != nil {
		t.Fatal(err)
	}
	l, err := pagesum.Open(path)
	if err != nil || l.Header().TXID != 1 {
		t.Fatalf("open beside an unfinished file: %v, %v", l, err)
	}
	// The next writer does not care about what it finds.
	l = create(t, path, pagesum.Header{TXID: 2, PageSize: 4096, PageN: 2})
	if got := l.Header().TXID; got != 2 {
		t.Fatalf("txid=%s, want 2", got)
	}
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Fatalf("folder holds %v, %v, want the ledger alone", entries, err)
	}
}

func TestLedger_FlushFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "db.ledger")
	l := create(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3})
	if err := os.Mkdir(path+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	l.SetBudget(pagesum.NewBudget(1))
	err := l.Apply([]pagesum.Change{{Pgno: 2, Sum: sumOf(22)}}, pagesum.Header{TXID: 2, PageSize: 4096, PageN: 3})
	if !errors.Is(err, pagesum.ErrFlush) {
		t.Fatalf("err=%v, want ErrFlush", err)
	}
	if got, err := l.Sum(2); got != sumOf(22) || err != nil || l.BaseTXID() != 1 || l.Header().TXID != 2 || !l.Dirty() {
		t.Fatalf("after a failed flush: sum=%s err=%v base=%s", got, err, l.BaseTXID())
	}
	if err := os.Remove(path + ".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(); err != nil || l.Dirty() || l.BaseTXID() != 2 {
		t.Fatalf("second flush: %v, dirty=%v, base=%s", err, l.Dirty(), l.BaseTXID())
	}
}

func TestLedger_BaseDamagedOrReplaced(t *testing.T) {
	setup := func(t *testing.T) (*pagesum.Ledger, string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "db.ledger")
		l := create(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3000})
		if err := l.MarkUnknown([]uint32{1}, pagesum.Header{TXID: 2, PageSize: 4096, PageN: 3000}); err != nil {
			t.Fatal(err)
		}
		return l, path
	}
	t.Run("Removed", func(t *testing.T) {
		l, path := setup(t)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Sum(2); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("Sum: %v, want fs.ErrNotExist", err)
		}
		if err := l.Flush(); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("Flush: %v, want fs.ErrNotExist", err)
		}
	})
	t.Run("Replaced", func(t *testing.T) {
		l, path := setup(t)
		create(t, path, pagesum.Header{TXID: 9, PageSize: 4096, PageN: 3000})
		if _, err := l.Sum(2); !errors.Is(err, pagesum.ErrInvalid) {
			t.Fatalf("Sum: %v, want ErrInvalid", err)
		}
	})
	t.Run("Rotten", func(t *testing.T) {
		l, path := setup(t)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff, 0xff}, 16+8*2000); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		if err := l.Flush(); !errors.Is(err, pagesum.ErrInvalid) {
			t.Fatalf("Flush: %v, want ErrInvalid", err)
		}
		if _, err := pagesum.Open(path); !errors.Is(err, pagesum.ErrInvalid) {
			t.Fatalf("a damaged base was given a new hash: %v", err)
		}
	})
}

func TestLedger_RemoveAndDiscard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.ledger")
	l := create(t, path, pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3})
	b := pagesum.NewBudget(0)
	l.SetBudget(b)
	change := []pagesum.Change{{Pgno: 1, Sum: sumOf(5)}}
	if err := l.Apply(change, pagesum.Header{TXID: 2, PageSize: 4096, PageN: 3}); err != nil {
		t.Fatal(err)
	}
	if b.Used() == 0 || b.Limit() != pagesum.DefaultBudgetBytes {
		t.Fatalf("used=%d limit=%d", b.Used(), b.Limit())
	}
	l.Discard()
	if b.Used() != 0 || l.Header().TXID != 1 {
		t.Fatalf("after discard: used=%d txid=%s", b.Used(), l.Header().TXID)
	}
	for range 2 {
		if err := l.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pagesum.Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("err=%v, want fs.ErrNotExist", err)
	}
	if err := pagesum.Remove(filepath.Join(t.TempDir(), "none", "x")); err != nil {
		t.Fatalf("remove in a missing folder: %v", err)
	}
}

func TestBudget_LargestPays(t *testing.T) {
	dir := t.TempDir()
	b := pagesum.NewBudget(1000 * 32)
	h := pagesum.Header{TXID: 1, PageSize: 4096, PageN: 3000}
	large := create(t, filepath.Join(dir, "large"), h)
	small := create(t, filepath.Join(dir, "small"), h)
	large.SetBudget(b)
	small.SetBudget(b)
	fill := func(l *pagesum.Ledger, n uint32) {
		t.Helper()
		h.TXID++
		changes := make([]pagesum.Change, n)
		for i := range changes {
			changes[i] = pagesum.Change{Pgno: uint32(i) + 1, Sum: sumOf(uint32(h.TXID), uint32(i))}
		}
		if err := l.Apply(changes, h); err != nil {
			t.Fatal(err)
		}
	}
	fill(large, 999)
	fill(small, 10) // above the limit, but not by much of its own
	if small.OverlayBytes() == 0 || large.OverlayBytes() == 0 {
		t.Fatalf("small=%d large=%d, want both kept", small.OverlayBytes(), large.OverlayBytes())
	}
	fill(large, 999)
	if small.OverlayBytes() == 0 || large.OverlayBytes() != 0 {
		t.Fatalf("small=%d large=%d, want the large one flushed", small.OverlayBytes(), large.OverlayBytes())
	}
	if got, want := b.Used(), small.OverlayBytes(); got != want {
		t.Fatalf("used=%d, want %d", got, want)
	}
}

func TestLedger_OverlayLimit(t *testing.T) {
	l := create(t, filepath.Join(t.TempDir(), "db.ledger"), pagesum.Header{TXID: 1, PageSize: 4096, PageN: 70_000})
	l.SetBudget(pagesum.NewBudget(1 << 30))
	changes := make([]pagesum.Change, 65_537)
	for i := range changes {
		changes[i] = pagesum.Change{Pgno: uint32(i) + 1, Sum: sumOf(7, uint32(i))}
	}
	if err := l.Apply(changes[:65_536], pagesum.Header{TXID: 2, PageSize: 4096, PageN: 70_000}); err != nil || !l.Dirty() {
		t.Fatalf("err=%v dirty=%v, want an overlay at its limit", err, l.Dirty())
	}
	if err := l.Apply(changes, pagesum.Header{TXID: 3, PageSize: 4096, PageN: 70_000}); err != nil || l.Dirty() {
		t.Fatalf("err=%v dirty=%v, want flushed", err, l.Dirty())
	}
}

func TestWriter_Misuse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.ledger")
	if _, err := pagesum.NewWriter(path, 1000); err == nil {
		t.Fatal("page size 1000 accepted")
	}
	for name, h := range map[string]pagesum.Header{
		"page count": {PageSize: 4096, PageN: 2},
		"page size":  {PageSize: 8192, PageN: 1},
		"rolling":    {PageSize: 4096, PageN: 1, Rolling: sumOf(4)},
	} {
		w, err := pagesum.NewWriter(path, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Append(sumOf(1)); err != nil {
			t.Fatal(err)
		}
		if err := w.Append(5); err == nil {
			t.Errorf("%s: sum without flag accepted", name)
		}
		if got := w.Rolling(); got != sumOf(1) || w.PageN() != 1 {
			t.Errorf("%s: rolling=%s pages=%d", name, got, w.PageN())
		}
		if _, err := w.Commit(h); err == nil {
			t.Errorf("%s: committed", name)
		}
		if err := w.Append(sumOf(1)); err == nil {
			t.Errorf("%s: append after commit accepted", name)
		}
		if _, err := w.Commit(h); err == nil {
			t.Errorf("%s: second commit accepted", name)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 0 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}

func BenchmarkLedger_Apply(b *testing.B) {
	l := create(b, filepath.Join(b.TempDir(), "db.ledger"), pagesum.Header{TXID: 1, PageSize: 4096, PageN: 100_000})
	l.SetBudget(pagesum.NewBudget(0))
	rnd := rand.New(rand.NewPCG(1, 2))
	h := l.Header()
	b.ReportAllocs()
	for b.Loop() {
		changes := make([]pagesum.Change, 100)
		for i := range changes {
			changes[i] = pagesum.Change{Pgno: 1 + uint32(rnd.IntN(100_000)), Sum: ltx.Checksum(rnd.Uint64()) | ltx.ChecksumFlag}
		}
		h.TXID, h.Rolling = h.TXID+1, 0
		if err := l.Apply(changes, h); err != nil {
			b.Fatal(err)
		}
	}
}
