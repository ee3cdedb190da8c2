package catalog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/catalog"
)

// entries returns n entries with ascending paths, of all kinds.
func entries(rng *rand.Rand, n int) []catalog.Entry {
	list := make([]catalog.Entry, n)
	for i := range list {
		list[i] = catalog.Entry{
			Path:     fmt.Appendf(nil, "/data/p%03d/tenants/t%07d\xff.db", i/1000, i),
			Replica:  fmt.Appendf(nil, "p%03d/t%07d%%FF", i/1000, i),
			TXID:     rng.Uint64() >> rng.IntN(64),
			SyncedAt: 1_700_000_000 + rng.Int64N(1_000_000),
			Size:     4096 * rng.Int64N(1000),
		}
		e := &list[i]
		if rng.IntN(2) == 0 {
			e.Owner, e.HasOwner = catalog.Owner{Mode: 0o600 + uint32(rng.IntN(3)), UID: 1000, GID: uint32(rng.IntN(5))}, true
		}
		if rng.IntN(3) > 0 {
			e.Earliest = e.SyncedAt - rng.Int64N(100_000)
		}
		if rng.IntN(5) == 0 {
			e.Deleted, e.Proven, e.Size = e.SyncedAt+rng.Int64N(1000)+1, e.SyncedAt-7, rng.Int64N(1<<40)
		}
	}
	return list
}

// writers are large.
var writers = sync.Pool{New: func() any { return catalog.NewWriter() }}

// encode returns segments of the entries.
func encode(t *testing.T, list []catalog.Entry) [][]byte {
	t.Helper()
	var out [][]byte
	w := writers.Get().(*catalog.Writer)
	defer writers.Put(w)
	finish := func() {
		b, err := w.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.Clone(b))
		w.Reset()
	}
	for i := range list {
		if w.Full() {
			finish()
		}
		if err := w.Add(&list[i]); err != nil {
			t.Fatal(err)
		}
	}
	finish()
	return out
}

func decode(segment []byte) (list []catalog.Entry, err error) {
	r, err := catalog.NewReader(segment)
	if err != nil {
		return nil, err
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return list, err
		}
		list = append(list, clone(e))
	}
}

func clone(e *catalog.Entry) catalog.Entry {
	c := *e
	c.Path, c.Replica = bytes.Clone(e.Path), bytes.Clone(e.Replica)
	if e.Removed {
		c = catalog.Entry{Path: c.Path, Removed: true}
	}
	return c
}

func TestSegment_RoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	want := entries(rng, 5000)
	want = append(want, catalog.Entry{Path: []byte("/e"), Removed: true}, catalog.Entry{Path: []byte("/f"), Replica: []byte("f")})
	var got []catalog.Entry
	for _, segment := range encode(t, want) {
		list, err := decode(segment)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, list...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

// A segment fits into an object, whatever the paths are.
func TestSegment_Full(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	list := make([]catalog.Entry, 1000)
	for i := range list {
		path := make([]byte, 4000)
		for j := range path {
			path[j] = byte(rng.Uint32())
		}
		list[i] = catalog.Entry{Path: append(fmt.Appendf(nil, "/%04d", i), path...), Replica: path}
		list[i].Owner, list[i].HasOwner = catalog.Owner{UID: uint32(i)}, true
	}
	segments := encode(t, list)
	for i, s := range segments {
		if len(s) > 1<<20 {
			t.Errorf("segment %d has %d bytes", i, len(s))
		}
	}
	if len(segments) < 4 {
		t.Errorf("got %d segments of 8 MB", len(segments))
	}
}

func TestSegment_Order(t *testing.T) {
	w := catalog.NewWriter()
	for _, p := range []string{"/b", "/b", "/a", ""} {
		err := w.Add(&catalog.Entry{Path: []byte(p)})
		if first := p == "/b" && w.Len() == 1 && err == nil; !first && err == nil {
			t.Errorf("path %q was taken behind /b", p)
		}
	}
}

// Every byte that is changed, and every cut, is seen.
func TestSegment_Damage(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	good := encode(t, entries(rng, 50))[0]
	s := catalog.NewSegment("a", good, 50)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << rng.IntN(8)
		if err := s.Check(bad); !errors.Is(err, catalog.ErrDamaged) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if err := s.Check(good[:i]); !errors.Is(err, catalog.ErrDamaged) {
			t.Fatalf("cut at %d: %v", i, err)
		}
		if _, err := decode(good[:i]); !errors.Is(err, catalog.ErrDamaged) {
			t.Fatalf("decode of %d bytes: %v", i, err)
		}
	}
	newer := bytes.Clone(good)
	newer[8] = 2
	if _, err := decode(newer); !errors.Is(err, catalog.ErrVersion) {
		t.Errorf("newer version: %v", err)
	}
}

func testHead() *catalog.Head {
	return &catalog.Head{
		Generation: 7, Owner: "o", Epoch: "e", Host: "h", Template: "{{x}}", WrittenAt: time.Unix(1, 0).UTC(),
		Layers: []catalog.Layer{{Segments: []catalog.Segment{catalog.NewSegment("7-0", []byte("x"), 3)}}},
		Old:    []catalog.OldObject{{Name: "6-0", Since: time.Unix(2, 0).UTC()}},
	}
}

