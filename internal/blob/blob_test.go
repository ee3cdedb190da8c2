package blob_test

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // any checksum will do
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/superfly/ltx"
	"go.uber.org/goleak"

	"github.com/benbjohnson/litestream/internal/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRoot(t *testing.T) {
	for root, want := range map[blob.Root][4]string{ // location, objects, tree, level
		"":           {"", "", "ltx/", "ltx/3/"},
		".":          {"", "", "ltx/", "ltx/3/"},
		"./":         {"", "", "ltx/", "ltx/3/"},
		"/":          {"/", "", "/ltx/", "/ltx/3/"},
		"a":          {"a", "a/", "a/ltx/", "a/ltx/3/"},
		"a//b/../c/": {"a/c", "a/c/", "a/c/ltx/", "a/c/ltx/3/"},
		"/lead/":     {"/lead", "/lead/", "/lead/ltx/", "/lead/ltx/3/"},
	} {
		got := [4]string{root.Location(), root.Objects(), root.Tree(), root.Level(3)}
		if got != want {
			t.Errorf("%q: %q, want %q", root, got, want)
		}
		level, name, ok := root.Split(root.File(7, 1, 2))
		if !ok || level != 7 || name != ltx.FormatFilename(1, 2) {
			t.Errorf("%q: split its own key into %d %q %v", root, level, name, ok)
		}
	}
	for _, key := range []string{"a/ltx/", "a/ltx/3", "a/ltx/10/x", "a/ltx/x/y", "a/ltx//y", "b/ltx/1/x", "ltx/1/x"} {
		if level, name, ok := blob.Root("a").Split(key); ok {
			t.Errorf("%q is split into %d %q", key, level, name)
		}
	}
}

func TestPrefix(t *testing.T) {
	for prefix, want := range map[blob.Prefix][3]string{ // objects, tree, level
		"":             {"", "/000", "/0009/"},
		".":            {"", "./000", "./0009/"},
		"a":            {"a/", "a/000", "a/0009/"},
		"a//b/../c":    {"a//b/../c/", "a//b/../c/000", "a//b/../c/0009/"},
		"/lead/trail/": {"/lead/trail/", "/lead/trail//000", "/lead/trail//0009/"},
	} {
		got := [3]string{prefix.Objects(), prefix.Tree(), prefix.Level(9)}
		if got != want {
			t.Errorf("%q: %q, want %q", prefix, got, want)
		}
		level, name, ok := prefix.Split(prefix.File(7, 1, 2))
		if !ok || level != 7 || name != ltx.FormatFilename(1, 2) {
			t.Errorf("%q: split its own key into %d %q %v", prefix, level, name, ok)
		}
	}
	for _, key := range []string{"a/0001", "a/000", "a/000a/x", "a/0010/x", "a/ltx/1/x", "b/0001/x"} {
		if level, name, ok := blob.Prefix("a").Split(key); ok {
			t.Errorf("%q is split into %d %q", key, level, name)
		}
	}
}

func TestListing(t *testing.T) {
	stored := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	l := blob.Listing{Root: blob.Root("p"), Seek: 2}
	for _, key := range []string{
		"p/ltx/1/" + ltx.FormatFilename(9, 9), "p/ltx/0/" + ltx.FormatFilename(2, 3), "p/ltx/0/" + ltx.FormatFilename(1, 1),
		"p/ltx/0/notes.txt", "q/ltx/0/" + ltx.FormatFilename(5, 5),
	} {
		l.Add(blob.Entry{Key: key, Size: 7, Stored: stored})
	}
	l.Add(blob.Entry{Key: "p/ltx/0/" + ltx.FormatFilename(4, 4), Stored: stored, Timestamp: "2020-01-01T00:00:00.5Z"})
	want := []*ltx.FileInfo{
		{MinTXID: 2, MaxTXID: 3, Size: 7, CreatedAt: stored},
		{MinTXID: 4, MaxTXID: 4, CreatedAt: time.Date(2020, 1, 1, 0, 0, 0, 5e8, time.UTC)},
		{Level: 1, MinTXID: 9, MaxTXID: 9, Size: 7, CreatedAt: stored},
	}
	if diff := cmp.Diff(want, l.Sorted()); diff != "" {
		t.Errorf("listing (-want +got):\n%s", diff)
	}

	var asked atomic.Int64
	err := l.ReadHeaders(t.Context(), func(context.Context, string, int64, int64) (io.ReadCloser, error) {
		asked.Add(1)
		return nil, errors.New("broken")
	})
	if err == nil || asked.Load() == 0 {
		t.Errorf("err=%v after %d files, want the error of reading", err, asked.Load())
	}
}

