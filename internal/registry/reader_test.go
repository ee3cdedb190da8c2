package registry_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/benbjohnson/litestream/internal/registry"
)

func openReader(t *testing.T, dir string) *registry.Reader {
	t.Helper()
	r, err := registry.OpenReader(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// files returns the bytes of all files of a directory that no process writes.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	names, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m[filepath.Base(name)] = b
	}
	return m
}

// readAll uses everything that a reader can do.
func readAll(t *testing.T, dir, wantSummary string) {
	t.Helper()
	r := openReader(t, dir)
	if gen, err := generation(t.Context(), r); err != nil || gen != 2 {
		t.Errorf("generation=%d, %v, want 2", gen, err)
	}
	if b, err := r.Summary(t.Context()); err != nil || string(b) != wantSummary {
		t.Errorf("summary=%q, %v, want %q", b, err, wantSummary)
	}
	rec, ok, err := r.ByPath(t.Context(), "/tenant/7")
	want := full(7, "/tenant/7")
	want.TXID = 2
	if d := cmp.Diff(want, rec); d != "" || !ok || err != nil {
		t.Errorf("%v, %v (-want +got):\n%s", ok, err, d)
	}
	if _, ok, err := r.ByPath(t.Context(), "/tenant"); ok || err != nil {
		t.Errorf("ok=%v, %v of a path without a row", ok, err)
	}
	if info, err := r.Info(t.Context()); err != nil || info.WrittenAt.IsZero() {
		t.Errorf("info=%+v, %v", info, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Summary(t.Context()); !errors.Is(err, registry.ErrClosed) {
		t.Errorf("err=%v, want ErrClosed", err)
	}
}

// TestReader reads beside an owner in another process, after it was killed,
// after it stopped, and where only the files that matter were kept. Nothing in
// the directory changes by it.
func TestReader(t *testing.T) {
	setup := func(t *testing.T) (string, *child) {
		t.Helper()
		t.Setenv("TMPDIR", t.TempDir())
		dir := t.TempDir()
		c := startChild(t, dir)
		c.do("put")
		c.do("put")
		return dir, c
	}
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, dir string, c *child)
		files   string
	}{
		{"Running", func(*testing.T, string, *child) {}, "lock registry.db registry.db-shm registry.db-wal"},
		{"Killed", func(_ *testing.T, _ string, c *child) { c.kill() }, "lock registry.db registry.db-shm registry.db-wal"},
		{"Stopped", func(_ *testing.T, _ string, c *child) { c.do("close") }, "lock registry.db"},
		{"NoSharedMemory", func(t *testing.T, dir string, c *child) {
			t.Helper()
			c.kill()
			if err := os.Remove(dir + "/registry.db-shm"); err != nil {
				t.Fatal(err)
			}
		}, "lock registry.db registry.db-wal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, c := setup(t)
			tt.prepare(t, dir, c)
			before := files(t, dir)
			for range 3 {
				readAll(t, dir, "2")
			}
			after := files(t, dir)
			names := strings.Join(sortedKeys(after), " ")
			if names != tt.files {
				t.Errorf("files=%s, want %s", names, tt.files)
			}
			if tt.name == "Running" { // the wal-index holds the readers' marks
				delete(before, "registry.db-shm")
				delete(after, "registry.db-shm")
			}
			if !maps.EqualFunc(before, after, bytes.Equal) {
				t.Error("a file was changed")
			}
			if left := files(t, os.TempDir()); len(left) != 0 {
				t.Errorf("temporary files were left: %v", sortedKeys(left))
			}
			if tt.name == "Running" {
				c.do("put") // it was not hindered
				c.do("close")
			}
			r := open(t, dir, registry.Options{})
			if got := len(load(t, r)); got != childRows {
				t.Errorf("rows=%d after it, want %d", got, childRows)
			}
		})
	}
}

