package v03_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v03 "github.com/benbjohnson/litestream/internal/v03"
)

func TestParseName(t *testing.T) {
	base := "generations/" + generation + "/"
	for _, tt := range []struct {
		name string
		want v03.File
		ok   bool
	}{
		{name: base + "snapshots/0000001f.snapshot.lz4", want: v03.File{Snapshot: true, Index: 31}, ok: true},
		{name: base + "wal/0000001f_00001038.wal.lz4", want: v03.File{Index: 31, Offset: 0x1038}, ok: true},
		{name: base + "wal/ffffffff_0123456789abcdef.wal.lz4", want: v03.File{Index: 1<<32 - 1, Offset: 0x0123456789abcdef}, ok: true},
		{name: base + "wal/0000001f_ffffffffffffffff.wal.lz4"},
		{name: base + "wal/0000001f_0001038.wal.lz4"},
		{name: base + "wal/0000001F_00001038.wal.lz4"},
		{name: base + "wal/0000001f.wal.lz4"},
		{name: base + "wal/0000001f_00001038.wal.lz4.tmp"},
		{name: base + "snapshots/1f.snapshot.lz4"},
		{name: base + "snapshots/0000001f.snapshot"},
		{name: base + "other/0000001f.snapshot.lz4"},
		{name: "generations/0123/snapshots/0000001f.snapshot.lz4"},
		{name: "generations/" + generation},
		{name: ""},
	} {
		got, ok := v03.ParseName(tt.name)
		if ok != tt.ok {
			t.Errorf("%s: ok=%t, want %t", tt.name, ok, tt.ok)
		}
		tt.want.Name, tt.want.Generation = tt.name, generation
		if diff := cmp.Diff(tt.want, got); ok && diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("generations/0123456789abcdef/wal/0000001f_00001038.wal.lz4")
	f.Add("generations/0123456789abcdef/snapshots/0000001f.snapshot.lz4")
	f.Fuzz(func(t *testing.T, name string) {
		got, ok := v03.ParseName(name)
		if !ok {
			return
		}
		again := fmt.Sprintf("generations/%s/wal/%08x_%08x.wal.lz4", got.Generation, got.Index, got.Offset)
		if got.Snapshot {
			again = fmt.Sprintf("generations/%s/snapshots/%08x.snapshot.lz4", got.Generation, got.Index)
		}
		if same, ok := v03.ParseName(again); !ok || same.Index != got.Index || same.Offset != got.Offset || got.Offset < 0 {
			t.Errorf("%q: %+v, and %q: %+v", name, got, again, same)
		}
	})
}

// file returns a file of a generation that was stored n seconds after the start.
func file(gen byte, name string, n int) v03.File {
	f, ok := v03.ParseName(fmt.Sprintf("generations/%s/%s.lz4", strings.Repeat(string(gen), 16), name))
	if !ok {
		panic(name)
	}
	f.CreatedAt = start.Add(time.Duration(n) * time.Second)
	return f
}

func TestNewPlan(t *testing.T) {
	wal := func(gen byte, index, offset, n int) v03.File {
		return file(gen, fmt.Sprintf("wal/%08x_%08x.wal", index, offset), n)
	}
	snap := func(gen byte, index, n int) v03.File {
		return file(gen, fmt.Sprintf("snapshots/%08x.snapshot", index), n)
	}
	all := []v03.File{
		snap('a', 0, 1), wal('a', 0, 0, 2), wal('a', 0, 32, 3), wal('a', 1, 0, 4), snap('a', 1, 5), wal('a', 1, 32, 6), wal('a', 2, 0, 7),
		snap('b', 0, 10), wal('b', 0, 0, 11), wal('b', 1, 0, 12),
	}
	for _, tt := range []struct {
		name  string
		files []v03.File
		until int // seconds; 0 is the newest
		want  []v03.File
		err   string
		near  int // seconds of the moment that is restorable instead
	}{
		{name: "Newest", files: all, want: all[7:]},
		{name: "OlderGeneration", files: all, until: 9, want: []v03.File{all[4], all[3], all[5], all[6]}},
		{name: "AtSnapshot", files: all, until: 5, want: []v03.File{all[4], all[3]}},
		{name: "BeforeSnapshot", files: all, until: 4, want: all[:4]},
		{name: "SnapshotOnly", files: all, until: 1, want: all[:1]},
		{name: "TooEarly", files: all, until: -1, err: "no snapshot was made by 2024-01-02T03:04:04Z; the first one is of 2024-01-02T03:04:06Z"},
		{name: "None", files: all[1:3], err: "2 wal segments"},
		{
			name: "NoIndex", files: []v03.File{all[0], all[1], all[2], all[6]}, near: 3,
			err: "wal is missing from index 00000001, offset 00000000 to index 00000002, offset 00000000",
		},
		{name: "GapBehindMoment", files: []v03.File{all[0], all[1], all[2], all[6]}, until: 6, want: all[:3]},
		{name: "NoFirst", files: []v03.File{all[0], all[2]}, near: 1, err: "index 00000000, offset 00000000 to index 00000000, offset 00000020"},
		{name: "OtherIndex", files: []v03.File{all[0], all[3]}, near: 1, err: "from index 00000000, offset 00000000 to index 00000001"},
		{
			name:  "SameSecond", // as S3 counts
			files: []v03.File{snap('c', 0, 1), snap('c', 1, 1), snap('b', 9, 1), wal('c', 1, 0, 2)},
			want:  []v03.File{snap('c', 1, 1), wal('c', 1, 0, 2)},
		},
		{
			name:  "ClockWentBack", // what lies behind a late stretch is late
			files: []v03.File{snap('a', 0, 1), wal('a', 0, 0, 9), wal('a', 0, 32, 2)}, until: 5,
			want: []v03.File{snap('a', 0, 1)},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var until time.Time
			if tt.until != 0 {
				until = start.Add(time.Duration(tt.until) * time.Second)
			}
			p, err := v03.NewPlan(tt.files, until)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("err=%v, want %q", err, tt.err)
				}
				gap, ok := errors.AsType[*v03.GapError](err)
				if !ok {
					return
				}
				at, ok := v03.NewestWithout(tt.files, gap.Behind)
				if want := start.Add(time.Duration(tt.near) * time.Second); !ok || !at.Equal(want) {
					t.Errorf("restorable: %s, %t, want %s", at, ok, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, p.Files()); diff != "" {
				t.Error(diff)
			}
			reversed := slices.Clone(tt.files)
			slices.Reverse(reversed)
			again, err := v03.NewPlan(reversed, until)
			if diff := cmp.Diff(p, again); err != nil || diff != "" {
				t.Errorf("files in another order: err=%v %s", err, diff)
			}
		})
	}
}

