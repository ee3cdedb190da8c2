package wal_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/wal"
)

// tailCase is one look: the log is changed behind a cursor's back.
type tailCase struct {
	name   string
	before func(w *world)                  // runs before the cursor is taken
	change func(w *world, cur *wal.Cursor) // runs after
	reason wal.Reason
	pages  string // proven: the pages captured, as "page=version …"
	size   uint32 // proven and captured: the size in pages; 10 if zero
}

// restart begins the lineage that follows a complete checkpoint of all three
// transactions of a new world.
func restart(w *world) {
	w.checkpoint(1, 1, 2, 3, 4, 5)
	w.log.header(1, w.log.s1+1, 999)
}

// stale puts frames behind the log's end that do not continue its chain, as a
// longer, earlier lineage leaves them.
func stale(w *world) {
	w.log.put(w.log.off, bytes.Repeat([]byte{0xAA}, 8*(24+w.log.pageSize)))
}

func runTailCases(t *testing.T, cases []tailCase) {
	t.Helper()
	for _, tt := range cases {
		for _, big := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/big=%v", tt.name, big), func(t *testing.T) {
				w := newWorld(t, big)
				if tt.before != nil {
					tt.before(w)
				}
				cur := w.cursor()
				tt.change(w, &cur)
				res := w.tail(cur)
				if res.Reason != tt.reason {
					t.Fatalf("reason=%q, want %q", res.Reason, tt.reason)
				}
				if tt.reason != "" {
					if res.Frames != nil || res.Cursor != (wal.Cursor{}) {
						t.Errorf("result=%+v, want nothing beside the reason", res)
					}
					return
				}
				if got := describe(w, res.Frames); got != tt.pages {
					t.Errorf("pages=%q, want %q", got, tt.pages)
				}
				checkCursor(t, w, cur, res, tt.size)
			})
		}
	}
}

// describe writes the pages of a world's copy as "page=version …".
func describe(w *world, f *wal.Frames) string {
	if f == nil {
		return ""
	}
	var b bytes.Buffer
	buf := make([]byte, w.log.pageSize)
	for _, n := range f.Pages() {
		if ok, err := f.ReadPage(n, buf); err != nil || !ok {
			w.t.Fatalf("page %d: ok=%v err=%v", n, ok, err)
		}
		v := buf[0] ^ byte(n)<<3
		if !bytes.Equal(buf, w.log.page(n, v)) {
			w.t.Fatalf("page %d is torn", n)
		}
		fmt.Fprintf(&b, " %d=%d", n, v)
	}
	return string(bytes.TrimSpace(b.Bytes()))
}

// checkCursor wants a proven look's cursor to be where it was if nothing was
// captured, and where a fresh copy would put it otherwise. From there the next
// look finds nothing.
func checkCursor(t *testing.T, w *world, before wal.Cursor, res wal.Result, size uint32) {
	t.Helper()
	if res.Frames == nil {
		if res.Cursor != before {
			t.Errorf("cursor=%+v, want it unchanged", res.Cursor)
		}
		return
	}
	if size == 0 {
		size = worldPages
	}
	if res.Frames.Commit != size || res.Cursor.Commit != size {
		t.Errorf("size=%d, cursor's %d, want %d", res.Frames.Commit, res.Cursor.Commit, size)
	}
	if want := w.cursor(); res.Cursor != want {
		t.Errorf("cursor differs from a fresh one:\n%s", cmp.Diff(want, res.Cursor))
	}
	if again := w.look(res.Cursor); again.Reason != "" || again.Frames != nil {
		t.Errorf("second look: reason=%q frames=%v, want unchanged", again.Reason, again.Frames)
	}
}

