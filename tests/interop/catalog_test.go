package interop_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// TestMultiDB_Catalog reads the catalog that our program keeps on real storage:
// after a first stop, after changes and another one, and when it is lost.
func TestMultiDB_Catalog(t *testing.T) {
	t.Parallel()
	for _, onS3 := range []bool{false, true} {
		t.Run(fmt.Sprintf("s3=%t", onS3), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			for i := range 3 {
				f.add("p1", fmt.Sprintf("t%d.db", i), 4096, "wal")
			}
			root := litestream.ReplicaClient(file.NewReplicaClient(filepath.Join(f.root, "replica")))
			if onS3 {
				f.onS3()
				root = f.tenants[0].client().(litestream.Prefixer).WithPrefix("fleet")
			}
			for round := range 2 {
				d := f.start()
				if round == 0 {
					f.await(make([]ltx.TXID, len(f.tenants)))
				}
				f.commit(fmt.Sprintf("INSERT INTO ledger VALUES (%d)", round+1))
				d.stop()
				c, err := litestream.OpenCatalog(t.Context(), root, litestream.CatalogOptions{})
				if err != nil {
					t.Fatal(err)
				}
				got, want := make(map[string]ltx.TXID), make(map[string]ltx.TXID)
				for e := range c.Entries() {
					got[e.Path] = e.TXID
				}
				for _, s := range f.tenants {
					want[s.path] = s.newest()
				}
				if diff := cmp.Diff(want, got); diff != "" || c.Rebuilt() {
					t.Errorf("round %d, rebuilt %t, positions (-want +got):\n%s", round, c.Rebuilt(), diff)
				}
			}
			if err := root.(litestream.ObjectDeleter).DeleteObject(t.Context(), "!litestream/catalogs"); err != nil {
				t.Fatal(err)
			}
			c, err := litestream.OpenCatalog(t.Context(), root, litestream.CatalogOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var replicas []string
			for e := range c.Entries() {
				replicas = append(replicas, e.Replica)
			}
			if diff := cmp.Diff([]string{"p1/t0", "p1/t1", "p1/t2"}, replicas); diff != "" || !c.Rebuilt() {
				t.Errorf("rebuilt %t, replicas (-want +got):\n%s", c.Rebuilt(), diff)
			}
		})
	}
}
