package wal_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/wal"
)

func TestCursor_RoundTrip(t *testing.T) {
	full := wal.Cursor{
		BootID: [16]byte{1, 2, 3}, Main: wal.FileID{Dev: 1<<64 - 1, Ino: 5}, PageSize: 65536, Commit: 1<<32 - 2,
		Header: [32]byte{0x37, 31: 9}, First: wal.FramePos{Offset: 1 << 40, Sum: wal.Checksum{1, 1<<32 - 1}},
		Last: wal.FramePos{Offset: 1<<40 + 7, Sum: wal.Checksum{3, 4}}, LastPgno: 77, FileSize: 1 << 41,
		MainPrint: wal.Print{ID: wal.FileID{Dev: 8, Ino: 9}, Size: 10, Mtime: -11, Ctime: 12}, MainTrusted: true,
	}
	for _, want := range []wal.Cursor{{}, full, newWorld(t, true).cursor()} {
		b, err := want.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		got := full
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Error(cmp.Diff(want, got))
		}
	}
}

func TestCursor_Decode(t *testing.T) {
	good, err := (&wal.Cursor{PageSize: 512}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{"version": append([]byte{2}, good[1:]...), "flag": append(good[:len(good)-1:len(good)-1], 2)}
	for name, b := range bad {
		if err := new(wal.Cursor).UnmarshalBinary(b); !errors.Is(err, wal.ErrBadCursor) {
			t.Errorf("%s: err=%v, want ErrBadCursor", name, err)
		}
	}
	for n := range 2 * len(good) {
		b := make([]byte, n)
		copy(b, good)
		err := new(wal.Cursor).UnmarshalBinary(b)
		if (n == len(good)) != (err == nil) {
			t.Errorf("%d bytes: err=%v", n, err)
		}
		if err != nil && !errors.Is(err, wal.ErrBadCursor) {
			t.Errorf("%d bytes: err=%v, want ErrBadCursor", n, err)
		}
	}
}

// TestCursor_Garbage looks from damaged cursors: whatever they claim, a look
// neither fails hard nor proves what is not there.
func TestCursor_Garbage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, false)
	cur := w.cursor()
	w.log.tx(10, 2, 3)
	w.save()
	good, err := cur.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		b := append([]byte(nil), good...)
		b[i] ^= byte(1 + rng.IntN(255))
		var c wal.Cursor
		if c.UnmarshalBinary(b) != nil {
			continue
		}
		res, err := wal.Tail(c, w.src, w.opt)
		if err == nil && res.Reason == "" && res.Frames != nil && describe(w, res.Frames) != "3=2" {
			t.Errorf("byte %d: pages=%q", i, describe(w, res.Frames))
		}
		res.Frames.Close()
	}
}

func TestCursor_Accessors(t *testing.T) {
	w := newWorld(t, false)
	cur := w.cursor()
	if s1, s2 := cur.Salts(); s1 != 100 || s2 != 200 {
		t.Errorf("salts=%d %d, want 100 200", s1, s2)
	}
	if got, want := cur.End(), frame(5, 512); got != want {
		t.Errorf("end=%d, want %d", got, want)
	}
	if cur.IsZero() || !cur.HasFrames() || cur.LastPgno != 5 || cur.Commit != 10 {
		t.Errorf("cursor=%+v", cur)
	}
}
