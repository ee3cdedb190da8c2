package file_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream"
	"github.com/benbjohnson/litestream/file"
)

// ltxBytes returns an LTX header with a timestamp, and n bytes behind it.
func ltxBytes(tb testing.TB, txid ltx.TXID, at time.Time, n int) []byte {
	tb.Helper()
	hdr := ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: 4096,
		Commit: 1, MinTXID: txid, MaxTXID: txid, Timestamp: at.UnixMilli(),
	}
	b, err := hdr.MarshalBinary()
	if err != nil {
		tb.Fatal(err)
	}
	return append(b, make([]byte, n)...)
}

func TestReplicaClient_Layout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "replica")
	c := file.NewReplicaClient(dir)
	c.SetPermissions(litestream.FilePermissions{Mode: 0o640, DirMode: 0o750, UID: os.Getuid(), GID: os.Getgid()})
	at := time.Date(2020, 2, 3, 4, 5, 6, 789e6, time.UTC)

	info, err := c.WriteLTXFile(t.Context(), 0, 0xab, 0xab, bytes.NewReader(ltxBytes(t, 0xab, at, 10)))
	if err != nil {
		t.Fatal(err)
	}
	want := &ltx.FileInfo{MinTXID: 0xab, MaxTXID: 0xab, Size: 110, CreatedAt: at}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Errorf("WriteLTXFile: (-want +got)\n%s", diff)
	}

	path := filepath.Join(dir, "ltx", "0", "00000000000000ab-00000000000000ab.ltx")
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := fi.ModTime().UTC(); !got.Equal(at) {
		t.Errorf("modification time=%v, want %v", got, at)
	}
	if got, want := fi.Mode().Perm(), fs.FileMode(0o640); got != want {
		t.Errorf("mode=%v, want %v", got, want)
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	} else if got, want := fi.Mode().Perm(), fs.FileMode(0o750); got != want {
		t.Errorf("directory mode=%v, want %v", got, want)
	}
	if names := dirNames(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("folder holds %q, want the LTX file alone", names)
	}
}

func TestReplicaClient_DefaultPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "replica")
	c := file.NewReplicaClient(dir)
	if _, err := c.WriteLTXFile(t.Context(), 9, 1, 2, bytes.NewReader(ltxBytes(t, 1, time.Now(), 0))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		".": 0o700, "ltx": 0o700, "ltx/9": 0o700,
		"ltx/9/0000000000000001-0000000000000002.ltx": 0o600,
	} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Mode().Perm(); got != want {
			t.Errorf("%s: mode=%v, want %v", name, got, want)
		}
	}
}

func TestReplicaClient_IgnoresForeignNames(t *testing.T) {
	dir := t.TempDir()
	c := file.NewReplicaClient(dir)
	if _, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(ltxBytes(t, 1, time.Now(), 0))); err != nil {
		t.Fatal(err)
	}
	level := filepath.Join(dir, "ltx", "0")
	foreign := []string{
		"0000000000000002-0000000000000002.ltx.tmp", // an interrupted write of Litestream v0.5
		"000000000000000A-000000000000000A.ltx",
		"notes.txt",
	}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(level, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(level, "0000000000000003-0000000000000003.ltx"), 0o700); err != nil {
		t.Fatal(err)
	}
	itr, err := c.LTXFiles(t.Context(), 0, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := ltx.SliceFileIterator(itr)
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 1 || infos[0].MinTXID != 1 {
		t.Fatalf("listed %v, want TXID 1 alone", infos)
	}

	if err := c.DeleteAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := len(dirNames(t, level)), len(foreign)+1; got != want {
		t.Errorf("%d names left after DeleteAll, want %d", got, want)
	}
}

// A write that fails leaves neither the object nor a temporary file.
func TestReplicaClient_FailedWriteLeavesNothing(t *testing.T) {
	broken := errors.New("source broke")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, r := range map[string]io.Reader{
		"Source":   io.MultiReader(bytes.NewReader(ltxBytes(t, 1, time.Now(), 99999)), errReader{broken}),
		"Canceled": io.MultiReader(bytes.NewReader(ltxBytes(t, 1, time.Now(), 0)), cancelReader{cancel}),
		"Header":   bytes.NewReader([]byte("LTX1")),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := file.NewReplicaClient(dir)
			_, err := c.WriteLTXFile(ctx, 0, 1, 1, r)
			if _, ok := errors.AsType[*litestream.ReplicaError](err); !ok {
				t.Fatalf("err=%v, want a ReplicaError", err)
			}
			if names := dirNames(t, filepath.Join(dir, "ltx", "0")); len(names) != 0 {
				t.Errorf("folder holds %q, want nothing", names)
			}
		})
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// cancelReader cancels a context at the first read, and then never ends.
type cancelReader struct{ cancel context.CancelFunc }

func (r cancelReader) Read(p []byte) (int, error) {
	r.cancel()
	return len(p), nil
}

func TestReplicaClient_SweepsAbandonedTempFiles(t *testing.T) {
	dir := t.TempDir()
	level := filepath.Join(dir, "ltx", "0")
	if err := os.MkdirAll(level, 0o700); err != nil {
		t.Fatal(err)
	}
	const name = "0000000000000001-0000000000000001.ltx"
	old := name + ".1000000000-1-1.tmp" // begun in 1970
	young := name + ".9000000000000000000-1-1.tmp"
	upstream := name + ".tmp"
	for _, name := range []string{old, young, upstream} {
		if err := os.WriteFile(filepath.Join(level, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := file.NewReplicaClient(dir)
	if _, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(ltxBytes(t, 1, time.Now(), 0))); err != nil {
		t.Fatal(err)
	}
	want := []string{name, young, upstream}
	if diff := cmp.Diff(want, dirNames(t, level)); diff != "" {
		t.Errorf("folder (-want +got):\n%s", diff)
	}
}

func TestReplicaClient_Errors(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := file.NewReplicaClient(filepath.Join(blocked, "replica"))
	_, err := c.WriteLTXFile(t.Context(), 0, 1, 1, bytes.NewReader(ltxBytes(t, 1, time.Now(), 0)))
	if !litestream.IsPermanent(err) {
		t.Errorf("write below a file: err=%v, want a permanent one", err)
	}

	if err := file.NewReplicaClient("").Init(t.Context()); !litestream.IsPermanent(err) {
		t.Errorf("empty path: err=%v, want a permanent one", err)
	}

	_, err = file.NewReplicaClient(dir).OpenLTXFile(t.Context(), 0, 1, 1, 0, 0)
	if !errors.Is(err, fs.ErrNotExist) || litestream.IsPermanent(err) {
		t.Errorf("missing file: err=%v, want fs.ErrNotExist", err)
	}
}

func dirNames(tb testing.TB, dir string) []string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
