package litestream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superfly/ltx"

	litestream "github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// treeOf returns the files below a folder, each in a line.
func treeOf(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			b.WriteString(rel + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPurgeReplica deletes everything of one database, and nothing of those
// whose paths begin like its own, or that look like a part of it.
func TestPurgeReplica(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const name = "0000000000000001-0000000000000001.ltx"
	const generation = "generations/0123456789abcdef"
	neighbours := []string{
		"p1/ab/ltx/0/" + name, "p1/a/b/ltx/0/" + name, "p1/a/generations/ltx/0/" + name, "p1/a/ltx/ltx/9/" + name,
		"p1/a/generations/0123456789abcdef/ltx/1/" + name, "p1/a.db/ltx/0/" + name, "p1/ltx/0/" + name,
		"p1/a/ltx/0/notes.txt", "p1/ab/generations/0123456789abcdef/wal/00000000_00000000.wal.lz4",
	}
	own := []string{
		"p1/a/ltx/0/" + name, "p1/a/ltx/1/" + name, "p1/a/ltx/9/0000000000000001-0000000000000007.ltx",
		"p1/a/ltx/0/" + name + ".1700000000000000000-1-1.tmp",
		"p1/a/" + generation + "/snapshots/00000000.snapshot.lz4", "p1/a/" + generation + "/wal/00000000_00000000.wal.lz4",
	}
	for i, path := range append(append([]string{}, neighbours...), own...) {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all := treeOf(t, dir)
	client := file.NewReplicaClient(filepath.Join(dir, "p1/a"))
	found, err := litestream.ListPurge(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if got := treeOf(t, dir); got != all {
		t.Errorf("listing changed:\n%s", got)
	}
	res, err := litestream.PurgeReplica(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	if res.Files != 3 || res.V03 != 2 || res.Rest != 1 || res.Newest != 7 || res.Bytes != 9+10+11+12+13+14 || fmt.Sprint(*res) != fmt.Sprint(*found) || res.Objects() != 6 {
		t.Errorf("got %+v, listed %+v", res, found)
	}
	want := all
	for _, path := range own {
		want = strings.Replace(want, path+"\n", "", 1)
	}
	if got := treeOf(t, dir); got != want {
		t.Errorf("left:\n%swant:\n%s", got, want)
	}
	if res, err = litestream.PurgeReplica(t.Context(), client); err != nil || res.Objects() != 0 {
		t.Errorf("once more: %+v, %v", res, err)
	}

	// A database alone takes its folder with it.
	if _, err := litestream.PurgeReplica(t.Context(), file.NewReplicaClient(filepath.Join(dir, "p1/ab"))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p1/ab")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
}

// stubbornClient deletes nothing.
type stubbornClient struct{ *file.ReplicaClient }

func (stubbornClient) DeleteAll(context.Context) error { return nil }

// TestPurgeReplica_Left holds that what lies there after the deletion is an
// error that names it.
func TestPurgeReplica_Left(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "ltx/0"), 0o755); err != nil {
		t.Fatal(err)
	}
	for txid := range ltx.TXID(7) {
		if err := os.WriteFile(filepath.Join(dir, "ltx/0", ltx.FormatFilename(txid+1, txid+1)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := litestream.PurgeReplica(t.Context(), stubbornClient{file.NewReplicaClient(dir)})
	if !errors.Is(err, litestream.ErrNotPurged) || !strings.Contains(err.Error(), "level 0 "+ltx.FormatFilename(5, 5)+" and 2 more") {
		t.Errorf("got %v", err)
	}
}
