package osfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/benbjohnson/litestream/internal/osfile"
)

func TestOpenAndCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if _, err := osfile.Open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open a missing file: %v", err)
	}
	if _, err := osfile.Create(filepath.Join(dir, "none", "f"), 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("create in a missing folder: %v", err)
	}
	for _, content := range []string{"longer", "short"} {
		f, err := osfile.Create(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(content); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
		f, err = osfile.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		n, _ := f.ReadAt(b, 0) // io.EOF: the file is shorter
		if string(b[:n]) != content || f.Name() != path {
			t.Errorf("read %q of %s", b[:n], f.Name())
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, name := range []string{a, b} {
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := osfile.Rename(a, b); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(b); err != nil || string(got) != a {
		t.Errorf("%q, %v", got, err)
	}
	if err := osfile.Rename(a, b); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rename a missing file: %v", err)
	}
	if err := os.Mkdir(a, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := osfile.Rename(b, a); err == nil {
		t.Error("renamed over a folder")
	}
}
