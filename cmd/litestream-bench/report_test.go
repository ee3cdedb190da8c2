//go:build linux

package main

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTable_Markdown(t *testing.T) {
	tb := table{note: "Note."}
	for _, v := range []float64{3, 1, 2} {
		tb.add(0, "cost", "ms", v)
	}
	tb.add(1, "cost", "ms", 8)
	tb.add(0, "rate", "MB/s", 50)
	tb.add(1, "rate", "MB/s", 100.4)
	tb.add(0, "nothing", "", 0)
	tb.add(1, "nothing", "", 0)
	want := `| | litestream | upstream | litestream ÷ upstream |
|---|---:|---:|---:|
| cost | 2 ms (1–3) | 8 ms | 0.25 |
| rate | 50 MB/s | 100 MB/s | 0.50 **behind** |
| nothing | 0 | 0 | both 0 |

Note.
`
	if diff := cmp.Diff(want, tb.markdown()); diff != "" {
		t.Errorf("markdown differs (-want +got):\n%s", diff)
	}
}

func TestRatio(t *testing.T) {
	for _, tt := range []struct {
		ours, theirs float64
		more         bool
		want         string
	}{
		{1, 2, false, "0.50"},
		{2, 1, false, "2.00 **behind**"},
		{2, 1, true, "2.00"},
		{1, 2, true, "0.50 **behind**"},
		{1, 1, true, "1.00"},
		{1.001, 1, false, "1.00"},
		{0, 0, false, "both 0"},
		{1, 0, false, "– **behind**"},
		{1, 0, true, "–"},
	} {
		if got := ratio(tt.ours, tt.theirs, tt.more); got != tt.want {
			t.Errorf("ratio(%v, %v, more=%v)=%q, want %q", tt.ours, tt.theirs, tt.more, got, tt.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		samples []float64
		q, want float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.99, 7},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{5, 1, 3}, 0.5, 3},
		{[]float64{5, 1, 3}, 1, 5},
	} {
		if got := quantile(tt.samples, tt.q); got != tt.want {
			t.Errorf("quantile(%v, %v)=%v, want %v", tt.samples, tt.q, got, tt.want)
		}
	}
}

func TestUpdatePage(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	const before = "# A\n<!-- sync -->\nold\n<!-- /sync -->\ntail\n"
	if err := os.WriteFile(page, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := updatePage(page, "sync", "new\n"); err != nil {
		t.Fatal(err)
	}
	if err := updatePage(page, "idle", "new\n"); err == nil {
		t.Error("err=nil for a section without marks")
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if want := "# A\n<!-- sync -->\nnew\n<!-- /sync -->\ntail\n"; string(got) != want {
		t.Errorf("page=%q, want %q", got, want)
	}
	if err := updatePage("", "sync", "new"); err != nil {
		t.Errorf("err=%v without a page", err)
	}
}

func TestRequestKind(t *testing.T) {
	for _, tt := range []struct{ method, target, want string }{
		{"GET", "/bench?list-type=2&prefix=x", "LIST"},
		{"GET", "/bench/?list-type=2", "LIST"},
		{"GET", "/bench/db/0000/1.ltx", "GET"},
		{"HEAD", "/bench/db/0000/1.ltx", "GET"},
		{"PUT", "/bench/db/0000/1.ltx", "PUT"},
		{"POST", "/bench/db/0000/1.ltx?uploads", "PUT"},
		{"POST", "/bench?delete", "DELETE"},
		{"DELETE", "/bench/db/0000/1.ltx", "DELETE"},
		{"PUT", "/bench/!litestream/catalog/0/1.ltx", catalogKind},
		{"PUT", "/bench/!litestream/epoch", "PUT"},
	} {
		if got := requestKind(httptest.NewRequest(tt.method, tt.target, nil)); got != tt.want {
			t.Errorf("%s %s: kind=%q, want %q", tt.method, tt.target, got, tt.want)
		}
	}
}
