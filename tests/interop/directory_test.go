package interop_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/superfly/ltx"
)

// locate has restores read from where directory mode puts the replicas.
func (f *fleet) locate() {
	f.t.Helper()
	for _, s := range f.tenants {
		rel, err := filepath.Rel(filepath.Join(f.root, "data"), s.path)
		if err != nil {
			f.t.Fatal(err)
		}
		s.url = "file://" + filepath.Join(f.root, "replica", rel)
	}
}

// TestInterop_Directory runs upstream's program and ours in turns on one
// directory: each finds the replicas and the metadata of the other.
func TestInterop_Directory(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, keys, meta string }{
		{"beside", "", "data/p1/tenants/.t1.db-litestream"},
		{"meta-path", "meta-path: %s", "meta/p1/tenants/.t1.db-litestream"},
		{"meta-dir", "meta-dir: %s", "meta/p1/tenants/t1.db-litestream"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.add("p1", "t1.db", 4096, "wal")
			f.add("p2", "t2.db", 1024, "wal")
			for _, s := range f.tenants {
				s.exec(workload[1].query)
			}
			if tt.keys != "" {
				f.dirKeys = fmt.Sprintf(tt.keys, filepath.Join(f.root, "meta"))
			}
			n := 0
			for i, bin := range []string{f.main.bin, ourProgram(t), f.main.bin, ourProgram(t)} {
				before := make([]ltx.TXID, len(f.tenants))
				for k, s := range f.tenants {
					if i > 0 {
						before[k] = s.newest()
					}
				}
				d := f.byDirectory(bin)
				if i == 0 {
					f.await(before)
				}
				for range 3 {
					n++
					f.commit(fmt.Sprintf("BEGIN; INSERT INTO ledger VALUES (%d); UPDATE t SET v = randomblob(400) WHERE id = %d; COMMIT", n, n))
				}
				d.stop()
				for k, s := range f.tenants {
					s.remember()
					// At our first look there is no page ledger yet.
					if i > 1 && s.isFull(before[k]+1) {
						t.Errorf("turn %d: %s was copied in full", i, s.path)
					}
				}
				local, err := os.ReadDir(filepath.Join(f.root, tt.meta, "ltx", "0"))
				if err != nil || len(local) == 0 {
					t.Errorf("turn %d: %d files in %s: %v", i, len(local), tt.meta, err)
				}
			}
			f.locate()
			for _, s := range f.tenants {
				s.wantLedger(n)
				s.wantContiguous()
				theirs, err := s.theirs(target{txid: s.newest()})
				if err != nil {
					t.Fatal(err)
				}
				ours, err := s.ours(target{txid: s.newest()})
				if err != nil || string(ours) != string(theirs) {
					t.Errorf("restores of %s differ: %v", s.path, err)
				}
			}
		})
	}
}
