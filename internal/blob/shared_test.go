package blob_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/benbjohnson/litestream/internal/blob"
)

func TestShared(t *testing.T) {
	var s blob.Shared[string, *int]
	broken := errors.New("broken")
	if _, err := s.Get("a", func(string) (*int, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("err=%v, want the error of creating", err)
	}
	if got := s.All(); len(got) != 0 {
		t.Errorf("an error left %v", got)
	}
	create := func(key string) *int { return new(len(key)) }
	a, b := s.Of("a", create), s.Of("bb", create)
	if *a != 1 || *b != 2 || s.Of("a", create) != a {
		t.Errorf("a=%d, b=%d, want one value for each key", *a, *b)
	}
	if got := s.All(); len(got) != 2 || !slices.Contains(got, a) || !slices.Contains(got, b) {
		t.Errorf("all: %v", got)
	}
}

func TestObject(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int
		ok   bool
	}{
		{"a", 3, true},
		{"a/b", 0, true},
		{"a", 4, false},
		{"", 0, false},
		{".", 0, false},
		{"../a", 0, false},
		{"/a", 0, false},
		{"a/", 0, false},
	} {
		if err := blob.CheckObject(tt.name, tt.size, 3); (err == nil) != tt.ok {
			t.Errorf("%q with %d bytes: err=%v", tt.name, tt.size, err)
		}
	}
	for text, ok := range map[string]bool{"": true, "abc": true, "abcd": false} {
		c := &closer{Reader: strings.NewReader(text)}
		data, err := blob.ReadObject(c, 3)
		if (err == nil) != ok || ok && string(data) != text || c.n != 1 {
			t.Errorf("%q: read %q, err=%v, closed %d times", text, data, err, c.n)
		}
	}
	broken := errors.New("broken")
	if _, err := blob.ReadObject(&closer{Reader: io.MultiReader(strings.NewReader("a"), failing{broken})}, 3); !errors.Is(err, broken) {
		t.Errorf("err=%v, want the error of reading", err)
	}
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