func TestTail_SameLineage(t *testing.T) {
	runTailCases(t, []tailCase{
		{name: "unchanged", change: func(*world, *wal.Cursor) {}},
		{name: "one commit", change: func(w *world, _ *wal.Cursor) { w.log.tx(10, 2, 3, 7) }, pages: "3=2 7=2"},
		{name: "newest copy of a page", change: func(w *world, _ *wal.Cursor) { w.log.tx(10, 2, 3, 7).tx(10, 3, 7) }, pages: "3=2 7=3"},
		{name: "uncommitted tail", change: func(w *world, _ *wal.Cursor) { w.log.tx(10, 2, 3).spill(3, 3, 8) }, pages: "3=2"},
		{name: "uncommitted only", change: func(w *world, _ *wal.Cursor) { w.log.spill(3, 3, 8) }},
		{name: "torn frame", change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 3).tx(10, 2, 4)
			w.log.b = w.log.b[:len(w.log.b)-1]
		}, pages: "3=2"},
		{name: "wrong checksum", change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 3).tx(10, 2, 4)
			w.log.b[len(w.log.b)-1]++
		}, pages: "3=2"},
		{name: "page 0", change: func(w *world, _ *wal.Cursor) { w.log.tx(10, 2, 3).tx(10, 2, 0) }, pages: "3=2"},
		{name: "salts of another lineage", change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 3)
			w.log.s2++
			w.log.tx(10, 2, 4)
		}, pages: "3=2"},
		{name: "shrunk", change: func(w *world, _ *wal.Cursor) { w.log.tx(10, 2, 3, 9).tx(8, 3, 1) }, pages: "1=3 3=2", size: 8},
		{name: "shrunk and grown", change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 3, 9, 10).tx(8, 3, 1).tx(9, 4, 1, 9)
		}, pages: "1=4 3=2 9=4", size: 9},
		{name: "page above the size of its own commit", change: func(w *world, _ *wal.Cursor) { w.log.tx(10, 2, 12, 3) }, pages: "3=2"},
		{name: "dropped page does not come back", change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 3, 9).tx(8, 3, 1).tx(10, 4, 1)
		}, pages: "1=4 3=2"},
		{name: "first frame overwritten, last lies", change: func(w *world, cur *wal.Cursor) {
			w.log.put(int(cur.First.Offset), make([]byte, 24))
		}, reason: wal.ReasonOverwritten},
		{name: "last frame overwritten, first lies", change: func(w *world, cur *wal.Cursor) {
			// A commit of the same pages that differ only in the second one.
			m := synth{s1: w.log.s1, s2: w.log.s2, off: int(cur.First.Offset), sum: sumBefore(w, cur.First.Offset)}
			w.log.back(m)
			w.log.spill(1, 4).tx(10, 2, 5)
		}, reason: wal.ReasonOverwritten},
		{name: "stored checksum of the first frame", change: func(w *world, cur *wal.Cursor) { w.log.b[cur.First.Offset+16]++ }, reason: wal.ReasonOverwritten},
		{name: "stored checksum of the last frame", change: func(w *world, cur *wal.Cursor) { w.log.b[cur.Last.Offset+23]++ }, reason: wal.ReasonOverwritten},
		{name: "salt 1 of the first frame", change: func(w *world, cur *wal.Cursor) { w.log.b[cur.First.Offset+8]++ }, reason: wal.ReasonOverwritten},
		{name: "salt 2 of the last frame", change: func(w *world, cur *wal.Cursor) { w.log.b[cur.Last.Offset+15]++ }, reason: wal.ReasonOverwritten},
		{name: "cut below the cursor", change: func(w *world, cur *wal.Cursor) { w.log.b = w.log.b[:cur.First.Offset] }, reason: wal.ReasonOverwritten},
		{name: "cut inside the last frame's header", change: func(w *world, cur *wal.Cursor) { w.log.b = w.log.b[:cur.Last.Offset+23] }, reason: wal.ReasonOverwritten},
		{name: "blocks missing at the last transaction", change: func(w *world, cur *wal.Cursor) {
			clear(w.log.b[cur.First.Offset-100 : cur.First.Offset+100])
		}, reason: wal.ReasonOverwritten},
		{name: "same salts, another sequence", change: func(w *world, _ *wal.Cursor) {
			off := w.log.off
			sum := w.log.sum
			w.log.header(7, w.log.s1, w.log.s2)
			w.log.off, w.log.sum = off, sum
		}, reason: wal.ReasonRewritten},
	})
}

