package wal_test

import (
	"os"
	"testing"

	"github.com/benbjohnson/litestream/internal/wal"
)

// benchLog writes a log of n transactions of two frames, page size 4096.
func benchLog(b *testing.B, n int) *world {
	b.Helper()
	w := newWorld(b, false)
	w.log = newSynth(4096, false)
	for i := range n {
		w.log.tx(1000, 1, uint32(1+i%1000), uint32(1+i*7%1000))
	}
	return w
}

// BenchmarkTail is what a look costs that finds nothing, and one that finds a
// commit.
func BenchmarkTail(b *testing.B) {
	b.Run("unchanged", func(b *testing.B) {
		w := benchLog(b, 500)
		benchTail(b, w, w.cursor())
	})
	b.Run("stale-frame", func(b *testing.B) {
		w := benchLog(b, 500)
		stale(w)
		benchTail(b, w, w.cursor())
	})
	b.Run("commit", func(b *testing.B) {
		w := benchLog(b, 500)
		cur := w.cursor()
		w.log.tx(1000, 2, 7, 9)
		w.save()
		benchTail(b, w, cur)
	})
	b.Run("no-log", func(b *testing.B) {
		w := benchLog(b, 0)
		cur := w.cursor()
		if err := os.Remove(w.path); err != nil {
			b.Fatal(err)
		}
		benchTail(b, w, cur)
	})
}

func benchTail(b *testing.B, w *world, cur wal.Cursor) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		res, err := wal.Tail(cur, w.src, w.opt)
		if err != nil || res.Reason != "" {
			b.Fatalf("reason=%q err=%v", res.Reason, err)
		}
		res.Frames.Close()
	}
}

// BenchmarkScan copies a whole log of 4096-byte pages.
func BenchmarkScan(b *testing.B) {
	for _, bb := range []struct {
		name   string
		n      int
		memory int
	}{
		{"frames=200", 100, 0},
		{"frames=20k/spool=file", 10000, 0},
		{"frames=20k/spool=memory", 10000, 1 << 30},
	} {
		b.Run(bb.name, func(b *testing.B) {
			w := benchLog(b, bb.n)
			w.save()
			b.SetBytes(int64(len(w.log.b)))
			b.ReportAllocs()
			for b.Loop() {
				c, err := wal.CopyLog(w.path, 4096, wal.Options{SpoolMemory: bb.memory, SpoolDir: b.TempDir()})
				if err != nil || c.Frames.FrameN != int64(2*bb.n) {
					b.Fatalf("frames=%d err=%v", c.Frames.FrameN, err)
				}
				c.Frames.Close()
			}
		})
	}
}
