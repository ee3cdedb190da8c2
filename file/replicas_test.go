package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/file"
)

func TestReplicaClient_Replicas(t *testing.T) {
	dir := t.TempDir()
	const name = "0000000000000001-0000000000000001.ltx"
	for _, path := range []string{
		"a/ltx/0/" + name, "b/c/ltx/9/" + name, "b/ltx/3/" + name, "ltx/ltx/0/" + name,
		"tmp/ltx/0/" + name + ".tmp", "other/0/" + name, "wrong/ltx/x/" + name, "a/ltx/0/ltx/0/" + name,
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	c := file.NewReplicaClient(dir)
	if err := c.Replicas(t.Context(), func(path string) error { got = append(got, path); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"a", "b", "b/c", "ltx"}, got); diff != "" {
		t.Errorf("replicas (-want +got):\n%s", diff)
	}
	stop := errors.New("enough")
	if err := c.Replicas(t.Context(), func(string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the caller's error", err)
	}
	if err := file.NewReplicaClient(dir+"/none").Replicas(t.Context(), func(string) error { return stop }); err != nil {
		t.Errorf("missing folder: %v", err)
	}
}
