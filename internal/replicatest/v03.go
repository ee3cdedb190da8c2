package replicatest

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/litestream"
)

// testV03 lists and reads what lies in the folder of a v0.3 backup, put there
// as named objects.
func testV03(t *testing.T, newClient NewFunc, opts Options) {
	c := newClient(t)
	v, ok := c.(litestream.V03Client)
	o, isObjects := c.(litestream.ObjectClient)
	if !ok || !isObjects {
		t.Skip("client reads no backups of v0.3, or stores no objects")
	}
	if got, err := v.V03Objects(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("empty: %v, err=%v", got, err)
	}
	const folder = "generations/0123456789abcdef/"
	names := []string{folder + "snapshots/00000000.snapshot.lz4", folder + "wal/00000000_00000000.wal.lz4", "generations/x"}
	for _, name := range append(names, "other") {
		if err := o.WriteObject(t.Context(), name, []byte("content of "+name), false); err != nil {
			t.Fatal(err)
		}
	}
	got, err := v.V03Objects(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b litestream.ObjectInfo) int { return strings.Compare(a.Name, b.Name) })
	if len(got) != len(names) {
		t.Fatalf("listed %v, want %q", got, names)
	}
	for i, info := range got {
		want := "content of " + names[i]
		if info.Name != names[i] || info.Size != int64(len(want)) || time.Since(info.ModifiedAt).Abs() > time.Hour {
			t.Errorf("listed %+v, want %s with %d bytes", info, names[i], len(want))
		}
		for _, part := range [][2]int64{{0, 0}, {3, 0}, {3, 4}, {info.Size, 0}} {
			r, err := v.OpenV03Object(t.Context(), info.Name, part[0], part[1])
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			end := info.Size
			if part[1] > 0 {
				end = part[0] + part[1]
			}
			if err := errors.Join(err, r.Close()); err != nil || string(b) != want[part[0]:end] {
				t.Errorf("%s from %d, size %d: %q, err=%v", info.Name, part[0], part[1], b, err)
			}
		}
	}
	_, err = v.OpenV03Object(t.Context(), folder+"missing", 0, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: err=%v, want fs.ErrNotExist", err)
	}
	wantReplicaError(t, opts, err)
	if _, err = v.OpenV03Object(t.Context(), "../x", 0, 0); err == nil {
		t.Error("a name outside of the path: no error")
	}
}