func TestEach(t *testing.T) {
	hopeless := errors.New("hopeless")
	for _, tt := range []struct {
		name    string
		fail    func(i int) error
		atLeast int64
		want    []string // in the error; nil: none
	}{
		{"Good", func(int) error { return nil }, 100, nil},
		{"Some", func(i int) error {
			if i%10 == 0 {
				return fmt.Errorf("item %d", i)
			}
			return nil
		}, 100, []string{"item ", "and 5 more"}},
		{"Hopeless", func(int) error { return hopeless }, 1, []string{"hopeless"}},
	} {
		var n atomic.Int64
		err := blob.Each(t.Context(), 100, 4, func(_ context.Context, i int) error {
			n.Add(1)
			return tt.fail(i)
		}, func(err error) bool { return errors.Is(err, hopeless) })
		if got := n.Load(); got < tt.atLeast || (tt.name == "Hopeless" && got > 10) {
			t.Errorf("%s: %d calls", tt.name, got)
		}
		if (err == nil) != (tt.want == nil) {
			t.Errorf("%s: err=%v", tt.name, err)
		}
		for _, text := range tt.want {
			if err != nil && !strings.Contains(err.Error(), text) {
				t.Errorf("%s: err=%v, want %q in it", tt.name, err, text)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := blob.Each(ctx, 1000, 10, func(context.Context, int) error { cancel(); return nil }, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: err=%v, want context.Canceled: half of the work is no whole", err)
	}
	if err := blob.Each(ctx, 3, 2, func(context.Context, int) error { return nil }, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before: err=%v, want context.Canceled", err)
	}
}

// closer counts how often it is closed.
type closer struct {
	io.Reader
	n int
}

func (c *closer) Close() error {
	c.n++
	return nil
}

func TestDownload(t *testing.T) {
	for _, size := range []int{0, 1, 1000, 256 << 10, 256<<10 + 1, 1 << 20} {
		data := bytes.Repeat([]byte("x"), size)
		sum := md5.Sum(data) //nolint:gosec // any checksum will do
		wrong := md5.Sum([]byte("other"))
		for _, tt := range []struct {
			name       string
			body       []byte
			skip, size int64
			sum        []byte
			want       string // in the error; empty: none
		}{
			{"Whole", data, 0, int64(size), sum[:], ""},
			{"More", append([]byte("yy"), append(data[:size:size], 'z')...), 2, int64(size), nil, ""},
			{"Short", data, 0, int64(size) + 1, nil, "unexpected EOF"},
			{"ShortSkip", nil, 1, int64(size), nil, "skip to offset"},
			{"Wrong", data, 0, int64(size), wrong[:], "checksum"},
		} {
			body := &closer{Reader: bytes.NewReader(tt.body)}
			var done []error
			d := blob.Download{
				Body: body, Skip: tt.skip, Size: tt.size, Sum: tt.sum,
				Fail: func(err error) error { return fmt.Errorf("named: %w", err) },
				Done: func(_ int64, err error) { done = append(done, err) },
			}
			if tt.sum != nil {
				d.Hash = md5.New() //nolint:gosec // any checksum will do
			}
			r, err := d.Open()
			var got []byte
			if err == nil {
				got, err = io.ReadAll(r)
				err = errors.Join(err, r.Close(), r.Close())
			}
			if body.n != 1 || len(done) != 1 {
				t.Errorf("%d %s: closed %d times, done %d times, want once", size, tt.name, body.n, len(done))
			}
			if tt.want == "" {
				if err != nil || !bytes.Equal(got, data) || done[0] != nil {
					t.Errorf("%d %s: read %d bytes, err=%v, reported %v", size, tt.name, len(got), err, done)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "named") {
				t.Errorf("%d %s: err=%v, want a named one with %q", size, tt.name, err, tt.want)
			}
			if len(done) == 1 && done[0] == nil {
				t.Errorf("%d %s: reported as a success", size, tt.name)
			}
		}
	}
}

func TestNewDownload(t *testing.T) {
	for _, tt := range []struct {
		contentRange string // empty: none
		length       int64
		offset, size int64
		want         [2]int64 // skip, size
		whole        bool
		err          string
	}{
		{"", 10, 0, 0, [2]int64{0, 10}, true, ""},
		{"", 10, 3, 0, [2]int64{3, 7}, false, ""},
		{"", 10, 0, 4, [2]int64{0, 4}, false, ""},
		{"", 10, 8, 4, [2]int64{8, 2}, false, ""},
		{"", 10, 12, 4, [2]int64{10, 0}, false, ""},
		{"", -1, 0, 0, [2]int64{}, false, "without its length"},
		{"bytes 3-9/10", 7, 3, 0, [2]int64{0, 7}, false, ""},
		{"bytes 3-5/10", 3, 3, 9, [2]int64{0, 3}, false, ""},
		{"bytes 2-5/10", 3, 3, 3, [2]int64{}, false, "server sent range"},
		{"bytes 3-9/10", 7, 3, 6, [2]int64{}, false, "server sent range"},
		{"bytes 3-1/10", 7, 3, 0, [2]int64{}, false, "server sent range"},
		{"bytes */10", 0, 3, 0, [2]int64{}, false, "read content range"},
	} {
		var rng *string
		if tt.contentRange != "" {
			rng = &tt.contentRange
		}
		d, err := blob.NewDownload(io.NopCloser(strings.NewReader("")), rng, tt.length, tt.offset, tt.size)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%+v: err=%v", tt, err)
			}
			continue
		}
		if err != nil || [2]int64{d.Skip, d.Size} != tt.want || d.Whole != tt.whole {
			t.Errorf("%+v: got %+v, err=%v", tt, d, err)
		}
	}
}