// sumBefore is the checksum that a frame at off continues.
func sumBefore(w *world, off int64) [2]uint32 {
	fh := wal.ParseFrameHeader(w.log.b[off-int64(24+w.log.pageSize):])
	return [2]uint32(fh.Sum)
}

func TestTail_OneRestart(t *testing.T) {
	runTailCases(t, []tailCase{
		{name: "proven by a stale frame", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6)
		}, pages: "6=2"},
		{name: "proven by the end of an unchanged file", change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6)
		}, pages: "6=2"},
		{name: "grown and cut back to its old size", before: func(w *world) {
			// A file of five frames and a half that ends where the log's
			// size limit cuts it: exactly behind a frame.
			stale(w)
			w.log.b = w.log.b[:w.log.frameAt(7)]
		}, change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 7).tx(10, 2, 8).tx(10, 2, 9)
			w.checkpoint(2, 7, 8, 9)
			restart(w)
			w.log.b = w.log.b[:w.log.frameAt(7)]
			w.log.tx(10, 3, 6)
		}, reason: wal.ReasonCut},
		{name: "salt 1 wraps", before: func(w *world) {
			w.log.b = nil
			w.log.header(0, 1<<32-1, 5)
			w.log.tx(10, 1, 1, 2).tx(10, 1, 3).tx(10, 1, 4, 5)
		}, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6)
		}, pages: "6=2"},
		{name: "remainder first, then the new lineage", before: func(w *world) {
			w.log.tx(10, 1, 6, 7)
			stale(w)
		}, change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 8, 9).tx(10, 2, 3)
			w.checkpoint(1, 6, 7)
			w.checkpoint(2, 8, 9)
			restart(w)
			w.checkpoint(2, 3)
			w.log.tx(10, 3, 9)
		}, pages: "3=2 8=2 9=3"},
		{name: "remainder without a commit is dropped", before: stale, change: func(w *world, _ *wal.Cursor) {
			w.log.spill(2, 8)
			restart(w)
			w.log.tx(10, 3, 9)
		}, pages: "9=3"},
		{name: "shrunk by the new lineage", before: stale, change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 9)
			w.checkpoint(2, 9)
			restart(w)
			w.log.tx(8, 3, 1)
		}, pages: "1=3", size: 8},
		{name: "shrunk by the new lineage and checkpointed", before: func(w *world) {
			w.log.tx(10, 1, 8, 9)
			stale(w)
		}, change: func(w *world, _ *wal.Cursor) {
			w.checkpoint(1, 8, 9)
			restart(w)
			w.log.tx(8, 3, 1)
			w.checkpoint(3, 1)
			w.main = w.main[:8*w.log.pageSize]
		}, pages: "1=3", size: 8},
		{name: "frame in front overwritten, nothing committed", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			m := w.log.mark()
			w.log.spill(2, 6, 7, 8)
			w.log.back(m)
			w.log.spill(3, 6)
		}, reason: wal.ReasonPhantom},
		{name: "two restarts", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6)
			w.checkpoint(2, 6)
			restart(w)
			w.log.tx(10, 3, 7)
		}, reason: wal.ReasonRestarted},
		{name: "other salts", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.header(1, 4711, 1)
			w.log.tx(10, 3, 7)
		}, reason: wal.ReasonRestarted},
		{name: "nothing committed yet", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.spill(2, 6)
		}},
		{name: "nothing committed yet, and a remainder", before: stale, change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 8)
			w.checkpoint(2, 8)
			restart(w)
			w.log.spill(2, 6)
		}, reason: wal.ReasonUncommitted},
		{name: "nothing committed yet behind a phantom", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.checkpoint(0, 4, 5)
			w.log.spill(2, 6)
		}, reason: wal.ReasonPhantom},
		{name: "one frame of room", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6, 7)
		}, pages: "6=2 7=2"},
		{name: "no frame of room", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6, 7, 8)
		}, reason: wal.ReasonGrewOver},
		{name: "no frame of room with uncommitted frames", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6, 7).spill(2, 8)
		}, reason: wal.ReasonGrewOver},
		{name: "room in front of the last frame only", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6, 7, 8, 9)
		}, reason: wal.ReasonGrewOver},
		{name: "over the cursor", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6, 7, 8, 9, 10, 6)
		}, reason: wal.ReasonGrewOver},
		{name: "first frame overwritten by a rolled back spill", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			m := w.log.mark()
			w.log.spill(2, 6, 7, 8, 9)
			w.log.back(m)
			w.log.tx(10, 3, 6)
		}, reason: wal.ReasonOverwritten},
		{name: "frame in front of the last transaction overwritten", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			m := w.log.mark()
			w.log.spill(2, 6, 7, 8)
			w.log.back(m)
			w.log.tx(10, 3, 6)
		}, reason: wal.ReasonPhantom},
		{name: "file grew and ends with the chain", change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 6)
			w.checkpoint(2, 6)
			restart(w)
			w.log.tx(10, 3, 7)
		}, reason: wal.ReasonCut},
		{name: "chain runs into a cut", before: stale, change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 6).tx(10, 2, 7)
			w.checkpoint(2, 6, 7)
			restart(w)
			w.log.b = w.log.b[:w.log.frameAt(6)]
			w.log.tx(10, 3, 8)
		}, reason: wal.ReasonCut},
		{name: "cut inside a frame", before: stale, change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 6).tx(10, 2, 7)
			w.checkpoint(2, 6, 7)
			restart(w)
			w.log.b = w.log.b[:w.log.frameAt(7)-1]
			w.log.tx(10, 3, 8)
		}, reason: wal.ReasonCut},
		{name: "cut behind the cursor", before: stale, change: func(w *world, cur *wal.Cursor) {
			restart(w)
			w.log.b = w.log.b[:cur.End()]
			w.log.tx(10, 3, 8)
		}, reason: wal.ReasonCut},
		{name: "phantom", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.checkpoint(0, 4)
			w.log.tx(10, 2, 6)
		}, reason: wal.ReasonPhantom},
		{name: "phantom that differs in one byte", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.main[5*w.log.pageSize-1]++
			w.log.tx(10, 2, 6)
		}, reason: wal.ReasonPhantom},
		{name: "phantom beyond the main file", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.main = w.main[:4*w.log.pageSize]
			w.log.tx(10, 2, 6)
		}, reason: wal.ReasonPhantom},
		{name: "phantom whose pages the new lineage holds", before: stale, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.checkpoint(0, 4, 5)
			w.log.tx(10, 2, 4, 5)
		}, pages: "4=2 5=2"},
		{name: "phantom remainder", before: stale, change: func(w *world, _ *wal.Cursor) {
			w.log.tx(10, 2, 8)
			restart(w)
			w.log.tx(10, 3, 9)
		}, reason: wal.ReasonPhantom},
		{name: "phantom that shrank the database", before: func(w *world) {
			w.log.tx(9, 1, 1)
			stale(w)
		}, change: func(w *world, _ *wal.Cursor) {
			// It never counted: the new lineage goes on with ten pages, and
			// the tenth is in the main file only.
			restart(w)
			w.log.tx(10, 2, 1)
		}, reason: wal.ReasonPhantom},
		{name: "commit that shrank, then growth", before: func(w *world) {
			w.log.tx(9, 1, 1)
			stale(w)
		}, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 1, 10)
		}, pages: "1=2 10=2"},
	})
}

