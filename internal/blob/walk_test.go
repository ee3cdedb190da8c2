package blob_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/blob"
)

// folderTree is a storage of folders, as paths of files.
type folderTree []string

func (f folderTree) readDir(_ context.Context, dir string) (folders, files []string, err error) {
	prefix := dir + "/"
	if dir == "" {
		prefix = ""
	}
	found := false
	for _, p := range f {
		rest, ok := strings.CutPrefix(p, prefix)
		if !ok {
			continue
		}
		found = true
		if name, _, isDir := strings.Cut(rest, "/"); !isDir {
			files = append(files, name)
		} else if !slices.Contains(folders, name) {
			folders = append(folders, name)
		}
	}
	if !found {
		err = fmt.Errorf("list: %w", fs.ErrNotExist)
	}
	return folders, files, err
}

func TestWalk_Replicas(t *testing.T) {
	const name = "0000000000000001-0000000000000001.ltx"
	tree := folderTree{
		"a/ltx/0/" + name, "b/c/ltx/9/" + name, "b/ltx/3/" + name, "ltx/ltx/0/" + name, "tmp/ltx/0/" + name + ".tmp",
		"other/0/" + name, "wrong/ltx/x/" + name, "a/ltx/0/ltx/0/" + name, "empty/ltx/note", "file",
	}
	want := []string{"a", "b", "b/c", "ltx"}
	for i := range 500 {
		want = append(want, fmt.Sprintf("many/%d/d", i))
		tree = append(tree, fmt.Sprintf("many/%d/d/ltx/0/%s", i, name))
	}
	var mu sync.Mutex
	busy, most := 0, 0
	w := blob.Walk{Workers: 4, ReadDir: func(ctx context.Context, dir string) ([]string, []string, error) {
		mu.Lock()
		busy++
		most = max(most, busy)
		mu.Unlock()
		defer func() { mu.Lock(); busy--; mu.Unlock() }()
		return tree.readDir(ctx, dir)
	}}
	var got []string
	if err := w.Replicas(t.Context(), func(p string) error { got = append(got, p); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("replicas (-want +got):\n%s", diff)
	}
	if most > 4 {
		t.Errorf("%d folders at a time", most)
	}
	stop := errors.New("enough")
	if err := w.Replicas(t.Context(), func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the caller's error", err)
	}
	for _, broken := range []string{"b", "b/ltx", "b/ltx/3"} {
		w.ReadDir = func(ctx context.Context, dir string) ([]string, []string, error) {
			if dir == broken {
				return nil, nil, stop
			}
			return tree.readDir(ctx, dir)
		}
		if err := w.Replicas(t.Context(), func(string) error { return nil }); !errors.Is(err, stop) {
			t.Errorf("%s: got %v, want the error of the listing", broken, err)
		}
	}
	w.ReadDir = folderTree(nil).readDir
	if err := w.Replicas(t.Context(), func(string) error { return stop }); err != nil {
		t.Errorf("no folder: %v", err)
	}
}
