package ltxfile_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/superfly/ltx"

	"github.com/benbjohnson/litestream/internal/ltxfile"
)

// writeLTX encodes a small database as an LTX file of one range.
func writeLTX(w io.Writer, minTXID, maxTXID ltx.TXID, pageN uint32) error {
	enc, err := ltx.NewEncoder(w)
	if err != nil {
		return err
	}
	if err := enc.EncodeHeader(ltx.Header{
		Version: ltx.Version, Flags: ltx.HeaderFlagNoChecksum, PageSize: 512, Commit: pageN,
		MinTXID: minTXID, MaxTXID: maxTXID, Timestamp: 1000,
	}); err != nil {
		return err
	}
	for i := range pageN {
		page := []byte(strings.Repeat(fmt.Sprintf("%08d", i), 64))
		if err := enc.EncodePage(ltx.PageHeader{Pgno: i + 1}, page); err != nil {
			return err
		}
	}
	return enc.Close()
}

// stage writes one file through d.
func stage(d ltxfile.Dir, minTXID, maxTXID ltx.TXID, pageN uint32) error {
	f, err := d.Create(minTXID, maxTXID)
	if err != nil {
		return err
	}
	if err := writeLTX(f, minTXID, maxTXID, pageN); err != nil {
		return errors.Join(err, f.Abort())
	}
	return f.Commit()
}

func newDir(t *testing.T) ltxfile.Dir {
	t.Helper()
	return ltxfile.New(filepath.Join(t.TempDir(), ".db-litestream", "ltx", "0"), 0o700, 0o600, -1, -1)
}

// names returns what lies in the folder, however it is called.
func names(t *testing.T, d ltxfile.Dir) []string {
	t.Helper()
	entries, err := os.ReadDir(d.Name())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var a []string
	for _, e := range entries {
		a = append(a, e.Name())
	}
	return a
}