func TestTail_Refused(t *testing.T) {
	runTailCases(t, []tailCase{
		{name: "no cursor", change: func(_ *world, cur *wal.Cursor) { *cur = wal.Cursor{} }, reason: wal.ReasonNoCursor},
		{name: "another boot", change: func(w *world, _ *wal.Cursor) { w.src.BootID[15]++ }, reason: wal.ReasonBoot},
		{name: "another inode", change: func(w *world, _ *wal.Cursor) { w.src.Main.ID.Ino++ }, reason: wal.ReasonReplaced},
		{name: "another device", change: func(w *world, _ *wal.Cursor) { w.src.Main.ID.Dev++ }, reason: wal.ReasonReplaced},
		{name: "another page size", change: func(w *world, _ *wal.Cursor) {
			w.log = newSynth(1024, false)
			w.log.tx(10, 1, 1)
		}, reason: wal.ReasonPageSize},
		{name: "log empty", change: func(w *world, _ *wal.Cursor) { w.log.b = nil }, reason: wal.ReasonLogGone},
		{name: "header torn", change: func(w *world, _ *wal.Cursor) { w.log.b = w.log.b[:31] }, reason: wal.ReasonLogGone},
		{name: "header unreadable", change: func(w *world, _ *wal.Cursor) { w.log.b[24]++ }, reason: wal.ReasonLogGone},
		{name: "header zeroed", change: func(w *world, _ *wal.Cursor) { clear(w.log.b[:4]) }, reason: wal.ReasonLogGone},
	})
	t.Run("log deleted", func(t *testing.T) {
		w := newWorld(t, false)
		cur := w.cursor()
		if err := os.Remove(w.path); err != nil {
			t.Fatal(err)
		}
		if got := w.look(cur).Reason; got != wal.ReasonLogGone {
			t.Errorf("reason=%q, want %q", got, wal.ReasonLogGone)
		}
	})
	t.Run("log is a folder", func(t *testing.T) {
		w := newWorld(t, false)
		cur := w.cursor()
		if err := os.Remove(w.path); err != nil {
			t.Fatal(err)
		} else if err := os.Mkdir(w.path, 0o700); err != nil {
			t.Fatal(err)
		}
		if res, err := wal.Tail(cur, w.src, w.opt); err == nil || res.Reason != "" {
			t.Errorf("reason=%q err=%v, want an error", res.Reason, err)
		}
	})
}