// TestApply compares each moment of random workloads with what SQLite's own
// checkpoint makes of the same log, byte by byte.
func TestApply(t *testing.T) {
	for _, pageSize := range []int{512, 4096, 65536} {
		t.Run(fmt.Sprint(pageSize), func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			m := newMaker(t, pageSize)
			m.snapshot()
			steps := []func(){
				func() { m.exec("INSERT INTO t (v) VALUES (randomblob(300))") },
				func() { m.exec(fmt.Sprintf("INSERT INTO t (v) VALUES (randomblob(%d))", 4*pageSize)) },
				func() { m.exec("UPDATE t SET v = randomblob(500) WHERE id % 3 = 1") },
				func() { m.exec("DELETE FROM t WHERE id % 2 = 0") },
				func() { m.exec("VACUUM") },
				m.backfill, m.restart, m.sync, m.sync, m.sync,
			}
			for range 40 {
				i := rnd.IntN(len(steps))
				if i == 5 || i == 6 {
					m.sync() // as v0.3 does before a checkpoint of its own
				}
				steps[i]()
				if i == 6 {
					m.exec("INSERT INTO t (v) VALUES (randomblob(5))")
					m.sync()
				}
			}
			m.sync()
			restored := 0
			for at, want := range m.want {
				got, _, err := m.restore(at)
				if errors.Is(err, v03.ErrNoSnapshot) {
					continue // the one of that time was replaced
				} else if err != nil {
					t.Fatalf("at %s: %v", at, err)
				}
				restored++
				if !bytes.Equal(got, want) {
					t.Fatalf("at %s: %d bytes differ from SQLite's %d", at, len(got), len(want))
				}
			}
			if restored == 0 {
				t.Errorf("none of %d moments restored", len(m.want))
			}
		})
	}
}