func TestDir_StageListRemove(t *testing.T) {
	d := newDir(t)
	if infos, err := d.List(); err != nil || len(infos) != 0 {
		t.Fatalf("missing folder: %v, %v", infos, err)
	}
	if err := d.Remove(1, 1); err != nil {
		t.Fatalf("remove in a missing folder: %v", err)
	}
	if _, err := d.Open(1, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open in a missing folder: %v", err)
	}
	for _, txid := range []ltx.TXID{300, 2, 16} {
		if err := stage(d, txid, txid, 3); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"0000000000000009-0000000000000009.ltx.tmp", "note.txt", "1-1.ltx", "000000000000000A-000000000000000A.ltx",
		"0000000000000009-0000000000000008.ltx", "0000000000000000-0000000000000000.ltx",
	} {
		if err := os.WriteFile(filepath.Join(d.Name(), name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(d.Path(7, 7), 0o700); err != nil {
		t.Fatal(err)
	}
	infos, err := d.List()
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	if fi, err := os.Stat(d.Path(2, 2)); err != nil {
		t.Fatal(err)
	} else {
		size = fi.Size()
	}
	want := []ltxfile.Info{{Min: 2, Max: 2, Size: size}, {Min: 16, Max: 16, Size: size}, {Min: 300, Max: 300, Size: size}}
	if diff := cmp.Diff(want, infos, cmpopts.IgnoreFields(ltxfile.Info{}, "ModTime")); diff != "" {
		t.Fatalf("list (-want +got):\n%s", diff)
	}
	hdr, _, err := d.Verify(16, 16)
	if err != nil || hdr.MinTXID != 16 {
		t.Fatalf("verify: %v, min=%s", err, hdr.MinTXID)
	}
	f, err := d.Open(16, 16)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for range 2 {
		if err := d.Remove(16, 16); err != nil {
			t.Fatal(err)
		}
	}
	if infos, err := d.List(); err != nil || len(infos) != 2 {
		t.Fatalf("after remove: %v, %v", infos, err)
	}

	if err := d.RemoveAll(); err != nil {
		t.Fatal(err)
	}
	rest := []string{"0000000000000007-0000000000000007.ltx", "000000000000000A-000000000000000A.ltx", "1-1.ltx", "note.txt"}
	if diff := cmp.Diff(rest, names(t, d)); diff != "" {
		t.Fatalf("after RemoveAll (-want +got):\n%s", diff)
	}
}

func TestDir_RemoveAllRemovesFolder(t *testing.T) {
	d := newDir(t)
	if err := stage(d, 1, 1, 1); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.RemoveAll(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(d.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("folder: %v, want it gone", err)
	}
}

func TestDir_Modes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	root := t.TempDir()
	d := ltxfile.New(filepath.Join(root, "meta", "ltx", "0"), 0o750, 0o640, os.Getuid(), os.Getgid())
	if err := stage(d, 1, 1, 1); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		filepath.Join(root, "meta"): 0o750, d.Name(): 0o750, d.Path(1, 1): 0o640,
	} {
		if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
}

func TestFile_InvisibleUntilCommit(t *testing.T) {
	d := newDir(t)
	f, err := d.Create(5, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeLTX(f, 5, 5, 400); err != nil {
		t.Fatal(err)
	}
	if infos, err := d.List(); err != nil || len(infos) != 0 {
		t.Fatalf("list before commit: %v, %v", infos, err)
	}
	size := f.Size()
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if infos, err := d.List(); err != nil || len(infos) != 1 || infos[0].Size != size {
		t.Fatalf("list after commit: %v, %v, want %d bytes", infos, err, size)
	}
	if err := f.Abort(); err != nil {
		t.Fatalf("abort after commit: %v", err)
	}
	if err := f.Commit(); err == nil {
		t.Fatal("second commit succeeded")
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Fatal("write after commit succeeded")
	}

	f, err = d.Create(6, 6)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"0000000000000005-0000000000000005.ltx"}, names(t, d)); diff != "" {
		t.Fatalf("after abort (-want +got):\n%s", diff)
	}
}

// faultFS fails one call, and counts them.
type faultFS struct {
	ltxfile.FileSystem
	left int // good calls before the failing one
	err  error
}

func (f *faultFS) call() error {
	f.left--
	if f.left == -1 {
		return &fs.PathError{Op: "fault", Path: "x", Err: f.err}
	}
	return nil
}

func (f *faultFS) Mkdir(name string, mode ltxfile.FileMode) error {
	if err := f.call(); err != nil {
		return err
	}
	return f.FileSystem.Mkdir(name, mode)
}

func (f *faultFS) Create(name string, mode ltxfile.FileMode) (ltxfile.WriteFile, error) {
	if err := f.call(); err != nil {
		return nil, err
	}
	file, err := f.FileSystem.Create(name, mode)
	if err != nil {
		return nil, err
	}
	return &faultFile{WriteFile: file, fs: f}, nil
}

func (f *faultFS) Rename(oldName, newName string) error {
	if err := f.call(); err != nil {
		return err
	}
	return f.FileSystem.Rename(oldName, newName)
}

func (f *faultFS) Remove(name string) error {
	if err := f.call(); err != nil {
		return err
	}
	return f.FileSystem.Remove(name)
}

func (f *faultFS) SyncDir(name string) error {
	if err := f.call(); err != nil {
		return err
	}
	return f.FileSystem.SyncDir(name)
}

type faultFile struct {
	ltxfile.WriteFile
	fs *faultFS
}

// Write fails after half of the bytes, as a full disk does.
func (f *faultFile) Write(p []byte) (int, error) {
	if err := f.fs.call(); err != nil {
		n, werr := f.WriteFile.Write(p[:len(p)/2])
		return n, errors.Join(err, werr)
	}
	return f.WriteFile.Write(p)
}

func (f *faultFile) Sync() error {
	if err := f.fs.call(); err != nil {
		return err
	}
	return f.WriteFile.Sync()
}

func (f *faultFile) Close() error {
	if err := f.fs.call(); err != nil {
		return errors.Join(err, f.WriteFile.Close())
	}
	return f.WriteFile.Close()
}

func TestStage_EveryFault(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO} {
		t.Run(errno.Error(), func(t *testing.T) {
			for n := 0; ; n++ {
				d := newDir(t)
				err := stage(d.WithFS(&faultFS{FileSystem: ltxfile.OSFS, left: n, err: errno}), 3, 3, 2000)
				infos, lerr := d.List()
				if lerr != nil {
					t.Fatal(lerr)
				}
				if err == nil {
					if n < 10 {
						t.Fatalf("succeeded with %d good calls, want more calls", n)
					}
					if _, _, err := d.Verify(3, 3); err != nil || len(infos) != 1 {
						t.Fatalf("after success: %v, %v", infos, err)
					}
					return // no call was left to fail
				}
				if got, want := errors.Is(err, ltxfile.ErrDiskFull), errno != syscall.EIO; got != want {
					t.Fatalf("fault %d: err=%v, ErrDiskFull=%v, want %v", n, err, got, want)
				}
				if !errors.Is(err, errno) {
					t.Fatalf("fault %d: err=%v, want %v in it", n, err, errno)
				}
				if a := names(t, d); len(a) != 0 {
					t.Fatalf("fault %d: left %v", n, a)
				}
				// The next try must succeed whatever the fault left behind.
				if err := stage(d, 3, 3, 2000); err != nil {
					t.Fatalf("fault %d: second try: %v", n, err)
				}
			}
		})
	}
}

func TestStage_FaultKeepsOldFile(t *testing.T) {
	// Up to the rename a failing replacement leaves the file that was there.
	for n := 0; ; n++ {
		d := newDir(t)
		if err := stage(d, 3, 3, 1); err != nil {
			t.Fatal(err)
		}
		err := stage(d.WithFS(&faultFS{FileSystem: ltxfile.OSFS, left: n, err: syscall.EIO}), 3, 3, 2000)
		if err == nil {
			return
		}
		hdr, _, verr := d.Verify(3, 3)
		if errors.Is(verr, fs.ErrNotExist) && strings.Contains(err.Error(), "sync folder") {
			continue
		}
		if verr != nil || hdr.Commit != 1 {
			t.Fatalf("fault %d (%v): old file: %v, %d pages", n, err, verr, hdr.Commit)
		}
	}
}

func TestCleanTemp(t *testing.T) {
	root := t.TempDir()
	if err := ltxfile.CleanTemp(filepath.Join(root, "none")); err != nil {
		t.Fatalf("missing root: %v", err)
	}
	sub := filepath.Join(root, "ltx", "0")
	if err := os.MkdirAll(filepath.Join(sub, "d.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a.ltx.tmp", "b.ltx", "d.tmp/c.tmp", "tmp"} {
		if err := os.WriteFile(filepath.Join(sub, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(sub, "b.ltx"), filepath.Join(sub, "link.tmp")); err != nil {
		t.Fatal(err)
	}
	if err := ltxfile.CleanTemp(root); err != nil {
		t.Fatal(err)
	}
	d := ltxfile.New(sub, 0o700, 0o600, -1, -1)
	if diff := cmp.Diff([]string{"b.ltx", "d.tmp", "link.tmp", "tmp"}, names(t, d)); diff != "" {
		t.Fatalf("left (-want +got):\n%s", diff)
	}
	if entries, err := os.ReadDir(filepath.Join(sub, "d.tmp")); err != nil || len(entries) != 0 {
		t.Fatalf("nested: %v, %v", entries, err)
	}
}

func TestVerify_Damaged(t *testing.T) {
	d := newDir(t)
	if err := stage(d, 2, 2, 3); err != nil {
		t.Fatal(err)
	}
	path := d.Path(2, 2)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Verify(2, 2); err == nil {
			t.Fatalf("first %d of %d bytes verified", n, len(data))
		}
	}
	if _, _, err := d.Verify(3, 3); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing: %v", err)
	}
}

func TestFreeBytes(t *testing.T) {
	if n, err := ltxfile.FreeBytes(t.TempDir()); err != nil || n <= 0 {
		t.Fatalf("free=%d, %v", n, err)
	}
	if _, err := ltxfile.FreeBytes(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Fatal("missing path: no error")
	}
}

// Only folders below the limit are made when they are missing.
func TestDir_Within(t *testing.T) {
	root := t.TempDir()
	base := filepath.Join(root, "gone", "base")
	d := ltxfile.New(filepath.Join(base, "ltx", "0"), 0o700, 0o600, -1, -1).Within(base + "/")
	if _, err := d.Create(1, 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want that the folder is missing", err)
	}
	if names, err := os.ReadDir(root); err != nil || len(names) > 0 {
		t.Errorf("made %v, error %v", names, err)
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := d.Create(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Error(err)
	}
}