// TestTail_NoContent looks from a cursor that found no committed frame: the
// main file alone was the database.
func TestTail_NoContent(t *testing.T) {
	empty := func(w *world) { w.log.b = nil }
	uncommitted := func(w *world) {
		w.log.header(1, 5, 6)
		w.log.b = w.log.b[:32]
		w.log.spill(1, 3, 4)
	}
	runTailCases(t, []tailCase{
		{name: "still empty", before: empty, change: func(*world, *wal.Cursor) {}},
		{name: "still uncommitted", before: uncommitted, change: func(w *world, _ *wal.Cursor) { w.log.spill(1, 5) }},
		{name: "header appeared", before: empty, change: func(w *world, _ *wal.Cursor) { w.log.header(0, 1, 2) }},
		{name: "uncommitted frames appeared", before: empty, change: func(w *world, _ *wal.Cursor) {
			w.log.header(0, 1, 2)
			w.log.spill(1, 3)
		}},
		{name: "commit appeared", before: empty, change: func(w *world, _ *wal.Cursor) {
			w.log.header(0, 1, 2)
			w.log.tx(10, 1, 3)
		}, reason: wal.ReasonLogAppeared},
		{name: "commit followed", before: uncommitted, change: func(w *world, _ *wal.Cursor) { w.log.tx(10, 1, 5) }, reason: wal.ReasonLogAppeared},
		{name: "log of another page size appeared", before: empty, change: func(w *world, _ *wal.Cursor) {
			w.log = newSynth(1024, false)
		}, reason: wal.ReasonPageSize},
		{name: "mtime", before: empty, change: func(w *world, _ *wal.Cursor) { w.src.Main.Mtime++ }, reason: wal.ReasonMainChanged},
		{name: "ctime", before: empty, change: func(w *world, _ *wal.Cursor) { w.src.Main.Ctime++ }, reason: wal.ReasonMainChanged},
		{name: "size", before: empty, change: func(w *world, _ *wal.Cursor) { w.src.Main.Size++ }, reason: wal.ReasonMainChanged},
		{name: "inode", before: empty, change: func(w *world, _ *wal.Cursor) { w.src.Main.ID.Ino++ }, reason: wal.ReasonReplaced},
		{name: "young when taken", before: empty, change: func(_ *world, cur *wal.Cursor) { cur.MainTrusted = false }, reason: wal.ReasonMainChanged},
		{name: "uncommitted, and main changed", before: uncommitted, change: func(w *world, _ *wal.Cursor) { w.src.Main.Mtime++ }, reason: wal.ReasonMainChanged},
		{name: "another boot", before: empty, change: func(w *world, _ *wal.Cursor) { w.src.BootID[0]++ }, reason: wal.ReasonBoot},
	})
	t.Run("log deleted", func(t *testing.T) {
		w := newWorld(t, false)
		empty(w)
		cur := w.cursor()
		if err := os.Remove(w.path); err != nil {
			t.Fatal(err)
		}
		if res := w.look(cur); res.Reason != "" || res.Cursor != cur {
			t.Errorf("reason=%q, want unchanged", res.Reason)
		}
	})
}