// TestReader_Busy reads while an owner writes without a pause: each read sees
// one moment, and later ones nothing older.
func TestReader_Busy(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, dir)
	c.do("put")
	c.send("loop")
	go func() { // ends with the child
		for c.out.Scan() {
		}
	}()
	last := 0
	for range 60 {
		r := openReader(t, dir)
		gen, err := generation(t.Context(), r)
		if err != nil || gen < last {
			t.Fatalf("generation=%d after %d, %v", gen, last, err)
		}
		last = gen
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if last < 2 {
		t.Errorf("generation=%d, want the owner to go on", last)
	}
}

// TestReader_OwnerBegins has an owner begin under a reader of a registry that
// rested: what would be read then is not.
func TestReader_OwnerBegins(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, dir)
	c.do("put")
	c.do("close")
	r := openReader(t, dir)
	if gen, err := generation(t.Context(), r); err != nil || gen != 1 {
		t.Fatalf("generation=%d, %v, want 1", gen, err)
	}
	startChild(t, dir)
	if _, err := generation(t.Context(), r); !errors.Is(err, registry.ErrChanged) {
		t.Errorf("err=%v, want ErrChanged", err)
	}
	if gen, err := generation(t.Context(), openReader(t, dir)); err != nil || gen != 1 {
		t.Errorf("generation=%d, %v, want 1", gen, err)
	}
}

// TestReader_OwnerStops has the owner stop under a reader. The log stays then;
// the clean stop is noted all the same.
func TestReader_OwnerStops(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, dir)
	c.do("put")
	r := openReader(t, dir)
	c.do("close")
	if gen, err := generation(t.Context(), r); err != nil || gen != 1 {
		t.Errorf("generation=%d, %v, want 1", gen, err)
	}
	if info, err := r.Info(t.Context()); err != nil || !info.Clean {
		t.Errorf("info=%+v, %v, want a clean stop", info, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if info := open(t, dir, registry.Options{}).Info(); !info.Clean || info.Fresh {
		t.Errorf("info=%+v, want a clean stop", info)
	}
}

// TestReader_OwnerRestarts reads all the time while owners come and go, by
// turns killed and stopped. A read may be refused, but is never wrong.
func TestReader_OwnerRestarts(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, dir)
	c.do("put")
	c.do("close")
	done := make(chan struct{})
	var wg sync.WaitGroup
	reads, refused := 0, 0
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			r, err := registry.OpenReader(t.Context(), dir)
			if err == nil {
				var gen int
				gen, err = generation(t.Context(), r)
				if err == nil && gen < 1 {
					t.Errorf("generation=%d, want 1 or more", gen)
				}
				if cerr := r.Close(); cerr != nil {
					t.Error(cerr)
				}
			}
			switch {
			case err == nil:
				reads++
			case errors.Is(err, registry.ErrChanged):
				refused++
			default:
				t.Error(err)
			}
		}
	})
	for i := range 12 {
		c := startChild(t, dir)
		c.do("put")
		c.do("put")
		if i%2 == 0 {
			c.do("close")
		}
		c.kill()
	}
	close(done)
	wg.Wait()
	t.Logf("%d reads, %d refused", reads, refused)
	if reads == 0 {
		t.Error("nothing was read")
	}
}

// TestReader_SameProcess reads beside the owner in one process, which keeps
// its locks.
func TestReader_SameProcess(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, registry.Options{})
	for gen := 1; gen < 4; gen++ {
		if err := putGeneration(t.Context(), r, gen); err != nil {
			t.Fatal(err)
		}
		rd := openReader(t, dir)
		if got, err := generation(t.Context(), rd); err != nil || got != gen {
			t.Errorf("generation=%d, %v, want %d", got, err, gen)
		}
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	}
	shut(t, r, true)
	if got := strings.Join(sortedKeys(files(t, dir)), " "); got != "lock registry.db" {
		t.Errorf("files=%s, want no log left", got)
	}
}

func TestReader_Missing(t *testing.T) {
	dir := t.TempDir()
	if _, err := registry.OpenReader(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "has replicate run") {
		t.Errorf("err=%v, want fs.ErrNotExist and what to do", err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("files were made: %v", sortedKeys(got))
	}
}
