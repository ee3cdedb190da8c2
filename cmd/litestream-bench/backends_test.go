//go:build linux

package main

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/file"
	"github.com/benbjohnson/litestream/internal/replicatest"
)

func TestBackendTurn_Config(t *testing.T) {
	p := &place{section: func(path string) string { return "type: x\npath: " + path }}
	got := backendTurn{place: p, path: "turn1"}.config([]string{"/a", "/b"})
	want := `dbs:
  - path: /a
    monitor-interval: 1ms
    replica:
      sync-interval: 1ms
      type: x
      path: turn1/db00
  - path: /b
    monitor-interval: 1ms
    replica:
      sync-interval: 1ms
      type: x
      path: turn1/db01
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration differs (-want +got):\n%s", diff)
	}
}

// Files count once, also those that retention deletes later.
func TestArrivals(t *testing.T) {
	c := file.NewReplicaClient(t.TempDir())
	a := arrivals{client: c}
	for i, want := range []int{0, 3, 3, 5} {
		for txid := []ltx.TXID{1, 1, 4, 4}[i]; txid <= []ltx.TXID{0, 3, 3, 5}[i]; txid++ {
			if _, err := c.WriteLTXFile(t.Context(), 0, txid, txid, bytes.NewReader(replicatest.File(t, txid, txid, 200, 0))); err != nil {
				t.Fatal(err)
			}
		}
		if i == 2 {
			if err := c.DeleteLTXFiles(t.Context(), []*ltx.FileInfo{{MinTXID: 1, MaxTXID: 1}}); err != nil {
				t.Fatal(err)
			}
		}
		if got := a.count(t.Context()); got != want || a.err != nil {
			t.Errorf("step %d: %d files, err=%v, want %d", i, got, a.err, want)
		}
	}
}

func TestMakeRandomSource(t *testing.T) {
	path := t.TempDir() + "/db"
	if err := makeRandomSource(t.Context(), path, 2); err != nil {
		t.Fatal(err)
	}
	size, err := treeSize(path)
	if err != nil || size < 2*mib || size > 3*mib {
		t.Errorf("%d bytes, err=%v, want some more than 2 MB", size, err)
	}
}