// TestTail_Pinned restarts under a pin that was retaken behind our own
// complete checkpoint: any length of the new lineage is accepted, but only one
// restart.
func TestTail_Pinned(t *testing.T) {
	pin := func(w *world) {
		stale(w)
		w.src.Pinned = true
	}
	runTailCases(t, []tailCase{
		{name: "not restarted", before: pin, change: func(w *world, _ *wal.Cursor) { w.log.tx(10, 2, 6) }, pages: "6=2"},
		{name: "short", before: pin, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6)
		}, pages: "6=2"},
		{name: "longer than the old one", before: pin, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.tx(10, 2, 6, 7, 8, 9, 10, 1, 2, 3)
		}, pages: "1=2 2=2 3=2 6=2 7=2 8=2 9=2 10=2"},
		{name: "cut", before: pin, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.b = w.log.b[:32]
			w.log.tx(10, 2, 6)
		}, pages: "6=2"},
		{name: "nothing committed yet", before: pin, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			w.log.spill(2, 6)
		}},
		{name: "two restarts", before: pin, change: func(w *world, _ *wal.Cursor) {
			restart(w)
			restart(w)
			w.log.tx(10, 2, 6)
		}, reason: wal.ReasonRestarted},
		{name: "overwritten in the same lineage", before: pin, change: func(w *world, cur *wal.Cursor) {
			w.log.b[cur.First.Offset+16]++
		}, reason: wal.ReasonOverwritten},
		{name: "log gone", before: pin, change: func(w *world, _ *wal.Cursor) { w.log.b = nil }, reason: wal.ReasonLogGone},
		{name: "another boot", before: pin, change: func(w *world, _ *wal.Cursor) { w.src.BootID[0]++ }, reason: wal.ReasonBoot},
	})
}

// TestTail_Race changes the log between the steps of one look.
func TestTail_Race(t *testing.T) {
	grow := func(w *world) { // over the cursor, uncommitted
		w.log.spill(4, 6, 7, 8, 9, 10, 6)
	}
	again := func(w *world) { w.log.header(2, w.log.s1+1, 77) }
	for _, tt := range []struct {
		name   string
		step   string
		before func(w *world) // after the cursor, before the look
		change func(w *world)
		reason wal.Reason
	}{
		{"restart behind the header", "header", func(w *world) { w.log.tx(10, 2, 8) }, again, wal.ReasonMoved},
		{"restart behind the frames", "frames", func(w *world) { w.log.tx(10, 2, 8) }, again, wal.ReasonMoved},
		{"restart behind the conditions", "conditions", func(w *world) { w.log.tx(10, 2, 8) }, again, wal.ReasonMoved},
		{"header rewritten with the same salts", "conditions", func(w *world) { w.log.tx(10, 2, 8) }, func(w *world) {
			w.log.header(9, w.log.s1, w.log.s2)
		}, wal.ReasonMoved},
		{"log emptied behind the conditions", "conditions", func(*world) {}, func(w *world) { w.log.b = nil }, wal.ReasonMoved},
		{"overwritten while frames were read", "frames", func(w *world) { w.log.tx(10, 2, 8) }, func(w *world) {
			restart(w)
			w.log.spill(4, 6, 7, 8, 9)
		}, wal.ReasonOverwritten},
		{"spill grows over the cursor before the old frames are read", "header", func(w *world) {
			restart(w)
			w.log.tx(10, 2, 6)
		}, grow, wal.ReasonGrewOver},
		{"spill grows over the cursor behind the old frames", "old frames", func(w *world) {
			restart(w)
			w.log.tx(10, 2, 6)
		}, grow, wal.ReasonGrewOver},
		{"spill grows over the cursor behind the new frames", "new frames", func(w *world) {
			restart(w)
			w.log.tx(10, 2, 6)
		}, grow, wal.ReasonOverwritten},
		{"second restart behind the new frames", "new frames", func(w *world) {
			restart(w)
			w.log.tx(10, 2, 6)
		}, again, wal.ReasonMoved},
		{"no content: header appears", "conditions", func(w *world) { w.log.header(0, 8, 9) }, again, wal.ReasonMoved},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, false)
			if tt.name == "no content: header appears" {
				w.log.b = nil
			} else {
				stale(w)
			}
			cur := w.cursor()
			tt.before(w)
			fired := 0
			w.opt = w.opt.WithHook(func(step string) {
				if step == tt.step {
					fired++
					tt.change(w)
					w.save()
				}
			})
			res := w.tail(cur)
			if fired != 1 {
				t.Fatalf("the hook ran %d times at %q, want once", fired, tt.step)
			}
			if res.Reason != tt.reason {
				t.Errorf("reason=%q, want %q", res.Reason, tt.reason)
			}
		})
	}
}