func TestApply_Faults(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(m *maker)
		gap  bool
		err  string
	}{
		{name: "NoIndex", harm: func(m *maker) { m.remove(3); m.remove(3) }, gap: true, err: "from index 00000001, offset 00000000 to index 00000002, offset 00000000"},
		{name: "NoStretch", harm: func(m *maker) { m.remove(3) }, gap: true, err: "from index 00000001, offset 00000000 to index 00000001"},
		{name: "NoEndOfIndex", harm: func(m *maker) { m.remove(4) }, gap: true, err: "without page"},
		{name: "NoEndOfFirstIndex", harm: func(m *maker) { m.remove(2) }, gap: true, err: "without page"},
		{name: "Truncated", harm: func(m *maker) { m.data[m.name(5)] = m.data[m.name(5)][:100] }, err: "ends early"},
		{name: "Empty", harm: func(m *maker) { m.data[m.name(5)] = nil }, err: "ends early"},
		{name: "Trailing", harm: func(m *maker) { m.data[m.name(5)] = append(m.data[m.name(5)], 0) }, err: "bytes behind the end"},
		{name: "TwoFrames", harm: func(m *maker) { m.data[m.name(5)] = append(m.data[m.name(5)], m.data[m.name(5)]...) }, err: "bytes behind the end"},
		{name: "NotLZ4", harm: func(m *maker) { m.data[m.name(0)] = []byte("SQLite format 3\x00 and so on") }, err: "bad magic number"},
		{name: "NotADatabase", harm: func(m *maker) { m.data[m.name(0)] = compress(m.tb, make([]byte, 4096)) }, err: "not a SQLite database"},
		{name: "EmptyDatabase", harm: func(m *maker) { m.data[m.name(0)] = compress(m.tb, nil) }, err: "empty"},
		{name: "HalfPage", harm: func(m *maker) { m.data[m.name(0)] = compress(m.tb, m.read(m.path)[:6000]) }, err: "no whole pages"},
		{name: "NoLogHeader", harm: func(m *maker) { m.data[m.name(1)] = compress(m.tb, make([]byte, 5000)) }, err: "no valid header"},
		{
			name: "Overlap", err: "in front of it ends", harm: func(m *maker) {
				f := m.files[4]
				f.Offset, f.Name = f.Offset-8, f.Name+"x"
				m.data[f.Name] = m.data[m.name(4)]
				m.files[4] = f
			},
		},
		{
			name: "StretchOfAnotherLog", err: "does not continue the log", harm: func(m *maker) {
				m.data[m.name(4)] = m.data[m.name(6)]
			},
		},
		{
			name: "EndsInsideTransaction", gap: true, err: "ends inside a transaction", harm: func(m *maker) {
				log := m.read(m.path + "-wal") // of index 2; the same in index 1 would be a matter of luck
				m.data[m.name(5)], m.data[m.name(6)] = compress(m.tb, log[:32+4120]), nil
				m.files[6].Index, m.files[6].Offset = 3, 0
				clear(m.want)
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMaker(t, 4096)
			m.fill()
			if _, _, err := m.restore(time.Time{}); err != nil {
				t.Fatalf("before the damage: %v", err)
			}
			tt.harm(m)
			_, _, err := m.restore(time.Time{})
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("err=%v, want %q", err, tt.err)
			}
			gap, isGap := errors.AsType[*v03.GapError](err)
			fe, isFile := errors.AsType[*v03.FileError](err)
			if isGap != tt.gap || isGap == isFile {
				t.Fatalf("err=%#v", err)
			}
			var bad v03.File
			if isGap {
				bad = gap.Behind
			} else {
				bad = fe.File
			}
			at, ok := v03.NewestWithout(m.files, bad)
			if !ok && !bad.Snapshot {
				t.Fatal("nothing is restorable in front of it")
			}
			if !ok {
				return
			}
			got, _, err := m.restore(at)
			if want, known := m.want[at]; err != nil || known && !bytes.Equal(got, want) {
				t.Errorf("at %s: err=%v, equal=%t", at, err, bytes.Equal(got, want))
			}
		})
	}
}

