package wal_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/benbjohnson/litestream/internal/wal"
)

// compareStream reads a log as a stream and as a file: both must see the same
// transactions, pages and end.
func compareStream(t *testing.T, path string, b []byte, r io.Reader) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	opt := wal.Options{SpoolMemory: 1024, SpoolDir: filepath.Dir(path)}
	c, err := wal.CopyLog(path, 512, opt)
	if errors.Is(err, wal.ErrMoved) {
		return // another page size
	} else if err != nil {
		t.Fatal(err)
	}
	defer c.Frames.Close()
	s, err := wal.NewStream(r, opt)
	if errors.Is(err, wal.ErrNoHeader) {
		if c.Frames.CommitN != 0 {
			t.Fatalf("no header, want %d commits", c.Frames.CommitN)
		}
		return
	} else if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pages, commits, size := map[uint32][]byte{}, 0, uint32(0)
	for {
		commit, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		commits, size = commits+1, commit
		if err := s.Pages(func(pgno uint32, page []byte) error {
			pages[pgno] = bytes.Clone(page)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for pgno := range pages {
			if pgno > commit {
				delete(pages, pgno)
			}
		}
	}
	want := c.Frames
	if commits != want.CommitN || size != want.Commit || len(pages) != want.Len() {
		t.Errorf("%d commits, %d pages of %d, want %d, %d of %d", commits, len(pages), size, want.CommitN, want.Len(), want.Commit)
	}
	if want.CommitN > 0 && s.End() != want.End || s.ChainEnd() != want.ChainEnd && want.ChainEnd != 0 || s.Stop() != want.Stop {
		t.Errorf("end %d, chain %d, stop %d, want %d, %d, %d", s.End(), s.ChainEnd(), s.Stop(), want.End, want.ChainEnd, want.Stop)
	}
	buf := make([]byte, 512)
	for pgno, page := range pages {
		if ok, err := want.ReadPage(pgno, buf); err != nil || !ok || !bytes.Equal(buf, page) {
			t.Errorf("page %d: in the file %t, err=%v, equal=%t", pgno, ok, err, bytes.Equal(buf, page))
		}
	}
}

func TestStream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db-wal")
	log := newSynth(512, false)
	log.tx(3, 1, 1, 2, 3).tx(9, 2, 1, 4, 5, 6, 7, 8, 9).tx(2, 3, 1).spill(4, 5, 6)
	for name, b := range map[string][]byte{
		"Whole":     log.b,
		"Empty":     {},
		"Header":    log.b[:wal.HeaderSize],
		"HalfFrame": log.b[:log.frameAt(5)+100],
		"EndsInTx":  log.b[:log.frameAt(5)],
	} {
		t.Run(name, func(t *testing.T) {
			compareStream(t, path, b, bytes.NewReader(b))
			compareStream(t, path, b, iotest.OneByteReader(bytes.NewReader(b)))
			compareStream(t, path, b, iotest.DataErrReader(bytes.NewReader(b)))
		})
	}
}

func TestStream_ReadError(t *testing.T) {
	log := newSynth(512, false)
	log.tx(3, 1, 1, 2, 3)
	broken := errors.New("broken")
	for _, n := range []int{0, 10, wal.HeaderSize, 100, log.frameAt(2) + 5} {
		r := io.MultiReader(bytes.NewReader(log.b[:n]), iotest.ErrReader(broken))
		s, err := wal.NewStream(r, wal.Options{})
		if err == nil {
			_, err = s.Next()
			_ = s.Close() // in memory
		}
		if !errors.Is(err, broken) {
			t.Errorf("error behind %d bytes: err=%v, want it", n, err)
		}
	}
}

// FuzzStream compares the stream with CopyLog on logs that a program of one
// byte per step wrote and a byte of which was changed.
func FuzzStream(f *testing.F) {
	f.Add([]byte{9, 17, 10, 25, 33, 26, 3, 9, 18}, uint16(0x0155), byte(1))
	f.Add([]byte{8, 10, 8, 10, 4, 10, 3, 11, 10, 70, 6}, uint16(0x8060), byte(0))
	f.Add([]byte{}, uint16(0), byte(0))
	path := filepath.Join(f.TempDir(), "db-wal")
	f.Fuzz(func(t *testing.T, program []byte, at uint16, flip byte) {
		log := newSynth(512, flip&1 != 0)
		for _, op := range program[:min(len(program), 40)] {
			log.step(op)
		}
		b := bytes.Clone(log.b)
		if len(b) > 0 {
			b[int(at)%len(b)] ^= flip
		}
		compareStream(t, path, b, bytes.NewReader(b))
	})
}
