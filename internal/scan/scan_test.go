package scan_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/benbjohnson/litestream/internal/glob"
	"github.com/benbjohnson/litestream/internal/scan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func touch(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	f.Close()
}

// tree makes files, and directories for names that end in a slash.
func tree(tb testing.TB, root string, names ...string) {
	tb.Helper()
	for _, name := range names {
		path := root + "/" + name
		if err := os.MkdirAll(path[:strings.LastIndexByte(path, '/')], 0o755); err != nil {
			tb.Fatal(err)
		}
		if !strings.HasSuffix(name, "/") {
			touch(tb, path)
		}
	}
}

func newScanner(tb testing.TB, cfg scan.Config, patterns ...string) *scan.Scanner {
	tb.Helper()
	for _, text := range patterns {
		p, err := glob.Compile(text)
		if err != nil {
			tb.Fatal(err)
		}
		cfg.Patterns = append(cfg.Patterns, p)
	}
	s, err := scan.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// found scans and describes each file: pattern, path below root, and W for a
// -wal or L for a link.
func found(tb testing.TB, s *scan.Scanner, root string) ([]string, scan.Result) {
	tb.Helper()
	files := []string{}
	res, err := s.Scan(tb.Context(), func(e *scan.Entry) error {
		text := fmt.Sprintf("%d %s", e.Pattern, strings.TrimPrefix(e.Path(), root+"/"))
		if e.HasWAL {
			text += " W"
		}
		if e.Linked {
			text += " L"
		}
		var st unix.Stat_t
		if err := unix.Stat(e.Path(), &st); err != nil || st.Ino != e.Main.ID.Ino || st.Size != e.Main.Size || st.Mtim.Nano() != e.Main.Mtime || st.Ctim.Nano() != e.Main.Ctime {
			tb.Errorf("%s: print %+v, stat %+v, %v", e.Path(), e.Main, st, err)
		}
		files = append(files, text)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(files)
	return files, res
}

func check(tb testing.TB, got []string, want ...string) {
	tb.Helper()
	if want == nil {
		want = []string{}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Fatalf("files (-want +got):\n%s", diff)
	}
}

func TestScan(t *testing.T) {
	root := t.TempDir()
	tree(t, root, "p1/a.db", "p1/a.db-wal", "p1/a.db-shm", "p1/b.db", "p1/b.db-journal", "p1/c.txt", "p1/.db", "p2/sub/d.db", "p2/x.db/",
		"p1/.a.db-litestream/e.db", "p3/skip/f.db", "p3/g.db", "deep/1/2/3/h.db", "p1/wal-only.db-wal", "one/main.db", "one/main.db-wal", "one/other.db")
	for _, tt := range []struct {
		name     string
		patterns []string
		exclude  []string
		want     []string
	}{
		{"Star", []string{"/*/*.db"}, nil, []string{"0 p1/a.db W", "0 p1/b.db", "0 p1/.db", "0 p3/g.db", "0 one/main.db W", "0 one/other.db"}},
		{"All", []string{"/p1/*"}, nil, []string{"0 p1/a.db W", "0 p1/b.db", "0 p1/c.txt", "0 p1/.db"}},
		{"Suffixes", []string{"/p1/*-wal", "/p1/*-shm", "/p1/*-journal"}, nil, nil},
		{"Doublestar", []string{"/**/*.db"}, []string{"**/skip/**", "/**/main.db"}, []string{
			"0 p1/a.db W", "0 p1/b.db", "0 p1/.db", "0 p2/sub/d.db", "0 p3/g.db", "0 deep/1/2/3/h.db", "0 one/other.db",
		}},
		{"FirstWins", []string{"/p1/a*", "/p*/*.db", "/**/?.db"}, nil, []string{
			"0 p1/a.db W", "1 p1/b.db", "1 p1/.db", "1 p3/g.db", "2 p2/sub/d.db", "2 p3/skip/f.db", "2 deep/1/2/3/h.db",
		}},
		{"Literal", []string{"/one/main.db", "/two/main.db"}, nil, []string{"0 one/main.db W"}},
		{"LiteralFile", []string{"/*/main.db"}, nil, []string{"0 one/main.db W"}},
		{"FinalDoublestar", []string{"/deep/**"}, nil, []string{"0 deep/1/2/3/h.db"}},
		{"Classes", []string{"/p[12]/{a,b}.db"}, nil, []string{"0 p1/a.db W", "0 p1/b.db"}},
		{"ExcludedRoot", []string{"/p1/*.db"}, []string{"/p1/**"}, nil},
		{"ExcludeNotBelow", []string{"/p1/*.db"}, []string{"/p1", "/p1/a.db"}, []string{"0 p1/b.db", "0 p1/.db"}},
		{"Nothing", []string{"/nowhere/**/*.db"}, nil, nil},
		{"FileAsDirectory", []string{"/p1/a.db/*.db"}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, cfg := range []scan.Config{{Workers: 1}, {Workers: 4}, {Cache: true, Margin: 1}, {Sorted: true, Workers: 1}} {
				for _, text := range tt.exclude {
					if strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "/**") {
						text = root + text
					}
					e, err := glob.CompileExclude(text)
					if err != nil {
						t.Fatal(err)
					}
					cfg.Exclude = append(cfg.Exclude, e)
				}
				var patterns []string
				for _, p := range tt.patterns {
					patterns = append(patterns, root+p)
				}
				s := newScanner(t, cfg, patterns...)
				for range 2 {
					got, res := found(t, s, root)
					check(t, got, tt.want...)
					if res.ErrorN > 0 {
						t.Fatalf("errors %v", res.Errors)
					}
				}
			}
		})
	}
}

func TestScan_OddNames(t *testing.T) {
	root := t.TempDir()
	var want []string
	for _, name := range []string{"?#%.db", "a\nb.db", "\xff\xfe.db", "{{tenant}}.db", " .db", "*.db", `\.db`, "ü.db", strings.Repeat("x", 252) + ".db"} {
		tree(t, root, "p/"+name)
		want = append(want, "0 p/"+name)
	}
	got, _ := found(t, newScanner(t, scan.Config{}, root+"/*/*.db"), root)
	check(t, got, want...)
}

func TestScan_Links(t *testing.T) {
	root := t.TempDir()
	tree(t, root, "real/a.db", "real/sub/b.db", "other/c.db", "other/c.db-wal", "t/")
	for link, target := range map[string]string{
		"t/file.db": "../other/c.db", "t/dir": "../real", "t/loop": ".", "t/gone.db": "nowhere", "t/self.db": "self.db", "real/back": "../real", "real/on": "../other",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(root+"/t/pipe.db", 0o600); err != nil {
		t.Fatal(err)
	}
	got, res := found(t, newScanner(t, scan.Config{}, root+"/t/**/*.db"), root)
	check(t, got, "0 t/file.db W L", "0 t/dir/a.db", "0 t/dir/sub/b.db")
	// The links are t/loop, two below t/dir, and the two that lead nowhere.
	if res.ErrorN != 0 || res.Special != 1 || res.Links != 5 {
		t.Fatalf("result %+v", res)
	}
	// A link that the pattern spells out is no choice of the scan's.
	got, _ = found(t, newScanner(t, scan.Config{}, root+"/t/dir/on/*.db"), root)
	check(t, got, "0 t/dir/on/c.db W")
}

// TestScan_Cache holds that a directory is read again when it changed, or when
// it was young when it was read.
func TestScan_Cache(t *testing.T) {
	root := t.TempDir()
	var want []string
	for i := range 100 {
		name := fmt.Sprintf("p/%03d.db", i)
		tree(t, root, name)
		want = append(want, "0 "+name)
	}
	young := newScanner(t, scan.Config{Cache: true, Margin: time.Hour}, root+"/*/*.db")
	old := newScanner(t, scan.Config{Cache: true, Margin: 1}, root+"/*/*.db")
	for i, wantRead := range []int{2, 1} { // the root directory has too few names to keep
		if _, res := found(t, young, root); res.DirsRead != 2 {
			t.Fatalf("young, scan %d: %d directories read, want 2", i, res.DirsRead)
		}
		got, res := found(t, old, root)
		if check(t, got, want...); res.DirsRead != wantRead || res.Dirs < 3 {
			t.Fatalf("old, scan %d: %+v, want %d directories read", i, res, wantRead)
		}
	}
	// Times of the directory change with its names.
	before := time.Now().Add(-time.Minute)
	for _, change := range []func(){
		func() { touch(t, root+"/p/000.db-wal"); want[0] = "0 p/000.db W" },
		func() { os.Remove(root + "/p/001.db"); want = slices.Delete(want, 1, 2) },
		func() {
			os.Rename(root+"/p", root+"/q")
			want = nil
			tree(t, root, "p/new.db")
			os.RemoveAll(root + "/q")
		},
	} {
		if err := os.Chtimes(root+"/p", before, before); err != nil {
			t.Fatal(err)
		}
		found(t, old, root)
		change()
		if want == nil {
			want = []string{"0 p/new.db"}
		}
		got, _ := found(t, old, root)
		check(t, got, want...)
	}
}

// TestScan_CacheExclude holds that names kept for a directory are not used
// where it is found under another path, which an exclude pattern knows.
func TestScan_CacheExclude(t *testing.T) {
	root := t.TempDir()
	var want []string
	for i := range 100 {
		tree(t, root, fmt.Sprintf("a/real/%03d.db", i))
		want = append(want, fmt.Sprintf("0 b/link/%03d.db", i))
	}
	tree(t, root, "b/")
	if err := os.Symlink("../a/real", root+"/b/link"); err != nil {
		t.Fatal(err)
	}
	e, err := glob.CompileExclude(root + "/a/*/*.db")
	if err != nil {
		t.Fatal(err)
	}
	s := newScanner(t, scan.Config{Cache: true, Margin: 1, Workers: 1, Exclude: []*glob.Exclude{e}}, root+"/*/*/*.db")
	for range 3 {
		got, _ := found(t, s, root)
		check(t, got, want...)
	}
}

func TestScan_20k(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 20,000 files")
	}
	root, _ := makeFleet(t, 10_000, true)
	s := newScanner(t, scan.Config{Sorted: true, Workers: 1}, root+"/**/*.db")
	last, wals := "", 0
	res, err := s.Scan(t.Context(), func(e *scan.Entry) error {
		if path := e.Path(); path <= last {
			t.Fatalf("%s after %s", path, last)
		} else {
			last = path
		}
		if e.HasWAL {
			wals++
		}
		return nil
	})
	if err != nil || res.Matches[0] != 10_000 || wals != 10_000 {
		t.Fatalf("%d files, %d logs, %v", res.Matches[0], wals, err)
	}
}

func TestScan_Stop(t *testing.T) {
	root := t.TempDir()
	tree(t, root, "p/a.db", "p/b.db", "q/c.db")
	s := newScanner(t, scan.Config{}, root+"/*/*.db")
	errStop := errors.New("stop")
	n := 0
	if _, err := s.Scan(t.Context(), func(*scan.Entry) error { n++; return errStop }); !errors.Is(err, errStop) || n != 1 {
		t.Errorf("callback: %d calls, error %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	if _, err := s.Scan(ctx, func(*scan.Entry) error { n++; cancel(); return nil }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
	if _, err := s.Scan(ctx, func(*scan.Entry) error { return nil }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: error %v", err)
	}

	// A scan in a scan is refused; one after it is not.
	if _, err := s.Scan(t.Context(), func(*scan.Entry) error {
		if _, err := s.Scan(t.Context(), nil); !errors.Is(err, scan.ErrRunning) {
			t.Errorf("overlapping: error %v, want ErrRunning", err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestScan_Vanishing scans a tree whose directories come, go and turn into
// files all the while. Nothing of it is an error.
func TestScan_Vanishing(t *testing.T) {
	root := t.TempDir()
	tree(t, root, "keep/x/k.db")
	s := newScanner(t, scan.Config{Cache: true}, root+"/**/*.db")
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for _, name := range []string{"a", "b", "c"} {
				select {
				case <-done:
					return
				default:
				}
				os.MkdirAll(root+"/"+name+"/x/y", 0o755)
				os.WriteFile(root+"/"+name+"/x/t.db", nil, 0o600)
				os.RemoveAll(root + "/" + name)
				os.WriteFile(root+"/"+name, nil, 0o600)
				os.Remove(root + "/" + name)
			}
		}
	})
	for range 300 {
		kept := false
		res, err := s.Scan(t.Context(), func(e *scan.Entry) error { kept = kept || string(e.Name) == "k.db"; return nil })
		if err != nil || res.ErrorN > 0 || !kept {
			t.Errorf("scan: %v, %v, kept=%t", err, res.Errors, kept)
			break
		}
	}
	close(done)
	wg.Wait()
}