func TestHead(t *testing.T) {
	want := testHead()
	good, err := catalog.EncodeHead(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := catalog.DecodeHead(good)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("head (-want +got):\n%s", diff)
	}
	for i := range good {
		for _, b := range []byte{good[i] ^ 1, good[i] ^ 0x20} {
			bad := bytes.Clone(good)
			bad[i] = b
			if _, err := catalog.DecodeHead(bad); err == nil || (!errors.Is(err, catalog.ErrDamaged) && !errors.Is(err, catalog.ErrVersion)) {
				t.Fatalf("byte %d as %q: %v", i, b, err)
			}
		}
		if _, err := catalog.DecodeHead(good[:i]); !errors.Is(err, catalog.ErrDamaged) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	newer := bytes.Replace(good, []byte(" 1 "), []byte(" 2 "), 1)
	if _, err := catalog.DecodeHead(newer); !errors.Is(err, catalog.ErrVersion) {
		t.Errorf("newer version: %v", err)
	}
}

// A head names nothing outside of its folder.
func TestHead_Names(t *testing.T) {
	for _, name := range []string{"", "../x", "a/b", "head.x", ".", "A"} {
		h := testHead()
		h.Old[0].Name = name
		b, err := catalog.EncodeHead(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := catalog.DecodeHead(b); !errors.Is(err, catalog.ErrDamaged) {
			t.Errorf("old object %q: %v", name, err)
		}
	}
}

// Merge agrees with a map that the layers are written into one after the other.
func TestMerge(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 0))
		all := entries(rng, 1+rng.IntN(300))
		want := make(map[string]catalog.Entry)
		objects := make(map[string][]byte)
		var layers []catalog.Layer
		for l := range rng.IntN(6) {
			var list []catalog.Entry
			for _, e := range all {
				if rng.IntN(3) > 0 {
					continue
				}
				e.TXID = rng.Uint64()
				want[string(e.Path)] = e
				if rng.IntN(4) == 0 {
					e = catalog.Entry{Path: e.Path, Removed: true}
					delete(want, string(e.Path))
				}
				list = append(list, e)
			}
			var layer catalog.Layer
			for len(list) > 0 {
				n := 1 + rng.IntN(len(list))
				name := fmt.Sprintf("%d-%d", l, len(objects))
				objects[name] = encode(t, list[:n])[0]
				layer.Segments = append(layer.Segments, catalog.NewSegment(name, objects[name], n))
				list = list[n:]
			}
			layers = append(layers, layer)
		}
		var got []catalog.Entry
		source := func(s *catalog.Segment) ([]byte, error) { return objects[s.Name], nil }
		if err := catalog.Merge(layers, source, func(e *catalog.Entry) error {
			got = append(got, clone(e))
			return nil
		}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		sorted := slices.SortedFunc(maps.Values(want), func(a, b catalog.Entry) int { return bytes.Compare(a.Path, b.Path) })
		if diff := cmp.Diff(sorted, got); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
}

// Segments that are swapped or left out are seen, beyond their checksums.
func TestMerge_Swapped(t *testing.T) {
	list := entries(rand.New(rand.NewPCG(8, 8)), 20)
	a, b := encode(t, list[:10])[0], encode(t, list[10:])[0]
	layer := catalog.Layer{Segments: []catalog.Segment{catalog.NewSegment("b", b, 10), catalog.NewSegment("a", a, 10)}}
	source := func(s *catalog.Segment) ([]byte, error) { return map[string][]byte{"a": a, "b": b}[s.Name], nil }
	nothing := func(*catalog.Entry) error { return nil }
	if err := catalog.Merge([]catalog.Layer{layer}, source, nothing); !errors.Is(err, catalog.ErrDamaged) {
		t.Errorf("swapped segments: %v", err)
	}
	for _, n := range []int{9, 11} {
		layer := catalog.Layer{Segments: []catalog.Segment{catalog.NewSegment("a", a, n)}}
		if err := catalog.Merge([]catalog.Layer{layer}, source, nothing); !errors.Is(err, catalog.ErrDamaged) {
			t.Errorf("%d entries instead of 10: %v", n, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	w := catalog.NewWriter()
	for _, e := range entries(rand.New(rand.NewPCG(1, 1)), 5) {
		if err := w.Add(&e); err != nil {
			f.Fatal(err)
		}
	}
	b, err := w.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(b))
	f.Add([]byte("LSCATSEG\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decode(b)
		if err != nil && !errors.Is(err, catalog.ErrDamaged) && !errors.Is(err, catalog.ErrVersion) {
			t.Fatalf("error of another kind: %v", err)
		}
		if err != nil || len(list) > 1000 {
			return
		}
		again := catalog.NewWriter() // what was read can be written, and read as the same
		for i := range list {
			if len(list[i].Path) == 0 {
				t.Fatal("empty path")
			}
			if err := again.Add(&list[i]); err != nil {
				t.Fatal(err)
			}
		}
		b2, err := again.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(b2); err != nil {
			t.Fatal(err)
		} else if diff := cmp.Diff(list, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzHead(f *testing.F) {
	b, err := catalog.EncodeHead(testHead())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("litestream-catalogs 1 00\n[\"a\"]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, err := range []error{second(catalog.DecodeHead(b)), second(catalog.DecodeIndex(b))} {
			if err != nil && !errors.Is(err, catalog.ErrDamaged) && !errors.Is(err, catalog.ErrVersion) {
				t.Fatalf("error of another kind: %v", err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }
