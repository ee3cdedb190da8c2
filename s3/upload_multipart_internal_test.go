package s3

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readParts returns the sizes of all parts and their joined bytes.
func readParts(t *testing.T, parts partReader) (sizes []int, all []byte) {
	t.Helper()
	for {
		part, err := parts.next()
		if errors.Is(err, io.EOF) {
			return sizes, all
		} else if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		sizes, all = append(sizes, len(b)), append(all, b...)
		parts.release(part)
	}
}

func testData(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 / 3)
	}
	return b
}

func TestStreamParts(t *testing.T) {
	const first = 10
	for _, n := range []int{10, 11, 20, 25, 10 * growEvery, 10*growEvery + 45} {
		for _, equal := range []bool{false, true} {
			data := testData(n)
			parts := &streamParts{r: bytes.NewReader(data[first:]), first: bytes.Clone(data[:first]), partSize: 10, equal: equal}
			sizes, all := readParts(t, parts)
			if !bytes.Equal(all, data) || parts.n != int64(n) {
				t.Errorf("%d bytes: parts hold %d other ones, counted %d", n, len(all), parts.n)
			}
			for i, size := range sizes[:len(sizes)-1] {
				want := 10
				if i >= growEvery && !equal {
					want = 20
				}
				if size != want {
					t.Errorf("%d bytes: part %d has %d, want %d", n, i, size, want)
				}
			}
		}
	}
}

// A source of known size fits into the parts that an object may have.
func TestSectionParts(t *testing.T) {
	for n, want := range map[int]int{10: 1, 25: 3, 10 * maxParts: maxParts, 10*maxParts + 1: 9091} {
		data := testData(n)
		sizes, all := readParts(t, newSectionParts(io.NewSectionReader(bytes.NewReader(data), 0, int64(n)), 10))
		if len(sizes) != want || !bytes.Equal(all, data) {
			t.Errorf("%d bytes: %d parts with %d bytes, want %d parts", n, len(sizes), len(all), want)
		}
	}
}

// Every part of the retry delay lies in the bounds, and is not always the same.
func TestBackoffDelay(t *testing.T) {
	seen := make(map[int64]bool)
	for attempt := range 100 {
		d, err := backoffDelay(attempt, nil)
		if err != nil || d < baseBackoff/2 || d > maxBackoff {
			t.Errorf("attempt %d: delay=%v, err=%v", attempt, d, err)
		}
		seen[int64(d)] = true
	}
	if len(seen) < 10 {
		t.Errorf("%d different delays in 100, want jitter", len(seen))
	}
}

func TestDetectProvider(t *testing.T) {
	got := make(map[string]string)
	want := map[string]string{
		"https://fly.storage.tigris.dev":                   "tigris",
		"https://T3.storage.dev":                           "tigris",
		"https://acct.r2.cloudflarestorage.com":            "cloudflare-r2",
		"https://s3.us-west-004.backblazeb2.com":           "backblaze",
		"https://s3.filebase.com":                          "filebase",
		"https://x.supabase.co/storage/v1/s3":              "supabase",
		"https://br-a.storage.c-2.us-east-2.aws.neon.tech": "neon",
		"https://api.neon.tech":                            "other",
		"https://fsn1.your-objectstorage.com":              "hetzner",
		"https://fra1.digitaloceanspaces.com":              "digitalocean",
		"https://s3.fr-par.scw.cloud:443":                  "scaleway",
		"https://storage.googleapis.com":                   "google",
		"https://bkt.storage.googleapis.com":               "google",
		"https://s3.us-east-1.amazonaws.com":               "aws",
		"http://127.0.0.1:9000":                            "minio",
		"https://s3.example.com":                           "other",
		"https://notbackblazeb2.com":                       "other",
		"":                                                 "",
		"://":                                              "",
	}
	for endpoint := range want {
		got[endpoint] = detectProvider(endpoint).name
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("providers (-want +got):\n%s", diff)
	}
}
