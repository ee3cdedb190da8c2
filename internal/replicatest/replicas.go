package replicatest

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
)

// testReplicas finds databases below and beside each other, by whatever level
// has a file of theirs.
func testReplicas(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	p, ok := c.(litestream.Prefixer)
	if _, lists := c.(litestream.ReplicaLister); !ok || !lists || opts.Base == nil {
		t.Skipf("%s lists no replicas", c.Type())
	}
	base := opts.Base(t)
	want := []string{"a", "a/b", "a%20b/c!", "ltx", "z/0003"}
	for i, path := range append([]string{"../beside"}, want...) {
		txid := ltx.TXID(i + 1)
		db := p.WithPrefix(base + "/root/" + path)
		if path == "../beside" {
			db = p.WithPrefix(base + "/rootbeside")
		}
		for range i%2 + 1 {
			Write(t, db, i%(litestream.SnapshotLevel+1), txid, txid, File(t, txid, txid, 200, 0))
			txid++
		}
	}
	root := p.WithPrefix(base + "/root")
	if err := objects(t, root).WriteObject(t.Context(), "!litestream/catalog/0/0000000000000001-0000000000000001.ltx", []byte("x"), false); err != nil {
		t.Fatal(err)
	}
	lister := root.(litestream.ReplicaLister)
	var got []string
	if err := lister.Replicas(t.Context(), func(path string) error { got = append(got, path); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("replicas (-want +got):\n%s", diff)
	}
	stop := errors.New("enough")
	n := 0
	if err := lister.Replicas(t.Context(), func(string) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("%d calls, err=%v, want the caller's after one", n, err)
	}
	none := p.WithPrefix(base + "/none").(litestream.ReplicaLister)
	if err := none.Replicas(t.Context(), func(string) error { return stop }); err != nil {
		t.Errorf("empty folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lister.Replicas(ctx, func(string) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: err=%v, want context.Canceled", err)
	}
}