// TestTail_LateCommit commits behind the frames that a look captures, while it
// still checks its conditions. What it proves must be what it captured.
func TestTail_LateCommit(t *testing.T) {
	w := newWorld(t, false)
	w.log.tx(10, 1, 6, 7)
	stale(w)
	cur := w.cursor()
	restart(w)
	w.checkpoint(0, 6, 7) // the last captured transaction is a phantom
	w.log.tx(10, 2, 8)
	w.opt = w.opt.WithHook(func(step string) {
		if step == "new frames" {
			w.log.tx(10, 3, 6, 7) // its pages are written later
			w.save()
		}
	})
	if res := w.tail(cur); res.Reason != wal.ReasonPhantom {
		t.Errorf("reason=%q, pages=%q, want %q", res.Reason, describe(w, res.Frames), wal.ReasonPhantom)
	}
}

// TestTail_FileGrew appends a commit after the scan that a cursor is taken
// from, but before the file's size is: the size then is no proof.
func TestTail_FileGrew(t *testing.T) {
	w := newWorld(t, false)
	w.save()
	w.opt = w.opt.WithHook(func(step string) {
		if step == "frames" {
			w.log.tx(10, 2, 6)
			w.save()
		}
	})
	c, err := wal.CopyLog(w.path, 512, w.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Frames.Close()
	cur := c.Cursor(w.src.BootID, w.src.Main, true, worldPages)
	w.opt = wal.Options{}
	w.checkpoint(2, 6)
	restart(w)
	w.log.tx(10, 3, 7)
	if res := w.tail(cur); res.Reason != wal.ReasonCut {
		t.Errorf("reason=%q, want %q", res.Reason, wal.ReasonCut)
	}
}

// TestTail_LockPage grows a database over the page that is never written.
func TestTail_LockPage(t *testing.T) {
	const lockPage = 1<<30/65536 + 1
	for _, tt := range []struct {
		name   string
		pages  []uint32
		reason wal.Reason
	}{
		{"without it", []uint32{lockPage - 1, lockPage + 1}, ""},
		{"without another", []uint32{lockPage + 1}, wal.ReasonPhantom},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, false)
			w.log = newSynth(65536, false)
			w.main = make([]byte, 5*65536)
			w.log.tx(lockPage-2, 1, 1, 2).tx(lockPage-2, 1, 3, 4).tx(lockPage-2, 1, 5)
			stale(w)
			cur := w.cursor()
			restart(w)
			w.log.tx(lockPage+1, 2, tt.pages...)
			if res := w.tail(cur); res.Reason != tt.reason {
				t.Errorf("reason=%q, want %q", res.Reason, tt.reason)
			}
		})
	}
}
