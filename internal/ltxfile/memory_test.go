package ltxfile_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
)

// Small files stay in memory, large ones and those beyond the budget go to the
// folder; for a reader there is no difference.
func TestMemory(t *testing.T) {
	const limit = 1000
	path := filepath.Join(t.TempDir(), "staged")
	d := ltxfile.New(path, 0o700, 0o600, -1, -1).Volatile().InMemory(ltxfile.NewMemory(ltxfile.NewMemoryBudget(limit)))
	put := func(txid ltx.TXID, n int) {
		t.Helper()
		f, err := d.Create(txid, txid)
		if err != nil {
			t.Fatal(err)
		}
		for range n { // in pieces, so that the large one spills on the way
			if _, err := f.Write([]byte{byte(txid)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Commit(); err != nil || f.Size() != int64(n) {
			t.Fatalf("size %d, %v", f.Size(), err)
		}
	}
	onDisk := func() int {
		t.Helper()
		entries, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return len(entries)
	}
	sizes := map[ltx.TXID]int{1: 600, 2: 300, 3: 200, 4: 40_000} // 3 is beyond the budget
	for txid := ltx.TXID(1); txid <= 4; txid++ {
		put(txid, sizes[txid])
	}
	if got := onDisk(); got != 2 {
		t.Errorf("%d files in the folder, want 2", got)
	}
	infos, err := d.List()
	if err != nil || len(infos) != 4 {
		t.Fatalf("list: %v, %v", infos, err)
	}
	for _, info := range infos {
		r, err := d.Open(info.Min, info.Max)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil || len(b) != sizes[info.Min] || b[len(b)-1] != byte(info.Min) {
			t.Errorf("%s holds %d bytes, %v", info.Min, len(b), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := d.Remove(1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(1, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed file: %v", err)
	}
	put(5, 500) // there is room again
	if got := onDisk(); got != 2 {
		t.Errorf("%d files in the folder, want 2", got)
	}
	f, err := d.Create(6, 6)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte{1}); err == nil {
		t.Error("write after abort: no error")
	}
	if err := d.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	if infos, err := d.List(); err != nil || len(infos) != 0 || onDisk() != 0 {
		t.Errorf("left: %v, %v, %d in the folder", infos, err, onDisk())
	}
}