// TestApply_CutAtTheEnd restores a log that ends inside a transaction at its
// last commit.
func TestApply_CutAtTheEnd(t *testing.T) {
	m := newMaker(t, 4096)
	m.fill()
	last := len(m.files) - 1
	want := m.want[m.files[last-1].CreatedAt]
	log := m.read(m.path + "-wal")[m.files[last].Offset:]
	for _, n := range []int{len(log) - 1, len(log) - 4120, 100, 24, 1} {
		m.data[m.name(last)] = compress(t, log[:n])
		got, res, err := m.restore(time.Time{})
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !bytes.Equal(got, want) || res.Dropped != int64(n) || res.Truncated.Name != m.name(last) {
			t.Errorf("%d bytes: equal=%t, dropped %d of %s", n, bytes.Equal(got, want), res.Dropped, res.Truncated.Name)
		}
	}
}

// TestApply_EveryByte truncates and flips a compressed stretch everywhere.
// Nothing but the right database may come out as a success.
func TestApply_EveryByte(t *testing.T) {
	m := newMaker(t, 512)
	m.snapshot()
	m.exec("INSERT INTO t (v) VALUES (randomblob(300))")
	m.sync()
	m.restart()
	m.exec("INSERT INTO t (v) VALUES (randomblob(30))")
	m.sync()
	want := m.want[m.now]
	for _, i := range []int{0, 1, 2} {
		whole := m.data[m.name(i)]
		for at := range whole {
			m.data[m.name(i)] = whole[:at]
			if _, err := m.apply(); err == nil {
				t.Fatalf("file %d cut at %d of %d: no error", i, at, len(whole))
			}
			flipped := bytes.Clone(whole)
			flipped[at] ^= 0x20
			m.data[m.name(i)] = flipped
			if got, err := m.apply(); err == nil && !bytes.Equal(got, want) {
				t.Fatalf("file %d changed at %d of %d: another database", i, at, len(whole))
			}
		}
		m.data[m.name(i)] = whole
	}
}

// memory is an Output without a file.
type memory struct{ b []byte }

func (o *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(o.b) {
		if end > 1<<24 {
			return 0, errors.New("too large")
		}
		o.b = append(o.b, make([]byte, end-len(o.b))...)
	}
	return copy(o.b[off:], p), nil
}

func (o *memory) Truncate(size int64) error {
	if size > 1<<24 {
		return errors.New("too large")
	}
	o.b = append(o.b, make([]byte, max(0, int(size)-len(o.b)))...)[:size]
	return nil
}

// apply restores everything into memory.
func (m *maker) apply() ([]byte, error) {
	p, err := v03.NewPlan(m.files, time.Time{})
	if err != nil {
		return nil, err
	}
	var out memory
	_, err = v03.Apply(p, &out, m.open, os.TempDir())
	return out.b, err
}

// FuzzApply changes what the files hold before they are compressed. SQLite is
// no oracle here: a result or an error, and no panic.
func FuzzApply(f *testing.F) {
	m := newMaker(f, 512)
	m.snapshot()
	m.exec("INSERT INTO t (v) VALUES (randomblob(300))")
	m.sync()
	snapshot, log := m.read(m.path), m.read(m.path+"-wal")
	f.Add(snapshot, log, uint16(600), true)
	f.Add(snapshot[:512], log[:1000], uint16(32), false)
	f.Add([]byte{}, []byte{}, uint16(0), true)
	f.Fuzz(func(t *testing.T, snapshot, log []byte, cut uint16, compressed bool) {
		n := min(int(cut), len(log))
		parts := [][]byte{snapshot, log[:n], log[n:]}
		p := v03.Plan{
			Snapshot: file('a', "snapshots/00000000.snapshot", 0),
			WAL:      []v03.File{file('a', "wal/00000000_00000000.wal", 1), file('a', fmt.Sprintf("wal/00000000_%08x.wal", n), 2)},
		}
		var out memory
		res, err := v03.Apply(p, &out, func(v03.File) io.Reader {
			b := parts[0]
			parts = parts[1:]
			if compressed {
				b = compress(t, b)
			}
			return bytes.NewReader(b)
		}, filepath.Dir(m.path))
		if err == nil && int64(len(out.b)) != int64(res.PageN)*int64(res.PageSize) {
			t.Errorf("%d bytes, want %d pages of %d", len(out.b), res.PageN, res.PageSize)
		}
	})
}
